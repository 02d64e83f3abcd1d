"""One compiled call in the place of one for each operation and array, outside of `jit`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from rmsprop_jax.checks import is_traced

_P = ParamSpec("_P")
_T = TypeVar("_T")


def at_once(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Compiles a function of this library for calls from outside of `jit`.

    What is compiled is kept for each structure, shape and switch, never for a number: these are
    operands. So it is only for functions at the top of a module, of numbers and arrays that are
    passed by position, and switches by name. Nothing of a user's may be among them. In somebody
    else's program the function runs as it stands, and is part of that; so it does for arrays that
    are placed by hand on several devices, which no one program takes.
    """
    parameters = inspect.signature(function).parameters.values()
    switches = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    jitted = jax.jit(function, static_argnames=switches)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        leaves = jax.tree.leaves(args)
        plain = any(map(is_traced, leaves)) or _are_apart(leaves)
        return (function if plain else jitted)(*args, **kwargs)

    return call


def _are_apart(leaves: list[Any]) -> bool:
    shardings = {x.sharding for x in leaves if isinstance(x, jax.Array) and x.committed}
    return len(shardings) > 1 and len({frozenset(s.device_set) for s in shardings}) > 1
