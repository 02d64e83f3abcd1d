"""How a transformation runs: one compiled call, computed in float32 or better.

Optax applies a chain part by part and leaf by leaf, each operation in the dtype it meets. Under
`jax.jit` that costs nothing; called from Python it is a dispatch per operation, and for bfloat16
gradients a rounding per operation. A factory decorated with `compiled` keeps Optax's shape (plain
`optax.chain`, pure `init` and `update`) and loses both.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.shard_alike import shard_alike

_P = ParamSpec("_P")


def compiled(
    factory: Callable[_P, optax.GradientTransformation],
) -> Callable[_P, optax.GradientTransformationExtraArgs]:
    """Makes the transformations of a factory run as one compiled call in float32 or better.

    Of what the factory returns, for any gradients, state and parameters:

    1. `update` is jitted. Inside somebody else's `jit`, `scan`, `vmap` or `grad` it is part of
       that program. Arrays among the factory's arguments (traced or not) are data of the
       compiled program, so `optax.inject_hyperparams` doesn't recompile; everything else is part
       of the program.
    2. float16 and bfloat16 gradients and parameters are widened to float32 on the way in, and the
       accumulators of all parts are kept in float32 for them.
    3. Updates come back in the dtypes of the gradients, and the state in exactly the dtypes that
       `init` gave it, whatever the dtypes of gradients and hyperparameters are.
    4. A gradient of `None` gives an update of `None` and leaves its accumulators as they were.

    Args:
      factory: a function of hyperparameters that returns a transformation, and raises for bad
        ones. Extra arguments of `update` are dropped, so it must not need any.

    Returns:
      A function with the signature of `factory`.
    """
    signature = inspect.signature(factory)
    build: Callable[..., Any] = factory

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> optax.GradientTransformationExtraArgs:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        program, arrays = _split(bound.arguments)
        transformation = build(**join(program, arrays))

        def init(params):
            state = transformation.init(params)
            promised = jax.eval_shape(lambda p: transformation.init(widen(p)), params)
            state = jax.tree.map(lambda s, t: s.astype(t.dtype), state, promised)
            # Under jit, new arrays lie on every device, unless they are tied to the parameters.
            # (Complex ones are left out, since in some states they are pairs.)
            leaves = jax.tree.leaves(params)
            if not _traced(leaves) or any(map(jnp.iscomplexobj, leaves)):
                return state
            alike = lambda s, p: shard_alike(p, s)[1]
            return optax.tree_utils.tree_map_params(transformation.init, alike, state, params)

        def update(updates, state, params=None, **extra_args):
            del extra_args
            arguments = arrays, updates, state, _numbers(params)
            run = _update if _traced(jax.tree.leaves(arguments)) else _jitted_update
            return run(factory, program, *arguments)

        return optax.GradientTransformationExtraArgs(init, update)

    return make


def _update(factory, program, arrays, updates, state, params):
    transformation = factory(**join(program, arrays))
    # Optax's parts promote as they go. The types are settled by the two casts below, so strict
    # promotion has nothing left to find in between.
    with jax.numpy_dtype_promotion("standard"):
        new_updates, new_state = transformation.update(widen(updates), state, widen(params))

    def cast(x, dtype):
        x = jnp.asarray(x)
        return x if x.dtype == dtype and not x.weak_type else x.astype(dtype)

    def cast_like(new, old):
        return old if new is None else jax.tree.map(lambda n, o: cast(n, o.dtype), new, old)

    is_none = lambda x: x is None
    cast_update = lambda u, g: None if u is None else cast(u, jnp.result_type(g))
    new_updates = jax.tree.map(cast_update, new_updates, updates, is_leaf=is_none)
    return new_updates, jax.tree.map(cast_like, new_state, state, is_leaf=is_none)


_jitted_update = jax.jit(_update, static_argnums=(0, 1))


def _traced(leaves):
    return any(isinstance(x, jax.core.Tracer) for x in leaves)


def widen(tree: Any) -> Any:
    """The tree with float16, bfloat16 and narrower floats as float32."""
    convert = lambda x: jnp.asarray(x, jnp.float32) if is_narrow(x) else x
    return jax.tree.map(convert, tree)


def is_narrow(x: Any) -> bool:
    """True for floats narrower than float32."""
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _numbers(tree):
    """The tree with `None` for leaves that are no numbers, such as an Equinox model's functions."""
    kinds = (jax.Array, np.ndarray, np.generic, int, float, complex)
    return jax.tree.map(lambda x: x if isinstance(x, kinds) else None, tree)


@dataclasses.dataclass(frozen=True, eq=False)
class _ById:
    """A static argument that can't be hashed, such as a schedule that is a plain dataclass."""

    value: Any

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return isinstance(other, _ById) and self.value is other.value


def _split(arguments: dict[str, Any]):
    """Arguments as a hashable program and the list of arrays that are its data."""
    leaves, treedef = jax.tree.flatten(arguments)
    arrays, static = [], []
    for leaf in leaves:
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        arrays.append(leaf if is_array else None)
        static.append(None if is_array else _hashable(leaf))
    return (treedef, tuple(static)), arrays


def _hashable(leaf):
    if isinstance(leaf, np.generic):  # a NumPy scalar is a number like any other
        return leaf.item()
    try:
        hash(leaf)
    except TypeError:
        return _ById(leaf)
    return leaf


def join(program, arrays) -> dict[str, Any]:
    """The arguments that `_split` took apart."""
    treedef, static = program
    leaves = [s if a is None else a for s, a in zip(static, arrays, strict=True)]
    leaves = [leaf.value if isinstance(leaf, _ById) else leaf for leaf in leaves]
    return jax.tree.unflatten(treedef, leaves)
