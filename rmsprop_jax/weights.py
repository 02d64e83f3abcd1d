"""Weights in bfloat16 that still move.

A bfloat16 number has 8 significant bits: 1 + 0.001 is 1 again, and training stands still where
updates are less than half the distance to the next weight. Two ways around it:

    params = weights.apply_updates(params, updates, step)    # rounds at random: no memory
    tx = weights.compensate(rmsprop(1e-3))                   # remembers what rounding took
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax.checks import check_seed, is_traced
from rmsprop_jax.eager import at_once
from rmsprop_jax.export import exportable
from rmsprop_jax.fit import describe, dtype_of, is_none, name_of
from rmsprop_jax.placement import like_parameter, place_scalars
from rmsprop_jax.precision import is_narrow, widen
from rmsprop_jax.records import recorded
from rmsprop_jax.storage import BF16
from rmsprop_jax.storage.hashing import random_bits

__all__ = ["CompensateState", "apply_updates", "compensate"]


def apply_updates(params: Any, updates: Any, step: ArrayLike, *, seed: ArrayLike = 0) -> Any:
    """`optax.apply_updates`, but bfloat16 parameters are rounded at random, right on average.

        p <- p + u        in float32, then up or down to bfloat16, by the odds of the distances

    The random bits are a hash of seed, step, the place of the array in the tree and that of the
    element in the array, as in `storage.store`: there is no key, and the same bits come under
    `jit`, `scan` and any sharding.

    Args:
      params: the parameters, a pytree of arrays. Those that aren't bfloat16 are treated as by
        Optax.
      updates: a pytree of the same structure, with `None` for what stays.
      step: the number of this step, which differs from step to step: any integer of Python, or an
        integer scalar, of which the last 32 bits count. A loop's own will do, or the first count in
        the state of an optimizer, `optax.tree.get_all_with_path(opt_state, "count")[0][1]`. (With a
        schedule, there are several that are equal, so that `optax.tree.get` raises.)
      seed: of the random rounding, an integer in [0, 2^32), known or traced.

    Returns:
      The new parameters, with the shapes and dtypes of the old.

    Raises:
      ValueError: for a seed out of range, a step that is no scalar, updates of other shapes, and
        for float16 parameters, which this can't round.
      TypeError: for a seed or a step that is no integer.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import weights
      >>> params = jnp.ones(10_000, jnp.bfloat16)
      >>> params = weights.apply_updates(params, jnp.full(10_000, 1e-3), step=0)
      >>> print(params.min(), params.max(), round(float(params.astype(jnp.float32).mean()), 4))
      1 1.00781 1.001

    References:
      P. Zamirai, J. Zhang, C. R. Aberger, C. De Sa, Revisiting BFloat16 Training, 2020:
      https://arxiv.org/abs/2010.06192
    """
    check_seed(seed)
    ps, treedef = jax.tree.flatten(params, is_leaf=is_none)
    us = treedef.flatten_up_to(updates)
    places = []
    for place, (p, u) in enumerate(zip(ps, us, strict=True)):
        if p is None or u is None:
            continue
        _check_update(params, place, p, u)
        if dtype_of(p) == jnp.float16:
            raise ValueError(
                f"{name_of(params, place)} is float16: only bfloat16 is rounded at random. Keep "
                "float32, or use compensate."
            )
        if dtype_of(p) == jnp.bfloat16:
            places.append(place)
        else:
            ps[place] = optax.apply_updates(p, u)
    with jax.transfer_guard_host_to_device("allow"):
        seed = seed if isinstance(seed, jax.Array) else np.uint32(int(np.asarray(seed)))
        pairs = [(ps[i], us[i]) for i in places]
        moved = _add_at_random(pairs, seed, _step_word(step), places=tuple(places))
    for place, p in zip(places, moved, strict=True):
        ps[place] = p
    return treedef.unflatten(ps)


@at_once
def _add_at_random(pairs, seed, step, *, places):
    words = seed.astype(jnp.uint32), step.astype(jnp.uint32)

    def add(p, u, place):
        wide = jnp.asarray(p).astype(jnp.float32) + jnp.asarray(u, jnp.float32)
        # The last word sets these bits apart from those of accumulators.
        return BF16.encode(wide, random_bits(wide, *words, np.uint32(place), np.uint32(1)))

    return [add(p, u, place) for (p, u), place in zip(pairs, places, strict=True)]


def _step_word(step):
    """The last 32 bits of an integer of any size."""
    dtype = getattr(step, "dtype", np.dtype(object))
    is_integer = isinstance(step, int) or jnp.issubdtype(dtype, jnp.integer)
    if not is_integer or isinstance(step, bool):
        raise TypeError(f"step={step!r} is not an integer.")
    if np.shape(step):
        raise ValueError(f"step must be a scalar, and has the shape {np.shape(step)}.")
    return step if isinstance(step, jax.Array) else np.uint32(int(step) % 2**32)


def _check_update(tree, place, p, u):
    if np.shape(p) != np.shape(u):
        raise ValueError(
            f"the update of {name_of(tree, place)} is {describe(u)}, and its parameter "
            f"{describe(p)}."
        )


@exportable
class CompensateState(NamedTuple):
    """State of `compensate`.

    Attributes:
      remainder: what the parameters lack, float32 and of their shapes; `None` for those that are
        float32 or wider.
      inner: state of the wrapped transformation, as for float32 parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import rmsprop, weights
      >>> state = weights.compensate(rmsprop()).init(jnp.ones(2, jnp.bfloat16))
      >>> state.remainder.dtype
      dtype('float32')
    """

    remainder: Any
    inner: Any


@recorded
def compensate(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Trains narrow parameters as if they were float32, by remembering what rounding took.

        u = tx.update(gradients, params + remainder)          all in float32
        params, remainder <- round(params + remainder + u), what that leaves

    The sum of both is what is called float32 master weights. So a weight that leaves the range of
    its dtype stays at the end of it, and comes back when that sum does. To store the remainder in
    two bytes, say `storage.store(compensate(tx), remainder=storage.BF16)`.

    Args:
      tx: any transformation. It sees float32 gradients and parameters in place of bfloat16 and
        float16 ones.

    Returns:
      A transformation whose updates have the dtypes of the parameters; `optax.apply_updates` and
      everything that calls it takes them. It needs `params`, and what changes the updates
      afterwards goes into `tx` instead, by `optax.chain`: the remainder must be that of the steps
      that are really made.

    Raises:
      ValueError: from `update`, without `params`, and for a state of other parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_jax import weights
      >>> tx = weights.compensate(optax.sgd(1e-3))
      >>> p = jnp.ones((), jnp.bfloat16)
      >>> state = tx.init(p)
      >>> for _ in range(200):
      ...     updates, state = tx.update(-jnp.ones((), jnp.bfloat16), state, p)
      ...     p = optax.apply_updates(p, updates)
      >>> print(p, round(float(p + state.remainder), 4))
      1.20312 1.2
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        def zeros(p):
            return like_parameter(jnp.zeros_like(p, jnp.float32), p) if is_narrow(p) else None

        state = CompensateState(jax.tree.map(zeros, params), tx.init(widen(params)))
        leaves = jax.tree.leaves(params)
        return state if any(map(is_traced, leaves)) else place_scalars(state, leaves)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("compensate needs params: call update(updates, state, params).")
        ps, rests, treedef = _matched(params, state)
        narrow = [i for i, r in enumerate(rests) if r is not None]
        sums = _add([(ps[i], rests[i]) for i in narrow])
        full = _replaced(ps, narrow, sums)
        new_updates, inner = tx.update(
            widen(updates), state.inner, treedef.unflatten(full), **extra_args
        )
        us = treedef.flatten_up_to(new_updates)
        for i in narrow:
            if us[i] is not None:
                _check_update(params, i, ps[i], us[i])
        moved = [i for i in narrow if us[i] is not None]
        rows = _split([(ps[i], full[i], us[i]) for i in moved])
        us = _replaced(us, moved, [u for u, _ in rows])
        rests = _replaced(rests, moved, [r for _, r in rows])
        return treedef.unflatten(us), CompensateState(treedef.unflatten(rests), inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _matched(params, state):
    """Parameters and what they lack, as lists, if the state is of them."""
    if not isinstance(state, CompensateState):
        raise ValueError(
            f"opt_state is a {type(state).__name__}, not the CompensateState of compensate."
        )
    ps, treedef = jax.tree.flatten(params, is_leaf=is_none)
    rests = treedef.flatten_up_to(state.remainder)
    for i, (p, r) in enumerate(zip(ps, rests, strict=True)):
        like_p = r is not None and np.shape(r) == np.shape(p) and dtype_of(r) == np.float32
        if not (like_p if is_narrow(p) else r is None):
            raise ValueError(
                f"the remainder of {name_of(params, i)} is {describe(r)}, and its parameter "
                f"{describe(p)}: opt_state is one for other parameters."
            )
    return ps, rests, treedef


def _replaced(old, places, new):
    old = list(old)
    for place, x in zip(places, new, strict=True):
        old[place] = x
    return old


@at_once
def _add(pairs):
    return [p.astype(jnp.float32) + r for p, r in pairs]


@at_once
def _split(rows):
    """For each array the narrow update, and what the parameter then lacks of its full value."""

    def split(p, full, u):
        total = full + u
        before = p.astype(jnp.float32)
        # The update that takes p next to its new value.
        after = _round(total, p.dtype)
        move = jnp.where(after == before, 0.0, after - before)  # infinity stays
        u = _round(move, p.dtype)
        # Rounded away from 0, it can lead out of the range by less than its own last place.
        form = jnp.finfo(p.dtype)
        out = jnp.abs(before + u) > float(form.max)
        u = jnp.where(out & jnp.isfinite(move), _round(u * (1 - 2.0**-form.nmant), p.dtype), u)
        rest = total - _round(before + u, p.dtype)
        # A total that isn't finite is in the parameter, as it would be in a float32 one.
        rest = jnp.where(jnp.isfinite(total), rest, 0.0)
        return _made_from(u.astype(p.dtype), rest), rest

    return [split(*row) for row in rows]


def _made_from(u, rest):
    """u; on TPUs made from rest, for there XLA makes one loop of both only then."""
    if not is_traced(u):
        return u
    # What is left is never NaN, but the compiler doesn't know that.
    tied = lambda u, rest: jnp.where(jnp.isnan(rest), rest.astype(u.dtype), u)
    return jax.lax.platform_dependent(u, rest, tpu=tied, default=lambda u, rest: u)


def _round(x, dtype):
    """x, rounded to the numbers of a dtype, by what XLA can't leave out; finite ones stay so."""
    form = jnp.finfo(dtype)
    largest = float(form.max)
    x = jnp.where(jnp.isinf(x), x, jnp.clip(x, -largest, largest))
    return jax.lax.reduce_precision(x, form.nexp, form.nmant)
