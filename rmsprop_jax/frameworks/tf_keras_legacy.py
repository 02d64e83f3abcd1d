"""RMSProp of Keras 2 before TensorFlow 2.11, today `tf_keras.optimizers.legacy.RMSprop`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_one_of,
    check_positive,
    check_range,
    check_rate,
    given,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def tf_keras_legacy(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    rho: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike | None = 1e-7,
    centered: bool = False,
    name: str = "RMSprop",
    *,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    lr: optax.ScalarOrSchedule | None = None,
    decay: ArrayLike = 0.0,
) -> optax.GradientTransformation:
    """RMSProp of Keras 2 before TensorFlow 2.11, today `tf_keras.optimizers.legacy.RMSprop`.

    The update number t (from 0) of a variable p with gradient g:

        g <- clip(g, -clipvalue, clipvalue)
        g <- g clipnorm / max(|g|, clipnorm)             |g| over the elements of the variable
        g <- g global_clipnorm / max(|g|, ...)           |g| over all variables
        v <- rho v + (1 - rho) g^2                       starting at 0
        u <- g / (sqrt(v) + epsilon)                     v - E[g]^2 for v if centered
        p <- p - learning_rate / (1 + decay t) u

    With momentum, epsilon moves inside the root, and the last two lines are

        u <- g / sqrt(v + epsilon)
        m <- momentum m + learning_rate / (1 + decay t) u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root with momentum, and outside without. A momentum given as an array
       counts as momentum, whatever its value, as a tensor does there.
    2. epsilon = 0 and epsilon = `None` silently mean 1e-7, which is the default.
    3. The learning rate is inside the momentum.
    4. It clips gradients and has an inverse-time decay of the learning rate.

    Without momentum it is also the RMSProp of standalone Keras, 1.x to 2.3, whose epsilon was 1e-8
    until 2.0. Their decay is the one here, or the schedule lambda t: lr / (1 + decay * t).

    Args:
      learning_rate: 0 or more; or a schedule, which unlike a callable of Keras is given the number
        of updates made.
      rho: rate of the average of squares, in [0, 1).
      momentum: in [0, 1].
      epsilon: added to the denominator, 0 or more; see 1 and 2.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.
      clipnorm: largest norm of the gradient of a variable, more than 0.
      clipvalue: largest absolute value of an element, more than 0.
      global_clipnorm: largest norm of all gradients together, more than 0; not with clipnorm.
      lr: an older name of learning_rate, which it replaces if given.
      decay: of the learning rate (not of an average), 0 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tf_keras_legacy(learning_rate=0.1, rho=0.75, epsilon=1.0)
      >>> g = jnp.array([2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.1 2 / (1 + 1): epsilon is outside
      [-0.1]

    References:
      https://www.tensorflow.org/api_docs/python/tf/keras/optimizers/legacy/RMSprop
    """
    del name
    learning_rate = learning_rate if lr is None else lr
    eps = epsilon if given(epsilon) else 1e-7
    check_fraction(rho=rho)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=eps, decay=decay)
    check_range("momentum", momentum, upper=1.0)
    check_positive(clipvalue=clipvalue)
    check_one_of(clipnorm=clipnorm, global_clipnorm=global_clipnorm)
    return chain(
        parts.clip(clipvalue, clipnorm, global_clipnorm),
        scale_by_rms(rho, eps, eps_in_sqrt=given(momentum), centered=centered),
        parts.scale_by_learning_rate(parts.inverse_time_decay(learning_rate, decay)),
        parts.momentum_trace(momentum),
    )
