"""Where a state lies: where the parameters lie, outside of `jit` as within."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_jax.checks import is_traced


def like_parameter(x: Any, p: Any) -> Any:
    """A new array of a parameter's shape, which lies where the parameter lies, under `jit` too.

    There, new arrays lie whole on every device, unless something ties them to the parameter that
    no compiler sees through: that a number isn't above 0 and below 0 at once. (That p is p, or one
    branch that is as the other, XLA sees through when it compiles for TPUs.)
    """
    if not (is_traced(p) and np.shape(x) == p.shape):
        return x
    number = jnp.real(p) if jnp.issubdtype(p.dtype, jnp.inexact) else p.astype(jnp.float32)
    never = (number > 0) & (number < 0)
    return jnp.where(never, jnp.ones_like(x), x)


def tie(p: Any, states: Any) -> Any:
    """The same for what a state has for a parameter: an array, or a pair for a complex one."""
    return jax.tree.map(lambda x: like_parameter(x, p), states)


def place_scalars(state: Any, params: list[Any]) -> Any:
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
