"""Programs of every public transformation, for all platforms, written out and read back."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import clipping, dialects, recipes, rmsprop, scale_by_rms, storage, weights
from rmsprop_jax.storage import BF16, U8, U16

NEEDED = {"learning_rate": 0.01, "steps_per_epoch": 1000, "batch_size": 256}
CASES = {
    "scale_by_rms": scale_by_rms(centered=True),
    "rmsprop": rmsprop(optax.cosine_decay_schedule(0.1, 9), momentum=0.5, weight_decay=0.1),
    "rmsprop masked": optax.masked(rmsprop(0.1), {"a": True, "b": False}),
    "rmsprop decaying": rmsprop(0.1, weight_decay=optax.cosine_decay_schedule(0.1, 9)),
    "store": storage.store(rmsprop(0.1, momentum=0.9), nu=U8.with_decay(0.9), trace=BF16),
    "store trace": storage.store(optax.trace(0.9), trace=BF16),
    "compensate": weights.compensate(rmsprop(0.1, momentum=0.9)),
    "store compensate": storage.store(weights.compensate(rmsprop(0.1)), remainder=BF16, nu=U16),
}
CASES |= {
    f"clipping.{name}": getattr(clipping, name)(1.0)
    for name in clipping.__all__
    if name.startswith("clip")
}
for room in (dialects, recipes):
    for name in room.__all__:
        call = getattr(room, name)
        arguments = inspect.signature(call).parameters.values()
        required = [p.name for p in arguments if p.default is p.empty]
        made = call(*(NEEDED.get(word, 1000) for word in required))
        CASES[f"{room.__name__.rpartition('.')[2]}.{name}"] = made
PARAMS = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(4)}


def written_and_read(tx, state):
    pytest.importorskip("flatbuffers")
    program = jax.export.export(jax.jit(tx.update), platforms=("cpu", "cuda", "rocm", "tpu"))
    return jax.export.deserialize(program(PARAMS, state, PARAMS).serialize())


@pytest.mark.parametrize("tx", CASES.values(), ids=CASES)
def test_a_program_with_its_state_can_be_written_and_read(tx):
    state = jax.eval_shape(tx.init, PARAMS)
    program = written_and_read(tx, state)
    made, treedef = jax.tree.flatten(jax.eval_shape(tx.update, PARAMS, state, PARAMS))
    assert program.out_tree == treedef
    assert [(x.shape, x.dtype) for x in program.out_avals] == [(x.shape, x.dtype) for x in made]


@pytest.mark.parametrize("name", ["store", "store compensate"])
def test_it_makes_the_same_numbers(name):
    tx = CASES[name]
    state = tx.init(PARAMS)
    expected = jax.jit(tx.update)(PARAMS, state, PARAMS)
    found = written_and_read(tx, state).call(PARAMS, state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
