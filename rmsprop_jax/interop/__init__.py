"""Optimizer state in and out: go on with a run of another framework here, and hand it back.

`pytorch`, `keras`, `tensorflow` and `optax` have two functions each, `load` and `dump`. They take
and return arrays and plain dictionaries, and import none of the frameworks. A run that is restarted
without its accumulators begins with a step of learning rate / sqrt(1 - decay), 10 times too long at
a decay of 0.99; these functions are there to spare it that.

What they have in common is said here:

    weights       the parameters by name, NumPy arrays or tensors; for `dump` only the names and
                  shapes count
    to_params     your function from a dictionary like weights, but of NumPy arrays, to a pytree of
                  parameters: what ports the weights ports the optimizer. It may rename, transpose,
                  reshape, stack and split. It is called once with distinct numbers, which tells
                  where each element goes; the accumulators then go there
    from_params   its inverse
    in_order      True says that weights without names are in the right order, where arrays of one
                  shape could be exchanged
    tx            the dialect may stand in a chain, behind other parts, or in `optax.partition`;
                  what frameworks have no place for in an optimizer, such as clipping, is left out
    like          for `dump`: what was loaded, whose names, order and whatever else is in it stay
    params        for `dump`: the parameters, needed for the shapes of those that are frozen

`load` raises ValueError, naming all arrays that are missing, too many or of a wrong shape; if the
order of weights is wrong or could be; if to_params does more than to rearrange; for numbers that no
RMSProp makes; for another optimizer's checkpoint; and for a schedule without a count of updates.
`dump` raises it if tx isn't a dialect of the framework or opt_state isn't its state, if what comes
out of from_params hasn't the names and shapes of weights, and if like has other parts.

`restore` does the same between this library's own checkpoints and its own optimizers: it takes a
state in whatever containers it was saved, also into an optimizer of other options.

`nnx.load` puts a state from any of these into Flax's `nnx.Optimizer`.
"""

from rmsprop_jax.checkpoints import restore
from rmsprop_jax.frameworks import keras, nnx, optax, pytorch
from rmsprop_jax.frameworks import tensorflow1 as tensorflow

__all__ = ["keras", "nnx", "optax", "pytorch", "restore", "tensorflow"]
