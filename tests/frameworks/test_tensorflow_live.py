"""What is dumped for TensorFlow is read by TensorFlow itself, and goes on there.

A run leaves TensorFlow after STEPS updates, makes as many here, and goes back for as many more;
another never leaves. It needs tensorflow-cpu and tf_keras, which .ci/nightly has.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from real_checkpoints import STEPS, gradient

from rmsprop_jax import dialects
from rmsprop_jax.interop import tensorflow

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

TOLERANCE = 2e-6
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
LEAVES, RETURNS, ENDS = STEPS, 2 * STEPS, 3 * STEPS


def read(path):
    reader = tf.train.load_checkpoint(path)
    return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def write(path, tensors):
    """As the docstring of `dump` says."""
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def to_params(named):
    return {f"my {name}": x.T for name, x in named.items()}


def from_params(tree):
    return {name.removeprefix("my "): np.asarray(x).T for name, x in tree.items()}


def stay_here(tx, tensors, weights, name_of=lambda key: key):
    """The tensors of a checkpoint after STEPS updates here; weights are named as in it."""
    state = tensorflow.load(tx, tensors, weights, to_params)
    params = jax.tree.map(jnp.asarray, to_params(weights))
    for step in range(LEAVES, RETURNS):
        named = from_params(params)
        g = to_params({n: gradient(name_of(n), x, step) for n, x in named.items()})
        updates, state = tx.update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
    saved = tensorflow.dump(tx, state, weights, from_params, like=tensors)
    own = {n if n in tensors else f"{n}{VALUE}": x for n, x in from_params(params).items()}
    assert saved.keys() | own.keys() <= tensors.keys()
    return {**tensors, **saved, **own}


def near(mine, theirs):
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("options", [{}, {"momentum": 0.75}, {"momentum": 0.75, "centered": True}])
def test_saver(options, tmp_path):
    arguments = {"learning_rate": 0.03, "decay": 0.875, "epsilon": 1e-3, **options}
    v1, random = tf.compat.v1, np.random.default_rng(0)
    shapes = {"net/kernel": (3, 4), "net/bias": (4,)}
    begin = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}

    @contextlib.contextmanager
    def program():
        with tf.Graph().as_default(), v1.Session() as session:
            variables = {n: v1.get_variable(n, initializer=x) for n, x in begin.items()}
            fed = {n: v1.placeholder(tf.float32, s) for n, s in shapes.items()}
            optimizer = v1.train.RMSPropOptimizer(**arguments)
            pairs = [(fed[n], v) for n, v in variables.items()]
            update = optimizer.apply_gradients(pairs, v1.train.get_or_create_global_step())
            session.run(v1.global_variables_initializer())

            def train(steps):
                for t in steps:
                    now = session.run(variables)
                    session.run(update, {fed[n]: gradient(n, x, t) for n, x in now.items()})
                return session.run(variables)

            yield session, train, v1.train.Saver()

    with program() as (session, train, saver):
        weights = train(range(LEAVES))
        path = saver.save(session, str(tmp_path / "left"))
        stayed = train(range(LEAVES, ENDS))
    back = str(tmp_path / "back")
    write(back, stay_here(dialects.tensorflow1(**arguments), read(path), weights))
    with program() as (session, train, saver):
        saver.restore(session, back)
        assert session.run(v1.train.get_global_step()) == RETURNS
        returned = train(range(RETURNS, ENDS))
    for name, x in stayed.items():
        near(returned[name], x)


SETTINGS = {"rho": 0.875, "momentum": 0.75, "epsilon": 1e-3, "centered": True}
FIRST = {"learning_rate": 0.03, "decay": 0.875, "momentum": 0.75, "epsilon": 1e-3, "centered": True}
OPTIMIZERS = {
    "tensorflow1": (
        lambda: tf.compat.v1.train.RMSPropOptimizer(**FIRST),
        lambda: dialects.tensorflow1(**FIRST),
    ),
    "legacy": (
        lambda: tf_keras.optimizers.legacy.RMSprop(0.03, **SETTINGS),
        lambda: dialects.tf_keras_legacy(0.03, **SETTINGS),
    ),
    "tf_keras": (
        lambda: tf_keras.optimizers.RMSprop(0.03, **SETTINGS),
        lambda: dialects.keras(0.03, **SETTINGS),
    ),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_objects(kind, tmp_path):
    make, dialect = OPTIMIZERS[kind]

    def program():
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(0)
        layers = [tf_keras.layers.Dense(4, name="hidden"), tf_keras.layers.Dense(2, name="out")]
        net, optimizer = tf_keras.Sequential([tf_keras.Input((3,)), *layers]), make()

        def train(steps):
            for t in steps:
                own = net.trainable_variables
                pairs = [(tf.constant(gradient(v.name, v.numpy(), t)), v) for v in own]
                optimizer.apply_gradients(pairs)
            return {v.name: v.numpy() for v in net.trainable_variables}

        return train, tf.train.Checkpoint(model=net, optimizer=optimizer)

    train, objects = program()
    weights = train(range(LEAVES))
    tensors = read(objects.write(str(tmp_path / "left")))
    stayed = train(range(LEAVES, ENDS))
    key_of = {
        name: key.removesuffix(VALUE)
        for name, x in weights.items()
        for key, y in tensors.items()
        if key.startswith("model/layer") and "SLOT" not in key and np.array_equal(x, y)
    }
    assert len(set(key_of.values())) == len(weights) == 4
    name_of = {key: name for name, key in key_of.items()}
    named = {key_of[n]: x for n, x in weights.items()}
    back = str(tmp_path / "back")
    write(back, stay_here(dialect(), tensors, named, name_of.get))
    train, objects = program()
    status = objects.read(back)
    returned = train(range(RETURNS, ENDS))
    status.assert_existing_objects_matched()
    for name, x in stayed.items():
        near(returned[name], x)
