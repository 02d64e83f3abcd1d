"""RMSProp of burn, made by `burn::optim::RmsPropConfig`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def burn(
    learning_rate: optax.ScalarOrSchedule,
    alpha: ArrayLike = 0.99,
    momentum: ArrayLike = 0.9,
    epsilon: ArrayLike = 1e-5,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    grad_clipping: None = None,
) -> optax.GradientTransformation:
    """RMSProp of burn, made by `burn::optim::RmsPropConfig`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 0
        u <- g / (sqrt(v) + epsilon)                     v - E[g]^2 for v if centered
        buf <- momentum buf + u;  u <- buf
        p <- p - learning_rate u

    It differs from `rmsprop` as follows:

    1. It has momentum unless you say momentum=0, and alpha = 0.99 and epsilon = 1e-5.
    2. learning_rate has no default: burn is given it with each step.

    Args:
      learning_rate: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      momentum: rate of the buffer, 0 or more.
      epsilon: added to the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: the penalty of burn's `WeightDecayConfig`, coupled, 0 or more; if given,
        `update` needs `params`.
      grad_clipping: must be `None`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.burn(0.01, alpha=0.75)
      >>> g = jnp.array([1.0, 0.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> second, state = tx.update(0 * g, state)  # coasting
      >>> print(f"{first[0]:.4f} {second[0]:.4f}")
      -0.0200 -0.0180

    References:
      https://github.com/tracel-ai/burn/blob/main/crates/burn-optim/src/optim/rmsprop.rs
    """
    check_fraction(alpha=alpha)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum)
    check_optional(weight_decay=weight_decay)
    if grad_clipping is not None:
        raise ValueError(
            "grad_clipping: put the clipping in front, as in "
            "optax.chain(optax.clip_by_global_norm(1.0), ...) or with optax.clip."
        )
    return chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(alpha, epsilon, centered=centered),
        parts.momentum_trace(momentum),
        parts.scale_by_learning_rate(learning_rate),
    )
