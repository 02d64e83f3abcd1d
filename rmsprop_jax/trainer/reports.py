"""The files that runs leave for people: reports and pictures, each whole or not there."""

import datetime
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rmsprop_jax

# Of the JSON files; it changes when a program that reads them has to.
SCHEMA = 1
# What a full disk, a full quota and a limit on the size of files are called.
FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def write(path: Path, content: bytes) -> None:
    """Writes a file in one move: never half of it, and nothing beside it.

    Raises:
      OSError: which names the file.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_space(path: Path, size: int) -> None:
    """Raises an OSError that names the path if there is no room for `size` bytes."""
    try:
        # On Linux, such a file never has a name, so even a kill leaves nothing of it.
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as file:
            file.write(bytes(size))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_figure(path: Path, figure: Any) -> None:
    """Writes a Matplotlib figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write(path, content.getvalue())


def draw(path: Path, title: str, history: Sequence[Any]) -> None:
    """Plots loss and accuracy over the epochs, and the learning rate where it changes."""
    from matplotlib.figure import Figure

    lines = {
        "mean training loss": [row.loss for row in history],
        "test accuracy, %": [100 * row.test_accuracy for row in history],
        "learning rate after the epoch": [row.learning_rate for row in history],
    }
    if len({rate for rate in lines["learning rate after the epoch"] if math.isfinite(rate)}) < 2:
        del lines["learning rate after the epoch"]
    figure = Figure(figsize=(4 * len(lines), 3.8), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    epochs = [row.epoch for row in history]
    for panel, (label, values) in zip(figure.subplots(1, len(lines)), lines.items(), strict=True):
        panel.plot(epochs, values, marker="o")
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
    write_figure(path, figure)


def write_json(path: Path, config: dict[str, Any], dataset: str, rows: Sequence[Any]) -> None:
    """Writes all there is to know about one run or many.

    Each of the rows, such as an `Epoch`, is a named tuple.
    """
    import jax  # what writes no report of a run needn't wait for JAX

    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {"rmsprop_jax": rmsprop_jax.__version__, "python": platform.python_version()}
    nan = lambda x: isinstance(x, float) and not math.isfinite(x)
    finite = lambda x: None if nan(x) else x  # JSON has no NaN
    report = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": dataset,
        "config": config,
        "versions": versions,
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores",
        "epochs": [{k: finite(v) for k, v in row._asdict().items()} for row in rows],
    }
    write(path, (json.dumps(report, indent=2, default=str) + "\n").encode())
