"""RMSProp of MindSpore, `mindspore.nn.RMSProp`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_optional,
    check_positive,
    check_rate,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def mindspore(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    loss_scale: ArrayLike = 1.0,
    weight_decay: ArrayLike = 0.0,
) -> optax.GradientTransformation:
    """RMSProp of MindSpore, `mindspore.nn.RMSProp`.

    The update of a parameter w with gradient g:

        g <- g / loss_scale + weight_decay w
        s <- decay s + (1 - decay) g^2                   starting at 1
        u <- g / sqrt(s + epsilon)                       s - E[g]^2 for s if centered
        m <- momentum m + learning_rate u;  w <- w - m

    It differs from `rmsprop` as follows:

    1. s starts at 1, and epsilon is inside the root.
    2. The learning rate is inside the momentum.
    3. The gradient is divided by loss_scale; the weight decay is not.
    4. The defaults are learning_rate = 0.1 and epsilon = 1e-10.

    This is what MindSpore documents. Its kernel for CPUs (2.10.0) does something else if not
    centered: in each parameter, it divides whole blocks of 8 elements by sqrt(s) + epsilon, and
    only the rest by sqrt(s + epsilon). If centered, it skips an element where
    s - E[g]^2 + epsilon isn't positive. Here the variance is exact, so that is never needed.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      use_locking: without effect here.
      centered: divide by the standard deviation of the gradients.
      loss_scale: divides the gradients, more than 0; multiplying the loss is up to you.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.mindspore(learning_rate=1.0, decay=0.75, epsilon=0.25)
      >>> updates, state = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
      >>> print(updates)  # -1 / sqrt(1 + 0.25)
      [-0.8944272]

    References:
      https://www.mindspore.cn/docs/en/master/api_python/nn/mindspore.nn.RMSProp.html
    """
    del use_locking
    check_fraction(decay=decay)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum, weight_decay=weight_decay)
    check_positive(loss_scale=loss_scale)
    return chain(
        parts.unscale(loss_scale),
        parts.coupled_decay(weight_decay),
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )
