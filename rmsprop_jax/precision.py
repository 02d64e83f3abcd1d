"""Types at the public door: float32 or better inside, outside what gradients and `init` promise.

A chain of Optax computes each operation in the dtype that it meets, which for bfloat16 gradients is
a rounding for each, and takes gradients of any shape that broadcasts. `public` goes around a whole
chain once, and settles both.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.checks import is_traced
from rmsprop_jax.fit import (
    check_gradients,
    describe,
    difference,
    dtype_of,
    is_none,
    kind_of,
    same_type,
)
from rmsprop_jax.placement import place_scalars, tie
from rmsprop_jax.records import Record, attach, record_of, recorder

_P = ParamSpec("_P")


def public(
    factory: Callable[_P, optax.GradientTransformation],
) -> Callable[_P, optax.GradientTransformationExtraArgs]:
    """Makes a factory public: what it makes carries a record, and keeps these promises.

    1. float16 and bfloat16 gradients and parameters are widened to float32 on the way in, and the
       accumulators of all parts are kept in float32 for them.
    2. Updates come back in the shapes and dtypes of the gradients, and the state in exactly the
       shapes and dtypes that `init` gave it, whatever those of hyperparameters are.
    3. A gradient of `None` gives an update of `None` and leaves its accumulators as they were.
    4. Gradients, parameters or a state that don't fit each other raise, with the leaf's path.
    5. The state lies where the parameters lie, outside of `jax.jit` as within, its scalars on all
       of their devices.

    Args:
      factory: a function of hyperparameters that returns a transformation, and raises for bad ones.

    Returns:
      A function with the signature of `factory`.
    """
    return recorder(factory, _with_casts)


def _with_casts(
    inside: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    def init(params):
        params = _as_arrays(params)
        with jax.transfer_guard_host_to_device("allow"):  # for the numbers that it starts with
            state = widen(inside.init(params))
        leaves = jax.tree.leaves(params)
        if not any(map(is_traced, leaves)):
            return place_scalars(state, leaves)
        whole = lambda _: True
        tie_all = lambda states, params: jax.tree.map(tie, params, states)
        return optax.tree_utils.tree_map_params(inside, tie_all, state, params, is_leaf=whole)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        check_gradients(updates, params)
        with jax.named_scope("rmsprop"):  # what profiles show it as
            new_updates, new_state = _run(inside, updates, state, params)
            return _like_gradients(new_updates, updates), _like_state(new_state, state)

    tx = optax.GradientTransformationExtraArgs(init, update)
    return attach(tx, Record(public, {}, (inside,)))


def chain(*transformations: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`optax.chain` for this library's own chains: `public` is around the whole, not each part."""
    parts = [_inside(tx) for tx in transformations]
    return attach(optax.chain(*parts), Record(chain, {}, tuple(parts)))


def _inside(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    record = record_of(tx)
    return record.made[0] if record is not None and record.factory is public else tx


def widen(tree: Any) -> Any:
    """The tree with float16, bfloat16 and narrower floats as float32."""
    return jax.tree.map(widen_leaf, tree)


def widen_leaf(x: Any) -> Any:
    """The same for an array; what is no array stays."""
    return jnp.asarray(x).astype(jnp.float32) if is_narrow(x) else x


def is_narrow(x: Any) -> bool:
    """True for floats narrower than float32."""
    return _is_narrow(getattr(x, "dtype", np.dtype(bool)))


@functools.cache
def _is_narrow(dtype):
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _as_arrays(params):
    """The parameters, with numbers for PRNG keys, which have neither gradients nor zeros."""
    is_key = lambda x: isinstance(x, jax.Array) and _is_key(x.dtype)
    return jax.tree.map(lambda p: jnp.zeros(p.shape) if is_key(p) else p, params)


@functools.cache
def _is_key(dtype):
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _run(inside, updates, state, params):
    # Optax's parts promote as they go. The types are settled afterwards, so strict promotion has
    # nothing to find in between. And the numbers of an optimizer are sent to a device on purpose.
    try:
        with jax.numpy_dtype_promotion("standard"), jax.transfer_guard_host_to_device("allow"):
            return inside.update(widen(updates), state, widen(_as_arrays(params)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A misfit breaks somewhere in the chain. Only then it is worth to ask what would have fit.
        name, like = ("gradients", updates) if params is None else ("params", params)
        if params is None and None in jax.tree.leaves(updates, is_leaf=is_none):
            raise
        try:
            wanted = jax.eval_shape(lambda p: widen(inside.init(_as_arrays(p))), like)
        except Exception:
            raise error from None
        if misfit := difference(wanted, state):
            raise ValueError(f"opt_state isn't a state for these {name}: {misfit}.") from error
        raise


def _like_gradients(new, gradients):
    """New updates in the dtypes of the gradients."""

    def cast(u, g):
        if u is None:
            return None
        if same_type(u, g):
            return _strong(u)
        if np.shape(u) != np.shape(g) or kind_of(u) != kind_of(g):
            raise ValueError(
                f"an update came out as {describe(u)} for a gradient that is {describe(g)}: "
                "opt_state or params are those of other arrays."
            )
        return _strong(jnp.asarray(u, dtype_of(g)))

    return jax.tree.map(cast, new, gradients, is_leaf=is_none)


def _like_state(new, old):
    """A new state in the dtypes of the old one, which keeps what belongs to gradients of `None`."""

    def cast(n, o):
        if n is None:
            return o
        if same_type(n, o) and not is_narrow(o):
            return _strong(n)
        if np.shape(n) != np.shape(o) or is_narrow(o) or kind_of(n) != kind_of(o):
            raise ValueError(
                f"opt_state has {describe(o)} where the update makes {describe(n)}: it isn't a "
                "state of this optimizer for these parameters."
            )
        return _strong(jnp.asarray(n, o.dtype))

    return jax.tree.map(cast, new, old, is_leaf=is_none)


def _strong(x):
    """An array with a dtype of its own: a weak one would give way to others in the next step."""
    return x.astype(x.dtype) if getattr(x, "weak_type", False) else x
