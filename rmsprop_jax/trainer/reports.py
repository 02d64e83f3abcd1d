"""The files that runs leave for people: reports and pictures, each whole or not there."""

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

import jax

import rmsprop_jax

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
    write_figure(path, figure)


def write_json(path: Path, config: dict[str, Any], dataset: str, rows: Sequence[Any]) -> None:
    """Writes all there is to know about one run or many.

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
    write(path, (json.dumps(report, indent=2, default=str) + "\n").encode())
