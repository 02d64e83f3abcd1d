"""What an optimizer does to each parameter, read off its state: nothing is computed unless called.

`report` has all of it, as a table to read in a terminal and as numbers for TensorBoard or wandb:

    updates, opt_state = tx.update(grads, opt_state, params)
    print(report(tx, opt_state, params, updates))
    wandb.log(report(tx, opt_state, params, updates, by=1).scalars())  # one row for each layer

A state doesn't say what it was made with. So tx is asked: for eps, for the schedule whose count is
in the state, for the formats of `storage.store`. RMSProp is found in chains and in the wrappers
that Optax has; what an `nnx.Optimizer` has for a state is taken as it is. All functions also run
inside of `jax.jit`, with tx as a constant there, and on sharded arrays.
"""

from rmsprop_jax.diagnostics.rates import effective_learning_rate, learning_rate
from rmsprop_jax.diagnostics.report import Report, report

__all__ = ["Report", "effective_learning_rate", "learning_rate", "report"]
