"""Which updates the dialects can make, and by which call: read off the chains that they build.

Each dialect is called with numbers that tell themselves apart, once for each setting of its
switches and with and without each of its optional parts. The parts of what it returns say which
structure that is, and where a number turned up says what the argument means. So a dialect that is
added to `dialects` is a candidate at once.
"""

import dataclasses
import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optax

from rmsprop_jax import clipping, dialects, parts
from rmsprop_jax.anatomy import Part, take_apart
from rmsprop_jax.checks import given
from rmsprop_jax.optimizer import rmsprop
from rmsprop_jax.transform import scale_by_rms


@dataclasses.dataclass(frozen=True)
class Structure:
    """An update without its numbers.

    Attributes:
      rule: "rms"; or another optimizer's, "sgd" or "adam", which runs are told from.
      start: value at which the average of squares starts.
      eps: "outside" or "inside" the root.
      centered: divides by the standard deviation.
      bias_correction: averages are freed of their start.
      momentum: "" without, else "plain", "nesterov" or "of gradients", which is added up before
        the division.
      rate_inside: the learning rate is inside the momentum.
      weight_decay: "" without, else "coupled" or "decoupled".
      clip: "" without, else "value", "leaf norm", "global norm" or "torch norm".
      clip_in_front: the clipping isn't the dialect's own, but stands before it.
      maximize: the gradient is negated.
    """

    rule: str = "rms"
    start: float = 0.0
    eps: str = "outside"
    centered: bool = False
    bias_correction: bool = False
    momentum: str = ""
    rate_inside: bool = False
    weight_decay: str = ""
    clip: str = ""
    clip_in_front: bool = False
    maximize: bool = False

    @property
    def nesterov(self) -> bool:
        """Whether it has a momentum of this kind."""
        return self.momentum == "nesterov"

    @property
    def numbers(self) -> tuple[str, ...]:
        """The hyperparameters that it has besides the learning rate."""
        optional = [name for name in ("momentum", "weight_decay", "clip") if getattr(self, name)]
        own = {"rms": ("decay", "eps"), "adam": ("decay", "eps", "first"), "sgd": ()}
        return (*own[self.rule], *optional)

    @property
    def base(self) -> "Structure":
        """The same without the side of the learning rate, which a constant one doesn't show."""
        return dataclasses.replace(self, rate_inside=False)


@dataclasses.dataclass(frozen=True)
class Call:
    """A way to make an update.

    Attributes:
      dialect: name of the function.
      switches: arguments that choose the structure.
      names: what the dialect calls each number.
      defaults: of all its arguments.
    """

    dialect: str
    switches: dict[str, Any]
    names: dict[str, str]
    defaults: dict[str, Any]

    def arguments(self, numbers: dict[str, Any]) -> dict[str, Any]:
        """Arguments in the dialect's own words and order."""
        named = {self.names[k]: x for k, x in numbers.items() if k in self.names} | self.switches
        return {k: named[k] for k in self.defaults if k in named}


CLIPPINGS: dict[str, Callable[..., Any]] = {  # what each kind is made by, in front of a dialect
    "value": optax.clip,
    "leaf norm": clipping.clip_by_leaf_norm,
    "global norm": clipping.clip_by_global_norm,
    "torch norm": clipping.clip_by_torch_norm,
}
# Arguments that no recording shows, or that a dialect refuses.
_WITHOUT_EFFECT = {"use_ema", "is_legacy_optimizer", "jit_compile", "use_locking", "name"}
_TRANSPARENT = {parts.by_component}  # which changes nothing for real numbers
_WHOLE = {parts.scale_by_learning_rate, *CLIPPINGS.values()}  # chains that are one thing here
_PARTS = {"momentum", "weight_decay", "clip"}
_REQUIRED = inspect.Parameter.empty


@functools.cache
def calls() -> dict[Structure, tuple[Call, ...]]:
    """All structures that a dialect or `rmsprop` makes, each with the calls that make it."""
    found: dict[Structure, dict[str, Call]] = {}
    for name in [*dialects.__all__, "rmsprop"]:
        factory = rmsprop if name == "rmsprop" else getattr(dialects, name)
        if not inspect.isfunction(factory):
            continue
        for structure, call in _probe(name, factory):
            known = found.setdefault(structure, {})
            if name not in known or len(call.switches) < len(known[name].switches):
                known[name] = call
    return {structure: tuple(of.values()) for structure, of in found.items()}


def _probe(name: str, factory: Callable[..., Any]) -> Iterator[tuple[Structure, Call]]:
    parameters = inspect.signature(factory).parameters
    defaults = {k: p.default for k, p in parameters.items()}
    switches = [k for k, x in defaults.items() if isinstance(x, bool) and k not in _WITHOUT_EFFECT]
    numbers, optional = _numbers(factory, defaults)
    for values in itertools.product((False, True), repeat=len(switches)):
        turned = {k: x for k, x in zip(switches, values, strict=True) if x is not bool(defaults[k])}
        for n in range(4):  # of parts at once: momentum, weight decay and one kind of clipping
            for chosen in itertools.combinations(optional, n):
                given_numbers = {
                    k: x for k, x in numbers.items() if k in chosen or k not in optional
                }
                left_out = {k: 0 for k in optional if k not in chosen and given(defaults[k])}
                read = _try(factory, {**given_numbers, **left_out, **turned})
                if read is None:
                    continue
                structure, at = read
                names = {at[x]: k for k, x in given_numbers.items() if x in at}
                needed = {"learning_rate", *structure.numbers}
                if needed == names.keys() and len(names) == len(given_numbers):
                    yield structure, Call(name, {**left_out, **turned}, names, defaults)
    # A start that the caller chooses; the values are those in use.
    if "initial_scale" in defaults:
        yield from _with_start(name, factory, defaults)


def _with_start(name: str, factory: Any, defaults: Any) -> Iterator[tuple[Structure, Call]]:
    start = functools.partial(factory, initial_scale=1.0)
    rest = {k: x for k, x in defaults.items() if k != "initial_scale"}
    functools.update_wrapper(start, factory)
    start.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        [p for k, p in inspect.signature(factory).parameters.items() if k in rest]
    )
    for structure, call in _probe(name, start):
        switches = {"initial_scale": 1.0, **call.switches}
        yield structure, dataclasses.replace(call, switches=switches, defaults=defaults)


def _numbers(
    factory: Callable[..., Any], defaults: dict[str, Any]
) -> tuple[dict[str, float], set[str]]:
    """A number of its own for each argument that brings one into the chain; which are optional."""
    candidates = {
        k: 0.5 + 0.01 * i
        for i, (k, x) in enumerate(defaults.items())
        if not isinstance(x, bool | str) and k not in (*_WITHOUT_EFFECT, "initial_scale")
    }
    required = {k: x for k, x in candidates.items() if defaults[k] is _REQUIRED}
    numbers, optional, seen = {}, set[str](), set[str]()
    for k, x in candidates.items():
        read = _try(factory, {**required, k: x})
        if read is None or x not in read[1] or read[1][x] in seen - _PARTS:
            continue  # another name of what there is
        numbers[k] = x
        seen.add(read[1][x])
        if read[1][x] in _PARTS:
            optional.add(k)
    return numbers, optional


def _try(
    factory: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Structure, dict[float, str]] | None:
    """The structure that a call makes, and where each number turned up; `None` if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = take_apart(factory(**arguments))
        return _read(part)
    except (ValueError, TypeError, NotImplementedError):
        return None


def _leaves(part: Part) -> Iterator[Part]:
    """The parts that act, in turn."""
    if part.factory in _TRANSPARENT or (part.in_turn and part.factory not in _WHOLE):
        for child in part.children.values():
            yield from _leaves(child)
    else:
        yield part


def _read(whole: Part) -> tuple[Structure, dict[float, str]] | None:
    """Reads a chain part by part."""
    traits: dict[str, Any] = {}
    at: dict[float, str] = {}

    def note(quantity: str, x: Any) -> None:
        if isinstance(x, float):
            at.setdefault(x, quantity)

    def set_once(key: str, value: Any) -> None:
        if key in traits:
            raise ValueError(f"two parts of one kind: {key}")
        traits[key] = value

    for part in _leaves(whole):
        factory, arguments = part.factory, part.arguments
        if factory is scale_by_rms:
            if given(arguments.get("eps_root")) or given(arguments.get("least_root")):
                return None
            if arguments.get("numerator") is not None:
                numerator = take_apart(arguments["numerator"])
                if numerator.factory is not parts.trace or numerator.arguments["nesterov"]:
                    return None
                set_once("momentum", "of gradients")
                note("momentum", numerator.arguments["decay"])
            set_once("start", float(arguments["initial_scale"]))
            traits["eps"] = "inside" if arguments["eps_in_sqrt"] else "outside"
            traits["centered"] = arguments["centered"]
            traits["bias_correction"] = arguments["bias_correction"]
            note("decay", arguments["decay"])
            note("eps", arguments["eps"])
        elif factory is parts.trace:
            set_once("momentum", "nesterov" if arguments["nesterov"] else "plain")
            traits["rate_inside"] = "learning_rate" in traits
            note("momentum", arguments["decay"])
        elif factory is parts.scale_by_learning_rate:
            set_once("learning_rate", True)
            note("learning_rate", arguments["learning_rate"])
        elif factory is parts.add_decayed_weights and "start" not in traits:
            set_once("weight_decay", "coupled")
            note("weight_decay", arguments["weight_decay"])
        elif factory is parts.decoupled_decay:
            if not given(arguments["weight_decay"]):
                continue
            if arguments["max_lr"] is not None:
                return None
            set_once("weight_decay", "decoupled")
            note("weight_decay", arguments["weight_decay"])
        elif factory in CLIPPINGS.values() and "start" not in traits:
            set_once("clip", next(k for k, f in CLIPPINGS.items() if f is factory))
            note("clip", next(iter(arguments.values())))
        elif factory is parts.scale and not traits and arguments["step_size"] == -1:
            set_once("maximize", True)
        elif factory is parts.scale and arguments["step_size"] == 1:
            pass
        elif factory is not optax.identity:
            return None
    if not {"start", "learning_rate"} <= traits.keys():
        return None
    del traits["learning_rate"]
    return Structure(**traits), at
