"""RMSProp of TorchOpt, `torchopt.rmsprop` and `torchopt.RMSprop`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_optional,
    check_rate,
    given,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def torchopt(
    lr: optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    *,
    initial_scale: ArrayLike = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of TorchOpt, `torchopt.rmsprop` and `torchopt.RMSprop`.

    The update of a parameter p with gradient g:

        g <- -g                                          if maximize
        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at initial_scale
        u <- g / (sqrt(v) + eps)                         v - E[g]^2 for v if centered
        trace <- momentum trace + u;  u <- trace         or, if nesterov, u <- u + momentum trace
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. The defaults are lr = 1e-2 and alpha = 0.99. It is `pytorch` with initial_scale and nesterov.
    2. maximize negates the gradient, not the update: the weights still decay towards 0.

    Args:
      lr: 0 or more; or a schedule.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the trace, 0 or more.
      centered: divide by the standard deviation of the gradients.
      initial_scale: value at which v starts, 0 or more.
      nesterov: look ahead by one step of momentum.
      maximize: ascend the gradients given.

    Raises:
      ValueError: for a number out of its range, and for nesterov without momentum.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.torchopt(0.01, alpha=0.75, momentum=0.5, nesterov=True)
      >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)))
      >>> print(updates)  # -0.01 (2 + 0.5 2)
      [-0.03  0.03]

    References:
      https://torchopt.readthedocs.io/en/latest/api/api.html
    """
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps, initial_scale=initial_scale)
    check_optional(weight_decay=weight_decay, momentum=momentum)
    if nesterov and not given(momentum):
        raise ValueError("nesterov=True needs a momentum.")
    return chain(
        parts.scale(-1.0) if maximize else optax.identity(),
        parts.coupled_decay(weight_decay),
        scale_by_rms(alpha, eps, initial_scale=initial_scale, centered=centered),
        parts.trace(momentum, nesterov) if given(momentum) else optax.identity(),
        parts.scale_by_learning_rate(lr),
    )
