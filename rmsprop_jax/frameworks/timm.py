"""RMSProp of timm, `timm.optim.RMSpropTF`: TensorFlow's in PyTorch, and more."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_optional,
    check_positive,
    check_rate,
    given,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def timm(
    lr: optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.9,
    eps: ArrayLike = 1e-10,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
    *,
    max_lr: ArrayLike | None = None,
) -> optax.GradientTransformation:
    """RMSProp of timm, `timm.optim.RMSpropTF`: TensorFlow's in PyTorch, and more.

    The update of a parameter p with gradient g:

        p <- (1 - lr weight_decay) p                     if decoupled_decay; lr^2 / max_lr for
                                                         lr if corrected_weight_decay
        g <- g + weight_decay p                          if not decoupled_decay
        v <- alpha v + (1 - alpha) g^2                   starting at 1
        u <- g / sqrt(v + eps)                           v - E[g]^2 for v if centered
        buffer <- momentum buffer + lr u;  p <- p - buffer

    With lr_in_momentum=False, the last line is

        buffer <- momentum buffer + u;  p <- p - lr buffer

    With caution, p moves only where the buffer has the sign of g, and there by 1 / max(share,
    1e-3) of the buffer, share being the part of the array's elements that move.

    It differs from `rmsprop` as follows:

    1. v starts at 1, and eps is inside the root.
    2. lr is inside the buffer, unless lr_in_momentum=False.
    3. The weight decay may be decoupled, and caution is of its own.
    4. The defaults are lr = 1e-2 and eps = 1e-10.

    Args:
      lr: 0 or more; or a schedule.
      alpha: rate of the average of squares, in [0, 1).
      eps: added under the root, 0 or more.
      weight_decay: 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.
      decoupled_decay: shrink p itself, not by way of g.
      corrected_weight_decay: with decoupled_decay, shrink by lr^2 / max_lr; without it, no effect.
      lr_in_momentum: keep lr inside the buffer, as TensorFlow does.
      caution: as above; without momentum it has no effect, as in timm.
      foreach: without effect here; it chooses an implementation.
      max_lr: the highest learning rate, more than 0. timm takes it from the lr that its optimizer
        is built with, which is right for a constant lr here too; with a schedule it must be given
        if corrected_weight_decay is.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.timm(lr=0.5, weight_decay=0.25, decoupled_decay=True)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> print(updates)
      [-0.125 -0.25 ]

    References:
      https://github.com/huggingface/pytorch-image-models/blob/main/timm/optim/rmsprop_tf.py

      Decoupled weight decay: https://arxiv.org/abs/1711.05101

      Corrected weight decay: https://arxiv.org/abs/2506.02285

      Caution: https://arxiv.org/abs/2411.16085
    """
    del foreach
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(weight_decay=weight_decay, momentum=momentum)
    check_positive(max_lr=max_lr)
    if corrected_weight_decay and callable(lr) and max_lr is None:
        raise ValueError("corrected_weight_decay with a schedule needs the schedule's max_lr.")
    coupled, decoupled = (0, weight_decay) if decoupled_decay else (weight_decay, 0)
    rate, trace = parts.scale_by_learning_rate(lr), parts.momentum_trace(momentum)
    rms = scale_by_rms(alpha, eps, eps_in_sqrt=True, initial_scale=1.0, centered=centered)
    step = chain(rms, rate, trace) if lr_in_momentum else chain(rms, trace, rate)
    return chain(
        parts.coupled_decay(coupled),
        parts.cautious(step) if caution and given(momentum) else step,
        parts.decoupled_decay(lr, decoupled, max_lr if corrected_weight_decay else None),
    )
