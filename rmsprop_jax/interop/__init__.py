"""Optimizer state in and out: go on with a run of another framework here, and hand it back.

`pytorch`, `keras`, `tensorflow` and `optax` have two functions each, `load` and `dump`. They take
and return arrays and plain dictionaries, and import none of the frameworks. A run that is restarted
without its accumulators begins with a step of learning rate / sqrt(1 - decay), 10 times too long at
a decay of 0.99; these functions are there to spare it that.

`restore` does the same between this library's own checkpoints and its own optimizers: it takes a
state in whatever containers it was saved, also into an optimizer of other options.

`nnx.load` puts a state from any of these into Flax's `nnx.Optimizer`.
"""

from rmsprop_jax.checkpoints import restore
from rmsprop_jax.frameworks import keras, nnx, optax, pytorch
from rmsprop_jax.frameworks import tensorflow1 as tensorflow

__all__ = ["keras", "nnx", "optax", "pytorch", "restore", "tensorflow"]
