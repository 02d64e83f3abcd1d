"""Every framework's RMSProp for JAX, as plain Optax gradient transformations."""

from rmsprop_jax import dialects, interop, recipes, storage
from rmsprop_jax.explanation import convert_eps, explain
from rmsprop_jax.optimizer import rmsprop
from rmsprop_jax.transform import RmsState, scale_by_rms

__all__ = [
    "RmsState",
    "convert_eps",
    "dialects",
    "explain",
    "interop",
    "recipes",
    "rmsprop",
    "scale_by_rms",
    "storage",
]
__version__ = "0.1.0"
