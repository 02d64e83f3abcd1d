"""RMSProp of Optax, in the place of `optax.rmsprop`."""

# Under another name, since the function `optax` below would hide the module.
import optax as _optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import LARGEST, check_optional, check_range
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def optax(
    learning_rate: _optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> _optax.GradientTransformation:
    """RMSProp of Optax, in the place of `optax.rmsprop`.

    The update of a parameter p with gradient g:

        nu <- decay nu + (1 - decay) |g|^2               starting at initial_scale
        u <- g / sqrt(nu + eps)                          g / (sqrt(nu) + eps) if not eps_in_sqrt;
                                                         nu - |E g|^2 for nu if centered
        trace <- momentum trace + learning_rate u;  u <- trace, if momentum is given
        u <- momentum trace + learning_rate u            with nesterov, in addition
        p <- p - u

    It differs from `rmsprop` as follows:

    1. eps is inside the root by default, and decay, eps and others may be given by position.
    2. The learning rate is inside the momentum.
    3. learning_rate has no default. It may be negative, to ascend.
    4. nesterov without momentum has no effect, as in Optax.

    It differs from `optax.rmsprop` in its state, in what the module says of all dialects, and in
    that initial_scale and bias_correction can't be combined (the averages are kept corrected, so a
    start would be forgotten). With centered and bias_correction, the first variance is 0, where
    Optax has what the rounding of 0 leaves.

    Args:
      learning_rate: a number or a schedule.
      decay: rate of the average of squares, in [0, 1).
      eps: added to the denominator, 0 or more.
      initial_scale: value at which nu starts, 0 or more; 0 with bias_correction.
      eps_in_sqrt: add eps under the root, not outside.
      centered: divide by the standard deviation of the gradients.
      momentum: rate of the trace, 0 or more; `None` for none. (0 here makes a trace, as in Optax.)
      nesterov: look ahead by one step of momentum.
      bias_correction: free the averages of the value they start at.

    Raises:
      ValueError: for a number out of its range, and for initial_scale with bias_correction.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.optax(0.1, bias_correction=True)
      >>> g = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print([f"{u:.3f}" for u in updates])
      ['-0.100', '0.100']

    References:
      https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.rmsprop
    """
    if not callable(learning_rate):
        check_range("learning_rate", learning_rate, lower=-LARGEST)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(
            decay,
            eps,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
        ),
        parts.scale_by_learning_rate(learning_rate),
        _optax.identity() if momentum is None else parts.trace(momentum, nesterov),
    )
