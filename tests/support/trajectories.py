"""One optimization problem for every framework, in NumPy alone.

``recorded/record.py`` runs it in the frameworks that are too heavy for a test environment, the
tests run it in the light ones and in ``rmsprop_jax``; all of them see exactly the same numbers.
Gradients, initial parameters and learning rates are representable in float32, and so are the
hyperparameters of the recordings, so that float64 runs are free of the casts that some frameworks
do on the way.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

STEPS = 1000
SIZE = 16
RECORDED_STEPS = (1, 2, 3, 10, 30, 100, 300, 1000)
"""Parameters are kept after that many steps."""

RECORDINGS = Path(__file__).parents[1] / "recorded"

SCHEDULES = ("constant", "step", "warmup_cosine")
BASE_LEARNING_RATE = 2.0**-7


def gradients(dtype: DTypeLike) -> np.ndarray:
    """Gradients ``[STEPS, SIZE]``: noise and a smaller drift on scales from 1e-2 to 1e2, 5 % zeros.

    They don't depend on the parameters, so rounding errors are not amplified from step to step.
    The noise dominates the drift: the variance of a centered optimizer stays away from zero.
    """
    stream = np.random.RandomState(0)  # the frozen stream: the same for ever
    # On a coarse grid, so that the last bit of a platform's logarithm can't reach the gradients.
    noise = np.round(stream.standard_normal((STEPS, SIZE)) * 1024) / 1024
    zero = stream.random_sample((STEPS, SIZE)) < 0.05
    drift = np.where(np.arange(SIZE) % 2, 0.5, -0.25)
    scale = np.geomspace(1e-2, 1e2, SIZE).astype(np.float32)
    return np.where(zero, 0.0, (noise + drift) * scale).astype(np.float32).astype(dtype)


def initial_params(dtype: DTypeLike) -> np.ndarray:
    """Parameters ``[SIZE]`` before the first step: odd multiples of 1/8, from -15/8 to 15/8."""
    params = (2 * np.arange(SIZE) + 1 - SIZE) / 8
    return params[np.arange(SIZE) * 7 % SIZE].astype(dtype)  # shuffled: no relation to the scales


def learning_rates(kind: str) -> np.ndarray:
    """Learning rate of every step, ``[STEPS]`` in float64.

    Args:
        kind: ``"constant"``; ``"step"``, divided by 8 at 300 and at 700 and zero from 900 on, which
            tells a momentum buffer of updates from one of directions; or ``"warmup_cosine"``,
            linear from zero over 100 steps, then a cosine to exactly zero.
    """
    step = np.arange(STEPS)
    if kind == "constant":
        factor = np.ones(STEPS)
    elif kind == "step":
        factor = np.select([step < 300, step < 700, step < 900], [1.0, 1 / 8, 1 / 64], 0.0)
    elif kind == "warmup_cosine":
        cosine = (1 + np.cos(np.pi * (step - 100) / (STEPS - 1 - 100))) / 2
        factor = np.where(step < 100, step / 100, cosine)
    else:
        raise ValueError(f"kind must be one of {SCHEDULES}, got {kind!r}")
    return (BASE_LEARNING_RATE * factor).astype(np.float32).astype(np.float64)


def fingerprint() -> str:
    """SHA-256 of the whole problem; a recording holds that of the problem it was made from."""
    arrays = [gradients(np.float32), initial_params(np.float32), *map(learning_rates, SCHEDULES)]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def about(framework: str) -> dict[str, Any]:
    """Versions and date of a recording, and the signature of the optimizer where it was noted."""
    with np.load(RECORDINGS / f"{framework}.npz") as archive:
        return json.loads(archive["about"].item())


def recorded(framework: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What ``framework`` did, from ``recorded/<framework>.npz``.

    Returns:
        The configurations, each ``{"kwargs": {the framework's own arguments}, "schedule": kind}``,
        and the parameters by dtype name, ``[len(configs), len(RECORDED_STEPS), SIZE]`` each.
    """
    if about(framework)["problem"] != fingerprint():
        raise ValueError(f"the recording of {framework} was made from other numbers than these")
    with np.load(RECORDINGS / f"{framework}.npz") as archive:
        params = {name: archive[name] for name in ("float64", "float32") if name in archive}
        return json.loads(archive["configs"].item()), params
