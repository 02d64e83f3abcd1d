"""A state in `nnx.Optimizer`: what goes in is what the next step goes on from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rmsprop_jax import dialects, interop, rmsprop, storage, weights

SCHEDULE = optax.linear_schedule(0.1, 0.0, 20)
OPTIMIZERS = {
    "all": rmsprop(SCHEDULE, centered=True, momentum=0.9, weight_decay=0.1),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), dialects.keras(SCHEDULE, momentum=0.9)),
    "groups": optax.partition(
        {"a": rmsprop(SCHEDULE, centered=True), "b": rmsprop(0.1, momentum=0.9)},
        lambda params: jax.tree.map_with_path(
            lambda path, _: "a" if "bias" in jax.tree_util.keystr(path) else "b", params
        ),
    ),
    "stored": storage.store(rmsprop(0.1, momentum=0.9), nu=storage.U8, trace=storage.BF16),
    "compensated": weights.compensate(rmsprop(0.1)),
    "injected": optax.inject_hyperparams(rmsprop, hyperparam_dtype=jnp.float32)(learning_rate=0.1),
}
X = np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(6, 4)


def dense(inputs, outputs, **options):
    """A layer whose kernel NumPy draws: that has no program to compile."""
    draw = lambda key, shape, dtype, **_: jnp.asarray(
        np.random.default_rng(inputs).normal(size=shape).astype(dtype)
    )
    return nnx.Linear(inputs, outputs, kernel_init=draw, rngs=nnx.Rngs(0), **options)


class Model(nnx.Module):
    def __init__(self, dtype):
        layers = [dense(4, 3, param_dtype=dtype), dense(3, 2, param_dtype=dtype)]
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return x


def loss(model):
    x = X.astype(model.layers[0].kernel.dtype)
    return jnp.mean((model(x).astype(jnp.float32) - 1) ** 2)


@nnx.jit
def step(model, optimizer):
    optimizer.update(model, nnx.grad(loss)(model))


def train(model, optimizer, steps):
    for _ in range(steps):
        step(model, optimizer)


def outside(tx, model, optimizer):
    """The state as one has it outside of Flax, of parameters in lists and dictionaries."""
    layers = [{"bias": layer.bias[...], "kernel": layer.kernel[...]} for layer in model.layers]
    treedef = jax.tree.structure(tx.init({"layers": layers}))
    return treedef.unflatten(jax.tree.leaves(optimizer.opt_state))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_bit_for_bit(name):
    tx = OPTIMIZERS[name]
    start = lambda: Model(jnp.bfloat16 if name == "compensated" else jnp.float32)
    whole = start()
    optimizer = nnx.Optimizer(whole, tx, wrt=nnx.Param)
    train(whole, optimizer, 4)
    weights_then, state_then = nnx.state(whole, nnx.Param), outside(tx, whole, optimizer)
    weights_then = jax.tree.map(jnp.copy, weights_then)
    train(whole, optimizer, 3)

    model = start()
    again = nnx.Optimizer(model, tx, wrt=nnx.Param)
    train(model, again, 1)  # what it had is to be gone
    nnx.update(model, weights_then)
    interop.nnx.load(again, state_then)
    train(model, again, 3)
    assert int(again.step[...]) == 7
    for left, right in ((model, whole), (again, optimizer)):
        left, right = nnx.state(left), nnx.state(right)
        assert jax.tree.structure(left) == jax.tree.structure(right)
        for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_from_pytorch_and_back():
    slots = {"step": 200, "square_avg": np.full((3, 4), 0.04), "momentum_buffer": np.ones((3, 4))}
    group = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0, "momentum": 0.9}
    group |= {"centered": False, "maximize": False, "params": [0]}
    saved = {"state": {0: slots}, "param_groups": [group]}
    named = {"fc.weight": np.ones((3, 4), np.float32)}
    tx, state = interop.pytorch.load(saved, named, lambda named: {"kernel": named["fc.weight"].T})
    model = dense(4, 3, use_bias=False)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    interop.nnx.load(optimizer, state)
    assert int(optimizer.step[...]) == 200
    back = interop.pytorch.dump(
        tx, interop.nnx.dump(optimizer), named, lambda params: {"fc.weight": params["kernel"].T}
    )
    for slot, x in slots.items():
        np.testing.assert_allclose(back["state"][0][slot], x)


def test_keeps_where_and_in_what_its_arrays_are():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P(None, "data"))
    model = dense(2, 8, use_bias=False)
    model.kernel[...] = jax.device_put(model.kernel[...], split)
    optimizer = nnx.Optimizer(model, rmsprop(0.1), wrt=nnx.Param)
    state = rmsprop(0.1).init({"kernel": np.zeros((2, 8))})
    interop.nnx.load(optimizer, optax.tree.set(state, count=np.int64(3)))
    assert optimizer.opt_state[0].nu["kernel"][...].sharding == split
    assert optimizer.opt_state[0].count[...].dtype == jnp.int32


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (rmsprop(0.1, momentum=0.9).init({"kernel": jnp.ones((2, 3))}), "TraceState.*should have"),
        (optax.sgd(0.1).init({"kernel": jnp.ones((2, 3))}), "isn't a state of optimizer.tx"),
        ({}, "of no transformation"),
        (rmsprop(0.1).init({"kernel": jnp.ones((3, 2))}), r"0/nu/kernel is float \(3, 2\)"),
        (rmsprop(0.1).init({"w": jnp.ones((2, 3))}), r"missing: 0/nu/kernel(.|\n)*extra: 0/nu/w"),
    ],
    ids=["momentum", "sgd", "nothing", "shape", "name"],
)
def test_refuses_another_state(state, message):
    model = dense(2, 3, use_bias=False)
    optimizer = nnx.Optimizer(model, rmsprop(0.1), wrt=nnx.Param)
    with pytest.raises(ValueError, match=message):
        interop.nnx.load(optimizer, state)
    assert not optimizer.opt_state[0].nu["kernel"][...].any()


def test_refuses_what_is_no_optimizer():
    with pytest.raises(TypeError, match=r"Linear, and should be an nnx\.Optimizer"):
        interop.nnx.load(dense(2, 3), ())
