"""What was found, as objects and as text."""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import optax

from rmsprop_jax.identification.calls import CLIPPINGS, Call, Structure, calls
from rmsprop_jax.identification.fitting import Fit
from rmsprop_jax.identification.simulation import Numbers

_PREFERRED = ("pytorch", "keras", "tensorflow1", "timm", "optax", "stable_baselines3")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An update that may have made a recording.

    Attributes:
      dialects: names of the dialects (and `"rmsprop"`) that can't be told apart on these data.
      arguments: of the first one, in its words.
      call: the code to paste.
      distance: root mean square of what is left, in units of what rounding may do; up to 1, it
        fits.
      undetermined: those arguments of which other values would fit as well, each with the lowest
        and highest that were found to.
      distances: the same for each step.
    """

    dialects: tuple[str, ...]
    arguments: dict[str, Any]
    call: str
    distance: float
    undetermined: dict[str, tuple[float, float]]
    distances: np.ndarray = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Identification:
    """What `identify` found; it prints as a short report.

    Attributes:
      fits: whether the first candidate's dialect reproduces the recording to its rounding.
      candidates: the best first.
      reason: what was found out about a recording that no dialect reproduces; or "".
      departs: where nothing fits, the first step (from 0) that isn't reproduced, and the arrays
        that depart there, most first; else `None`.
      recording: what was compared, in words.
      recorded: some elements of the recording, for a picture, and their names.
    """

    fits: bool
    candidates: tuple[Candidate, ...]
    reason: str
    departs: tuple[int, tuple[str, ...]] | None
    recording: str
    recorded: tuple[np.ndarray, list[str]] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        """The report."""
        best, *others = self.candidates
        lines = []
        if self.fits:
            names = ", ".join(best.dialects)
            same = "; these data can't tell them apart" if len(best.dialects) > 1 else ""
            lines += [f"RMSProp as in {names}{same}:", "", f"    tx = {best.call}", ""]
            lines.append(f"It reproduces {self.recording} to their rounding.")
        else:
            lines.append(f"No RMSProp reproduces {self.recording}.")
            lines += [self.reason] if self.reason else []
            lines += ["", "What comes closest:", "", f"    tx = {best.call}", ""]
            if self.departs:
                step, arrays = self.departs
                lines.append(f"It departs at step {step}, in {', '.join(arrays)}.")
        lines.append(f"Distance {_short(best.distance)}; up to 1 is rounding.")
        for name, (low, high) in best.undetermined.items():
            lines.append(f"{name} isn't determined: {low:.4g} to {high:.4g} fit as well.")
        if others:
            lines.append("Others:")
            lines += [f"  {_short(c.distance):>9}  {', '.join(c.dialects[:4])}" for c in others]
        return "\n".join(lines)


def candidate(
    fits: Iterable[Fit], numbers: Numbers, undetermined: dict[str, tuple[float, float]]
) -> Candidate:
    """One candidate of all structures that can't be told apart.

    Args:
      fits: those structures, the first being what numbers are of.
      numbers: the hyperparameters.
      undetermined: those that the data leave open, with ranges.
    """
    first, *rest = fits
    ways = [(first.structure, call) for call in ways_to(first)]
    pick = min(range(len(ways)), key=lambda i: _effort(ways[i][1], numbers, i))
    structure, chosen = ways.pop(pick)
    ways += [(fit.structure, call) for fit in rest for call in ways_to(fit)]
    arguments = chosen.arguments(numbers)
    known = dict.fromkeys([chosen.dialect, *(call.dialect for _, call in ways)])
    names = sorted(known, key=lambda name: (name != chosen.dialect, name == "rmsprop"))
    ranges = {chosen.names[k]: x for k, x in undetermined.items() if k in chosen.names}
    return Candidate(
        tuple(names),
        arguments,
        _text(structure, chosen, arguments, numbers),
        float(f"{first.distance:.3g}"),
        ranges,
        np.sqrt(np.mean(first.residuals**2, axis=0)),
    )


def ways_to(fit: Fit) -> list[Call]:
    """The calls that make a structure; with a constant learning rate, on either side of it."""
    if fit.structure.rule != "rms":
        return [_foreign(fit.structure)]
    own = dataclasses.replace(fit.structure, clip="", clip_in_front=False)
    bare = own if fit.structure.clip_in_front else fit.structure
    sides = [bare]
    if not fit.scheduled and np.ndim(fit.numbers["learning_rate"]) == 0:
        sides = [dataclasses.replace(bare, rate_inside=side) for side in (False, True)]
    return [call for side in sides for call in calls().get(side, ())]


def _foreign(structure: Structure) -> Call:
    """Optax's call of another optimizer."""
    names = {"learning_rate": "learning_rate", "momentum": "momentum"}
    switches: dict[str, Any] = {"nesterov": True} if structure.nesterov else {}
    name = structure.rule
    if structure.rule == "adam":
        names |= {"first": "b1", "decay": "b2", "eps": "eps"}
        if structure.weight_decay == "decoupled":
            name, names["weight_decay"] = "adamw", "weight_decay"
    factory = getattr(optax, name)
    defaults = {k: p.default for k, p in inspect.signature(factory).parameters.items()}
    return Call(f"optax.{name}", switches, names, defaults)


def _effort(call: Call, numbers: Numbers, i: int) -> tuple[int, int, int]:
    """How much has to be typed; then how well the dialect is known."""
    typed = _typed(call, call.arguments(numbers))
    rank = _PREFERRED.index(call.dialect) if call.dialect in _PREFERRED else len(_PREFERRED)
    unusual = 2 * (rank == len(_PREFERRED))  # as long as two more arguments
    return len(typed) + unusual, rank, i


def _typed(call: Call, arguments: Numbers) -> Numbers:
    """The arguments that aren't the dialect's defaults."""
    return {k: x for k, x in arguments.items() if np.ndim(x) or x != call.defaults[k]}


def _text(structure: Structure, call: Call, arguments: Numbers, numbers: Numbers) -> str:
    words = ", ".join(f"{k}={_value(x)}" for k, x in _typed(call, arguments).items())
    homes = {"rms": "rmsprop_jax." if call.dialect == "rmsprop" else "rmsprop_jax.dialects."}
    text = f"{homes.get(structure.rule, '')}{call.dialect}({words})"
    if structure.rule != "rms" and structure.weight_decay == "coupled":
        return f"optax.chain(optax.add_decayed_weights({numbers['weight_decay']!r}), {text})"
    if not structure.clip_in_front:
        return text
    clip = CLIPPINGS[structure.clip]
    module = "optax" if clip.__module__.startswith("optax") else "rmsprop_jax.clipping"
    return f"optax.chain({module}.{clip.__name__}({numbers['clip']!r}), {text})"


def _value(x: Any) -> str:
    if np.ndim(x):
        rates = ", ".join(f"{rate:.6g}" for rate in np.asarray(x))
        return f"lambda count: jnp.array([{rates}])[count]"
    return repr(float(x)) if isinstance(x, np.floating) else repr(x)


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 100 else f"{x:.3g}"
