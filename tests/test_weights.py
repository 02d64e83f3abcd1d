"""Weights in bfloat16 go as far as those in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_jax import rmsprop, storage, weights

N = 20_000


def trained(tx, params, apply, steps=200):
    """Parameters and state after steps whose gradients all point the same way, more or less."""

    @jax.jit
    def run(params, state):
        def step(carry, t):
            params, state = carry
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (N,))
            g = (1 + 0.5 * noise).astype(jnp.bfloat16).astype(params.dtype)
            updates, state = tx.update(g, state, params)
            return (apply(params, updates, t), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(steps))[0]

    return run(params, tx.init(params))


def optax_apply(params, updates, t):
    del t
    return optax.apply_updates(params, updates)


@functools.cache
def far_apart():
    """Weights of 1 to 2, between which and the next are 8 to 16 steps; and how far float32 goes."""
    start = jnp.asarray(1 + np.random.default_rng(0).random(N), jnp.bfloat16)
    end, _ = trained(rmsprop(1e-3), start.astype(jnp.float32), optax_apply)
    return start, np.asarray(end, np.float64)


def share_of_the_way(end):
    start, full = far_apart()
    begin = np.asarray(start, np.float64)
    return (end - begin).mean() / (full - begin).mean()


def test_rounding_to_nearest_stands_still():
    end, _ = trained(rmsprop(1e-3), far_apart()[0], optax_apply)
    assert share_of_the_way(np.asarray(end, np.float64)) < 0.05


def test_random_rounding_moves():
    start, full = far_apart()
    end, _ = trained(rmsprop(1e-3), start, weights.apply_updates)
    error = np.asarray(end, np.float64) - full
    assert share_of_the_way(full + error) == pytest.approx(1, abs=0.02)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(N)


@pytest.mark.parametrize("store", [False, True], ids=["float32", "BF16"])
def test_compensation_moves_and_knows_where_it_is(store):
    start, full = far_apart()
    tx = weights.compensate(rmsprop(1e-3))
    tx = storage.store(tx, remainder=storage.BF16) if store else tx
    end, state = trained(tx, start, optax_apply)
    assert end.dtype == jnp.bfloat16
    assert share_of_the_way(np.asarray(end, np.float64)) == pytest.approx(1, abs=1e-3)
    state = storage.unpack(state, remainder=storage.BF16) if store else state
    whole = np.asarray(end, np.float64) + np.asarray(state.remainder)
    np.testing.assert_allclose(whole, full, rtol=5e-4 if store else 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_compensation_loses_nothing(dtype, data):
    """Whatever the sizes and signs: parameter and remainder add up to the float32 weight."""
    size = 8
    numbers = lambda: np.float32(data.draw(st.lists(_float, min_size=size, max_size=size)))
    p = jnp.asarray(numbers(), dtype)
    state, whole = SGD.init(p), np.asarray(p, np.float64)
    for _ in range(3):
        g = jnp.asarray(numbers(), dtype)
        largest = np.maximum(np.abs(whole), np.abs(np.asarray(g, np.float64)))
        p, state = _step(SGD, p, state, g)
        whole = whole - np.asarray(g, np.float64)
        now = np.asarray(p, np.float64) + np.asarray(state.remainder)
        np.testing.assert_array_less(np.abs(now - whole), 4 * 2**-24 * largest + 1e-30)
        whole = now


_float = st.floats(-1000, 1000, width=16).map(lambda x: x if abs(x) > 1e-3 else 0.0)


SGD = weights.compensate(optax.sgd(1.0))


@functools.partial(jax.jit, static_argnums=0)
def _step(tx, params, state, gradients):
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


TREE = {
    "w": jnp.ones((3, 4), jnp.bfloat16),
    "b": jnp.ones(5),
    "none": None,
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_trees_of_all_dtypes(jit):
    updates = {"w": jnp.full((3, 4), 0.3, jnp.bfloat16), "b": jnp.full(5, 0.3), "none": None}
    wrap = jax.jit if jit else lambda f: f
    new = wrap(weights.apply_updates)(TREE, updates, 3)
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, TREE)
    np.testing.assert_array_equal(new["b"], optax.apply_updates(TREE, updates)["b"])
    tx = weights.compensate(rmsprop(0.1, momentum=0.9))
    state = tx.init(TREE)
    assert state.remainder["b"] is None
    updates, after = wrap(tx.update)(updates, state, TREE)
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, TREE)
    describe = lambda x: (x.shape, x.dtype, x.weak_type)
    assert jax.tree.map(describe, after) == jax.tree.map(describe, state)


def test_what_gets_no_update_stays():
    params, state = TREE | {"none": None}, weights.compensate(rmsprop(0.1)).init(TREE)
    updates = {"w": None, "b": jnp.ones(5), "none": None}
    new = weights.apply_updates(params, updates, 0)
    np.testing.assert_array_equal(new["w"], params["w"])
    updates, after = weights.compensate(rmsprop(0.1)).update(updates, state, params)
    assert updates["w"] is None
    np.testing.assert_array_equal(after.remainder["w"], state.remainder["w"])


def test_float32_parameters_train_as_without():
    params = {"w": jnp.linspace(-1.0, 1.0, 7)}
    plain, wrapped = rmsprop(0.1), weights.compensate(rmsprop(0.1))
    expected = _step(plain, params, plain.init(params), params)[0]
    actual = _step(wrapped, params, wrapped.init(params), params)[0]
    np.testing.assert_array_equal(actual["w"], expected["w"])


def test_the_bits_are_of_seed_step_leaf_and_element_and_nothing_else():
    ones = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1000, jnp.bfloat16)}
    half = jax.tree.map(lambda x: x * 2**-8, ones)
    apply = functools.partial(weights.apply_updates, ones, half)
    new = apply(7)
    same = lambda x, y: all(np.array_equal(x[k], y[k]) for k in x)
    assert same(jax.jit(apply)(7), new)
    assert same(jax.jit(apply)(jnp.int32(7)), new)
    assert not same(apply(8), new)
    assert not same(apply(7, seed=1), new)
    assert not np.array_equal(new["a"], new["b"])
    assert set(np.unique(np.float32(new["a"]))) == {1.0, 1.0078125}
    scanned = jax.lax.scan(lambda _, t: (None, apply(t)), None, jnp.arange(9))[1]
    assert same(jax.tree.map(lambda x: x[7], scanned), new)


def test_random_rounding_is_independent_of_that_of_accumulators():
    n = 100_000
    x = 1 + 2**-9 + jnp.zeros(n)
    stored = storage.pack(optax.TraceState(x), trace=storage.BF16)
    up = np.float32(storage.unpack(stored, trace=storage.BF16).trace) > 1
    moved = weights.apply_updates(jnp.ones(n, jnp.bfloat16), jnp.full(n, 2**-9), step=0)
    assert abs(np.corrcoef(up, np.float32(moved) > 1)[0, 1]) < 5 / np.sqrt(n)


def test_errors():
    ones = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(ValueError, match="seed=-1 is out of range"):
        weights.apply_updates(ones, ones, 0, seed=-1)
    with pytest.raises(ValueError, match="params are float16"):
        weights.apply_updates(jnp.ones(3, jnp.float16), ones, 0)
    tx = weights.compensate(rmsprop(0.1))
    with pytest.raises(ValueError, match=r"needs params: call update\(updates, state, params\)"):
        tx.update(ones, tx.init(ones))
