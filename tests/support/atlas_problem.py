"""The problem that each RMSProp of the atlas is held to, in NumPy alone."""

import numpy as np

STEPS, SIZE = 200, 20
KEPT = (1, 2, 3, 10, 50, 200)
"""Parameters are kept after that many steps."""


def gradients() -> np.ndarray:
    """Gradients ``[STEPS, SIZE]``, exact in float32: noise on scales from 4e-6 to 8, 5 % zeros."""
    stream = np.random.RandomState(1)
    noise = np.round(stream.standard_normal((STEPS, SIZE)) * 1024) / 1024
    zero = stream.random_sample((STEPS, SIZE)) < 0.05
    zero[0] = False  # some frameworks divide by the root of the first square
    scale = 2.0 ** np.linspace(3, -18, SIZE).round()
    return np.where(zero, 0.0, (noise + 0.25) * scale).astype(np.float32).astype(np.float64)


def start() -> np.ndarray:
    """Parameters ``[SIZE]`` before the first step, exact in float32."""
    return (2.0 * np.arange(SIZE) + 1 - SIZE) / 16
