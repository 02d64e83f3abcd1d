"""Wraps a transformation, so that its accumulators are kept in formats."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from rmsprop_jax.records import recorded
from rmsprop_jax.storage.formats import Format, as_format, unit
from rmsprop_jax.storage.hashing import random_bits


class StoreState(NamedTuple):
    """State of `store`.

    Attributes:
      step: number of updates made, modulo 2^32, which the random bits follow from; a uint32 scalar.
      inner: state of the wrapped transformation, with the accumulators as their formats keep them.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.store(scale_by_rms(), nu=storage.U8).init(jnp.ones(2))
      >>> int(state.step), state.inner.nu.dtype
      (0, dtype('uint8'))
    """

    step: jax.Array
    inner: Any


@recorded
def store(
    tx: optax.GradientTransformation, *, seed: int = 0, **formats: Format | DTypeLike
) -> optax.GradientTransformationExtraArgs:
    """Keeps the accumulators of a transformation in fewer bytes.

    The update, compiled into one program, in which no accumulator is in memory at full width:

        accumulators = decode(stored)                               in float32
        updates, accumulators = tx.update(gradients, accumulators)
        stored = encode(accumulators)                               rounded at random

    The random bits are a hash of the seed, the number of updates, the place of the array in the
    state, and that of the element in the array. So there is no key to thread, and the numbers are
    the same under `jit`, `scan`, any sharding, and after a restart from a checkpoint. (What runs
    under `vmap` or `shard_map` sees a piece of an array, and rounds all pieces alike.)

    Args:
      tx: any transformation. Accumulators are what its state has in a field called `nu`, `mu` or
        `trace`, as Optax calls them, or by another name given here.
      seed: of the random rounding, in [0, 2^32).
      **formats: a format for each accumulator that is to be stored: `U16`, `U8`, `BF16`, another
        `Format`, or a float dtype. A dtype rounds to nearest: float32 is there for parameters that
        are narrower, and bfloat16 stalls.

    Returns:
      A transformation whose state is a `StoreState`, and whose updates have the dtypes of the
      gradients. `update` passes extra arguments on; with one that is a function, `jit` it yourself.

    Raises:
      ValueError: for a seed out of range; from `init`, for accumulators that the state of `tx`
        doesn't have, or that are integers or complex numbers.
      TypeError: for a format that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import rmsprop, storage
      >>> tx = storage.store(rmsprop(0.1), nu=storage.U8)
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), state)
      >>> print(state.inner[0].nu.dtype, storage.unpack(state, nu=storage.U8)[0].nu)
      uint8 [0.875  0.4375]

    References:
      P. Zamirai, J. Zhang, C. R. Aberger, C. De Sa, Revisiting BFloat16 Training, 2020:
      https://arxiv.org/abs/2010.06192
    """
    tx = optax.with_extra_args_support(tx)
    chosen = _chosen(formats)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} is out of range: it must be in [0, 2^32).")

    def init(params):
        state = tx.init(params)
        # A state for no parameters, as optax.tree.map_params makes, shows no names.
        return pack(state, seed=seed, **formats if jax.tree.leaves(params) else {})

    def update(updates, state, params=None, **extra_args):
        arguments = (np.uint32(seed), updates, state, params, extra_args)
        numbers = all(isinstance(x, _NUMBERS) for x in jax.tree.leaves(arguments))
        return (_jitted_update if numbers else _update)(tx, chosen, *arguments)

    return optax.GradientTransformationExtraArgs(init, update)


def pack(state: Any, *, seed: int = 0, **formats: Format | DTypeLike) -> StoreState:
    """The state of `store(tx, seed=seed, **formats)` from that of `tx`, to go on training with.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.pack(scale_by_rms(initial_scale=1.0).init(jnp.zeros(3)), nu=storage.U16)
      >>> print(storage.unpack(state, nu=storage.U16).nu)
      [1. 1. 1.]
    """
    chosen = _chosen(formats)
    _check_names(state, chosen)
    step = jnp.zeros([], jnp.uint32)

    def encode(place, form, x):
        return _jitted_encode(form, x, np.uint32(seed), place, step) if form else x

    return StoreState(step, _map_accumulators(encode, chosen, state))


def unpack(state: StoreState, **formats: Format | DTypeLike) -> Any:
    """The state of `tx`, with float32 accumulators, from that of `store(tx, **formats)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> stored = storage.store(scale_by_rms(initial_scale=1.0), nu=storage.BF16).init(jnp.ones(2))
      >>> storage.unpack(stored, nu=storage.BF16).nu
      Array([1., 1.], dtype=float32)
    """
    chosen = _chosen(formats)
    _check_names(state.inner, chosen)
    return _unpack(chosen, state)


def _unpack(chosen, state):
    """The inner state, decoded."""

    def decode(place, form, x):
        del place
        if form and x.dtype != form.dtype:
            raise ValueError(f"accumulators of {x.dtype} can't be those of {form}.")
        return form.decode(x) * unit(form, state.step) if form else x

    return _map_accumulators(decode, chosen, state.inner)


def _update(tx, chosen, seed, updates, state, params, extra_args):
    inner = _unpack(chosen, state)
    # Accumulators can now be wider than what they meet. The casts below settle the types.
    with jax.numpy_dtype_promotion("standard"):
        new_updates, inner = tx.update(updates, inner, params, **extra_args)
    step = state.step + jnp.uint32(1)

    def encode(place, form, x, old):
        return _encode(form, x, seed, place, step) if form else jnp.astype(x, old.dtype)

    def cast(u, g):
        return None if u is None else u.astype(jnp.result_type(g))

    new_updates = jax.tree.map(cast, new_updates, updates, is_leaf=lambda x: x is None)
    return new_updates, StoreState(step, _map_accumulators(encode, chosen, inner, state.inner))


def _encode(form, x, seed, place, step):
    x = x.astype(jnp.float32) * (1 / unit(form, step))
    return form.encode(x, random_bits(x, seed, place, step))


_jitted_update = jax.jit(_update, static_argnums=(0, 1), inline=True)
_jitted_encode = jax.jit(_encode, static_argnums=0, inline=True)
_NUMBERS = (jax.Array, np.ndarray, np.generic, int, float, complex)  # what jit takes


def _chosen(formats):
    """The formats as pairs of name and format, which `jit` takes as static."""
    return tuple((name, as_format(name, form)) for name, form in sorted(formats.items()))


def _accumulator(path, chosen):
    """The name of the accumulator that a leaf is of: the first, since parameters come below it."""
    names = {"mu", "nu", "trace", *(name for name, _ in chosen)}
    fields = (key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey))
    return next((name for name in fields if name in names), None)


def _check_names(state, chosen):
    """Raises unless the state has an accumulator of each name, and of real numbers."""
    nothing = lambda x: x is None or isinstance(x, optax.MaskedNode)
    leaves = jax.tree.leaves_with_path(state, is_leaf=nothing)
    # Parameters that are nothing show the name all the same, but not a field that is None.
    no_field = lambda path, x: x is None and isinstance(path[-1], jax.tree_util.GetAttrKey)
    named = [(_accumulator(path, chosen), x) for path, x in leaves if not no_field(path, x)]
    for name, form in chosen:
        found = [x for n, x in named if n == name]
        if not found:
            there = sorted({n for n, _ in named if n})
            raise ValueError(f"the state has no accumulator {name!r}, only these: {there}.")
        for x in found:
            if not (nothing(x) or x.dtype == form.dtype or jnp.issubdtype(x.dtype, jnp.floating)):
                raise ValueError(f"{name} is {x.dtype}: only real, floating numbers can be stored.")


def _map_accumulators(function, chosen, state, *rest):
    """Maps function(place among all leaves, format or None, leaf, ...) over a state."""
    formats, places = dict(chosen), map(np.uint32, range(2**32))
    f = lambda path, *x: function(next(places), formats.get(_accumulator(path, chosen)), *x)
    return jax.tree.map_with_path(f, state, *rest)
