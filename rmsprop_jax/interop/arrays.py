"""Arrays from anywhere: made NumPy's, compared by what they are, and given back as JAX has them."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Named = Mapping[str, Any]
"""Arrays by name."""


def as_array(x: Any) -> Any:
    """A NumPy array of an array of any library, PyTorch's included.

    Args:
      x: a number or an array; bfloat16 tensors of PyTorch become float32.

    Returns:
      The array.

    Raises:
      TypeError: for what is no array of numbers.
    """
    if hasattr(x, "detach"):  # a tensor of PyTorch: with a gradient, on a GPU, or too narrow
        x = x.detach().cpu()
        x = x.float() if "bfloat16" in str(x.dtype) else x
    array = np.asarray(x)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"an array of numbers was expected, not {type(x).__name__}: {x!r:.60}")
    return array


def cast_like(old: Any, new: Any) -> Any:
    """The new array as a JAX array of the dtype of an old one, sharded if the old one is."""
    new = np.asarray(new).astype(old.dtype)
    return jax.device_put(new, old.sharding) if old.committed else jnp.asarray(new)


def check(found: Named, wanted: Named) -> None:
    """Raises one error for all arrays that are missing, left over, or of a wrong shape or kind.

    Args:
      found: the arrays that there are, by key.
      wanted: arrays like those that there should be.

    Raises:
      ValueError: unless they agree.
    """
    have, want = ({key: _describe(x) for key, x in named.items()} for named in (found, wanted))
    lines = [f"missing: {key}, {text}" for key, text in want.items() if key not in have]
    lines += [f"extra: {key}, {text}" for key, text in have.items() if key not in want]
    both = [key for key in want if key in have and have[key] != want[key]]
    lines += [f"wrong: {key} is {have[key]}, should be {want[key]}" for key in both]
    if lines:
        raise ValueError("This doesn't fit, and nothing was converted:\n  " + "\n  ".join(lines))


def check_numbers(arrays: Named, squares: Iterable[str]) -> None:
    """Raises if an average of squares is negative, and warns of NaN, saying how many and where.

    Args:
      arrays: the arrays by key.
      squares: the keys of averages of squares.

    Raises:
      ValueError: for a negative number, which another optimizer may have written.
    """
    if negative := [key for key in squares if (arrays[key].real < 0).any()]:
        raise ValueError(f"Averages of squares are negative: {', '.join(negative)}.")
    nans = {key: int(np.isnan(x).sum()) for key, x in arrays.items()}
    if any(nans.values()):
        where = ", ".join(f"{key} {n}" for key, n in nans.items() if n)
        warnings.warn(f"The checkpoint holds {sum(nans.values())} NaN: {where}.", stacklevel=4)


def _describe(x: Any) -> str:
    kinds = {jnp.complexfloating: "complex", jnp.floating: "float"}
    # By name, since torch has dtypes of its own.
    dtype = str(x.dtype).removeprefix("torch.")
    kind = next((text for kind, text in kinds.items() if jnp.issubdtype(dtype, kind)), dtype)
    return f"{'integer' if 'int' in kind and not x.shape else kind} {tuple(x.shape)}"
