"""RMSProp of PaddlePaddle, `paddle.optimizer.RMSProp`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def paddle(
    learning_rate: optax.ScalarOrSchedule,
    rho: ArrayLike = 0.95,
    epsilon: ArrayLike = 1e-6,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    grad_clip: None = None,
    name: str | None = None,
) -> optax.GradientTransformation:
    """RMSProp of PaddlePaddle, `paddle.optimizer.RMSProp`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        r <- rho r + (1 - rho) g^2                       starting at 0
        u <- g / sqrt(r + epsilon)                       r - E[g]^2 for r if centered
        v <- momentum v + learning_rate u;  p <- p - v

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root.
    2. The learning rate is inside the momentum. (It isn't Nesterov's, though Paddle's documentation
       says so.)
    3. learning_rate has no default; rho = 0.95 and epsilon = 1e-6 are the others.

    MXNet's RMSProp with centered=False is this one too, its gamma1 being rho and its wd
    weight_decay.

    Args:
      learning_rate: 0 or more; or a schedule.
      rho: rate of the average of squares, in [0, 1).
      epsilon: added under the root, 0 or more.
      momentum: 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: coupled, 0 or more; if given, `update` needs `params`. Of Paddle's regularizers,
        this is `L2Decay`.
      grad_clip: must be `None`.
      name: without effect here.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_jax import dialects
      >>> tx = optax.chain(optax.clip(1.0), dialects.paddle(0.5, rho=0.75, epsilon=0.75))
      >>> g = jnp.array([3.0, -4.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.5 1 / sqrt(0.25 1^2 + 0.75)
      [-0.5  0.5]

    References:
      https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/optimizer/RMSProp_en.html
    """
    del name
    check_fraction(rho=rho)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum)
    check_optional(weight_decay=weight_decay)
    if grad_clip is not None:
        raise ValueError(
            "grad_clip: put the clipping in front, as in "
            "optax.chain(optax.clip_by_global_norm(1.0), ...) or with optax.clip."
        )
    return chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(rho, epsilon, eps_in_sqrt=True, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )
