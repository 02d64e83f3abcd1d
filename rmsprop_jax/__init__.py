"""Every framework's RMSProp for JAX, as plain Optax gradient transformations."""

from rmsprop_jax import clipping, diagnostics, dialects, interop, recipes, storage, weights
from rmsprop_jax.eps import convert_eps
from rmsprop_jax.explain import explain
from rmsprop_jax.optimizer import rmsprop
from rmsprop_jax.transform import RmsState, scale_by_rms

__all__ = [
    "RmsState",
    "clipping",
    "convert_eps",
    "diagnostics",
    "dialects",
    "explain",
    "interop",
    "recipes",
    "rmsprop",
    "scale_by_rms",
    "storage",
    "weights",
]
__version__ = "0.1.0"
