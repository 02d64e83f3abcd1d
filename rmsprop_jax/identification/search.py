"""Which structures fit a recording, the simple ones first."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rmsprop_jax.identification.calls import CLIPPINGS, Structure, calls
from rmsprop_jax.identification.fitting import Fit, polish, screen
from rmsprop_jax.identification.recording import MOST_ELEMENTS, Recording
from rmsprop_jax.identification.simulation import Numbers

Progress = Callable[[str], None]
_WORTH = 8  # so many of a stage are fitted to all elements


def search(
    recording: Recording,
    held: Numbers,
    traits: dict[str, Any],
    progress: Progress,
    briefly: bool = False,
) -> list[Fit]:
    """Fits structures with a constant learning rate, until a stage has one that fits.

    The stages: SGD, which an RMSProp with a large enough eps is; RMSProp alone; with one of
    momentum and weight decay; with both; Adam. A simpler structure is a special case of those with
    more parts, so that where it fits, no further one has to be looked at.

    Args:
      recording: the run.
      held: numbers that are known.
      traits: what else is known of the structure.
      progress: is told what is being done.
      briefly: only the RMSProps with at most one part.

    Returns:
      The best of the fits, the best first. If the first one doesn't fit, none does.
    """
    if np.ndim(held.get("learning_rate", 0.0)):
        return []
    sample = recording.sample(MOST_ELEMENTS)
    bases = list(dict.fromkeys(s.base for s in _plain(sample, held, traits)))
    stages = [(_name(n), list(of)) for n, of in _by_parts(bases)]
    stages = stages[:2] if briefly else [("SGD", list(SGD)), *stages, ("Adam", list(ADAM))]
    return _through([(*stage, False) for stage in stages], [], sample, held, progress)


def search_further(
    found: list[Fit],
    recording: Recording,
    held: Numbers,
    traits: dict[str, Any],
    progress: Progress,
) -> list[Fit]:
    """Goes on with clipping, and with a learning rate of its own at each step.

    Args:
      found: by `search`.
      recording: the run.
      held: numbers that are known.
      traits: what else is known of the structure.
      progress: is told what is being done.

    Returns:
      As from `search`.
    """
    sample = recording.sample(MOST_ELEMENTS)
    stages: list[Stage] = []
    if "clip" not in held:
        own = {s.base for s in candidates(held, traits) if s.clip}
        closest = [fit.structure for fit in found if fit.structure.rule == "rms"][:6]
        stages.append(("with clipping", _clipped(closest, own), False))
    if "learning_rate" not in held or np.ndim(held["learning_rate"]):
        free = "learning_rate" not in held
        by_parts = _by_parts(_plain(sample, held, traits))
        stages += [(f"{_name(n)}, with a schedule", list(of), free) for n, of in by_parts]
    found = _through(stages, found, sample, held, progress)
    # A rate of its own for each step brings anything closer: it counts where it fits.
    return found if found[:1] and found[0].fits else [f for f in found if not f.scheduled] or found


Stage = tuple[str, list[Structure], bool]


def _through(
    stages: list[Stage], found: list[Fit], sample: Recording, held: Numbers, progress: Progress
) -> list[Fit]:
    """Goes through stages until one has a structure that fits."""
    screened: dict[Structure, Fit] = {}
    for name, stage, scheduled in stages:
        if not stage:
            continue
        progress(f"{name}: {len(stage)} structures")
        fits = _fit(stage, sample, held, scheduled, screened)
        found = sorted([*found, *fits], key=lambda fit: (not fit.fits, fit.distance))
        if found[0].fits:
            break
    return found


def _plain(sample: Recording, held: Numbers, traits: dict[str, Any]) -> list[Structure]:
    """Candidates without clipping, unless it is known."""
    every = [s for s in candidates(held, traits) if s.maximize == ascends(sample)]
    return [s for s in every if "clip" in held or not s.clip]


SGD = tuple(
    Structure(rule="sgd", momentum=momentum, weight_decay=decay)
    for momentum in ("", "plain", "nesterov")
    for decay in ("", "coupled")
)
ADAM = tuple(
    Structure(rule="adam", bias_correction=True, weight_decay=decay)
    for decay in ("", "coupled", "decoupled")
)
"""What may be taken for an RMSProp: with a large eps, and with a schedule."""


def _fit(
    stage: list[Structure],
    sample: Recording,
    held: Numbers,
    scheduled: bool,
    screened: dict[Structure, Fit],
) -> list[Fit]:
    """Screens all on few elements, and fits the best to all."""
    for s in stage:
        near = [_numbers(screened[less]) for less in _simpler(s) if less in screened]
        screened[s] = screen(s, sample, held, scheduled, near if _parts(s) > 1 else ())
    best = sorted((screened[s] for s in stage), key=lambda fit: fit.distance)[:_WORTH]
    best = [f for f in best if f.distance <= max(100.0, 30 * best[0].distance)]
    return [polish(f.structure, f.numbers, sample, held, scheduled) for f in best]


def _numbers(fit: Fit) -> Numbers:
    return {k: x for k, x in fit.numbers.items() if k != "learning_rate"}


def _simpler(structure: Structure) -> list[Structure]:
    """The same without one of its parts."""
    parts = [k for k in ("momentum", "weight_decay", "clip") if getattr(structure, k)]
    changes: dict[str, Any] = {"clip_in_front": False} if structure.clip else {}
    return [dataclasses.replace(structure, **{k: ""}, **changes) for k in parts]


def _parts(structure: Structure) -> int:
    return sum(bool(x) for x in (structure.momentum, structure.weight_decay, structure.clip))


def _clipped(closest: list[Structure], own: set[Structure]) -> list[Structure]:
    """Structures with each kind of clipping, their own or in front."""
    result: list[Structure] = []
    for structure, kind in itertools.product(closest, CLIPPINGS):
        with_clip = dataclasses.replace(structure, clip=kind)
        in_front = dataclasses.replace(with_clip, clip_in_front=True)
        result.append(with_clip if with_clip in own else in_front)
    return result


def candidates(known: Numbers, traits: dict[str, Any]) -> list[Structure]:
    """The structures that can be meant, where some of it is known."""
    parts = ("momentum", "weight_decay", "clip")
    return [
        structure
        for structure, ways in calls().items()
        if all(bool(getattr(structure, k)) == bool(known[k]) for k in parts if k in known)
        and all(getattr(structure, k) == x for k, x in traits.items() if k != "dialect")
        and traits.get("dialect", ways[0].dialect) in {call.dialect for call in ways}
    ]


def ascends(recording: Recording) -> bool:
    """Whether the first step goes along the gradient."""
    return bool(np.sum(np.sign(recording.moves[:, 0] * recording.grads[:, 0])) > 0)


def _by_parts(structures: Iterable[Structure]) -> Iterable[tuple[int, Iterable[Structure]]]:
    return itertools.groupby(sorted(structures, key=_parts), key=_parts)


def _name(parts: int) -> str:
    return ("RMSProp alone", "with momentum or weight decay", "with both")[parts]
