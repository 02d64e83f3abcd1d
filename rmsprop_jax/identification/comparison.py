"""Where two runs that should be the same part, and what the difference looks like."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rmsprop_jax.identification.recording import Recording, read_recording


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found; it prints as a sentence or two.

    Attributes:
      same: whether the runs are the same but for rounding.
      step: the step (from 0) after which the parameters differ first; -1 if they differ before any.
      arrays: those that differ then, most first.
      kind: what the difference looks like.
    """

    same: bool
    step: int | None
    arrays: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        """In a sentence or two."""
        if self.same:
            return f"The runs are the same. {self.kind}"
        when = "before the first step" if self.step == -1 else f"after step {self.step}"
        return f"The runs part {when}, in {', '.join(self.arrays)}. {self.kind}"


def compare_runs(run: tuple[Any, Any], other: tuple[Any, Any]) -> Comparison:
    """Finds where two recordings part.

    Args:
      run: params and grads, as `identify` takes them.
      other: the same of the run that should be equal: arrays of the same names and shapes.

    Returns:
      A `Comparison`: the first step and the arrays in which they part, and whether it looks like
      rounding, a factor, the start, a shrinking of the parameters, or gradients that differed
      before the parameters did.

    Raises:
      ValueError: for recordings that aren't of the same arrays and steps.

    Example:
      >>> import numpy as np, rmsprop_jax
      >>> grads = np.ones((3, 2), np.float32)
      >>> params = np.zeros((4, 2), np.float32)
      >>> params[1:] = -np.arange(1, 4, dtype=np.float32)[:, None]
      >>> print(rmsprop_jax.compare_runs((params, grads), (2 * params, grads)))
      The runs part after step 0, in params. All steps of one are 2 times those of the other.
    """
    one, two = read_recording(*run), read_recording(*other)
    if one.names != two.names or one.sizes != two.sizes or one.steps != two.steps:
        raise ValueError(
            f"The runs have {one.steps} and {two.steps} steps of {dict(_shapes(one))} and "
            f"{dict(_shapes(two))}: they must be of the same arrays, in the same order."
        )
    eps = max(one.eps, two.eps)
    scale = np.maximum(np.abs(one.params), np.abs(two.params))
    apart = np.abs(one.params - two.params)
    # Rounding moves apart what is equal, by less than so much in so many steps.
    steps = np.arange(one.steps + 1)
    moved = np.concatenate([np.zeros_like(scale[:, :1]), np.abs(np.diff(one.params))], axis=1)
    allowed = 8 * eps * (1 + steps) * np.maximum.accumulate(scale + moved, axis=1)
    over = apart > allowed
    if not over.any():
        worst = float(np.max(apart / np.maximum(eps * scale, 1e-300)))
        return Comparison(True, None, (), f"They differ by up to {worst:.2g} roundings.")
    first = int(np.flatnonzero(over.any(axis=0))[0])
    size = {
        one.names[k]: float(np.max(apart[one.array == k, first]))
        for k in np.unique(one.array[over[:, first]])
    }
    arrays = tuple(sorted(size, key=lambda name: -size[name]))
    return Comparison(False, first - 1, arrays, _kind(one, two, first - 1, over[:, first]))


def _kind(one: Recording, two: Recording, step: int, over: np.ndarray) -> str:
    """What the difference after a step looks like."""
    if step < 0:
        return "They start from other parameters."
    eps = max(one.eps, two.eps)
    gs = one.grads[:, : step + 1], two.grads[:, : step + 1]
    other = np.abs(gs[0] - gs[1]) > 1e3 * eps * np.max(np.abs(gs[0]), axis=0)
    if other.any():
        at = int(np.flatnonzero(other.any(axis=0))[0])
        return f"Their gradients differ from step {at} on, before the optimizer comes in."
    a, b = one.moves[:, step], two.moves[:, step]
    share = f"{int(over.sum())} of {len(over)} elements"
    ratio = np.median(b[a != 0] / a[a != 0]) if np.any(a != 0) else 0.0
    near = lambda x, y: np.all(
        np.abs(x - y) <= 1e-3 * np.max(np.abs(y)) + 8 * one.rounding[:, step]
    )
    if near(ratio * a, b) and abs(ratio - 1) > 1e-4:
        whole = bool(
            np.all(np.abs(ratio * one.moves - two.moves) <= 1e-3 * np.max(np.abs(two.moves)))
        )
        if step == 0 and whole:
            return f"All steps of one are {ratio:.4g} times those of the other."
        return (
            f"This step of one is {ratio:.4g} times that of the other, in all elements: "
            "another learning rate, or clipping."
        )
    left, p = b - a, one.params[:, step]
    shrink = float(left @ p / max(p @ p, 1e-300))
    if near(left, shrink * p) and shrink:
        return f"What is left is {-shrink:.3g} times the parameters: a weight decay of one of them."
    small = np.abs(one.grads[:, step])
    order = np.argsort(small)
    half = len(order) // 2
    gap = np.abs(left) / np.maximum(np.abs(a), 1e-300)
    if half and np.median(gap[order[:half]]) > 5 * np.median(gap[order[half:]]):
        where = "Most where gradients are small: another eps, in another place, or another start."
        return f"{share} differ. {where}"
    return f"{share} differ, by {np.median(gap[over]):.2g} of their step: identify each."


def _shapes(recording: Recording) -> list[tuple[str, int]]:
    return list(zip(recording.names, recording.sizes, strict=True))
