"""Clipping to a norm that survives infinities, and PyTorch's and Keras's ways of it.

An infinite gradient divided by an infinite norm is NaN, in Optax's clipping as in PyTorch's. Here
gradients are clamped first, to where the sum of their squares is finite, so that an infinity is
clipped like any other large number. NaN stays visible.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax.checks import check_positive
from rmsprop_jax.precision import public
from rmsprop_jax.transform import clamp, largest

__all__ = ["clip_by_global_norm", "clip_by_leaf_norm", "clip_by_torch_norm"]


@public
def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, of clamped gradients.

        g <- g min(1, max_norm / |g|)                    |g| over all arrays

    Args:
      max_norm: more than 0.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_jax import clipping, rmsprop
      >>> tx = optax.chain(clipping.clip_by_global_norm(1.0), rmsprop(0.1, decay=0.75))
      >>> g = jnp.array([jnp.inf, 1.0])
      >>> print(tx.update(g, tx.init(g))[0].round(3))  # an infinity outweighs all else
      [-0.2 -0. ]

    References:
      https://optax.readthedocs.io/en/latest/api/transformations.html#optax.clip_by_global_norm
    """
    check_positive(max_norm=max_norm)
    clipping = optax.clip_by_global_norm(max_norm)
    return _clip_clamped(lambda gs: clipping.update(gs, optax.EmptyState())[0])


@public
def clip_by_leaf_norm(max_norm: Any) -> optax.GradientTransformation:
    """Clips each array to a norm, as Keras's clipnorm does.

        g <- g max_norm / max(|g|, max_norm)             |g| over the elements of the array

    Args:
      max_norm: more than 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import clipping
      >>> tx = clipping.clip_by_leaf_norm(1.0)
      >>> g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
      >>> print(tx.update(g, tx.init(g))[0]["a"])
      [0.6 0.8]

    References:
      https://keras.io/api/optimizers/
    """
    check_positive(max_norm=max_norm)

    def clip(g):
        norm = jnp.sqrt(jnp.sum(jnp.real(g) ** 2 + jnp.imag(g) ** 2))
        return g * (max_norm / jnp.maximum(norm, max_norm))

    return _clip_clamped(lambda gs: jax.tree.map(clip, gs))


@public
def clip_by_torch_norm(max_norm: Any) -> optax.GradientTransformation:
    """PyTorch's `clip_grad_norm_`, which adds 1e-6 to the norm where Optax's clipping doesn't.

        g <- g min(1, max_norm / (|g| + 1e-6))           |g| over all arrays

    Args:
      max_norm: more than 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import clipping
      >>> tx = clipping.clip_by_torch_norm(1.0)
      >>> g = jnp.array([1e-6])
      >>> print(tx.update(g, tx.init(g))[0])  # too small to be clipped
      [1.e-06]

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
    """
    check_positive(max_norm=max_norm)

    def clip(gs):
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(gs) + 1e-6))
        return jax.tree.map(lambda g: g * scale, gs)

    return _clip_clamped(clip)


def _clip_clamped(clip):
    def update(updates, state, params=None):
        del params
        size = sum(jnp.size(g) for g in jax.tree.leaves(updates))
        return clip(jax.tree.map(lambda g: clamp(g, largest(g.dtype, size)), updates)), state

    return optax.GradientTransformation(optax.init_empty_state, update)
