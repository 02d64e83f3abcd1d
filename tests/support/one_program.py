"""Many transformations in one program: compiling is most of what a test of each would take."""

import jax
import numpy as np


def run_all(txs, gradients, params=None):
    """Updates [steps, ...] and the final state of each transformation, all in one program.

    Parameters, if any, stay where they are.
    """

    @jax.jit
    def scan(gradients):
        def step(states, g):
            pairs = [tx.update(g, state, params) for tx, state in zip(txs, states, strict=True)]
            return [state for _, state in pairs], [updates for updates, _ in pairs]

        first = jax.tree.map(lambda g: g[0], gradients)
        return jax.lax.scan(step, [tx.init(first) for tx in txs], gradients)

    states, updates = jax.tree.map(np.asarray, scan(gradients))
    return list(zip(updates, states, strict=True))
