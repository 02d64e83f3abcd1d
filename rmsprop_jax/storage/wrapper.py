"""Wraps a transformation, so that its accumulators are kept in formats."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from rmsprop_jax.checks import check_seed, is_traced
from rmsprop_jax.fit import dtype_of
from rmsprop_jax.placement import like_parameter, place_scalars
from rmsprop_jax.records import recorded
from rmsprop_jax.storage.codes import as_type, decode_all, encode_all
from rmsprop_jax.storage.formats import OWN, Format
from rmsprop_jax.storage.state import (
    StoreState,
    all_is_well,
    check_accumulators,
    check_state,
    chosen_formats,
    labels_of,
    leaves_of,
)


@recorded
def store(
    tx: optax.GradientTransformation, *, seed: ArrayLike = 0, **formats: Format | DTypeLike
) -> optax.GradientTransformationExtraArgs:
    """Keeps the accumulators of a transformation in fewer bytes.

    The update; in a compiled program, no accumulator is in memory at full width:

        accumulators = decode(stored)                               in float32
        updates, accumulators = tx.update(gradients, accumulators)
        stored = encode(accumulators)                               rounded at random

    The random bits are a hash of the seed, the number of updates, the place of the array in the
    state, and that of the element in the array. So there is no key to thread, and the numbers are
    the same under `jit`, `scan`, any sharding, and after a restart from a checkpoint. (What runs
    under `vmap` or `shard_map` sees a piece of an array, and rounds all pieces alike. And two
    stores side by side, as in `optax.partition`, round alike, unless they have different seeds.)

    Args:
      tx: any transformation. Accumulators are what its state has in a field called `nu`, `mu` or
        `trace`, as Optax calls them, or by another name given here.
      seed: of the random rounding, an integer in [0, 2^32), known or traced.
      **formats: a format for each accumulator that is to be stored: `U16`, `U8`, `BF16`, another
        `Format`, or a float dtype. A dtype rounds to nearest: float32 is there for parameters that
        are narrower, and bfloat16 stalls. `mu`, `trace` and `remainder` have signs, which `U16` and
        `U8` don't; nor may `nu` be in a dtype of less range than bfloat16, since squares leave it.
        By other names, what turns out to be negative becomes NaN in `U16` and `U8`.

    Returns:
      A transformation whose state is a `StoreState`, and whose updates have the dtypes of the
      gradients. `update` passes extra arguments on.

    Raises:
      ValueError: for a seed out of range; for no format, and for one that can't hold the
        accumulator; from `init`, for accumulators that the state of `tx` doesn't have, or that are
        integers or complex numbers; from `update`, for a state that isn't of these formats.
      TypeError: for what is not a format, and a seed that is not an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import rmsprop, storage
      >>> tx = storage.store(rmsprop(0.1), nu=storage.U8)
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), state)
      >>> print(state.inner[0].nu.dtype, storage.unpack(state, nu=storage.U8)[0].nu)
      uint8 [1.    0.375]

    References:
      P. Zamirai, J. Zhang, C. R. Aberger, C. De Sa, Revisiting BFloat16 Training, 2020:
      https://arxiv.org/abs/2010.06192
    """
    tx = optax.with_extra_args_support(tx)
    chosen = chosen_formats(formats)
    check_seed(seed)

    def init(params):
        inner = tx.init(params)
        if jax.tree.leaves(params):  # of none, as optax.tree.map_params takes, there are no names
            check_accumulators(inner, chosen)
        return _place_like(_pack(inner, seed, chosen), params, chosen)

    def update(updates, state, params=None, **extra_args):
        check_state(state, chosen)
        inner = _unpack(state, chosen)
        # Accumulators can now be wider than what they meet. The casts below settle the types.
        with jax.numpy_dtype_promotion("standard"):
            new_updates, new_inner = tx.update(updates, inner, params, **extra_args)

        def cast(u, g):
            return None if u is None else as_type(u, dtype_of(g))

        new_updates = jax.tree.map(cast, new_updates, updates, is_leaf=lambda x: x is None)
        with jax.transfer_guard_host_to_device("allow"):
            step = state.step + np.uint32(1)
        leaves, treedef = leaves_of(state.inner, chosen)
        codes = encode_all(leaves, treedef.flatten_up_to(new_inner), seed, step, chosen)
        new_updates = _made_from_codes(new_updates, leaves, codes, all_is_well(state, chosen))
        return new_updates, StoreState(step, state.formats, treedef.unflatten(codes))

    return optax.GradientTransformationExtraArgs(init, update)


def pack(state: Any, *, seed: ArrayLike = 0, **formats: Format | DTypeLike) -> StoreState:
    """The state of `store(tx, seed=seed, **formats)` from that of `tx`, to go on training with.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.pack(scale_by_rms(initial_scale=1.0).init(jnp.zeros(3)), nu=storage.U16)
      >>> print(storage.unpack(state, nu=storage.U16).nu)
      [1. 1. 1.]
    """
    chosen = chosen_formats(formats)
    check_seed(seed)
    check_accumulators(state, chosen)
    state = _pack(state, seed, chosen)
    return place_scalars(state, jax.tree.leaves(state.inner))


def unpack(state: StoreState, **formats: Format | DTypeLike) -> Any:
    """The state of `tx`, with float32 accumulators, from that of `store(tx, **formats)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> stored = storage.store(scale_by_rms(initial_scale=1.0), nu=storage.BF16).init(jnp.ones(2))
      >>> storage.unpack(stored, nu=storage.BF16).nu
      Array([1., 1.], dtype=float32)
    """
    chosen = chosen_formats(formats)
    check_state(state, chosen)
    return _unpack(state, chosen)


def _pack(state, seed, chosen):
    with jax.transfer_guard_host_to_device("allow"):
        step = jnp.zeros([], jnp.uint32)
        formats = {text: jnp.asarray(checksum) for text, checksum in labels_of(chosen).items()}
    leaves, treedef = leaves_of(state, chosen)
    codes = encode_all(leaves, [leaf.x for leaf in leaves], seed, step, chosen)
    return StoreState(step, formats, treedef.unflatten(codes))


def _unpack(state, chosen):
    """The inner state, decoded; NaN if a compiled program finds codes of other formats."""
    leaves, treedef = leaves_of(state.inner, chosen)
    return treedef.unflatten(decode_all(leaves, state.step, all_is_well(state, chosen), chosen))


def _place_like(state, params, chosen):
    """A new state where the parameters are."""
    leaves = jax.tree.leaves(params)
    if not any(map(is_traced, leaves)):
        return place_scalars(state, leaves)
    parameters = {tuple(path): p for path, p in jax.tree.leaves_with_path(params)}
    found, treedef = leaves_of(state.inner, chosen)
    placed = [like_parameter(leaf.x, _parameter(leaf, parameters)) for leaf in found]
    return state._replace(inner=treedef.unflatten(placed))


def _parameter(leaf, parameters):
    """What a tree like the parameters has for an array of the state: a complex one has two."""
    if leaf.name is None:
        return None
    ends = range(len(leaf.below), -1, -1)
    return next((parameters[p] for end in ends if (p := leaf.below[:end]) in parameters), None)


def _made_from_codes(updates, leaves, codes, well):
    """The updates; on TPUs made from the codes, for there XLA makes one loop of both only then."""
    by_path = {tuple(path): i for i, (path, _) in enumerate(jax.tree.leaves_with_path(updates))}
    own = [(leaf, code) for leaf, code in zip(leaves, codes, strict=True) if type(leaf.form) in OWN]
    pairs = [(_parameter(leaf, by_path), leaf.form, code) for leaf, code in own]
    pairs = [(i, form, code) for i, form, code in pairs if i is not None and is_traced(code)]
    if not pairs or well is None:
        return updates

    def tied(arrays, codes, well):
        # A test that changes nothing, since well is 1; but the compiler doesn't know that.
        arrays = list(arrays)
        for (i, form, _), code in zip(pairs, codes, strict=True):
            u = arrays[i]
            if u.shape == code.shape:
                broken = jnp.isnan(form.decode(code))
                arrays[i] = jnp.where(broken, u * well.astype(u.dtype), u)
        return arrays

    arrays, treedef = jax.tree.flatten(updates)
    as_they_are = lambda arrays, codes, well: arrays
    codes = [code for *_, code in pairs]
    arrays = jax.lax.platform_dependent(arrays, codes, well, tpu=tied, default=as_they_are)
    return treedef.unflatten(arrays)
