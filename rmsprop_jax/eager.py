"""How this library's own arithmetic is called: as few and as large programs as there can be.

Outside of `jit`, one compiled call in the place of one for each operation and array. Inside, arrays
of one shape are traced once, not one by one.

What is compiled is kept for each structure, shape and switch, never for a number: these are
operands. So it is for functions at the top of a module, of numbers and arrays that are passed by
position, and of switches passed by name. Nothing of a user's may be among them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from rmsprop_jax.checks import is_traced
from rmsprop_jax.fit import is_none

_P = ParamSpec("_P")
_T = TypeVar("_T")
_CHUNK = 8  # a call of a compiled function takes as long to trace as three operations


def at_once(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Compiles a function for calls from outside of `jit`.

    In somebody else's program it runs as it stands, and is part of that; so it does for arrays that
    are placed by hand on several devices, which no one program takes.
    """
    jitted = jax.jit(function, static_argnames=_switches(function))

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        leaves = jax.tree.leaves(args)
        plain = any(map(is_traced, leaves)) or _are_apart(leaves)
        return (function if plain else jitted)(*args, **kwargs)

    return call


def for_each(function: Callable[..., tuple[Any, ...]]) -> Callable[..., list[Any]]:
    """Makes a function of the arrays of one parameter one of trees.

    Args:
      function: of an array of each tree, then of numbers, then of switches by name. It returns as
        many arrays as it takes.

    Returns:
      A function of a list of trees, of the same numbers and switches, which returns as many trees.
      The first tree says what the structure is. Where it has `None`, the others stay as they are; a
      tree that is `None` itself has nothing for any of them.
    """
    switches = _switches(function)
    one = jax.jit(function, static_argnames=switches)

    @functools.partial(jax.jit, static_argnames=switches)
    def many(rows, *numbers, **kwargs):
        return [one(*row, *numbers, **kwargs) for row in rows]

    @functools.wraps(function)
    def call(trees: list[Any], *numbers: Any, **kwargs: Any) -> list[Any]:
        first, treedef = jax.tree.flatten(trees[0], is_leaf=is_none)
        nothing = [None] * len(first)
        rest = [nothing if tree is None else treedef.flatten_up_to(tree) for tree in trees[1:]]
        rows = list(zip(first, *rest, strict=True))
        moving = [i for i, x in enumerate(first) if x is not None]
        leaves = jax.tree.leaves(([rows[i] for i in moving], numbers))
        if any(map(is_traced, leaves)):
            groups = _chunks(rows, moving)
        elif _are_apart(leaves):  # layers that were placed by hand
            groups = [[i] for i in moving]
            numbers = jax.tree.map(jax.device_get, numbers)
        else:
            groups = [moving]
        for group in groups:
            if len(group) == 1:
                rows[group[0]] = one(*rows[group[0]], *numbers, **kwargs)
                continue
            new = many([rows[i] for i in group], *numbers, **kwargs)
            for i, row in zip(group, new, strict=True):
                rows[i] = row
        columns = zip(*rows, strict=True) if rows else [[] for _ in trees]
        pairs = zip(trees, columns, strict=True)
        return [None if tree is None else treedef.unflatten(column) for tree, column in pairs]

    return call


def _switches(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _chunks(rows: list[Any], moving: list[int]) -> list[list[int]]:
    """Rows of one type together, so that a chunk of them is traced once and called often."""
    kinds: dict[Any, list[int]] = {}
    for i in moving:
        kinds.setdefault(tuple(None if x is None else jax.typeof(x) for x in rows[i]), []).append(i)
    chunks = []
    for kind in kinds.values():
        whole = len(kind) - len(kind) % _CHUNK
        chunks += [kind[i : i + _CHUNK] for i in range(0, whole, _CHUNK)]
        chunks += [[i] for i in kind[whole:]]
    return chunks


def _are_apart(leaves: list[Any]) -> bool:
    shardings = {x.sharding for x in leaves if isinstance(x, jax.Array) and x.committed}
    return len(shardings) > 1 and len({frozenset(s.device_set) for s in shardings}) > 1
