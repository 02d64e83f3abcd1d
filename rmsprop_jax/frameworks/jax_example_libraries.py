"""RMSProp of JAX's own `jax.example_libraries.optimizers`, and NumPyro's, which wraps it."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def jax_example_libraries(
    step_size: optax.ScalarOrSchedule,
    gamma: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    momentum: ArrayLike = 0.0,
) -> optax.GradientTransformation:
    """RMSProp of JAX's own `jax.example_libraries.optimizers`, and NumPyro's, which wraps it.

    The update of a parameter x with gradient g:

        avg <- gamma avg + (1 - gamma) g^2               starting at 0
        u <- step_size g / sqrt(avg + eps)
        mom <- momentum mom + u;  x <- x - mom

    It differs from `rmsprop` as follows:

    1. eps is inside the root. (Before October 2019, in `jax.experimental.optimizers`, it was
       outside: for numbers of that time, take `rmsprop`.)
    2. step_size is inside the momentum, and has no default.

    `rmsprop(...)` there is this without momentum, `rmsprop_momentum(...)` with momentum=0.9, its
    default. NumPyro's `numpyro.optim.RMSProp` and `RMSPropMomentum` have the same arguments and
    numbers.

    Args:
      step_size: 0 or more; or a schedule.
      gamma: rate of the average of squares, in [0, 1).
      eps: added under the root, 0 or more.
      momentum: 0 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.jax_example_libraries(0.5, gamma=0.75, eps=0.75)
      >>> g = jnp.array([1.0, -1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.5 g / sqrt(0.25 g^2 + 0.75)
      [-0.5  0.5]

    References:
      https://docs.jax.dev/en/latest/jax.example_libraries.optimizers.html

      https://num.pyro.ai/en/stable/optimizers.html
    """
    check_fraction(gamma=gamma)
    check_rate(step_size=step_size)
    check_nonnegative(eps=eps)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(gamma, eps, eps_in_sqrt=True),
        parts.scale_by_learning_rate(step_size),
        parts.momentum_trace(momentum),
    )
