"""RMSProp of Graves (2013): `chainer.optimizers.RMSpropGraves`, `mxnet.optimizer.RMSProp`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def graves(
    lr: optax.ScalarOrSchedule = 1e-4,
    alpha: ArrayLike = 0.95,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-4,
) -> optax.GradientTransformation:
    """RMSProp of Graves (2013): `chainer.optimizers.RMSpropGraves`, `mxnet.optimizer.RMSProp`.

    The update of a parameter w with gradient e, equations 38 to 45 of the paper:

        n <- alpha n + (1 - alpha) e^2                   starting at 0
        g <- alpha g + (1 - alpha) e                     starting at 0
        delta <- momentum delta - lr e / sqrt(n - g^2 + eps)
        w <- w + delta

    It differs from `rmsprop` as follows:

    1. It is centered, always.
    2. eps is inside the root.
    3. The learning rate is inside the momentum.
    4. The defaults are those of the paper and of Chainer.

    The arguments are Chainer's. Those of MXNet's RMSProp with centered=True are in the same order
    learning_rate, gamma1, gamma2, epsilon; with centered=False, MXNet ignores gamma2, and is
    `paddle` without momentum. A weight decay (Chainer's hook, MXNet's wd) goes in front:
    `optax.chain(optax.add_decayed_weights(rate), graves(...))`.

    Args:
      lr: 0 or more; or a schedule.
      alpha: rate of both averages, in [0, 1).
      momentum: 0 or more.
      eps: added under the root, 0 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.graves(lr=0.5, alpha=0.5, eps=0.0)
      >>> g = jnp.array([1.0, -3.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # the variance is 0.5 g^2 - (0.5 g)^2
      [-1.  1.]

    References:
      https://arxiv.org/abs/1308.0850

      https://docs.chainer.org/en/stable/reference/generated/chainer.optimizers.RMSpropGraves.html

      https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/optimizer/index.html
    """
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(alpha, eps, eps_in_sqrt=True, centered=True),
        parts.scale_by_learning_rate(lr),
        parts.momentum_trace(momentum),
    )
