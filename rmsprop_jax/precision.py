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
from rmsprop_jax.records import Record, attach, record_of, recorded

_P = ParamSpec("_P")
_NUMBERS = (jax.Array, np.ndarray, np.generic, int, float, complex)


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
    make_inside = recorded(factory)

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> optax.GradientTransformationExtraArgs:
        inside = make_inside(*args, **kwargs)

        def init(params):
            params = _as_arrays(params)
            state = jax.tree.map(widen_leaf, inside.init(params))
            leaves = jax.tree.leaves(params)
            if not any(is_traced(p) for p in leaves):
                return _place_scalars(state, leaves)
            whole = lambda _: True
            tie = lambda states, params: jax.tree.map(_tie, params, states)
            return optax.tree_utils.tree_map_params(inside, tie, state, params, is_leaf=whole)

        def update(updates, state, params=None, **extra_args):
            del extra_args
            _check_gradients(updates, params)
            new_updates, new_state = _run(inside, updates, state, params)
            return _like_gradients(new_updates, updates), _like_state(new_state, state)

        tx = optax.GradientTransformationExtraArgs(init, update)
        return attach(tx, Record(public, {}, (inside,)))

    return make


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
    dtype = getattr(x, "dtype", None)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def describe(x: Any) -> str:
    """An array as text, such as `"float32 (3, 2)"`."""
    if isinstance(x, int | float | complex | str) or not hasattr(x, "dtype"):
        return f"{x!r:.60}"
    return f"{x.dtype} {np.shape(x)}"


def name_of(tree: Any, index: int) -> str:
    """The path of a leaf of a tree by its number, `None` counting; such as `"['dense']['w']"`."""
    path = jax.tree.leaves_with_path(tree, is_leaf=is_none)[index][0]
    return jax.tree_util.keystr(path) or "the only array"


def is_none(x: Any) -> bool:
    """For `jax.tree.map(..., is_leaf=is_none)`."""
    return x is None


def like_parameter(x: Any, p: Any) -> Any:
    """A new array of a parameter's shape, which lies where the parameter lies, under `jit` too.

    There, new arrays lie whole on every device, unless something ties them to the parameter that
    XLA doesn't see through. A parameter may be NaN, so both branches are the same.
    """
    if not (is_traced(p) and np.shape(x) == p.shape):
        return x
    same = p if jnp.issubdtype(p.dtype, jnp.inexact) else p.astype(jnp.float32)
    return jnp.where(same == same, x, x)


def _tie(p, states):
    """What the state has for a parameter: an array, or a pair for a complex one."""
    return jax.tree.map(lambda x: like_parameter(x, p), states)


def _as_arrays(params):
    """The parameters, with numbers for PRNG keys, which have neither gradients nor zeros."""

    def convert(p):
        is_key = jnp.issubdtype(getattr(p, "dtype", np.float32), jax.dtypes.prng_key)
        return jnp.zeros(p.shape) if is_key else p

    return jax.tree.map(convert, params)


def _place_scalars(state, params):
    """The state with its scalars on all devices of the parameters, as a jitted `init` has them."""
    shardings = [p.sharding for p in params if isinstance(p, jax.Array) and p.committed]
    if len({frozenset(s.device_set) for s in shardings}) != 1:
        return state  # all on the default device, or layers that were placed by hand
    meshes = (s.mesh for s in shardings if isinstance(s, jax.NamedSharding))
    mesh = next(meshes, None)
    if mesh is not None:
        everywhere = jax.NamedSharding(mesh, jax.P())
    elif len(shardings[0].device_set) == 1:
        everywhere = shardings[0]
    else:
        return state
    place = lambda x: x if x.ndim or x.committed else jax.device_put(x, everywhere)
    return jax.tree.map(place, state)


def _check_gradients(updates, params):
    """Raises unless gradients are real or complex numbers, and parameters like them."""
    gradients, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    for i, g in enumerate(gradients):
        if g is not None and not jnp.issubdtype(jnp.result_type(g), jnp.inexact):
            raise TypeError(
                f"the gradient of {name_of(updates, i)} is {describe(g)}: gradients must be "
                "floats. Pass None for what has no gradient."
            )
    if params is None:
        return
    try:
        parameters = treedef.flatten_up_to(params)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"params isn't a tree like the gradients: it is {jax.tree.structure(params)}, and they "
            f"are {jax.tree.structure(updates)}."
        ) from error
    for i, (g, p) in enumerate(zip(gradients, parameters, strict=True)):
        if g is None:
            continue
        fits = isinstance(p, _NUMBERS) and np.shape(p) == np.shape(g)
        if not fits or jnp.iscomplexobj(p) != jnp.iscomplexobj(g):
            raise ValueError(
                f"the gradient of {name_of(updates, i)} is {describe(g)}, and its parameter "
                f"{describe(p)}."
            )


def _run(inside, updates, state, params):
    # Optax's parts promote as they go. The types are settled afterwards, so strict promotion has
    # nothing to find in between. And the numbers of an optimizer are sent to a device on purpose.
    try:
        with jax.numpy_dtype_promotion("standard"), jax.transfer_guard_host_to_device("allow"):
            return inside.update(widen(updates), state, widen(_as_arrays(params)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A misfit breaks somewhere in the chain. Only then it is worth to ask what would have fit.
        like = updates if params is None else params
        try:
            wanted = jax.eval_shape(lambda p: widen(inside.init(_as_arrays(p))), like)
        except Exception:
            raise error from None
        if misfit := _misfit(wanted, state):
            raise ValueError(f"opt_state isn't a state of this optimizer: {misfit}.") from error
        raise


def _misfit(wanted, state):
    """The first difference between two states, as text; empty if there is none."""
    want, have = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, state)
    )
    for path, x in want.items():
        if path not in have:
            return f"{path} is missing, {describe(x)}"
        if np.shape(have[path]) != x.shape:
            return f"{path} is {describe(have[path])}, should be {describe(x)}"
    if extra := [path for path in have if path not in want]:
        return f"{extra[0]} has no place in it"
    return (
        "" if jax.tree.structure(wanted) == jax.tree.structure(state) else "its containers differ"
    )


def _like_gradients(new, gradients):
    """New updates in the dtypes of the gradients."""

    def cast(u, g):
        if u is None or np.shape(u) == np.shape(g):
            return None if u is None else _cast(u, jnp.result_type(g))
        raise ValueError(
            f"an update came out as {describe(u)} for a gradient that is {describe(g)}: opt_state "
            "or params are of other shapes."
        )

    return jax.tree.map(cast, new, gradients, is_leaf=is_none)


def _like_state(new, old):
    """A new state in the dtypes of the old one, which keeps what belongs to gradients of `None`."""

    def cast(n, o):
        if n is None:
            return o
        kinds = [jnp.issubdtype(jnp.result_type(x), jnp.complexfloating) for x in (n, o)]
        if np.shape(n) != np.shape(o) or is_narrow(o) or kinds[0] > kinds[1]:
            raise ValueError(
                f"opt_state has {describe(o)} where the update makes {describe(n)}: it isn't a "
                "state of this optimizer for these parameters."
            )
        return _cast(n, o.dtype)

    return jax.tree.map(cast, new, old, is_leaf=is_none)


def _cast(x, dtype):
    x = jnp.asarray(x)
    return x if x.dtype == dtype and not x.weak_type else x.astype(dtype)
