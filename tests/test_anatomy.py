"""The walker, and the promise of all that is built on it: no crash and no false sentence."""

import functools
import gc
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

import rmsprop_jax
from rmsprop_jax import diagnostics, dialects, explain, interop, rmsprop, storage
from rmsprop_jax.anatomy import find_traces, take_apart

GRADIENTS = [
    jax.tree.map(lambda p, s=s: jnp.asarray(np.random.default_rng(s).normal(size=p.shape), p.dtype), zoo.PARAMS)
    for s in range(3)
]


def run(tx, steps=3, params=zoo.PARAMS):
    """The updates, the state after each and the gradients, at parameters that don't move."""
    state, rows = tx.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for grads in GRADIENTS[:steps]:
            updates, state = tx.update(grads, state, params)
            rows.append((grads, updates, state))
    return rows


# What parts in front multiply gradients by, and what Nesterov adds to the first update.
BESIDE = {"pytorch": -1, "keras": 0.25, "rmsprop all": 1.5, "optax": 1.5}


def has_momentum(tx):
    return any(part.name in ("trace", "cautious") for part in take_apart(tx).walk())


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_the_learning_rate_is_that_of_the_update_or_refused(name):
    """What updates are of gradients, over what the average says: as large as it is said to be."""
    tx = zoo.OPTIMIZERS[name]()
    for grads, updates, state in run(tx, 1 if has_momentum(tx) else 3):
        try:
            made = diagnostics.effective_learning_rate(tx, state, quantiles=(0, 0.3, 1))
            rates = diagnostics.learning_rate(tx, state)
            diagnostics.report(tx, state, zoo.PARAMS, updates).scalars()
        except ValueError as error:
            assert name not in zoo.KNOWN, error
            return
        assert name in zoo.KNOWN
        for key, numbers in made.items():
            real = -np.asarray(updates[key]) / (BESIDE.get(name, 1) * np.asarray(grads[key]))
            side = -1 if real.flat[0] < 0 else 1
            for quantile, q in ("p0", 0), ("p30", 0.3), ("p100", 1):
                expected = side * np.quantile(np.abs(real), q, method="inverted_cdf")
                np.testing.assert_allclose(numbers[quantile], expected, rtol=2e-5)
        assert set(rates) == set(made) if isinstance(rates, dict) else np.shape(rates) == ()
