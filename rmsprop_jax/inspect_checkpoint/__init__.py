"""The command `rmsprop-jax inspect`: what is in a checkpoint, and the lines that load it.

Files are read by well-kept libraries, each in one of this library's extras: `inspect` has the small
ones (h5py, safetensors, Orbax), `torch` and `tensorflow` the large.
"""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from rmsprop_jax.cli import Parser
from rmsprop_jax.inspect_checkpoint import keras, pytorch, states, tensorflow
from rmsprop_jax.inspect_checkpoint.report import Report, as_text

__all__ = ["Report", "as_text", "main", "read"]

_READERS: dict[str, Callable[[Path], Report]] = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".tar"), pytorch.read),
    ".zip": pytorch.read_zip,
    **dict.fromkeys((".keras", ".h5", ".hdf5"), keras.read),
    ".npz": states.read_npz,
    ".safetensors": states.read_safetensors,
}


def read(path: str | Path) -> Report:
    """Reads a checkpoint, and executes nothing that is in it.

    Args:
      path: a file of PyTorch (`.pt`, `.pth`, `.bin`, `.ckpt`), of Stable-Baselines3 (`.zip`), of
        Keras (`.keras`, `.h5`), an `.npz` or `.safetensors` file of arrays by path, a checkpoint of
        TensorFlow (its prefix or its `.index` file) or a directory of Orbax.

    Returns:
      What is in it.

    Raises:
      ValueError: for a file of another kind, and for a checkpoint without an RMSProp.
      ModuleNotFoundError: if what reads the file isn't installed, naming the extra that brings it.

    Example:
      >>> import os, tempfile
      >>> import numpy as np
      >>> path = os.path.join(tempfile.mkdtemp(), "state.npz")
      >>> np.savez(path, **{"0/count": 7, "0/nu/w": np.ones(2)})
      >>> report = read(path)
      >>> print(report.written_by, report.count)
      rmsprop_jax 7
    """
    path = Path(path)
    if path.suffix == ".index":
        path = path.with_suffix("")
    if path.is_dir():
        return states.read_orbax(path)
    if path.with_name(f"{path.name}.index").exists():
        return tensorflow.read(path)
    if not path.exists():
        raise ValueError(f"There is no {path}.")
    if path.suffix not in _READERS:
        raise ValueError(
            f"{path.name}: only {', '.join(_READERS)}, checkpoints of TensorFlow "
            "and directories of Orbax can be read."
        )
    return _READERS[path.suffix](path)


def main(arguments: list[str]) -> None:
    """Prints what is in the checkpoint that the command line names."""
    parser = Parser(
        prog="rmsprop-jax inspect", description="Says what is in a checkpoint, and how to load it."
    )
    parser.add_argument("file", help="a checkpoint, of any framework that is known here")
    parser.add_argument("--json", action="store_true", help="print it for programs")
    options = parser.parse_args(arguments)
    known = (ValueError, TypeError, ModuleNotFoundError, OSError, KeyError, zipfile.BadZipFile)
    try:
        report = read(options.file)
    except known as error:
        sys.exit(f"rmsprop-jax inspect {options.file}: {error}")
    except Exception as error:  # from torch, of a file that holds more than data
        sys.exit(f"rmsprop-jax inspect {options.file}: it can't be read: {str(error)[:300]}")
    print(json.dumps(report._asdict(), indent=1) if options.json else as_text(report))
