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


def kind_of(x: Any) -> str:
    """What numbers an array has: `"real"`, `"complex"` or any `"other"`; also if it is no array."""
    return _kind(dtype_of(x)) if isinstance(x, _NUMBERS) else "other"


@functools.cache
def _kind(dtype):
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "complex"
    return "real" if jnp.issubdtype(dtype, jnp.floating) else "other"


def same_type(x: Any, y: Any) -> bool:
    """True for two arrays of one shape and dtype: the usual case, found fast."""
    try:
        return x.dtype == y.dtype and x.shape == y.shape
    except AttributeError:
        return False


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
        if g is None:
            continue
        if kind_of(g) == "other":
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
            f"params isn't a tree like the gradients: {difference(updates, params)}."
        ) from error
    for i, (g, p) in enumerate(zip(gradients, parameters, strict=True)):
        if g is None or same_type(g, p):
            continue
        fits = isinstance(p, _NUMBERS) and np.shape(p) == np.shape(g)
        if (
            not fits
            or dtype_of(p) == jax.dtypes.float0
            or (kind_of(p) == "complex") != (kind_of(g) == "complex")
        ):
            raise ValueError(
                f"the gradient of {name_of(updates, i)} is {describe(g)}, and its parameter "
                f"{describe(p)}."
            )


def difference(wanted: Any, found: Any) -> str:
    """The first difference between two trees in paths and shapes, as text; empty if none."""
    want, have = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, found)
    )
    for path, x in want.items():
        if path not in have:
            return f"{path or 'an array'} is missing"
        if np.shape(have[path]) != np.shape(x):
            return f"{path or 'the array'} is {describe(have[path])}, should be {describe(x)}"
    if extra := [path for path in have if path not in want]:
        return f"{extra[0] or 'an array'} is too much"
    same = jax.tree.structure(wanted) == jax.tree.structure(found)
    return "" if same else "the containers differ"
