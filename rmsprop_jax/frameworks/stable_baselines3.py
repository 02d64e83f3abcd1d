"""RMSProp of Stable-Baselines3, `RMSpropTFLike`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def stable_baselines3(
    lr: optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0,
    centered: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of Stable-Baselines3, `RMSpropTFLike`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 1
        u <- g / sqrt(v + eps)                           v - E[g]^2 for v if centered
        buffer <- momentum buffer + u;  u <- buffer
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. v starts at 1, and eps is inside the root, as in TensorFlow; the learning rate isn't inside
       the buffer, unlike in TensorFlow.
    2. The defaults are lr = 1e-2 and alpha = 0.99. (A2C passes lr = 7e-4 and eps = 1e-5.)

    Args:
      lr: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      eps: added under the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.stable_baselines3(lr=0.5, alpha=0.75, eps=0.25)
      >>> params = jnp.zeros(1)
      >>> updates, state = tx.update(jnp.array([2.0]), tx.init(params))
      >>> print(f"{updates[0]:.4f}")  # -0.5 2 / sqrt(0.75 + 0.25 2^2 + 0.25)
      -0.7071

    References:
      https://github.com/DLR-RM/stable-baselines3/blob/master/stable_baselines3/common/sb2_compat/rmsprop_tf_like.py
    """
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(weight_decay=weight_decay, momentum=momentum)
    return chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(alpha, eps, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        parts.momentum_trace(momentum),
        parts.scale_by_learning_rate(lr),
    )
