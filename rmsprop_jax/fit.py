"""Whether gradients, parameters and a state belong together; if not, what doesn't fit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERS = (jax.Array, np.ndarray, np.generic, int, float, complex)


def dtype_of(x: Any) -> Any:
    """The dtype of an array, or of the array that a Python number becomes."""
    return x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


@functools.cache
def is_inexact(dtype: Any) -> bool:
    """True for real and complex floats."""
    return jnp.issubdtype(dtype, jnp.inexact)


@functools.cache
def is_complex(dtype: Any) -> bool:
    """True for complex numbers."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def describe(x: Any) -> str:
    """An array as text, such as `"float32 (3, 2)"`."""
    if isinstance(x, int | float | complex | str) or not hasattr(x, "dtype"):
        return f"{x!r:.60}"
    return f"{x.dtype} {np.shape(x)}"


def name_of(tree: Any, index: int) -> str:
    """The path of a leaf of a tree by its number, `None` counting; such as `"['dense']['w']"`."""
    path = jax.tree.leaves_with_path(tree, is_leaf=is_none)[index][0]
    return jax.tree_util.keystr(path) or "the only array"


def is_none(x: Any) -> bool:
    """For `jax.tree.map(..., is_leaf=is_none)`."""
    return x is None


def check_gradients(updates: Any, params: Any) -> None:
    """Raises unless gradients are real or complex numbers, and parameters like them."""
    gradients, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    for i, g in enumerate(gradients):
        if g is not None and not is_inexact(dtype_of(g)):
            raise TypeError(
                f"the gradient of {name_of(updates, i)} is {describe(g)}: gradients must be "
                "floats. Pass None for what has no gradient."
            )
    if params is None:
        return
    try:
        parameters = treedef.flatten_up_to(params)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"params isn't a tree like the gradients: it is {jax.tree.structure(params)}, and they "
            f"are {jax.tree.structure(updates)}."
        ) from error
    for i, (g, p) in enumerate(zip(gradients, parameters, strict=True)):
        if g is None:
            continue
        fits = isinstance(p, _NUMBERS) and np.shape(p) == np.shape(g)
        if not fits or is_complex(dtype_of(p)) != is_complex(dtype_of(g)):
            raise ValueError(
                f"the gradient of {name_of(updates, i)} is {describe(g)}, and its parameter "
                f"{describe(p)}."
            )


def find_misfit(wanted: Any, state: Any) -> str:
    """The first difference between two states, as text; empty if there is none."""
    want, have = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, state)
    )
    for path, x in want.items():
        if path not in have:
            return f"{path} is missing, {describe(x)}"
        if np.shape(have[path]) != x.shape:
            return f"{path} is {describe(have[path])}, should be {describe(x)}"
    if extra := [path for path in have if path not in want]:
        return f"{extra[0]} has no place in it"
    return (
        "" if jax.tree.structure(wanted) == jax.tree.structure(state) else "its containers differ"
    )
