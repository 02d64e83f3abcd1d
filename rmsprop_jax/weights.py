"""Weights in bfloat16 that still move.

A bfloat16 number has 8 significant bits: 1 + 0.001 is 1 again, and training stands still where
updates are less than half the distance to the next weight. Two ways around it:

    params = weights.apply_updates(params, updates, step)    # rounds at random: no memory
    tx = weights.compensate(rmsprop(1e-3))                   # remembers what rounding took
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax.precision import is_narrow, widen
from rmsprop_jax.records import recorded
from rmsprop_jax.storage import BF16
from rmsprop_jax.storage.hashing import random_bits

__all__ = ["CompensateState", "apply_updates", "compensate"]


def apply_updates(params: Any, updates: Any, step: ArrayLike, *, seed: int = 0) -> Any:
    """`optax.apply_updates`, but bfloat16 parameters are rounded at random, right on average.

        p <- p + u        in float32, then up or down to bfloat16, by the odds of the distances

    The random bits are a hash of seed, step, the place of the array in the tree and that of the
    element in the array, as in `storage.store`: there is no key, and the same bits come under
    `jit`, `scan` and any sharding.

    Args:
      params: the parameters, a pytree of arrays. Those that aren't bfloat16 are treated as by
        Optax.
      updates: a pytree of the same structure, with `None` for what stays.
      step: the number of this step, an integer scalar that differs from step to step, such as
        `optax.tree.get(opt_state, "count")` or a loop's own.
      seed: of the random rounding, in [0, 2^32).

    Returns:
      The new parameters, with the shapes and dtypes of the old.

    Raises:
      ValueError: for a seed out of range, and for float16 parameters, which this can't round.

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
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} is out of range: it must be in [0, 2^32).")
    words = np.uint32(seed), jnp.asarray(step).astype(jnp.uint32)
    places = map(np.uint32, range(2**32))

    def apply(p, u):
        place = next(places)
        if p is None or u is None:
            return p
        p = jnp.asarray(p)
        if p.dtype == jnp.float16:
            raise ValueError(
                "params are float16: only bfloat16 is rounded at random. Keep float32."
            )
        if p.dtype != jnp.bfloat16:
            return optax.apply_updates(p, u)
        wide = p.astype(jnp.float32) + jnp.asarray(u, jnp.float32)
        # The last word sets these bits apart from those of accumulators.
        return BF16.encode(wide, random_bits(wide, *words, place, np.uint32(1)))

    return _map(apply, params, updates)


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

    The sum of both is what is called float32 master weights. To store the remainder in two bytes,
    say `storage.store(compensate(tx), remainder=storage.BF16)`.

    Args:
      tx: any transformation. It sees float32 gradients and parameters in place of bfloat16 and
        float16 ones.

    Returns:
      A transformation whose updates have the dtypes of the parameters; `optax.apply_updates` and
      everything that calls it takes them. It needs `params`, and what changes the updates
      afterwards goes into `tx` instead, by `optax.chain`: the remainder must be that of the steps
      that are really made.

    Raises:
      ValueError: from `update`, without `params`.

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
        remainder = jax.tree.map(
            lambda p: jnp.zeros_like(p, jnp.float32) if is_narrow(p) else None, params
        )
        return CompensateState(remainder, tx.init(widen(params)))

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("compensate needs params: call update(updates, state, params).")
        add = lambda r, p: p if r is None else p + r
        full = _map(add, state.remainder, widen(params))
        wide, inner = tx.update(widen(updates), state.inner, full, **extra_args)

        def narrow(r, p, full, u):
            """The update that takes p next to its new value."""
            if r is None or u is None:
                return u
            move = _round(full + u, p.dtype) - p.astype(jnp.float32)
            return _round(move, p.dtype).astype(p.dtype)

        def rest(r, p, full, u, narrow):
            """What the sum that `apply_updates` will make lacks of the new value."""
            if r is None or u is None:
                return r
            return full + u - _round(p.astype(jnp.float32) + narrow.astype(jnp.float32), p.dtype)

        narrow_updates = _map(narrow, state.remainder, params, full, wide)
        remainder = _map(rest, state.remainder, params, full, wide, narrow_updates)
        return narrow_updates, CompensateState(remainder, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _map(function, *trees):
    return jax.tree.map(function, *trees, is_leaf=lambda x: x is None)


def _round(x, dtype):
    """x, rounded to the numbers of a dtype: a cast that XLA can't leave out."""
    form = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, form.nexp, form.nmant)
