"""Checkpoints that the real packages wrote, and the problem that they were trained on.

`recorded/checkpoints/record.py` writes them, see there. A case has

    checkpoint    what the package's own reader returned, in plain dictionaries, lists and arrays
    weights       the parameters by name, as they were when the checkpoint was written
    later         the same checkpoint STEPS updates later, in a run that never left the package
    final         the parameters then
    still         names of the parameters that got no gradient

and what else a kind needs. The gradient of a parameter is `gradient(its name, its value, number of
the update)`, so that each package, and we, train on the same problem without its model.
"""

import base64
import functools
import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(
    os.environ.get("RECORDED_CHECKPOINTS", Path(__file__).parents[1] / "recorded" / "checkpoints")
)
"""Where they are; somewhere else if they were recorded anew, as .ci/nightly does."""
STEPS = 6
"""Updates before a checkpoint, and again as many after it."""


def scale(name: str) -> float:
    """Curvature of a parameter: a power of 2, so that it makes no rounding errors."""
    return 2.0 ** (zlib.crc32(name.encode()) % 5 - 2)


def target(name: str, shape: tuple[int, ...], step: int) -> np.ndarray:
    """Where the parameter is drawn to in a step."""
    random = np.random.default_rng([zlib.crc32(name.encode()), step])
    return random.standard_normal(shape).astype(np.float32)


def gradient(name: str, value: np.ndarray, step: int) -> np.ndarray:
    """The gradient of scale (value - target)^2 / 2."""
    return (scale(name) * (value - target(name, value.shape, step))).astype(value.dtype)


@functools.cache
def family(name: str) -> dict[str, dict[str, Any]]:
    """All cases of a family, by kind; the files are in the folder, one for each family."""
    return decode(json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes())))["cases"]


def encode(x: Any) -> Any:
    """Plain data as JSON has it: arrays as text, and dictionaries with keys that are no text."""
    if isinstance(x, dict):
        if all(type(k) is str for k in x):
            return {k: encode(v) for k, v in x.items()}
        return {"__dict__": [[k, encode(v)] for k, v in x.items()]}
    if isinstance(x, list | tuple):
        return [encode(v) for v in x]
    if isinstance(x, np.ndarray | np.generic):
        data = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
        return {"__array__": [str(x.dtype), list(x.shape), data]}
    if x is None or isinstance(x, bool | int | float | str):
        return x
    raise TypeError(f"{type(x)} is no plain data")


def decode(x: Any) -> Any:
    """The inverse."""
    if isinstance(x, list):
        return [decode(v) for v in x]
    if not isinstance(x, dict):
        return x
    if "__dict__" in x:
        return {k: decode(v) for k, v in x["__dict__"]}
    if "__array__" in x:
        dtype, shape, data = x["__array__"]
        if dtype == "bfloat16":
            import ml_dtypes

            dtype = ml_dtypes.bfloat16
        return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
    return {k: decode(v) for k, v in x.items()}
