"""Models of Flax NNX, Flax Linen, Equinox and Haiku train, and go on from an Orbax checkpoint.

Each framework is a class: how it starts training, how it trains, and what of that is arrays, which
go into the checkpoint.
"""

import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training import train_state

from rmsprop_jax import rmsprop, storage

STEPS = 8
OPTIMIZERS = {
    "rmsprop": lambda: rmsprop(0.03, momentum=0.5),
    "stored": lambda: storage.store(rmsprop(0.03, momentum=0.5), nu=storage.U8, trace=storage.BF16),
}


def batch(t):
    """Inputs, and two sums over a part of each."""
    x = np.random.default_rng(t).standard_normal((256, 12), np.float32)
    return x, x.reshape(256, 2, 6).sum(-1)


def error(prediction, y):
    return jnp.mean((prediction - y) ** 2)


def drawn(abstract, seed):
    """Arrays for shapes: what draws them in JAX takes seconds to compile."""
    random = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray((0.3 * random.standard_normal(x.shape)).astype(x.dtype))
    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    return jax.tree.map(lambda x: draw(x) if is_shape(x) else x, abstract)


class Framework:
    """What holds where training is a tree of arrays."""

    def __init__(self, tx):
        self.tx = tx

    def train(self, training, steps):
        losses = []
        for t in steps:
            training, value = self.step(training, *batch(t))
            losses.append(value)
        return training, losses

    def arrays(self, training):
        return training

    def with_arrays(self, training, arrays):
        del training
        return arrays


class NNX(Framework):
    """Dense layers around a batch normalization; model and optimizer are changed in place."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(12, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.out = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.norm(self.hidden(x))))

    def start(self, seed):
        graphdef, shapes = nnx.split(nnx.eval_shape(lambda: self.Model(nnx.Rngs(0))))
        model = nnx.merge(graphdef, drawn(shapes, seed))
        return model, nnx.Optimizer(model, self.tx, wrt=nnx.Param)

    def step(self, training, x, y):
        return training, self.step_in_place(*training, x, y)

    @staticmethod
    @nnx.jit
    def step_in_place(model, optimizer, x, y):
        value, grads = nnx.value_and_grad(lambda model: error(model(x), y))(model)
        optimizer.update(model, grads)
        return value

    def arrays(self, training):
        return nnx.state(training)

    def with_arrays(self, training, arrays):
        nnx.update(training, arrays)
        return training


class Linen(Framework):
    """The same model; `TrainState` has a field more, for the averages of the normalization."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8)(x)
            x = nn.BatchNorm(use_running_average=False)(x)
            return nn.Dense(2)(nn.relu(x))

    class TrainState(train_state.TrainState):
        batch_stats: Any

    def start(self, seed):
        model = self.Model()
        variables = drawn(jax.eval_shape(model.init, jax.random.key(0), batch(0)[0]), seed)
        state = self.TrainState.create(apply_fn=model.apply, tx=self.tx, **variables)
        return state.replace(step=jnp.int32(0))  # the type that it has later

    @staticmethod
    @jax.jit
    def step(state, x, y):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            prediction, new = state.apply_fn(variables, x, mutable=["batch_stats"])
            return error(prediction, y), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, **new), value


class Equinox(Framework):
    """The model is a tree with functions in it, which the optimizer gets to see."""

    def start(self, seed):
        make = lambda key: eqx.nn.MLP(12, 2, 8, 1, key=key)
        model = drawn(eqx.filter_eval_shape(make, jax.random.key(0)), seed)
        return model, self.tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(self, training, x, y):
        model, state = training
        loss = lambda model: error(jax.vmap(model)(x), y)
        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, state = self.tx.update(grads, state, model)
        return (eqx.apply_updates(model, updates), state), value

    def arrays(self, training):
        return eqx.filter(training, eqx.is_array)

    def with_arrays(self, training, arrays):
        return eqx.combine(arrays, training)


class Haiku(Framework):
    """The averages of the normalization are a state of their own."""

    def __init__(self, tx):
        super().__init__(tx)
        hk = pytest.importorskip("haiku", reason="Haiku isn't among the test dependencies")

        @hk.transform_with_state
        def model(x):
            x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training=True)
            return hk.Linear(2)(jax.nn.relu(x))

        self.model = model

    def start(self, seed):
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), batch(0)[0])
        params, state = drawn(shapes, seed)
        return params, state, self.tx.init(params)

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, training, x, y):
        params, state, opt_state = training

        def loss(params):
            prediction, new = self.model.apply(params, state, None, x)
            return error(prediction, y), new

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), value


@pytest.mark.parametrize(
    ("framework", "optimizer"),
    [
        (NNX, "stored"),
        *((framework, "rmsprop") for framework in (Linen, Equinox, Haiku)),
        pytest.param(NNX, "rmsprop", marks=pytest.mark.nightly),
        *(pytest.param(f, "stored", marks=pytest.mark.nightly) for f in (Linen, Equinox, Haiku)),
    ],
)
def test_goes_on_bit_for_bit(framework, optimizer, tmp_path):
    framework = framework(OPTIMIZERS[optimizer]())
    before, after = range(STEPS), range(STEPS, 2 * STEPS)
    with jax.numpy_dtype_promotion("standard"), ocp.StandardCheckpointer() as checkpointer:
        training, losses = framework.train(framework.start(0), before)
        checkpointer.save(tmp_path / "training", framework.arrays(training))
        checkpointer.wait_until_finished()
        fresh = framework.start(1)
        arrays = checkpointer.restore(tmp_path / "training", framework.arrays(fresh))
        # On no certain device, as they were: what is compiled for them takes them.
        arrays = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), arrays)
        restored, again = framework.train(framework.with_arrays(fresh, arrays), after)
        training, more = framework.train(training, after)
    assert np.mean(more) < np.mean(losses)
    np.testing.assert_array_equal(again, more)
    assert bits(framework.arrays(restored)) == bits(framework.arrays(training))


def bits(tree):
    """All of a tree's arrays, to be compared; some trees also have functions that aren't equal."""
    return [(path, x.dtype, np.asarray(x).tobytes()) for path, x in jax.tree.leaves_with_path(tree)]
