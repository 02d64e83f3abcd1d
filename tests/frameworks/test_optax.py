"""States of `optax.rmsprop`, alone and in what Optax wraps around it, as files give them back."""

import functools
import itertools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from oracles import QUICK

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
for momentum, centered, corrected in itertools.product((None, 0.9), (False, True), (False, True)):
    options = {"momentum": momentum, "centered": centered, "bias_correction": corrected}
    WRAPPERS[str(options)] = functools.partial(lambda make, o: make(SCHEDULE, **o), o=options)


def stepper(txs):
    """A function that goes on with all of them, in one program."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params, states, grads):
        new = {n: tx.update(grads[n], states[n], params[n]) for n, tx in txs.items()}
        updates, states = ({n: both[i] for n, both in new.items()} for i in range(2))
        return optax.apply_updates(params, updates), states

    def go_on(params, states, steps):
        for number in steps:
            random = np.random.default_rng(number)
            draw = lambda p, r=random: r.standard_normal(p.shape, p.dtype)
            params, states = step(params, states, jax.tree.map(draw, params))
        return params, states

    return go_on


def orbax_gives_back(state, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state")


def paths(state):
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


FORMS = {
    "orbax": orbax_gives_back,
    "msgpack": lambda state, folder: flax.serialization.msgpack_restore(
        flax.serialization.to_bytes(state)
    ),
    "npz": lambda state, folder: paths(state),
}


def assert_all_close(left, right, *tolerances):
    for name in WRAPPERS:
        assert jax.tree.structure(left[name]) == jax.tree.structure(right[name])
        close = lambda x, y, n=name: np.testing.assert_allclose(x, y, *tolerances, err_msg=n)
        jax.tree.map(close, left[name], right[name])


def test_goes_on_and_back(tmp_path):
    """4 steps in Optax, 4 here and 4 in Optax are 12 in Optax, whatever form the state came in."""
    theirs, ours = (
        {name: wrap(make) for name, wrap in WRAPPERS.items()}
        for make in (optax.rmsprop, dialects.optax)
    )
    go_on, go_on_here = stepper(theirs), stepper(ours)
    params = dict.fromkeys(WRAPPERS, PARAMS)
    load = lambda name, state: interop.load(ours[name], state, params[name], count=4)
    with jax.numpy_dtype_promotion("standard"):
        start = {name: tx.init(PARAMS) for name, tx in theirs.items()}
        params, states = go_on(params, start, range(4))
        there, in_between = go_on(params, states, range(4, 8))
        there, last = go_on(there, in_between, range(8, 12))
        begun = {name: load(name, state) for name, state in states.items()}
        here, ended = go_on_here(params, begun, range(4, 8))
        back = {name: interop.dump(ours[name], ended[name], here[name]) for name in ours}
        assert_all_close(back, in_between, 2e-5, 2e-6)
        here, back = go_on(here, back, range(8, 12))
        assert_all_close(back, last, 1e-4, 1e-5)
        assert_all_close(here, there, 2e-6, 2e-6)
        for name, tx in ours.items():
            assert jax.tree.structure(begun[name]) == jax.tree.structure(tx.init(PARAMS))
        for form, gives_back in FORMS.items():
            for name, state in states.items():
                if (name, form) != ("named_chain", "msgpack"):  # which doesn't take its state
                    same = load(name, gives_back(state, tmp_path / name))
                    assert jax.tree.structure(same) == jax.tree.structure(begun[name])
                    jax.tree.map(np.testing.assert_array_equal, same, begun[name])


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
    chain = optax.chain(optax.clip(1.0), plain)
    refused(chain, state, "3 parts, ScaleByRmsState, .* should have 2, EmptyState, tuple")
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
