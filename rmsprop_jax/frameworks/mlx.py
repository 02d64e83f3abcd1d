"""RMSProp of MLX, `mlx.optimizers.RMSprop`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def mlx(
    learning_rate: optax.ScalarOrSchedule,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformation:
    """RMSProp of MLX, `mlx.optimizers.RMSprop`.

    The update of a parameter p with gradient g:

        v <- alpha v + (1 - alpha) g^2                   starting at 0
        p <- p - learning_rate g / (sqrt(v) + eps)

    It differs from `rmsprop` as follows:

    1. learning_rate has no default, and that of alpha is 0.99.
    2. There is nothing else: no momentum, no centering, no weight decay.

    Args:
      learning_rate: 0 or more; or a schedule.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more. (MLX wants more than 0, for it divides by it.)

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.mlx(0.1, alpha=0.75)
      >>> g = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)
      [-0.2  0.2]

    References:
      https://ml-explore.github.io/mlx/build/html/python/optimizers/_autosummary/mlx.optimizers.RMSprop.html
    """
    check_fraction(alpha=alpha)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(eps=eps)
    return chain(
        scale_by_rms(alpha, eps),
        parts.scale_by_learning_rate(learning_rate),
    )
