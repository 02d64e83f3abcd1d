"""State and updates keep the types that `init` promised, for every mix of dtypes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import rmsprop

NARROW = [jnp.float16, jnp.bfloat16, jnp.float32]
RATES = {
    "float": lambda: 0.125,
    "numpy": lambda: np.float32(0.125),
    "numpy double": lambda: np.float64(0.125),
    "jax": lambda: jnp.float32(0.125),
    "jax narrow": lambda: jnp.bfloat16(0.125),
    "schedule": lambda: optax.linear_schedule(0.25, 0.125, 3),
    "strong schedule": lambda: lambda count: jnp.float32(0.125) * (count + 1).astype(jnp.float32),
}

X64 = ("float", "numpy double", "schedule")
"""Those that are run in 64 bits by day."""


def types(tree):
    """Shape, dtype, weak type and sharding of every leaf, and the tree itself."""
    return jax.tree.map(lambda x: (jax.typeof(x), x.weak_type, x.sharding), tree)


def parameters_and_gradients(x64, every):
    """One leaf for every pair of a parameter's dtype and its gradient's, or some; and a scalar."""
    kinds = [*NARROW, jnp.float64] if x64 else NARROW
    complex_kinds = [jnp.complex64, jnp.complex128] if x64 else [jnp.complex64]
    pairs = [*itertools.product(kinds, kinds), *itertools.product(complex_kinds, complex_kinds)]
    if not every:  # each dtype once on either side
        pairs = [*zip(kinds, [*kinds[1:], kinds[0]], strict=True), pairs[-1]]
    params = {f"{p.__name__} {g.__name__}": jnp.ones((2, 3), p) for p, g in pairs}
    grads = {f"{p.__name__} {g.__name__}": jnp.full((2, 3), 2, g) for p, g in pairs}
    return params | {"scalar": jnp.ones((), jnp.float32)}, grads | {
        "scalar": jnp.ones((), jnp.float32)
    }


@pytest.mark.parametrize(
    ("rate", "x64"),
    [
        pytest.param(rate, x64, marks=pytest.mark.nightly if x64 and kind not in X64 else ())
        for kind, rate in RATES.items()
        for x64 in (False, True)
    ],
    ids=[f"{kind}-{bits}" for kind in RATES for bits in ("x32", "x64")],
)
def test_types_are_kept(rate, x64):
    with jax.enable_x64(x64):
        params, grads = parameters_and_gradients(x64, every=rate is RATES["float"])
        tx = rmsprop(rate(), momentum=0.5, centered=True, weight_decay=0.25)
        traces = []

        @jax.jit
        def update(grads, state, params):
            traces.append(1)
            return tx.update(grads, state, params)

        state = tx.init(params)
        promised = types(state)
        for name, nu in state[1].nu.items():
            assert nu.dtype == (
                jnp.float64 if name.startswith(("float64", "complex128")) else jnp.float32
            )
        assert all(not x.weak_type for x in jax.tree.leaves(state))
        assert types(jax.jit(tx.init)(params)) == promised
        compiled = [update] * 3 if rate is RATES["float"] else []
        for function in (tx.update, *compiled, tx.update):
            updates, state = function(grads, state, params)
            assert types(state) == promised
            assert types(updates) == types(grads)
        assert len(traces) == (1 if compiled else 0)

        def scanned(state, grads, params):
            step = lambda state, _: tx.update(grads, state, params)[::-1]
            return jax.lax.scan(step, state, None, length=2)

        kinds = lambda tree: jax.tree.map(lambda x: (x.dtype, x.weak_type), tree)
        final, updates = jax.eval_shape(scanned, state, grads, params)
        assert kinds(final) == kinds(state)
        assert kinds(updates) == kinds(grads)


def test_learning_rate_of_any_type_means_the_same():
    with jax.enable_x64(True):
        params = jnp.ones(3, jnp.bfloat16)
        updates = []
        for rate in RATES.values():
            tx = rmsprop(rate())
            state = tx.init(params)
            _, state = tx.update(params, state)
            if callable(rate()):
                continue
            updates.append(np.asarray(tx.update(params, state)[0], np.float32))
        assert len(updates) == 5
        np.testing.assert_array_equal(updates[1:], updates[:-1])


def test_donated_state_needs_no_copy():
    """Peak memory of a step: the gradients besides what is updated in place, and no collectives."""
    params = jnp.zeros(100_000)
    for centered in (False, True):
        tx = rmsprop(centered=centered, momentum=0.5)

        def step(params, state, grads):
            updates, state = tx.update(grads, state)  # noqa: B023
            return optax.apply_updates(params, updates), state

        jitted = jax.jit(step, donate_argnums=(0, 1))
        compiled = jitted.lower(params, tx.init(params), params).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 1000
        assert " copy(" not in compiled.as_text()
