"""What the chains of `dialects` and `recipes` are made of, where Optax has no such part.

Some are parts of Optax that are left out, their state with them, where a number isn't `given`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax.checks import given
from rmsprop_jax.clipping import clip_by_global_norm, clip_by_leaf_norm
from rmsprop_jax.eager import for_each
from rmsprop_jax.fit import kind_of
from rmsprop_jax.precision import chain
from rmsprop_jax.records import recorded
from rmsprop_jax.transform import next_count

# Numbers are operands of the compiled calls below, and the arithmetic is Optax's own.


@recorded
def add_decayed_weights(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """`optax.add_decayed_weights`, in one call outside of `jit`, but for a schedule or a mask."""
    if callable(weight_decay) or mask is not None:
        schedule: Any = weight_decay
        return optax.add_decayed_weights(schedule, mask)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("weight_decay needs params: call update(updates, state, params).")
        return _add_decayed_weights([updates, params], weight_decay)[0], state

    return optax.GradientTransformation(optax.init_empty_state, update)


@for_each
def _add_decayed_weights(u, p, weight_decay):
    return optax.add_decayed_weights(weight_decay).update(u, optax.EmptyState(), p)[0], p


@recorded
def scale(step_size: Any) -> optax.GradientTransformation:
    """`optax.scale`, in one call outside of `jit`."""
    update = lambda updates, state, params=None: (*_scale([updates], step_size), state)
    return optax.GradientTransformation(optax.init_empty_state, update)


@for_each
def _scale(u, step_size):
    return (optax.scale(step_size).update(u, optax.EmptyState())[0],)


@recorded
def scale_by_learning_rate(learning_rate: Any) -> optax.GradientTransformation:
    """`optax.scale_by_learning_rate`, in one call outside of `jit`, but for the schedule."""
    if not callable(learning_rate):
        return scale(-learning_rate)
    schedule: Any = learning_rate

    def update(updates, state, params=None):
        del params
        (updates,) = _scale_by_schedule([updates], -schedule(state.count))
        return updates, optax.ScaleByScheduleState(next_count(state.count))

    init = optax.scale_by_schedule(schedule).init
    return optax.GradientTransformation(init, update)


@for_each
def _scale_by_schedule(u, step_size):
    rule = optax.scale_by_schedule(lambda count: step_size)
    return (rule.update(u, rule.init(u))[0],)


@recorded
def trace(decay: Any, nesterov: bool = False) -> optax.GradientTransformation:
    """`optax.trace`, in one call outside of `jit`."""

    def update(updates, state, params=None):
        del params
        updates, trace = _trace([updates, state.trace], decay, nesterov=nesterov)
        return updates, optax.TraceState(trace)

    return optax.GradientTransformation(optax.trace(decay, nesterov).init, update)


@for_each
def _trace(u, trace, decay, *, nesterov):
    state: Any = optax.TraceState(trace)
    u, state = optax.trace(decay, nesterov).update(u, state)
    return u, state.trace


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
        state = state._replace(count=next_count(state.count)) if state else state
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
        is_pair = lambda x: kind_of(x) == "complex"
        return jax.tree.map(lambda x: (x.real, x.imag) if is_pair(x) else x, tree)

    def join(g, u):
        return jax.lax.complex(*u) if jnp.iscomplexobj(g) else u

    def init(params):
        return inner.init(pairs(params))

    def update(updates, state, params=None):
        new_updates, state = inner.update(pairs(updates), state, pairs(params))
        return jax.tree.map(join, updates, new_updates), state

    return optax.GradientTransformation(init, update)
