"""What a transformation is made of: the one place that looks inside.

This library's own transformations carry a record of their call, and those of Optax are told by the
module and the name of the code that runs, which no function of a user shares. Their arguments and
what they wrap are what their functions remember in cells. All else is a part that isn't known: it
has a name, and transformations inside of it if its functions hold any.
"""

import functools
import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax import clipping, parts, precision
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


_MODULES = (optax, optax.contrib)
_IN_OPTAX = {
    (f.__module__, f.__qualname__): f
    for module in _MODULES
    for f in vars(module).values()
    if inspect.isfunction(f) or inspect.isclass(f)
}

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
    update = _bare(tx.update)
    above = (*above, _owner(update))
    record = record_of(optax.GradientTransformation(tx.init, update))
    if record is not None and record.factory is precision.public:
        return _take_apart(record.made[0], state, above)
    if record is not None:
        named = (record.factory.__module__, record.factory.__qualname__)
        factory, arguments = _IN_OPTAX.get(named, record.factory), record.arguments
        inside = dict(enumerate(record.made)) or _transformations(arguments)
    else:
        factory = _IN_OPTAX.get(_origin(update))
        arguments, inside = _closure(factory, _bare(tx.init), update, state)
        factory = factory if _required(factory) <= arguments.keys() else None
        if factory is optax.with_extra_args_support and inside:
            return _take_apart(next(iter(inside.values())), state, above)
    name = _name(update) if factory is None else factory.__name__
    is_call = record is not None and bool(record.made) and factory not in CHAINS
    children = {}
    for key, inner in inside.items():
        if any(_owner(_bare(inner.update)) is x for x in above):  # it holds itself
            continue
        inner_state = state if is_call else _inner_state(name, factory, inside, key, state)
        children[key] = _take_apart(inner, inner_state, above)
    return Part(name, factory, arguments, children, state, is_call or factory in CHAINS)


def _closure(
    factory: Any, init: Any, update: Any, state: Any
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The arguments and the inner transformations of what carries no record."""
    before, memory = _memory(init), _memory(update)
    inside = _pairs(before, memory) or _transformations(memory, once=factory is None)
    if factory is None:
        return memory, inside or _transformations({**memory, **before}, once=True, deep=True)
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


def is_transformation(x: Any) -> bool:
    """True for what has the functions of a transformation, and is none of its states."""
    try:
        if isinstance(x, optax.GradientTransformation | optax.MultiSteps):
            return True
        has_both = callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))
        return has_both and not callable(x) and not isinstance(x, type | types.ModuleType)
    except Exception:  # from a __getattr__ of the user's
        return False


def is_function_of(value: Any, factory: Callable[..., Any]) -> bool:
    """Whether a function was made inside of another, or of a class."""
    return _origin(value) == (factory.__module__, factory.__qualname__)


def memory_of(function: Any) -> dict[str, Any]:
    """What a function remembers, by name."""
    return _memory(_bare(function))


def _bare(function: Any) -> Any:
    """A function without `jax.jit` and `functools.partial` around it that don't change it."""
    while True:
        if isinstance(function, _JITTED):
            function = inspect.unwrap(function, stop=lambda f: not isinstance(f, _JITTED))
        elif type(function) is functools.partial and not (
            function.args or {"updates", "state", "params"} & function.keywords.keys()
        ):
            if _origin(function.func) not in _IN_OPTAX and not _has_record(function.func):
                return function
            function = function.func
        else:
            return function


_JITTED = type(jax.jit(lambda: None))


def _has_record(function: Any) -> bool:
    return record_of(optax.GradientTransformation(optax.init_empty_state, function)) is not None


def _owner(function: Any) -> Any:
    """What a function is part of: the object for a method, which is a new one at each look."""
    return function.__self__ if inspect.ismethod(function) else function


def _attributes(x: Any) -> dict[str, Any]:
    try:
        return dict(vars(x))
    except TypeError:  # it has none
        return {}


def _origin(function: Any) -> tuple[str, str]:
    """Module and function or class that a function was made in, by its code: this can't be set."""
    function = function.__func__ if inspect.ismethod(function) else function
    if not isinstance(function, types.FunctionType):
        return "", ""
    return function.__globals__.get("__name__", ""), function.__code__.co_qualname.split(".")[0]


def _name(function: Any) -> str:
    """The name of the function or class that made a function, as far as there is one."""
    if isinstance(function, functools.partial):
        return _name(function.func)
    function = function.__func__ if inspect.ismethod(function) else function
    if not isinstance(function, types.FunctionType):
        return type(function).__name__
    *outer, last = function.__code__.co_qualname.split(".<locals>.")
    owner = last.rpartition(".")[0]
    return owner or (outer[-1].rpartition(".")[2] if outer else last)


def _memory(function: Any) -> dict[str, Any]:
    """What a function, a method or an object remembers: cells, attributes, bound arguments."""
    if isinstance(function, functools.partial):
        bound = {f"argument {i}": x for i, x in enumerate(function.args)}
        return {**_memory(function.func), **bound, **function.keywords}
    if inspect.ismethod(function):
        return {**_memory(function.__func__), **_memory(function.__self__)}
    if not isinstance(function, types.FunctionType):
        fields = getattr(type(function), "_fields", None)
        return dict(zip(fields, function, strict=True)) if fields else _attributes(function)
    names, code = function.__globals__, function.__code__
    memory = {n: names[n] for n in code.co_names if n in names and is_transformation(names[n])}
    memory |= function.__kwdefaults__ or {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            memory[name] = cell.cell_contents
        except ValueError:  # not set yet, or deleted
            continue
    return memory


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> dict[int, Any]:
    """Chains remember a tuple of functions each in `init` and in `update`."""

    def functions(memory):
        tuples = (x for x in memory.values() if type(x) in (tuple, list) and x)
        return [x for x in tuples if all(map(callable, x))]

    match functions(before), functions(after):
        case [inits], [updates] if len(inits) == len(updates) and inits is not updates:
            pairs = zip(inits, updates, strict=True)
            return {i: optax.GradientTransformation(*pair) for i, pair in enumerate(pairs)}
    return {}


def _transformations(
    memory: dict[str, Any], once: bool = False, deep: bool = False
) -> dict[Any, Any]:
    """All transformations among what is remembered, also in containers; if deep, in functions."""
    found: dict[Any, Any] = {}
    seen: list[Any] = []

    def search(owner: str, items: Iterable[tuple[Any, Any]]) -> None:
        for key, x in items:
            if is_transformation(x):
                if not once or not any(_is_same(x, y) for y in found.values()):
                    found[key if key not in found else f"{owner}[{key!r}]"] = x
            elif any(x is y for y in seen):
                continue
            elif isinstance(x, dict):
                seen.append(x)
                search(key, x.items())
            elif isinstance(x, list | tuple) and len(x) < 1000:
                seen.append(x)
                is_pair = lambda y: type(y) is tuple and len(y) == 2 and isinstance(y[0], str)
                search(key, (y if is_pair(y) else (f"{key}[{i}]", y) for i, y in enumerate(x)))
            elif deep and callable(x) and not isinstance(x, type):
                seen.append(x)
                search(key, ((key, y) for y in _memory(_bare(x)).values()))

    search("", memory.items())
    return found


def _is_same(left: Any, right: Any) -> bool:
    """Whether two are one, but for `optax.with_extra_args_support`."""

    def core(tx):
        update = _bare(tx.update)
        while _IN_OPTAX.get(_origin(update)) is optax.with_extra_args_support:
            update = _bare(next(filter(is_transformation, _memory(update).values())).update)
        return _owner(update)

    return core(left) is core(right)
