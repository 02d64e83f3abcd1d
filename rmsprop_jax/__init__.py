"""Every framework's RMSProp for JAX, as plain Optax gradient transformations."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from rmsprop_jax import clipping, diagnostics, dialects, interop, recipes, storage, weights
    from rmsprop_jax.eps import convert_eps
    from rmsprop_jax.explanation import explain
    from rmsprop_jax.identification import compare_runs, identify
    from rmsprop_jax.optimizer import rmsprop
    from rmsprop_jax.transform import RmsState, scale_by_rms

__all__ = [
    "RmsState",
    "clipping",
    "compare_runs",
    "convert_eps",
    "diagnostics",
    "dialects",
    "explain",
    "identify",
    "interop",
    "recipes",
    "rmsprop",
    "scale_by_rms",
    "storage",
    "weights",
]

_HOMES = {
    "RmsState": "transform",
    "compare_runs": "identification",
    "convert_eps": "eps",
    "explain": "explanation",
    "identify": "identification",
    "rmsprop": "optimizer",
    "scale_by_rms": "transform",
}


if not TYPE_CHECKING:  # else no checker could tell a wrong name

    def __getattr__(name: str) -> Any:
        """Imports what is asked for: the command needs little, and can be interrupted early."""
        if name == "__version__":  # which pyproject.toml says, and nothing else
            return importlib.import_module("importlib.metadata").version(__name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
        value = getattr(module, name) if name in _HOMES else module
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
