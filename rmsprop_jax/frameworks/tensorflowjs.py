"""RMSProp of TensorFlow.js, `tf.train.rmsprop`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def tensorflowjs(
    learning_rate: optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike | None = None,
    centered: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of TensorFlow.js, `tf.train.rmsprop`.

    The update of a variable p with gradient g:

        v <- decay v + (1 - decay) g^2                   starting at 0
        u <- learning_rate g / sqrt(v + epsilon)
        m <- momentum m + u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root. `None` means 1e-7, as TensorFlow.js has it for float32.
    2. The learning rate is inside the momentum, and has no default.
    3. centered is refused. TensorFlow.js 4.22.0 subtracts epsilon from the variance, which makes
       NaN of each element whose gradients were small at first, such as those behind a dead ReLU.
       A run without NaN is that of `keras` with centered=True and a small epsilon.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      centered: must be false.

    Raises:
      ValueError: for a number out of its range, and for centered.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tensorflowjs(0.5, decay=0.75, epsilon=0.75)
      >>> g = jnp.array([1.0, -1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.5 g / sqrt(0.25 g^2 + 0.75)
      [-0.5  0.5]

    References:
      https://js.tensorflow.org/api/latest/#train.rmsprop
    """
    if centered:
        raise ValueError(
            "centered: True, but TensorFlow.js subtracts epsilon from the variance, which makes "
            "NaN of small gradients. Take dialects.keras(..., centered=True): with a small "
            "epsilon, it makes the same numbers where TensorFlow.js makes no NaN."
        )
    check_fraction(decay=decay)
    check_rate(learning_rate=learning_rate)
    check_optional(momentum=momentum)
    eps = 1e-7 if epsilon is None else epsilon
    check_nonnegative(epsilon=eps)
    return chain(
        scale_by_rms(decay, eps, eps_in_sqrt=True),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )
