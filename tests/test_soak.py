"""A run that is left alone for a week: nothing grows, nothing compiles again.

Run by `.ci/nightly`, or as `pytest -m nightly -n 0 -s tests/test_soak.py`.
"""

import gc
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import rmsprop, storage

pytestmark = pytest.mark.nightly

TRANSFORMATIONS = {
    "rmsprop": lambda: rmsprop(
        optax.exponential_decay(1e-3, 1000, 0.999), 0.99, momentum=0.9, centered=True
    ),
    "stored": lambda: storage.store(rmsprop(1e-3, 0.99), nu=storage.U8.with_decay(0.99)),
}
each = pytest.mark.parametrize("make", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS.keys())


def resident():
    """Bytes of memory that the process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def compilations():
    """Names of the programs that are compiled from here on."""
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@each
def test_a_million_steps_in_one_scan(make):
    tx, params = make(), jnp.ones(16)

    @jax.jit
    def run(params, state):
        def step(carry, t):
            params, state = carry
            g = params - 0.5 + 0.1 * jnp.sin(t.astype(jnp.float32))
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(1_000_000))[0]

    params, state = run(params, tx.init(params))
    np.testing.assert_allclose(params, 0.5, atol=0.1)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state) if x.dtype.kind == "f")
    counts = {int(count) for _, count in optax.tree.get_all_with_path(state, "count")}
    assert counts == {1_000_000}


@each
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_hundred_thousand_calls(make, jit, compilations):
    """Memory after 100,000 calls is within 1 % of that after 1,000."""
    tx, params = make(), {"w": jnp.ones((100, 10)), "b": jnp.ones(10)}
    update = jax.jit(tx.update) if jit else tx.update
    g, state = jax.tree.map(lambda p: 0.1 * p, params), tx.init(params)
    memory, arrays = 0, 0
    for calls in range(1, 100_001):
        _, state = update(g, state, params)
        if calls == 1000:
            jax.block_until_ready(state)
            memory, arrays = resident(), len(jax.live_arrays())
            compilations.clear()
    jax.block_until_ready(state)
    growth = resident() / memory - 1
    print(f"resident memory after 100,000 calls: {growth:+.3%} of that after 1,000")
    assert compilations == []
    assert len(jax.live_arrays()) == arrays
    assert growth < 0.01
