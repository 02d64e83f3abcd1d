"""States of `optax.rmsprop`, alone and in what Optax wraps around it, as files give them back."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from rmsprop_jax import dialects
from rmsprop_jax.interop import optax as interop

PARAMS = {"dense": {"kernel": jnp.linspace(-1, 1, 6).reshape(3, 2), "bias": jnp.ones(2)}}
SCHEDULE = optax.linear_schedule(0.1, 0.05, 20)
MASK = {"dense": {"kernel": True, "bias": False}}
LABELS = {"dense": {"kernel": "a", "bias": "b"}}
OPTIONS = {"momentum": 0.75, "centered": True, "eps": 1e-3}

WRAPPERS = {
    "alone": lambda make: make(SCHEDULE, **OPTIONS),
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make(0.1, **OPTIONS)),
    "named_chain": lambda make: optax.named_chain(
        ("clip", optax.clip(1.0)), ("opt", make(SCHEDULE, **OPTIONS))
    ),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(make)(learning_rate=0.1, **OPTIONS),
    "multi_steps": lambda make: optax.MultiSteps(
        make(SCHEDULE, **OPTIONS), 2
    ).gradient_transformation(),
    "masked": lambda make: optax.masked(make(0.1, **OPTIONS), MASK),
    "partition": lambda make: optax.partition(
        {"a": make(SCHEDULE, **OPTIONS), "b": make(0.01, bias_correction=True)}, LABELS
    ),
    "partition_with_adam": lambda make: optax.partition(
        {"a": make(0.1, momentum=0.75), "b": optax.adam(0.01)}, LABELS
    ),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(0.1, **OPTIONS), 3),
    "chain_with_ema": lambda make: optax.chain(make(0.1, **OPTIONS), optax.ema(0.9)),
    "lookahead_in_chain": lambda make: optax.chain(
        optax.masked(optax.add_decayed_weights(1e-2), MASK), optax.chain(make(SCHEDULE, **OPTIONS))
    ),
}


def go_on(tx, params, state, steps):
    for step in steps:
        random = np.random.default_rng(step)
        grads = jax.tree.map(
            lambda p, r=random: jnp.asarray(r.normal(size=p.shape), p.dtype), params
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def orbax_gives_back(state, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state")


def paths(state):
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


FORMS = {
    "itself": lambda state, folder: state,
    "orbax": orbax_gives_back,
    "msgpack": lambda state, folder: flax.serialization.msgpack_restore(
        flax.serialization.to_bytes(state)
    ),
    "npz": lambda state, folder: paths(state),
}


CASES = [(w, f) for w in WRAPPERS for f in FORMS]
CASES.remove(("named_chain", "msgpack"))  # flax.serialization doesn't take its state


@pytest.mark.parametrize(("wrapper", "form"), CASES)
def test_goes_on_and_back(wrapper, form, tmp_path):
    """6 steps in Optax, 6 here and 6 in Optax are 18 in Optax."""
    theirs, ours = (WRAPPERS[wrapper](make) for make in (optax.rmsprop, dialects.optax))
    with jax.numpy_dtype_promotion("standard"):
        params, state = go_on(theirs, PARAMS, theirs.init(PARAMS), range(6))
        there, in_between = go_on(theirs, params, state, range(6, 12))
        there, last = go_on(theirs, there, in_between, range(12, 18))
        loaded = interop.load(ours, FORMS[form](state, tmp_path), params, count=6)
        assert jax.tree.structure(loaded) == jax.tree.structure(ours.init(params))
        here, loaded = go_on(ours, params, loaded, range(6, 12))
        back = interop.dump(ours, loaded, here)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-5, 2e-6), back, in_between)
        here, back = go_on(theirs, here, back, range(12, 18))
    assert jax.tree.structure(back) == jax.tree.structure(last)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-6, 2e-6), here, there)


def refused(tx, saved, match, error=ValueError):
    with pytest.raises(error, match=match):
        interop.load(tx, saved, PARAMS)


def test_what_does_not_fit():
    plain = dialects.optax(0.1)
    refused(plain, optax.adam(0.1).init(PARAMS), "2 parts, ScaleByAdamState, EmptyState, should")
    refused(plain, optax.rmsprop(0.1, centered=True).init(PARAMS), "ScaleByRStdDevState of another")
    refused(plain, optax.rmsprop(0.1, momentum=0.9).init(PARAMS), "TraceState of another")
    refused(dialects.optax(0.1, momentum=0.9), optax.rmsprop(0.1).init(PARAMS), "EmptyState of")
    state = optax.rmsprop(0.1).init(PARAMS)
    refused(
        optax.chain(optax.clip(1.0), plain),
        state,
        "3 parts, ScaleByRmsState, .* should have 2, EmptyState, tuple",
    )
    refused(dialects.keras(0.1), state, "isn't Optax")
    saved = paths(state)
    del saved["0/nu/dense/bias"]
    saved["0/nu/dense/kernel"] = np.ones((2, 3), np.float32)
    saved["0/nu/surprise"] = np.ones(2)
    with pytest.raises(ValueError, match="nothing was converted") as info:
        interop.load(plain, saved, PARAMS)
    assert info.value.args[0].splitlines()[1:] == [
        "  extra: 0/nu/surprise",
        "  missing: 0/nu/dense/bias, float (2,)",
        "  wrong: 0/nu/dense/kernel is float (2, 3), should be float (3, 2)",
    ]
    refused(plain, b"bytes of a file", "no container")
    negative = jax.tree.map(lambda x: x - 1, state)
    refused(plain, negative, "squares are negative")
