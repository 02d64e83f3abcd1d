"""Parameters by the names of their places, and groups of them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named(tree: Any) -> dict[str, jax.Array]:
    """The arrays of numbers in a tree by the names of their places."""
    kinds = jax.Array | np.ndarray | np.generic | float | complex
    leaves = jax.tree.leaves_with_path(plain(tree))
    arrays = [(path, jnp.asarray(x)) for path, x in leaves if isinstance(x, kinds)]
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    return {name_at(path) or "params": x for path, x in arrays if is_float(x) and x.size}


def name_at(path: Any) -> str:
    """The name of a place in a tree, such as `dense/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def plain(tree: Any) -> Any:
    """The tree with arrays in the place of the variables of Flax NNX."""
    is_variable = lambda x: hasattr(x, "get_value")
    get = lambda x: x.get_value() if is_variable(x) else x
    return jax.tree.map(get, tree, is_leaf=is_variable)


def grouping(by: int | Callable[[str], str] | None) -> Callable[[str], str]:
    """The function from names of parameters to those of groups."""
    if by is None:
        return lambda name: name
    if callable(by):
        return by
    if not isinstance(by, int) or isinstance(by, bool) or by < 1:
        raise ValueError(f"by={by!r} is neither a function nor a number of at least 1.")
    return lambda name: "/".join(name.split("/")[:by])


def together(
    trees: Sequence[dict[str, Any]], group: Callable[[str], str], also_in: Any = None
) -> dict[str, list[Any]]:
    """What is named in some dictionaries, group by group; in another dictionary, too, if given."""
    groups: dict[str, list[Any]] = collections.defaultdict(list)
    for tree in trees:
        for name, x in tree.items():
            if also_in is None or name in also_in:
                groups[group(name)].append(x)
    return dict(groups)
