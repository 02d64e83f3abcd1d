"""Weights in bfloat16 go as far as those in float32."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage import compilations

from rmsprop_jax import dialects, recipes, records, rmsprop, storage, weights

N = 20_000


def optax_apply(params, updates, t):
    del t
    return optax.apply_updates(params, updates)


PLAIN = rmsprop(1e-3)
COMPENSATED = weights.compensate(PLAIN)
WAYS = {
    "float32": (PLAIN, optax_apply),
    "nearest": (PLAIN, optax_apply),
    "random": (PLAIN, weights.apply_updates),
    "compensated": (COMPENSATED, optax_apply),
    "stored": (storage.store(COMPENSATED, remainder=storage.BF16), optax_apply),
}


@functools.cache
def trained():
    """Weights and states after 200 steps whose gradients all point the same way, more or less.

    Weights are 1 to 2 at first, where one bfloat16 number is 8 to 16 steps from the next.
    """
    start = (1 + np.random.default_rng(0).random(N)).astype(jnp.bfloat16)

    @jax.jit
    def run():
        def step(carry, t):
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (N,))
            g = (1 + 0.5 * noise).astype(jnp.bfloat16)
            new = {}
            for name, (tx, apply) in WAYS.items():
                params, state = carry[name]
                updates, state = tx.update(g.astype(params.dtype), state, params)
                new[name] = apply(params, updates, t), state
            return new, None

        first = {name: jnp.asarray(start) for name in WAYS}
        first["float32"] = first["float32"].astype(jnp.float32)
        first = {name: (p, WAYS[name][0].init(p)) for name, p in first.items()}
        return jax.lax.scan(step, first, jnp.arange(200))[0]

    ends = {name: (np.asarray(p, np.float64), state) for name, (p, state) in run().items()}
    return start.astype(np.float64), ends


def share_of_the_way(name):
    start, ends = trained()
    return (ends[name][0] - start).mean() / (ends["float32"][0] - start).mean()


def test_rounding_to_nearest_stands_still_and_at_random_moves():
    assert share_of_the_way("nearest") < 0.05
    assert share_of_the_way("random") == pytest.approx(1, abs=0.02)
    ends = trained()[1]
    error = ends["random"][0] - ends["float32"][0]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(N)


@pytest.mark.parametrize("name", ["compensated", "stored"])
def test_compensation_moves_and_knows_where_it_is(name):
    assert share_of_the_way(name) == pytest.approx(1, abs=1e-3)
    ends = trained()[1]
    end, state = ends[name]
    state = storage.unpack(state, remainder=storage.BF16) if name == "stored" else state
    whole = end + np.asarray(state.remainder)
    limit = 5e-4 if name == "stored" else 1e-6
    np.testing.assert_allclose(whole, ends["float32"][0], rtol=limit)


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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_weight_comes_back_from_beyond_its_range(dtype, data):
    """Steps as large as the range: parameter and remainder are the float32 weight all the same."""
    largest = float(jnp.finfo(dtype).max) * (1 if dtype == jnp.float16 else 2.0**-4)
    numbers = st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8)
    draw = lambda: np.float32(data.draw(numbers)) * np.float32(largest)
    tx = weights.compensate(optax.scale(-1.0))
    p = jnp.asarray(draw(), dtype)
    state, master = tx.init(p), np.asarray(p, np.float32)
    for _ in range(4):
        g = jnp.asarray(draw(), dtype)
        master = master - np.asarray(g, np.float32)
        for outside in (False, True):
            with jax.disable_jit(outside):
                new_p, new_state = _step(tx, p, state, g)
            assert np.all(np.isfinite(np.asarray(new_p, np.float32)))
            whole = np.asarray(new_p, np.float32) + np.asarray(new_state.remainder)
            np.testing.assert_allclose(whole, master, rtol=1e-6, atol=4e-7 * largest)
        p, state, master = new_p, new_state, whole


def test_beyond_and_back_by_numbers():
    tx = weights.compensate(optax.scale(1.0))
    p, state = jnp.float16([65504.0, 65504.0]), tx.init(jnp.float16([65504.0, 65504.0]))
    for u, wanted in (([30000.0, np.inf], [65504, np.inf]), ([-40000.0, 1.0], [55488, np.inf])):
        updates, state = tx.update(jnp.float32(u), state, p)
        p = optax.apply_updates(p, updates)
        np.testing.assert_array_equal(p, np.float16(wanted))
    assert np.all(np.isfinite(state.remainder))
    assert float(p[0]) + float(state.remainder[0]) == 65504 + 30000 - 40000


def test_a_step_is_any_integer():
    ones, half = jnp.ones(1000, jnp.bfloat16), jnp.full(1000, 2**-8, jnp.bfloat16)
    for step in (-1, 2**32 + 5, 2**70, np.int64(2**40), np.uint8(3), jnp.int32(-7)):
        new = weights.apply_updates(ones, half, step)
        same = weights.apply_updates(ones, half, int(step) % 2**32)
        np.testing.assert_array_equal(new, same, err_msg=repr(step))


def test_the_count_that_is_named_as_the_step():
    """Whatever the optimizer; this is in the docs of apply_updates."""
    params = jnp.ones(2, jnp.bfloat16)
    for tx in (
        rmsprop(0.1),
        rmsprop(optax.cosine_decay_schedule(0.1, 9), momentum=0.9, centered=True),
        dialects.tf_keras_legacy(optax.cosine_decay_schedule(0.1, 9), decay=0.1),
        recipes.dqn_nature(),
        weights.compensate(rmsprop(0.1)),
        storage.store(rmsprop(optax.cosine_decay_schedule(0.1, 9)), nu=storage.U8),
        optax.inject_hyperparams(rmsprop, hyperparam_dtype=jnp.float32)(0.1),
        optax.partition({"a": rmsprop(0.1)}, "a"),
    ):
        state = tx.init(params)
        for expected in range(3):
            assert optax.tree.get_all_with_path(state, "count")[0][1] == expected
            _, state = tx.update(params, state, params)


def test_outside_of_jit_python_stays_python():
    """No compilation for a new number, nothing of the user's kept, and no implicit transfer."""
    params = {"w": jnp.ones((3, 4), jnp.bfloat16), "b": jnp.ones(5)}
    grads = jax.tree.map(jnp.ones_like, params)
    seen = []

    def schedule(count):
        seen.append(int(count))
        return 0.1

    tx = weights.compensate(rmsprop(schedule))
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    weights.apply_updates(params, updates, 0)
    with jax.transfer_guard("disallow"):
        weights.apply_updates(params, updates, 1, seed=2)
        tx.update(grads, state, params)
    assert seen == [0, 1]
    with jax.debug_nans(True), jax.disable_jit():
        tx.update(grads, state, params)
        weights.apply_updates(params, updates, 1)
    alive = weakref.ref(schedule)
    del tx, schedule
    gc.collect()
    assert alive() is None
    with compilations() as compiled:
        for rate in (0.2, 0.3):
            tx = weights.compensate(rmsprop(rate))
            state = tx.update(grads, tx.init(params), params)[1]
            compiled.clear() if rate == 0.2 else None
    assert compiled == []


def test_layers_on_two_devices():
    where = jax.devices()[:2]
    places = dict(zip("ab", where, strict=True))
    plain = {k: jnp.full(8, 0.3, jnp.bfloat16) for k in "ab"}
    params = jax.tree.map(jax.device_put, plain, places)
    tx = storage.store(weights.compensate(rmsprop(0.1)), nu=storage.U8)
    new, _ = tx.update(params, tx.init(params), params)
    expected, _ = tx.update(plain, tx.init(plain), plain)
    moved = weights.apply_updates(params, new, 3)
    for k, device in places.items():
        np.testing.assert_array_equal(new[k], expected[k])
        assert new[k].devices() == moved[k].devices() == {device}


def test_it_carries_its_record():
    tx = rmsprop(0.1)
    record = records.record_of(weights.compensate(tx))
    assert record is not None
    assert (record.factory, record.arguments) == (weights.compensate, {"tx": tx})


ONES = jnp.ones(3, jnp.bfloat16)
MISUSE = {
    "seed below 0": (lambda: weights.apply_updates(ONES, ONES, 0, seed=-1), "seed=-1 is out of"),
    "seed None": (lambda: weights.apply_updates(ONES, ONES, 0, seed=None), "seed=None is not"),
    "seed a float": (lambda: weights.apply_updates(ONES, ONES, 0, seed=1.0), "seed=1.0 is not"),
    "step a float": (lambda: weights.apply_updates(ONES, ONES, 1.0), "step=1.0 is not an int"),
    "step None": (lambda: weights.apply_updates(ONES, ONES, None), "step=None is not an integer"),
    "step True": (lambda: weights.apply_updates(ONES, ONES, True), "step=True is not an integer"),
    "steps": (lambda: weights.apply_updates(ONES, ONES, jnp.arange(3)), "step must be a scalar"),
    "float16": (
        lambda: weights.apply_updates({"w": jnp.ones(3, jnp.float16)}, {"w": ONES}, 0),
        r"\['w'\] is float16",
    ),
    "updates of another shape": (
        lambda: weights.apply_updates({"w": ONES}, {"w": jnp.ones((2, 3))}, 0),
        r"the update of \['w'\] is float32 \(2, 3\), and its parameter bfloat16 \(3,\)",
    ),
    "no params": (
        lambda: COMPENSATED.update(ONES, COMPENSATED.init(ONES)),
        r"needs params: call update\(updates, state, params\)",
    ),
    "a state of rmsprop": (
        lambda: COMPENSATED.update(ONES, rmsprop(0.1).init(ONES), ONES),
        "opt_state is a tuple, not the CompensateState",
    ),
    "a state of float32 parameters": (
        lambda: COMPENSATED.update(ONES, COMPENSATED.init(jnp.ones(3)), ONES),
        "the remainder of the only array is None, and its parameter bfloat16",
    ),
    "a state for float32 parameters": (
        lambda: COMPENSATED.update(ONES, COMPENSATED.init(ONES), jnp.ones(3)),
        "the remainder of the only array is float32 .*, and its parameter float32",
    ),
    "a remainder with no sign": (
        lambda: storage.store(COMPENSATED, remainder=storage.U16),
        "remainder=U16 has no sign",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_one_clear_error(name):
    act, message = MISUSE[name]
    with pytest.raises((ValueError, TypeError), match=message):
        act()
