"""The lines of `explain` are run as NumPy programs beside the transformation they are about."""

import dataclasses
import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

from rmsprop_jax import dialects, explain, rmsprop, scale_by_rms, storage
from rmsprop_jax.anatomy import take_apart

NUMPY = {
    name: getattr(np, name)
    for name in "abs all clip isfinite maximum mean minimum sqrt zeros_like".split()
}
# What the calls of parts that aren't known here do, in the zoo.
CALLS = {
    **{f"called {part}": {part: lambda u, **_: 0.5 * u} for part in zoo.NAMES},
    "user's scale": {"scale": lambda u, factor: factor * u},
    "a partial of a function": {"halve": lambda u, factor: factor * u},
    "an object": {"Callable": lambda u: 0.5 * u},
    "a lambda": {"stateless": lambda u: 0.5 * u},
    "around itself": {"around_itself": lambda u: 0.5 * u},
    "wraps optax.scale": {"wrapped_by_hand": lambda u: 0.25 * u},
}


def functions_in(tx):
    """The user's schedules and the like, by the names that the text gives them."""
    names = {"halving": zoo.halving, "learning_rate": zoo.halving}
    for part in take_apart(tx).walk():
        for key, value in part.arguments.items():
            value = getattr(value, "learning_rate", value)
            if callable(value):
                names |= {key: value, getattr(value, "__name__", key): value}
    return names


@pytest.mark.parametrize("name", [*zoo.KNOWN, *zoo.FOREIGN, *CALLS])
def test_the_lines_are_the_update(name):
    with jax.enable_x64(), jax.numpy_dtype_promotion("standard"):
        tx = zoo.OPTIMIZERS[name]()
        before, _, every = explain(tx).partition("# every update\n")
        params = {"a": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5, 0.25])}
        state = tx.init(params)
        programs = {}
        for key, p in params.items():
            scope = NUMPY | functions_in(tx) | CALLS.get(name, {})
            scope |= {"norm": lambda u: norm, "p": np.array(p)}
            scope |= {"mask": lambda p, key=key: zoo.IN_A[key]}
            scope |= {"label": lambda p, key=key: zoo.LABELS[key]}
            exec(before, scope)
            programs[key] = scope
        stream = np.random.default_rng(0)
        for t in range(6):
            grads = {key: stream.normal(size=p.shape) for key, p in params.items()}
            norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
            updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = optax.apply_updates(params, updates)
            for key, scope in programs.items():
                scope |= {"g": grads[key], "t": t}
                exec(every, scope)
                np.testing.assert_allclose(params[key], scope["p"], rtol=1e-6, err_msg=name)
