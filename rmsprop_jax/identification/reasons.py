"""Why a recording fits nothing: what else was done to the gradients, or to the recording."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from rmsprop_jax.identification.fitting import WORST, Fit, evaluate, polish
from rmsprop_jax.identification.recording import MOST_ELEMENTS, Recording
from rmsprop_jax.identification.simulation import Numbers, simulate

Search = Callable[[Recording], list[Fit]]
_FEWEST = 6  # steps from which an update can be told
_MOST_PAIRED = 1000  # elements that are tried in all pairs


def departure(fit: Fit, recording: Recording) -> tuple[int, tuple[str, ...]] | None:
    """The first step that a fit doesn't reproduce, and the arrays that depart there."""
    residuals = np.abs(fit.residuals)
    steps = np.flatnonzero(np.max(residuals, axis=0) > WORST)
    if not len(steps):
        return None
    step = int(steps[0])
    largest = {
        recording.names[k]: float(np.max(residuals[recording.array == k, step]))
        for k in np.unique(recording.array)
    }
    departing = [k for k, x in largest.items() if x > WORST]
    return step, tuple(sorted(departing, key=lambda k: -largest[k]))


def other_optimizer(fit: Fit) -> str:
    """What fits that isn't one call of a dialect."""
    if fit.structure.rule != "rms":
        name = {"sgd": "SGD", "adam": "Adam"}[fit.structure.rule]
        return f"The steps are those of {name}, which is no RMSProp."
    kind = {"torch norm": "global norm"}.get(fit.structure.clip, fit.structure.clip)
    limit = f"{fit.numbers['clip']:.4g}"
    return f"The gradients were clipped before the optimizer got them, by {kind}: {limit}."


def explain_failure(recording: Recording, held: Numbers, search: Search) -> tuple[str, Fit | None]:
    """Looks for a reason why nothing fits with a constant learning rate.

    Args:
      recording: all of it.
      held: numbers that are known.
      search: finds what fits another recording.

    Returns:
      The reason in words, or "", and what fits the first steps, if anything does.
    """
    if text := _signs(recording):
        return text, None
    for text, other in _rearranged(recording):
        fits = search(other)
        if fits and fits[0].fits:
            return text, None
    for part in (2, 4):
        steps = recording.steps // part
        fits = search(recording.until(steps)) if steps >= _FEWEST else []
        if fits and fits[0].fits:
            return _after(fits[0], recording.sample(MOST_ELEMENTS), held)
    return "", None


def _after(fit: Fit, sample: Recording, held: Numbers) -> tuple[str, Fit]:
    """Goes on from a fit of the first steps, to where it ends."""
    whole = evaluate(fit.structure, fit.numbers, sample)
    for _ in range(2):  # the more steps, the better the numbers
        there = departure(whole, sample)
        steps = sample.steps if there is None else max(there[0], _FEWEST)
        numbers = polish(fit.structure, whole.numbers, sample.until(steps), held).numbers
        whole = evaluate(fit.structure, numbers, sample)
    there = departure(whole, sample)
    if there is None or there[0] == sample.steps - 1:
        return "", whole
    step, arrays = there
    mended = evaluate(whole.structure, whole.numbers, _mend(whole, sample, step))
    if mended.distance > 5:
        return "", whole
    return (
        f"The gradient of step {step} in {', '.join(arrays)} isn't the one that the optimizer got: "
        "with what its step tells of it, all other steps fit.",
        whole,
    )


def _mend(fit: Fit, sample: Recording, step: int) -> Recording:
    """The recording with the gradients of a step that the optimizer must have got."""
    short = sample.until(step + 1)
    size = 1e3 * float(np.max(np.abs(sample.grads)))
    low, high = np.full(len(sample.grads), -size), np.full(len(sample.grads), size)

    def moves(g: np.ndarray) -> np.ndarray:
        grads = short.grads.copy()
        grads[:, step] = g
        other = dataclasses.replace(short, grads=grads)
        return simulate(fit.structure, fit.numbers, other).moves[:, step]

    for _ in range(80):  # the larger the gradient, the lower the step
        middle = (low + high) / 2
        too_high = moves(middle) > short.moves[:, step]
        low, high = np.where(too_high, middle, low), np.where(too_high, high, middle)
    off = np.abs(fit.residuals[:, step]) > WORST
    grads = sample.grads.copy()
    grads[off, step] = ((low + high) / 2)[off]
    return dataclasses.replace(sample, grads=grads)


def _signs(recording: Recording) -> str:
    """Whether all elements move equally far, but for a decay of weights."""
    moves, ps = recording.moves[:, 1:], recording.params[:, 1:-1]
    if moves.shape[1] < 2 or len(moves) < 3:
        return ""
    far = np.stack([np.sign(moves).ravel(), ps.ravel()], axis=1)
    weight = 1 / recording.least_tolerance[:, 1:].ravel()
    solution = np.linalg.lstsq(far * weight[:, None], moves.ravel() * weight, rcond=None)[0]
    left = (moves.ravel() - far @ solution) * weight
    if np.sqrt(np.mean(left**2)) > 2:
        return ""
    return "All elements move equally far at each step: these are signs, as of Lion or signSGD."


def _rearranged(recording: Recording) -> Iterator[tuple[str, Recording]]:
    """Other orders of the gradients, in which they go against the steps more often."""
    if recording.steps > _FEWEST:
        late = dataclasses.replace(
            recording.until(recording.steps - 1), grads=recording.grads[:, 1:]
        )
        moves, signs = np.sign(late.moves), np.sign(late.grads)
        if np.mean(moves * signs) < -0.3:
            yield "The gradients are a step late: each one was used in the step before.", late
    steps, signs = -np.sign(recording.moves), np.sign(recording.grads)
    order = _assign(steps.T @ signs / len(signs))
    if order is not None:
        grads = recording.grads[:, order]
        norms = {k: x[..., order] for k, x in recording.norms.items()}
        wrong = int(np.sum(order != np.arange(len(order))))
        text = f"The gradients of {wrong} steps are in another order than the steps."
        yield text, dataclasses.replace(recording, grads=grads, norms=norms)
    # Elements of many arrays: only a sample can be compared with all others.
    few = recording if len(signs) <= _MOST_PAIRED else recording.of(slice(_MOST_PAIRED))
    steps, signs = -np.sign(few.moves), np.sign(few.grads)
    order = _assign(steps @ signs.T / few.steps)
    if order is not None:
        moved = order != np.arange(len(order))
        arrays = [few.names[k] for k in np.unique(few.array[moved])]
        text = (
            f"The gradients of {int(np.sum(moved))} elements in {', '.join(arrays)} belong to "
            "other elements than the parameters: another order of the arrays, or a transposed one?"
        )
        yield text, dataclasses.replace(few, grads=few.grads[order])


def _assign(agreement: np.ndarray) -> Any:
    """Which gradient goes with which step, if that isn't the order in which they are."""
    order = linear_sum_assignment(-agreement)[1]
    rows = np.arange(len(order))
    better = np.mean(agreement[rows, order]) - np.mean(np.diag(agreement))
    return order if better > 0.02 and np.any(order != rows) else None
