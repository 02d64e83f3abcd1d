"""Every framework's RMSProp for JAX, as plain Optax gradient transformations."""

from rmsprop_jax.optimizer import rmsprop
from rmsprop_jax.transform import RmsState, scale_by_rms

__all__ = ["RmsState", "rmsprop", "scale_by_rms"]
__version__ = "0.1.0"
