"""RMSProp of Keras 3, `keras.optimizers.RMSprop`; and of Keras 2 from TensorFlow 2.11 on."""

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_one_of,
    check_optional,
    check_positive,
    check_range,
    check_rate,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def keras(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    rho: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-7,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    use_ema: bool = False,
    ema_momentum: ArrayLike = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: ArrayLike | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
) -> optax.GradientTransformation:
    """RMSProp of Keras 3, `keras.optimizers.RMSprop`; and of Keras 2 from TensorFlow 2.11 on.

    The update of a variable p with gradient g:

        g <- g / loss_scale_factor
        g <- g clipnorm / max(|g|, clipnorm)             |g| over the elements of the variable
        g <- g global_clipnorm / max(|g|, ...)           |g| over all variables
        g <- clip(g, -clipvalue, clipvalue)
        p <- p - learning_rate weight_decay p
        v <- rho v + (1 - rho) g^2                       starting at 0
        u <- g / sqrt(v + epsilon)                       v - E[g]^2 for v if centered
        m <- momentum m + learning_rate u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root: epsilon = 1e-7 here does what 3e-4 does outside.
    2. The learning rate is inside the momentum.
    3. The weight decay is decoupled: it doesn't enter v.
    4. It clips gradients and takes back the scaling of a loss.
    5. The default of epsilon is 1e-7.

    What Keras leaves out by `exclude_from_weight_decay` is here a second `keras` without weight
    decay in `optax.partition`.

    Args:
      learning_rate: 0 or more; or a schedule, which unlike a callable of Keras is given the number
        of updates made.
      rho: rate of the average of squares, in [0, 1).
      momentum: in [0, 1].
      epsilon: added under the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: decoupled, 0 or more; if given, `update` needs `params`.
      clipnorm: largest norm of the gradient of a variable, more than 0.
      clipvalue: largest absolute value of an element, more than 0.
      global_clipnorm: largest norm of all gradients together, more than 0. At most one of the
        three.
      use_ema: must be false.
      ema_momentum: without effect, since use_ema is.
      ema_overwrite_frequency: without effect, since use_ema is.
      loss_scale_factor: divides the gradients, more than 0; multiplying the loss is up to you.
      gradient_accumulation_steps: must be `None`.
      name: without effect here.

    Raises:
      ValueError: for a number out of its range, for more than one kind of clipping, and for
        use_ema and gradient_accumulation_steps, naming the part of Optax that does it.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.keras(learning_rate=0.1)
      >>> var1 = jnp.array(10.0)
      >>> updates, state = tx.update(var1, tx.init(var1))
      >>> print(f"{var1 + updates:.6f}")  # the example of Keras's own documentation
      9.683772

    References:
      https://keras.io/api/optimizers/rmsprop/
    """
    del name, ema_momentum, ema_overwrite_frequency
    check_fraction(rho=rho)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(weight_decay=weight_decay)
    check_range("momentum", momentum, upper=1.0)
    check_positive(loss_scale_factor=loss_scale_factor)
    check_one_of(clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm)
    if use_ema:
        raise ValueError(
            "use_ema: keep the average beside the parameters, after each update by average = "
            "optax.incremental_update(params, average, 1 - ema_momentum), or by optax.ema."
        )
    if gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps: wrap the optimizer in optax.MultiSteps(keras(...), "
            "every_k_schedule=steps). Its schedules count updates, where Keras's count batches."
        )
    return chain(
        parts.unscale(loss_scale_factor),
        parts.clip(clipvalue, clipnorm, global_clipnorm),
        scale_by_rms(rho, epsilon, eps_in_sqrt=True, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
        parts.decoupled_decay(learning_rate, weight_decay, as_factor=False),
    )
