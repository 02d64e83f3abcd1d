"""How many numbers a format had no place for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rmsprop_jax.storage.formats import Format
from rmsprop_jax.storage.state import StoreState, check_state, chosen_formats, leaves_of


class Extremes(NamedTuple):
    """How many numbers of a stored array are at the ends of its format, see `extremes`.

    Attributes:
      zero: those that are 0: they were 0, or too small for the format.
      largest: those that are the largest number that there is, or its negative, or infinite.
      nan: those that are NaN.
      size: all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.store(scale_by_rms(), nu=storage.U8).init(jnp.ones(2))
      >>> (counts,) = storage.extremes(state, nu=storage.U8).values()
      >>> int(counts.zero), counts.size
      (2, 2)
    """

    zero: jax.Array
    largest: jax.Array
    nan: jax.Array
    size: int


def extremes(state: StoreState, **formats: Format | DTypeLike) -> dict[str, Extremes]:
    """Counts the numbers that a format had no place for, for each stored array by its path.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> tx = storage.store(scale_by_rms(), nu=storage.U8)
      >>> _, state = tx.update(jnp.array([1e-9, 1.0, 1e9]), tx.init(jnp.zeros(3)))
      >>> counts = storage.extremes(state, nu=storage.U8)[".nu"]
      >>> int(counts.zero), int(counts.largest), int(counts.nan), counts.size
      (1, 1, 0, 3)
    """
    chosen = chosen_formats(formats)
    check_state(state, chosen)
    return {jax.tree_util.keystr(leaf.path): ends for leaf, ends in _ends(state, chosen)}


def extremes_of_parameters(
    state: StoreState, **formats: Format | DTypeLike
) -> list[tuple[tuple[Any, ...], Extremes]]:
    """The same with the path of the parameter, once for each of its stored accumulators."""
    return [(leaf.below, ends) for leaf, ends in _ends(state, chosen_formats(formats))]


def _ends(state, chosen):
    for leaf in leaves_of(state.inner, chosen)[0]:
        if leaf.form is not None:
            x = jnp.abs(leaf.form.decode(leaf.x))
            largest = getattr(leaf.form, "largest", np.inf)
            numbers = (jnp.sum(x == 0), jnp.sum(x >= largest), jnp.sum(jnp.isnan(x)))
            yield leaf, Extremes(*numbers, x.size)
