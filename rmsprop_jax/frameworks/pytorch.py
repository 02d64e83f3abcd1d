"""RMSProp of PyTorch, `torch.optim.RMSprop`."""

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def pytorch(
    lr: optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of PyTorch, `torch.optim.RMSprop`.

    The update of a parameter p with gradient g:

        g <- -g                                          if maximize
        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 0
        u <- g / (sqrt(v) + eps)                         v - E[g]^2 for v if centered
        buffer <- momentum buffer + u;  u <- buffer
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. The defaults are lr = 1e-2 and alpha = 0.99.
    2. maximize negates the gradient, not the update: the weights still decay towards 0.
    3. The real and imaginary parts of a complex parameter are averaged and divided as two real
       parameters. PyTorch's gradient of a complex parameter is the conjugate of `jax.grad`'s.


    Args:
      lr: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.
      capturable: without effect here; it concerns CUDA graphs.
      foreach: without effect here; it chooses an implementation.
      maximize: ascend the gradients given.
      differentiable: without effect here; every update in JAX is differentiable.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients. For a complex leaf, the accumulators are pairs of real arrays.

    Raises:
      ValueError: for a number out of its range and for an array that is no scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.pytorch(lr=0.01, alpha=0.75)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(params))
      >>> print(updates)
      [-0.02  0.02]

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """
    del capturable, foreach, differentiable
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(weight_decay=weight_decay, momentum=momentum)
    return parts.by_component(
        chain(
            parts.scale(-1.0) if maximize else optax.identity(),
            parts.coupled_decay(weight_decay),
            scale_by_rms(alpha, eps, centered=centered),
            parts.momentum_trace(momentum),
            parts.scale_by_learning_rate(lr),
        )
    )
