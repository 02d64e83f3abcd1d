"""Translates an eps added outside of the square root to one added under it, and back."""

from __future__ import annotations

import math
from typing import NamedTuple

from rmsprop_jax.checks import check_nonnegative, check_positive


class EpsConversion(NamedTuple):
    """What `convert_eps` returns.

    Attributes:
      eps: the number for the other side of the root.
      slowest: the smallest factor by which the conversion changes a step, over all nu.
      fastest: the largest factor.

    Example:
      >>> import rmsprop_jax
      >>> rmsprop_jax.convert_eps(1e-4, into_sqrt=False).eps
      0.01
    """

    eps: float
    slowest: float
    fastest: float


def convert_eps(eps: float, *, into_sqrt: bool, at: float = 0.0) -> EpsConversion:
    """Translates an eps added outside of the square root to one added under it, or back.

    The two denominators, sqrt(nu) + eps outside and sqrt(nu + eps) inside, can agree for one value
    of sqrt(nu) only. For all others the steps change, by the factors that come with the answer.

    Args:
      eps: the eps that you have, more than 0.
      into_sqrt: true to move eps into the root, false to move it out.
      at: the value of sqrt(nu), a typical size of the gradients, where both denominators shall be
        equal; 0 or more. At 0 it is the largest possible step, g / eps or g / sqrt(eps), that is
        kept.

    Returns:
      An `EpsConversion`.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for an argument that is not a number.

    Example:
      >>> from rmsprop_jax import convert_eps
      >>> eps, slowest, fastest = convert_eps(1e-3, into_sqrt=False)  # Keras's to PyTorch's
      >>> print(f"eps = {eps:.4f}: steps times {slowest:.3f} to {fastest:.3f}")
      eps = 0.0316: steps times 0.707 to 1.000
    """
    check_positive(eps=eps)
    check_nonnegative(at=at)
    new = eps * (2 * at + eps) if into_sqrt else eps / (math.hypot(at, math.sqrt(eps)) + at)
    inside, outside = (math.sqrt(new), eps) if into_sqrt else (math.sqrt(eps), new)
    # sqrt(x^2 + inside^2) / (x + outside) is inside/outside at x = 0, has its minimum at
    # x = inside^2 / outside, and tends to 1. It is the factor of the steps when eps moves out.
    least, most = inside / math.hypot(inside, outside), max(inside / outside, 1.0)
    return EpsConversion(new, 1 / most, 1 / least) if into_sqrt else EpsConversion(new, least, most)
