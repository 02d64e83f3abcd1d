"""RMSProp of fastai, `fastai.optimizer.RMSProp`."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_optional,
    check_rate,
    given,
)
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms


@public
def fastai(
    lr: optax.ScalarOrSchedule,
    mom: ArrayLike = 0.0,
    sqr_mom: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    wd: ArrayLike = 0.0,
    decouple_wd: bool = True,
) -> optax.GradientTransformation:
    """RMSProp of fastai, `fastai.optimizer.RMSProp`.

    The update of a parameter p with gradient g:

        p <- (1 - lr wd) p                               if decouple_wd
        g <- g + wd p                                    if not decouple_wd
        grad_avg <- mom grad_avg + g                     starting at 0
        sqr_avg <- sqr_mom sqr_avg + (1 - sqr_mom) g^2   starting at 0
        p <- p - lr grad_avg / (sqrt(sqr_avg) + eps)

    It differs from `rmsprop` as follows:

    1. Momentum adds up gradients, and their sum is divided by the current root. (This is Adam
       without its bias correction. In all other dialects, momentum adds up steps.)
    2. The weight decay is decoupled, unless decouple_wd=False.
    3. lr has no default, and that of sqr_mom is 0.99.

    fastai 2.8.12 ignores the eps of the call. It uses 1e-8, unless `opt.set_hyper("eps", ...)`
    changes it: read eps from `opt.hypers`, not from the call. It also ignores the schedule of mom
    that `fit_one_cycle` sets if mom was 0 in the call.

    Args:
      lr: 0 or more; or a schedule.
      mom: rate of the sum of gradients, 0 or more.
      sqr_mom: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more.
      wd: weight decay, 0 or more; unless 0, `update` needs `params`.
      decouple_wd: shrink p itself, not by way of g.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.fastai(0.5, mom=0.5, sqr_mom=0.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> for g in (jnp.ones(1), 2 * jnp.ones(1)):
      ...     updates, state = tx.update(g, state)
      >>> print(updates)  # -0.5 (0.5 * 1 + 2) / 2
      [-0.625]

    References:
      https://docs.fast.ai/optimizer.html
    """
    check_fraction(sqr_mom=sqr_mom)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(mom=mom, wd=wd)
    coupled, decoupled = (0, wd) if decouple_wd else (wd, 0)
    numerator = parts.trace(mom) if given(mom) else None
    return chain(
        parts.coupled_decay(coupled),
        scale_by_rms(sqr_mom, eps, numerator=numerator),
        parts.scale_by_learning_rate(lr),
        parts.decoupled_decay(lr, decoupled),
    )
