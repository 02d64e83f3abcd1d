"""States that `jax.export` can serialize, as arguments of an exported program."""

import contextlib
from typing import Any, TypeVar

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
for _state in (
    optax.EmptyState,
    optax.MaskedState,
    optax.ScaleByScheduleState,
    optax.TraceState,
):
    exportable(_state, "optax")
