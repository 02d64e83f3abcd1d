"""What the chains of `dialects` and `recipes` are made of, where Optax has no such part.

Some are parts of Optax that are left out, their state with them, where a number isn't `given`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax.checks import given
from rmsprop_jax.eager import at_once
from rmsprop_jax.precision import chain
from rmsprop_jax.records import recorded
from rmsprop_jax.transform import clamp

add_decayed_weights = recorded(optax.add_decayed_weights)


@recorded
def scale(step_size: Any) -> optax.GradientTransformation:
    """`optax.scale`, in one call outside of `jit`."""
    update = lambda updates, state, params=None: (_scale(updates, step_size), state)
    return optax.GradientTransformation(optax.init_empty_state, update)


@at_once
def _scale(updates, step_size):
    return optax.scale(step_size).update(updates, optax.EmptyState())[0]


@recorded
def scale_by_learning_rate(learning_rate: Any) -> optax.GradientTransformation:
    """`optax.scale_by_learning_rate`, in one call outside of `jit`, but for the schedule."""
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    return scale(-learning_rate)


@recorded
def trace(decay: Any, nesterov: bool = False) -> optax.GradientTransformation:
    """`optax.trace`, in one call outside of `jit`."""

    def update(updates, state, params=None):
        del params
        return _trace(updates, state, decay, nesterov=nesterov)

    return optax.GradientTransformation(optax.trace(decay, nesterov).init, update)


@at_once
def _trace(updates, state, decay, *, nesterov):
    return optax.trace(decay, nesterov).update(updates, state)


def momentum_trace(momentum: Any) -> optax.GradientTransformation:
    """Adds up updates with the rate momentum, if that is given."""
    return trace(momentum) if given(momentum) else optax.identity()


def coupled_decay(weight_decay: Any) -> optax.GradientTransformation:
    """Adds weight_decay p to the gradients, if that is given."""
    return add_decayed_weights(weight_decay) if given(weight_decay) else optax.identity()


@recorded
def decoupled_decay(
    learning_rate: Any, weight_decay: Any, max_lr: Any = None, as_factor: bool = True
) -> optax.GradientTransformation:
    """Shrinks p at the rate lr weight_decay, with lr^2 / max_lr for lr if there is a max_lr.

    `optax.add_decayed_weights` would add the decay to the step. Frameworks round p after it shrank
    and again after it moved, and as_factor the rate too, which they then subtract from 1: in
    float32, what a weak decay comes to depends on that.
    """
    if not given(weight_decay):
        return optax.identity()

    def rate_of(lr):
        return weight_decay * (lr if max_lr is None else lr**2 / max_lr)

    def lr_times_weight_decay(count):
        return rate_of(learning_rate(count))

    rate = lr_times_weight_decay if callable(learning_rate) else rate_of(learning_rate)

    def init(params):
        del params
        return (
            optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))
            if callable(rate)
            else optax.EmptyState()
        )

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("weight_decay needs params: call update(updates, state, params).")

        def move(u, p):
            if u is None:
                return None
            share = jnp.asarray(now, p.dtype)
            share = 1 - (1 - share) if as_factor else share
            return (p - share * p + u) - p

        now = rate(state.count) if callable(rate) else rate
        state = state._replace(count=optax.safe_increment(state.count)) if state else state
        return jax.tree.map(move, updates, params, is_leaf=lambda x: x is None), state

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class InverseTimeDecay:
    """The schedule learning_rate / (1 + decay t)."""

    learning_rate: Any
    decay: Any

    def __call__(self, count: Any) -> Any:
        """The rate at a number of updates."""
        rate = self.learning_rate
        return (rate(count) if callable(rate) else rate) / (1 + self.decay * count)


def inverse_time_decay(learning_rate: Any, decay: Any) -> optax.ScalarOrSchedule:
    """learning_rate / (1 + decay t), if decay is given."""
    return InverseTimeDecay(learning_rate, decay) if given(decay) else learning_rate


def unscale(factor: Any) -> optax.GradientTransformation:
    """Divides by factor."""
    return optax.identity() if factor is None else scale(1 / factor)


def clip(value: Any, norm: Any, global_norm: Any) -> optax.GradientTransformation:
    """Keras's three ways to clip, in the order of Keras 2; Keras 3 takes one at a time."""
    return chain(
        optax.identity() if value is None else recorded(optax.clip)(value),
        optax.identity() if norm is None else clip_by_leaf_norm(norm),
        optax.identity() if global_norm is None else clip_by_global_norm(global_norm),
    )


@recorded
def clip_by_leaf_norm(max_norm: Any) -> optax.GradientTransformation:
    """Clips each array to a norm; Optax has this for all arrays together only."""
    return _clip_clamped(
        lambda gs: jax.tree.map(lambda g: g * (max_norm / jnp.maximum(_norm(g), max_norm)), gs)
    )


@recorded
def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, of clamped gradients."""
    clipping = optax.clip_by_global_norm(max_norm)
    return _clip_clamped(lambda gs: clipping.update(gs, optax.EmptyState())[0])


@recorded
def clip_by_torch_norm(max_norm: float) -> optax.GradientTransformation:
    """PyTorch's `clip_grad_norm_`, which adds 1e-6 to the norm where Optax's clipping doesn't."""

    def clip(gs):
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(gs) + 1e-6))
        return jax.tree.map(lambda g: g * scale, gs)

    return _clip_clamped(clip)


def _clip_clamped(clip):
    """A part of gradients that are clamped first: infinity over infinity would be NaN."""

    def update(updates, state, params=None):
        del params
        return clip(jax.tree.map(clamp, updates)), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _norm(g):
    return jnp.sqrt(jnp.sum(jnp.real(g) ** 2 + jnp.imag(g) ** 2))  # of any sharding


@recorded
def cautious(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps of an array of updates what goes against the gradient, scaled up for what doesn't."""

    def update(updates, state, params=None):
        new_updates, state = inner.update(updates, state, params)

        def mask(u, g):
            # The sign of the product, from the signs of the factors: it can't underflow.
            against = jnp.real(jnp.sign(u) * jnp.conj(jnp.sign(g))) < 0
            share = jnp.mean(against, dtype=jnp.real(u).dtype)
            return u * against / jnp.maximum(share, 1e-3)

        return jax.tree.map(mask, new_updates, updates), state

    return optax.GradientTransformation(inner.init, update)


@recorded
def by_component(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Treats the real and imaginary parts of complex leaves as two parameters.

    As `optax.contrib.split_real_and_imaginary` does, but without a layer in the state of a tree
    that has no complex leaf, and so that a NaN in one part stays out of the other.
    """

    def pairs(tree):
        return jax.tree.map(lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)

    def join(g, u):
        return jax.lax.complex(*u) if jnp.iscomplexobj(g) else u

    def init(params):
        return inner.init(pairs(params))

    def update(updates, state, params=None):
        new_updates, state = inner.update(pairs(updates), state, pairs(params))
        return jax.tree.map(join, updates, new_updates), state

    return optax.GradientTransformation(init, update)
