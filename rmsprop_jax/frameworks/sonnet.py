"""RMSProp of Sonnet 2, `sonnet.optimizers.RMSProp`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def sonnet(
    learning_rate: optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    centered: bool = False,
    name: str | None = None,
) -> optax.GradientTransformation:
    """RMSProp of Sonnet 2, `sonnet.optimizers.RMSProp`.

    The update of a parameter p with gradient g:

        ms <- decay ms + (1 - decay) g^2                 starting at 0
        u <- g / sqrt(ms + epsilon)                      ms - E[g]^2 for ms if centered
        mom <- momentum mom + learning_rate u;  p <- p - mom

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root.
    2. The learning rate is inside the momentum.
    3. learning_rate has no default, and that of epsilon is 1e-10.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.sonnet(0.1, decay=0.75, epsilon=0.75)
      >>> g = jnp.array([1.0, 0.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.1 1 / sqrt(0.25 + 0.75)
      [-0.1 -0. ]

    References:
      https://github.com/google-deepmind/sonnet/blob/v2/sonnet/src/optimizers/rmsprop.py
    """
    del name
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )
