"""The textbook RMSProp as one `optax.chain`."""

from __future__ import annotations

from typing import Any

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def rmsprop(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    decay: ArrayLike | optax.Schedule = 0.9,
    eps: ArrayLike = 1e-8,
    *,
    eps_in_sqrt: bool = False,
    initial_scale: ArrayLike = 0.0,
    centered: bool = False,
    bias_correction: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp, in the order of operations that PyTorch has.

    The update of a parameter p with gradient g, each line only if its argument is given:

        g <- g + weight_decay p
        nu <- decay nu + (1 - decay) g^2
        u <- g / (sqrt(nu) + eps)                   see `scale_by_rms` for others
        trace <- momentum trace + u;  u <- trace    or, if nesterov, u <- u + momentum trace
        p <- p - learning_rate u                    p + update is `optax.apply_updates`

    The learning rate is applied last, so a change of it acts at once on all of the momentum. In
    TensorFlow, Keras and `optax.rmsprop` it is applied before, so old steps keep coasting at old
    learning rates: with momentum and a schedule the results differ.

    Args:
      learning_rate: 0 or more; or a schedule, a function of the number of updates made.
      decay: rate of the average of squares, in [0, 1); or a schedule.
      eps: added to the denominator, 0 or more.
      eps_in_sqrt: add eps under the square root, not outside.
      initial_scale: value at which nu starts, 0 or more.
      centered: divide by the standard deviation of the gradients, not by their root mean square.
      bias_correction: free the averages of the value they start at.
      momentum: rate of the trace, in [0, 1); `None` leaves it out, and its buffer with it.
      nesterov: look ahead by one step of momentum.
      weight_decay: coefficient of p, 0 or more, or a schedule; coupled: it is added to the
        gradient, enters nu, and is divided by the root like the gradient. `None` leaves it out;
        otherwise `update` needs `params`.
      mask: which parameters decay, as in `optax.masked`: a tree of booleans or a function from
        parameters to one.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Accumulators are float32 (float64 for float64
      parameters) whatever the parameters' dtype; updates have the gradients' dtypes.

    Raises:
      ValueError: for a number out of its range, `nesterov` without `momentum`, and `mask` without
        `weight_decay`.
      TypeError: for a hyperparameter that is not a number.

    Example:
      >>> import jax, jax.numpy as jnp, optax, rmsprop_jax
      >>> tx = rmsprop_jax.rmsprop(0.1, momentum=0.5)
      >>> params = jnp.array([3.0, -2.0])
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(lambda p: jnp.sum(p**2))(params), state)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.all(jnp.abs(params) < 0.5))
      True

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """
    check_rate(learning_rate=learning_rate)
    steps = []
    if weight_decay is not None:
        check_rate(weight_decay=weight_decay)
        steps.append(parts.add_decayed_weights(weight_decay, mask))
    elif mask is not None:
        raise ValueError("mask chooses the parameters that decay: it needs a weight_decay.")
    steps.append(
        scale_by_rms(
            decay,
            eps,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
        )
    )
    if momentum is not None:
        check_fraction(momentum=momentum)
        steps.append(parts.trace(momentum, nesterov))
    elif nesterov:
        raise ValueError("nesterov=True needs a momentum.")
    return chain(*steps, parts.scale_by_learning_rate(learning_rate))
