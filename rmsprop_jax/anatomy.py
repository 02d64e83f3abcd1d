"""What a transformation is made of: the one place that looks inside.

This library's own transformations carry a record of their call, and those of Optax are told by the
module and the name of the code that runs, which no function of a user shares. Their arguments and
what they wrap are what their functions remember in cells. All else is a part that isn't known: it
has a name, and transformations inside of it if its functions hold any.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax import clipping, parts, precision
from rmsprop_jax.closures import (
    IN_OPTAX,
    bare,
    is_transformation,
    memory_of,
    name_of_maker,
    origin,
    owner,
    pairs_in,
    transformations_in,
)
from rmsprop_jax.records import record_of
from rmsprop_jax.storage import store
from rmsprop_jax.transform import scale_by_rms
from rmsprop_jax.weights import compensate

ABSENT: Any = object()
"""The state of a part, where no state was given or it can't be told which."""


class Part(NamedTuple):
    """A transformation, taken apart.

    Attributes:
      name: of the function that made it.
      factory: that function, if it is one of this library or of Optax; else `None`.
      arguments: of the call; for a part of Optax those that it remembers, for one that isn't known
        what its functions remember.
      children: the transformations in it, in the order in which they act: by number in a chain, by
        label in `optax.partition`, else by what they are called there.
      state: its own part of the state.
      in_turn: whether all that it does is to let its children act one after the other.
    """

    name: str
    factory: Callable[..., Any] | None
    arguments: dict[str, Any]
    children: dict[Any, "Part"]
    state: Any
    in_turn: bool = False

    def walk(self) -> Iterator["Part"]:
        """This part and all within it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def take_apart(tx: optax.GradientTransformation, state: Any = ABSENT) -> Part:
    """Takes a transformation apart.

    Args:
      tx: any transformation, also one that only has `init` and `update`.
      state: a state of it, to give each part its own.

    Returns:
      A tree of parts.

    Raises:
      ValueError: if state isn't one of tx.

    Example:
      >>> import optax
      >>> whole = take_apart(optax.chain(optax.clip(1.0), optax.trace(0.9)))
      >>> [(part.name, part.arguments) for part in whole.children.values()][0]
      ('clip', {'max_delta': 1.0})
    """
    return _take_apart(tx, state, ())


# Wrappers by the field of their state that is that of what they wrap; "" if it is the same.
_INNER_STATE: dict[Any, str] = {
    optax.flatten: "",
    parts.by_component: "",
    parts.cautious: "",
    optax.masked: "inner_state",
    optax.inject_hyperparams: "inner_state",
    optax.apply_if_finite: "inner_state",
    optax.conditionally_transform: "inner_state",
    optax.conditionally_mask: "inner_state",
    optax.contrib.split_real_and_imaginary: "inner_state",
    optax.MultiSteps: "inner_opt_state",
    optax.lookahead: "fast_state",
    optax.contrib.schedule_free: "base_optimizer_state",
    optax.contrib.mechanize: "base_optimizer_state",
    store: "inner",
    scale_by_rms: "numerator",
    compensate: "inner",
}

CHAINS = (precision.chain, optax.chain, optax.named_chain)

# Parts that multiply updates by a number of their own.
SCALING = {parts.scale_by_learning_rate, parts.scale, optax.scale, optax.scale_by_schedule}

# Parts that change updates, but not by a learning rate.
NOT_SCALING = {
    parts.trace,
    parts.decoupled_decay,
    parts.add_decayed_weights,
    clipping.clip_by_leaf_norm,
    clipping.clip_by_global_norm,
    clipping.clip_by_torch_norm,
    optax.trace,
    optax.ema,
    optax.add_decayed_weights,
    optax.add_noise,
    optax.adaptive_grad_clip,
    optax.clip,
    optax.clip_by_block_rms,
    optax.clip_by_global_norm,
    optax.identity,
    optax.keep_params_nonnegative,
    optax.zero_nans,
}

_TRACES = {parts.trace, optax.trace}

# Wrappers that pass on what they wrap, at the steps that they don't skip.
PASSING = {
    parts.by_component,
    parts.cautious,
    compensate,
    store,
    optax.apply_if_finite,
    optax.contrib.split_real_and_imaginary,
    optax.flatten,
    optax.inject_hyperparams,
    optax.MultiSteps,
}


def _take_apart(tx: Any, state: Any, above: tuple[Any, ...]) -> Part:
    update = bare(tx.update)
    above = (*above, owner(update))
    record = record_of(optax.GradientTransformation(tx.init, update))
    if record is not None and record.factory is precision.public:
        return _take_apart(record.made[0], state, above)
    if record is not None:
        named = (record.factory.__module__, record.factory.__qualname__)
        factory, arguments = IN_OPTAX.get(named, record.factory), record.arguments
        inside = dict(enumerate(record.made)) or transformations_in(arguments)
    else:
        factory = IN_OPTAX.get(origin(update))
        arguments, inside = _closure(factory, bare(tx.init), update, state)
        factory = factory if _required(factory) <= arguments.keys() else None
        if factory is optax.with_extra_args_support and inside:
            return _take_apart(next(iter(inside.values())), state, above)
    name = name_of_maker(update) if factory is None else factory.__name__
    is_call = record is not None and bool(record.made) and factory not in CHAINS
    children = {}
    for key, inner in inside.items():
        if any(owner(bare(inner.update)) is x for x in above):  # it holds itself
            continue
        inner_state = state if is_call else _inner_state(name, factory, inside, key, state)
        children[key] = _take_apart(inner, inner_state, above)
    return Part(name, factory, arguments, children, state, is_call or factory in CHAINS)


def _closure(
    factory: Any, init: Any, update: Any, state: Any
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The arguments and the inner transformations of what carries no record."""
    before, memory = memory_of(init), memory_of(update)
    inside = pairs_in(before, memory) or transformations_in(memory, once=factory is None)
    if factory is None:
        return memory, inside or transformations_in({**memory, **before}, once=True, deep=True)
    memory = {**before, **memory}
    parameters = inspect.signature(factory).parameters
    named = {name.lstrip("_"): x for name, x in memory.items()}
    arguments = {name: x for name, x in named.items() if name in parameters}
    if factory is optax.inject_hyperparams and "inner_factory" in arguments:
        return arguments, _injected(arguments["inner_factory"], memory, state)
    return arguments, inside


def _required(factory: Any) -> set[str]:
    """The arguments that a call must have had, without which nothing is known about a part."""
    if factory is None:
        return set()
    parameters = inspect.signature(factory).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name for p in named if p.default is p.empty}


def _inner_state(name: str, factory: Any, inside: dict[Any, Any], key: Any, state: Any) -> Any:
    """The state of what is at a key inside of a part."""
    if state is ABSENT:
        return state
    try:
        if factory is optax.partition:
            return state.inner_states[key].inner_state
        if factory is optax.named_chain:
            return state[key]
        field = _INNER_STATE.get(factory)
        if field is not None:
            return getattr(state, field) if field else state
    except (AttributeError, KeyError, TypeError) as error:
        raise mismatch(f"the state of {name}", state) from error
    if factory not in CHAINS:
        return ABSENT
    if not isinstance(state, tuple) or len(state) != len(inside):
        raise mismatch(f"a tuple of {len(inside)} states", state)
    return state[key]


class Trace(NamedTuple):
    """A momentum in a transformation, and on which side of it the learning rate stands.

    Attributes:
      state: its own part of the state.
      side: `"inside"` if the learning rate is in what is added up, `"outside"` if not; `None` where
        parts stand beside it that aren't known, or that scale on both sides.
    """

    state: Any
    side: str | None


def find_traces(whole: Part) -> list[Trace]:
    """All momentums of a transformation, each in the way that updates take to it.

    Example:
      >>> from rmsprop_jax import dialects
      >>> [find_traces(take_apart(make(0.1, momentum=0.9)))[0].side
      ...  for make in (dialects.tensorflow1, dialects.burn)]
      ['inside', 'outside']
    """
    found: dict[int, tuple[Any, set[str | None]]] = {}
    for route in _routes(whole):
        start = 0  # behind the last average
        for i, part in enumerate(route):
            if part.factory in (scale_by_rms, optax.scale_by_rms, optax.scale_by_stddev):
                start = i + 1
            if part.factory in _TRACES:
                _, sides = found.setdefault(id(part), (part.state, set()))
                sides.add(_side(route[start:i], route[i + 1 :]))
    return [
        Trace(state, sides.pop() if len(sides) == 1 else None) for state, sides in found.values()
    ]


def _side(before: list[Part], after: list[Part]) -> str | None:
    scaled, later = (
        None
        if any(part.factory not in SCALING | NOT_SCALING for part in side)
        else any(part.factory in SCALING for part in side)
        for side in (before, after)
    )
    if scaled is False:
        return "outside"
    return "inside" if scaled and later is False else None


def _routes(part: Part) -> list[list[Part]]:
    """The ways that updates of different parameters take, as parts that wrap nothing known."""
    if part.factory is scale_by_rms:  # what makes its numerator isn't on the way
        return [[part]]
    if all(p.factory in NOT_SCALING - _TRACES for p in part.walk() if not p.children):
        return [[]]
    ways = [_routes(child) for child in part.children.values()]
    if part.factory is optax.masked:
        return [*ways[0], []]
    if part.factory is optax.partition:
        return [route for routes in ways for route in routes]
    if part.in_turn or part.factory in PASSING:
        return [[p for route in routes for p in route] for routes in itertools.product(*ways)]
    return [[part]]


def mismatch(expected: str, state: Any) -> ValueError:
    """The error for a state of another transformation."""
    found = [type(s).__name__ for s in state] if type(state) is tuple else type(state).__name__
    return ValueError(f"opt_state isn't a state of tx: in the place of {expected} it has {found}.")


def _injected(factory: Any, memory: dict[str, Any], state: Any) -> dict[Any, Any]:
    """What `optax.inject_hyperparams` makes, with the numbers in the state if there is one."""
    parameters = inspect.signature(factory).parameters
    given: dict[str, Any] = {}
    for x in memory.values():
        if isinstance(x, dict) and x.keys() <= parameters.keys():
            given |= x
    if state is not ABSENT:
        if not hasattr(state, "hyperparams"):
            raise mismatch("the state of inject_hyperparams", state)
        return {"inner": factory(**{**given, **state.hyperparams})}
    kinds = optax.WrappedSchedule, optax.schedules.StatefulSchedule
    scheduled = {k: getattr(x, "schedule_fn", x) for k, x in given.items() if isinstance(x, kinds)}
    made: list[Any] = []
    numbers = {k: jax.ShapeDtypeStruct((), jnp.float32) for k in scheduled}
    try:  # most take a schedule for a learning rate; the rest takes numbers that aren't known yet
        made += [factory(**{**given, **scheduled})]
    except Exception:
        try:
            jax.eval_shape(lambda known: made.append(factory(**{**given, **known})), numbers)
        except Exception:
            return {}
    return {"inner": made[0]} if is_transformation(made[0]) else {}
