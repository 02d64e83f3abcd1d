"""What a training run leaves behind: checkpoints, a picture, a report."""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import rmsprop_jax


class Epoch(NamedTuple):
    """What one epoch came to."""

    epoch: int  # counted from 1
    loss: float  # mean over the training images, each at the step that used it
    test_accuracy: float  # 0 to 1, after the epoch
    seconds: float  # training and testing; in the first epoch also compilation


def checkpoints(directory: Path):
    """Returns Orbax's manager of the checkpoints in a directory.

    Orbax writes a checkpoint under another name and renames it once it is complete. So a run can be
    killed at any time, and what it leaves is the whole of its last epoch.
    """
    import orbax.checkpoint as ocp

    directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager, run: dict[str, Any], state: Any, history: list[Epoch]) -> None:
    """Writes the checkpoint of the last epoch in `history`."""
    from orbax.checkpoint import args

    about = args.JsonSave({"run": run, "history": history})
    manager.save(len(history), args=args.Composite(about=about, state=args.StandardSave(state)))


def restore(directory: Path, run: dict[str, Any], like: Any) -> tuple[Any, list[Epoch]]:
    """Returns the state, made `like` another, and the history in the checkpoint of the same run."""
    from orbax.checkpoint import args

    manager = checkpoints(directory) if directory.is_dir() else None
    if manager is None or manager.latest_step() is None:
        raise ValueError(f"resume={str(directory)!r} has no checkpoint to go on from.")
    try:
        about = manager.restore(None, args=args.Composite(about=args.JsonRestore()))["about"]
    except KeyError as error:
        raise ValueError(f"resume={str(directory)!r} is of another program: {error}") from error
    for name, value in run.items():
        if (saved := about["run"].get(name)) != value:
            raise ValueError(f"{name}={value!r}, but the run in {directory} has {name}={saved!r}.")
    state = manager.restore(None, args=args.Composite(state=args.StandardRestore(like)))["state"]
    return state, [Epoch(*row) for row in about["history"]]


def draw(path: Path, title: str, history: list[Epoch]) -> None:
    """Plots training loss and test accuracy over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    figure.suptitle(title)
    epochs, losses, accuracies, _ = zip(*history, strict=True)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, losses, marker="o")
    left.set(xlabel="epoch", ylabel="mean training loss", xticks=epochs)
    right.plot(epochs, accuracies, marker="o")
    right.set(xlabel="epoch", ylabel="test accuracy", xticks=epochs)
    figure.savefig(path, format="png")


def write_json(path: Path, config: dict[str, Any], dataset: str, rows: Sequence[Any]) -> None:
    """Writes all there is to know about one run or many, in one move: never half a file.

    Each of the rows, such as an `Epoch`, is a named tuple with a `loss`.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {"rmsprop_jax": rmsprop_jax.__version__, "python": platform.python_version()}
    finite = lambda loss: loss if math.isfinite(loss) else None  # JSON has no NaN
    report = {
        "dataset": dataset,
        "config": config,
        "versions": versions,
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores",
        "epochs": [row._asdict() | {"loss": finite(row.loss)} for row in rows],
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=2, default=str) + "\n")
    temporary.replace(path)
