"""States that `jax.export` can serialize, as arguments of an exported program."""

import contextlib
from typing import Any, TypeVar

import jax
import optax
from jax import export

_T = TypeVar("_T", bound=type[Any])


def exportable(state: _T, package: str = "rmsprop_jax") -> _T:
    """Registers a NamedTuple with `jax.export` under its name, once; to decorate its class with."""
    # A module that is loaded again finds its names taken, and so they are fit for it as well.
    with contextlib.suppress(ValueError):
        export.register_namedtuple_serialization(
            state, serialized_name=f"{package}.{state.__name__}"
        )
    return state


# Those of Optax stand in the states of this library's chains, and are registered by nobody else.
# That of a scheduled decay has no public name.
_decaying = jax.eval_shape(optax.add_decayed_weights(optax.constant_schedule(0.0)).init, None)
for _state in (
    type(_decaying),
    optax.EmptyState,
    optax.MaskedNode,
    optax.MaskedState,
    optax.ScaleByScheduleState,
    optax.TraceState,
):
    exportable(_state, "optax")
