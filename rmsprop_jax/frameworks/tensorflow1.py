"""RMSProp of TensorFlow 1, `tf.compat.v1.train.RMSPropOptimizer`."""

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def tensorflow1(
    learning_rate: optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    name: str = "RMSProp",
) -> optax.GradientTransformation:
    """RMSProp of TensorFlow 1, `tf.compat.v1.train.RMSPropOptimizer`.

    The update of a variable p with gradient g:

        ms <- decay ms + (1 - decay) g^2                 starting at 1
        u <- g / sqrt(ms + epsilon)                      ms - E[g]^2 for ms if centered
        mom <- momentum mom + learning_rate u;  p <- p - mom

    It differs from `rmsprop` as follows:

    1. ms starts at 1: gradients much smaller than 1 make much shorter steps at first.
    2. epsilon is inside the root.
    3. The learning rate is inside the momentum.
    4. learning_rate has no default, and that of epsilon is 1e-10.


    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      use_locking: without effect here; it concerns concurrent updates.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tensorflow1(0.1, decay=0.5)
      >>> g = jnp.array([1.0, 7.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # where rmsprop makes two equal steps
      [-0.1  -0.14]

    References:
      https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/RMSPropOptimizer
    """
    del use_locking, name
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )
