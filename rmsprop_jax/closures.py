"""What functions remember, and what made them.

This goes by the cells, attributes and code that Python keeps, and not by the names of locals.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax

from rmsprop_jax.records import record_of

IN_OPTAX = {
    (f.__module__, f.__qualname__): f
    for module in (optax, optax.contrib)
    for f in vars(module).values()
    if inspect.isfunction(f) or inspect.isclass(f)
}
"""The functions of Optax, by what no function of a user shares with them: see `origin`."""


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
    return origin(value) == (factory.__module__, factory.__qualname__)


def memory_of(function: Any) -> dict[str, Any]:
    """What a function remembers, by name."""
    return _memory(bare(function))


def bare(function: Any) -> Any:
    """A function without `jax.jit` and `functools.partial` around it that don't change it."""
    while True:
        if isinstance(function, _JITTED):
            function = inspect.unwrap(function, stop=lambda f: not isinstance(f, _JITTED))
        elif type(function) is functools.partial and not (
            function.args or {"updates", "state", "params"} & function.keywords.keys()
        ):
            if origin(function.func) not in IN_OPTAX and not _has_record(function.func):
                return function
            function = function.func
        else:
            return function


_JITTED = type(jax.jit(lambda: None))


def _has_record(function: Any) -> bool:
    return record_of(optax.GradientTransformation(optax.init_empty_state, function)) is not None


def owner(function: Any) -> Any:
    """What a function is part of: the object for a method, which is a new one at each look."""
    return function.__self__ if inspect.ismethod(function) else function


def _attributes(x: Any) -> dict[str, Any]:
    try:
        return dict(vars(x))
    except TypeError:  # it has none
        return {}


def origin(function: Any) -> tuple[str, str]:
    """Module and function or class that a function was made in, by its code: this can't be set."""
    function = function.__func__ if inspect.ismethod(function) else function
    if not isinstance(function, types.FunctionType):
        return "", ""
    return function.__globals__.get("__name__", ""), function.__code__.co_qualname.split(".")[0]


def name_of_maker(function: Any) -> str:
    """The name of the function or class that made a function, as far as there is one."""
    if isinstance(function, functools.partial):
        return name_of_maker(function.func)
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


def pairs_in(before: dict[str, Any], after: dict[str, Any]) -> dict[int, Any]:
    """Chains remember a tuple of functions each in `init` and in `update`."""

    def functions(memory):
        tuples = (x for x in memory.values() if type(x) in (tuple, list) and x)
        return [x for x in tuples if all(map(callable, x))]

    match functions(before), functions(after):
        case [inits], [updates] if len(inits) == len(updates) and inits is not updates:
            pairs = zip(inits, updates, strict=True)
            return {i: optax.GradientTransformation(*pair) for i, pair in enumerate(pairs)}
    return {}


def transformations_in(
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
                search(key, ((key, y) for y in memory_of(x).values()))

    search("", memory.items())
    return found


def _is_same(left: Any, right: Any) -> bool:
    """Whether two are one, but for `optax.with_extra_args_support`."""

    def core(tx):
        update = bare(tx.update)
        while IN_OPTAX.get(origin(update)) is optax.with_extra_args_support:
            update = bare(next(filter(is_transformation, memory_of(update).values())).update)
        return owner(update)

    return core(left) is core(right)
