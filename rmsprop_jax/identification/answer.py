"""From a recording to the call that made it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from rmsprop_jax.identification.calls import calls
from rmsprop_jax.identification.fitting import Fit, evaluate, polish
from rmsprop_jax.identification.reasons import (
    departure,
    explain_failure,
    other_optimizer,
)
from rmsprop_jax.identification.recording import (
    MOST_ELEMENTS,
    MOST_STEPS,
    Recording,
    read_recording,
)
from rmsprop_jax.identification.report import Candidate, Identification, candidate, ways_to
from rmsprop_jax.identification.search import search, search_further
from rmsprop_jax.identification.settling import PRECISION, settle

_SWITCHES = {"centered", "bias_correction", "nesterov", "initial_scale", "eps_in_sqrt", "dialect"}
_FEWEST = 12  # numbers: with fewer, a wrong update can fit them by its hyperparameters
_OTHERS = 4  # candidates behind the first


def identify(
    params: Any, grads: Any, *, known: Mapping[str, Any] | None = None, progress: bool = False
) -> Identification:
    """Tells which RMSProp made a run, and with which hyperparameters.

    It needs what can be recorded in any framework: the parameters before the first step of the
    optimizer and after each, and the gradients that it was given. Some 20 to 100 steps of a few
    dozen elements are enough, so two or three arrays of a model will do. Of many elements it takes
    a sample, and of many steps the first 200.

    Args:
      params: an array [steps + 1, ...], or a dictionary of such arrays.
      grads: the same [steps, ...]: gradients of the loss, before any clipping by the optimizer.
      known: what is known, by the name that `rmsprop` or a dialect has for it, such as `{"eps":
        1e-8}` or `{"momentum": 0, "dialect": "keras"}`. It is held. A learning rate may be an array
        [steps], and is found step by step if it isn't constant.
      progress: print to the standard error what is being done.

    Returns:
      An `Identification`: `fits`, `candidates` with `dialects`, `arguments`, `call` and `distance`,
      the best first, and where none fits a `reason`. It prints as a short report.

    Raises:
      ValueError: for arrays that don't belong together or aren't finite, for fewer than 12 numbers,
        and for a name in known that no RMSProp has.
      TypeError: for arrays of other than real numbers.

    Example:
      >>> import jax.numpy as jnp, numpy as np, rmsprop_jax
      >>> tx = rmsprop_jax.dialects.pytorch(lr=0.02, alpha=0.9, eps=1e-3)
      >>> grads = np.random.RandomState(0).normal(size=(20, 8)).astype(np.float32)
      >>> params = [jnp.ones(8)]
      >>> state = tx.init(params[0])
      >>> for g in grads:
      ...     updates, state = tx.update(g, state)
      ...     params.append(params[-1] + updates)
      >>> found = rmsprop_jax.identify(np.array(params), grads)
      >>> print(found.candidates[0].call)
      rmsprop_jax.dialects.pytorch(lr=0.02, alpha=0.9, eps=0.001)
    """
    recording = read_recording(params, grads).until(MOST_STEPS)
    if (there := recording.steps * sum(recording.sizes)) < _FEWEST:
        raise ValueError(
            f"params and grads have {recording.steps} steps of {sum(recording.sizes)} elements: "
            f"{there} numbers are too few to tell, {_FEWEST} are needed, and 500 are good."
        )
    held, traits = _read_known(known or {}, recording.steps)
    say = (lambda text: print(text, file=sys.stderr, flush=True)) if progress else lambda text: None
    sample = recording.sample(MOST_ELEMENTS)
    reason, partial = "", None
    found = search(recording, held, traits, say)
    if found and not found[0].fits:
        say("looking for a reason")
        brief = lambda other: search(other, held, traits, lambda text: None, briefly=True)
        reason, partial = explain_failure(recording, held, brief)
    if not reason and not (found and found[0].fits):
        found = search_further(found, recording, held, traits, say)
    if not found:
        raise ValueError(f"No dialect has all of what is known: {dict(known or {})}.")
    first = found[0].structure
    fits = found[0].fits and first.rule == "rms" and not first.clip_in_front
    departs = None
    if found[0].fits:
        say("rounding the numbers")
        best, rest = _settled(found, sample, held)
        reason = "" if fits else other_optimizer(found[0])
    else:
        departs = departure(partial or found[0], sample)
        best, rest = candidate(found[:1], found[0].numbers, {}), found[1:]
        if partial is not None:
            short = sample.until(departs[0] if departs else None)
            before = evaluate(partial.structure, partial.numbers, short)
            numbers = settle(before, short, held, {}).fit.numbers
            best, rest = candidate([partial], numbers, {}), found
    others = [candidate([f], f.numbers, {}) for f in rest if f.fits or f.structure.rule == "rms"]
    unlike = {c.dialects: c for c in reversed(others) if c.dialects != best.dialects}
    shown = sorted(unlike.values(), key=lambda c: c.distance)[:_OTHERS]
    return Identification(
        fits, (best, *shown), reason, departs, _describe(recording), _picture(sample)
    )


def _settled(
    found: list[Fit], sample: Recording, held: dict[str, Any]
) -> tuple[Candidate, list[Fit]]:
    """The candidate of all that fit as well as the first, and what doesn't."""
    first = _simplest(found[0], sample, held)
    tied = [f for f in found if f.fits and f.distance <= 1.25 * first.distance + 0.05]
    defaults = {
        k: [call.defaults[call.names[k]] for call in ways_to(first) if k in call.names]
        for k in first.numbers
    }
    usable = {k: [x for x in of if isinstance(x, float)] for k, of in defaults.items()}
    fit, ranges = settle(first, sample, held, usable)
    rest = [f for f in tied if f.structure != first.structure]
    others = [f for f in found if f not in tied]
    return candidate([fit, *rest], fit.numbers, _open(fit, rest, ranges)), others


def _open(
    fit: Fit, rest: list[Fit], ranges: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Ranges of numbers, those included in which structures that fit as well differ."""
    ranges = dict(ranges)
    for k, x in fit.numbers.items():
        own = [x, *(other.numbers[k] for other in rest if k in other.numbers)]
        if not any(map(np.ndim, own)) and max(own) - min(own) > PRECISION * abs(x):
            own += ranges.get(k, ())
            ranges[k] = (float(min(own)), float(max(own)))
    return ranges


def _simplest(fit: Fit, sample: Recording, held: dict[str, Any]) -> Fit:
    """The same without the parts that make no difference."""
    for part in ("weight_decay", "momentum"):
        if getattr(fit.structure, part) and part not in held:
            less = dataclasses.replace(fit.structure, **{part: ""}, rate_inside=False)
            without = polish(less, fit.numbers, sample, held, fit.scheduled)
            fit = without if without.fits and ways_to(without) else fit
    return fit


def _read_known(known: Mapping[str, Any], steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers that are held, by what they are, and traits of the structure."""
    meanings = {name: k for ways in calls().values() for c in ways for k, name in c.names.items()}
    dialects = {c.dialect for ways in calls().values() for c in ways}
    unknown = sorted(known.keys() - meanings.keys() - _SWITCHES)
    if unknown:
        raise ValueError(
            f"known has {', '.join(map(repr, unknown))}, and may have: "
            f"{', '.join(sorted(meanings.keys() | _SWITCHES))}."
        )
    held, traits = dict[str, Any](), dict[str, Any]()
    for name, x in known.items():
        if name == "dialect" and x not in dialects:
            raise ValueError(f"known: dialect={x!r} is none of {', '.join(sorted(dialects))}.")
        if name == "eps_in_sqrt":
            traits["eps"] = "inside" if x else "outside"
        elif name == "initial_scale":
            traits["start"] = float(x)
        elif name in _SWITCHES:
            traits[name] = x
        else:
            held[meanings[name]] = _number(name, x, steps)
    return held, traits


def _number(name: str, x: Any, steps: int) -> Any:
    number = np.asarray(x, np.float64)
    if name in ("lr", "learning_rate") and number.ndim == 1:
        if len(number) < steps:
            raise ValueError(f"known: {name} has {len(number)} numbers for {steps} steps.")
        return number[:steps]
    if number.ndim or not np.isfinite(number) or number < 0:
        raise ValueError(f"known: {name} must be a number of 0 or more, and is {x!r}.")
    return float(number)


def _picture(sample: Recording) -> tuple[np.ndarray, list[str]]:
    """Some elements, from small gradients to large ones."""
    order = np.argsort(np.mean(sample.grads**2, axis=1))
    some = order[np.unique(np.linspace(0, len(order) - 1, 5).astype(int))]
    names = [f"{sample.names[sample.array[i]]}, element {sample.place[i]}" for i in some]
    return sample.params[some], names


def _describe(recording: Recording) -> str:
    elements = sum(recording.sizes)
    arrays = f" in {len(recording.names)} arrays" if len(recording.names) > 1 else ""
    return f"{recording.steps} steps of {elements} elements{arrays} in {recording.dtype}"
