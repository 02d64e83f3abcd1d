"""What a framework's state may hold and one of this library can't: it becomes the nearest there is.

Groups may have made different numbers of updates: the largest counts. And a framework that keeps
E|g|^2 and E g may have rounded them so that the variance between them is negative: it is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import RmsState, dialects, interop, rmsprop
from rmsprop_jax.checkpoints import restore
from rmsprop_jax.frameworks import pairing

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}
WEIGHTS = {name: np.asarray(x) for name, x in PARAMS.items()}
SCHEDULE = optax.linear_schedule(0.5, 0.25, 8)
either_is_first = pytest.mark.parametrize("counts", [(3, 5), (5, 3)])


def same(named):
    return named


def groups(make):
    return optax.partition({"a": make(), "b": make()}, {"a": "a", "b": "b"})


def with_counts(state, counts):
    """The state, with these counts of its averages and of their schedules."""
    inner = {
        name: jax.tree.map(lambda x, n=n: jnp.full_like(x, n) if x.dtype == jnp.int32 else x, own)
        for (name, own), n in zip(state.inner_states.items(), counts, strict=True)
    }
    return state._replace(inner_states=inner)


def found(state):
    is_rms = lambda x: isinstance(x, RmsState)
    return {int(x.count) for x in jax.tree.leaves(state, is_leaf=is_rms) if is_rms(x)}


@either_is_first
def test_pytorch(counts):
    tx = groups(lambda: dialects.pytorch(SCHEDULE))
    state = with_counts(tx.init(PARAMS), counts)
    saved = interop.pytorch.dump(tx, state, WEIGHTS, same)
    assert [slot["step"] for slot in saved["state"].values()] == [5, 5]
    assert [group["lr"] for group in saved["param_groups"]] == [SCHEDULE(5)] * 2
    for slot, count in zip(saved["state"].values(), counts, strict=True):
        slot["step"] = count
    _, loaded = interop.pytorch.load(saved, WEIGHTS, same, lr=SCHEDULE)
    assert found(loaded) == {5}


@either_is_first
def test_keras(counts):
    tx = groups(lambda: dialects.keras(0.1))
    saved = interop.keras.dump(tx, with_counts(tx.init(PARAMS), counts), WEIGHTS, same)
    assert saved["rmsprop/iteration"] == 5
    assert found(interop.keras.load(tx, saved, WEIGHTS, same)) == {5}


@either_is_first
def test_tensorflow(counts):
    tx = groups(lambda: dialects.tensorflow1(0.1))
    slots = interop.tensorflow.dump(tx, tx.init(PARAMS), WEIGHTS, same)
    steps = dict(zip(("global_step", "optimizer/iter"), map(np.int64, counts), strict=True))
    assert found(interop.tensorflow.load(tx, slots | steps, WEIGHTS, same)) == {5}
    state = with_counts(tx.init(PARAMS), counts)
    again = interop.tensorflow.dump(tx, state, WEIGHTS, same, like=slots | steps)
    assert [again[key] for key in steps] == [5, 5]


@either_is_first
def test_optax(counts):
    theirs, ours = (
        make(SCHEDULE, momentum=0.5, bias_correction=True)
        for make in (optax.rmsprop, dialects.optax)
    )
    average, rate, trace = theirs.init(PARAMS)
    saved = average._replace(count=jnp.int32(counts[0])), rate._replace(count=jnp.int32(counts[1]))
    assert found(interop.optax.load(ours, (*saved, trace), PARAMS)) == {5}


@either_is_first
def test_restore(counts):
    before, after = groups(rmsprop), groups(lambda: rmsprop(SCHEDULE))
    state = restore(after, with_counts(before.init(PARAMS), counts), PARAMS)
    assert {int(x) for x in jax.tree.leaves(state) if x.dtype == jnp.int32} == {5}


def a_bit_less(mu):
    return mu**2 * np.float32(1 - 1e-6)


def test_a_variance_that_rounding_made_negative_is_0():
    mu = np.linspace(0.5, 3, 2, dtype=np.float32)
    weights, tx = {"w": mu}, dialects.pytorch(centered=True)
    saved = interop.pytorch.dump(tx, tx.init(weights), weights, same)
    saved["state"][0] |= {"square_avg": a_bit_less(mu), "grad_avg": mu}
    tx, state = interop.pytorch.load(saved, weights, same)
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["w"], 0.0)
    updates, _ = tx.update({"w": jnp.ones(2)}, state)
    assert np.isfinite(updates["w"]).all()

    tx = dialects.keras(0.1, centered=True)
    saved = interop.keras.dump(tx, tx.init(weights), weights, same)
    velocity, average = (
        next(k for k in saved if k.endswith(x)) for x in ("velocity", "average_gradient")
    )
    state = interop.keras.load(tx, saved | {velocity: a_bit_less(mu), average: mu}, weights, same)
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["w"], 0.0)


@pytest.mark.parametrize("part", ["real", "imag"])
def test_so_is_that_of_either_part_of_a_complex_one(part):
    mu = np.array([0.5, 3.0], np.float32)
    second, mean = (x if part == "real" else 1j * x for x in (a_bit_less(mu), mu))
    weights, tx = {"w": np.ones(2, np.complex64)}, dialects.pytorch(centered=True)
    saved = interop.pytorch.dump(tx, tx.init(weights), weights, same)
    saved["state"][0] |= {
        "square_avg": second.astype(np.complex64),
        "grad_avg": mean.astype(np.complex64),
    }
    _, state = interop.pytorch.load(saved, weights, same)
    for nu in optax.tree.get(state, "nu")["w"]:
        np.testing.assert_array_equal(nu, 0.0)


def test_two_parameters_in_a_tuple_are_no_complex_one():
    """In a state, a complex parameter of `dialects.pytorch` is such a pair."""
    weights = {"a": np.ones(3, np.float32), "b": np.full(3, 2, np.float32)}
    to_params, from_params = (
        lambda named: (named["a"], named["b"]),
        lambda t: {"a": t[0], "b": t[1]},
    )
    tx = dialects.keras(0.1)
    _, state = tx.update(to_params(weights), tx.init(to_params(weights)))
    saved = interop.keras.dump(tx, state, weights, from_params)
    loaded = interop.keras.load(tx, saved, weights, to_params)
    jax.tree.map(np.testing.assert_array_equal, loaded, state)


def test_a_name_that_two_arrays_end_in_is_none():
    assert pairing.find(["a/step", "b/lr"], "step") == "a/step"
    with pytest.raises(ValueError, match="Several names in the file end in step: a/step, b/step"):
        pairing.find(["a/step", "b/step"], "step")
