"""Variables of Keras and slots of TensorFlow: in the order of files, ambiguous, and broken."""

import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from rmsprop_jax import dialects
from rmsprop_jax.interop import keras, tensorflow

SHAPES = {"net/dense/kernel": (2, 3), "net/dense/bias": (3,)}
WEIGHTS = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
ON = {"momentum": 0.9, "centered": True}
same = dict


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
@pytest.mark.parametrize("lr", ["constant", "schedule"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
def test_real_keras_variables(lr, momentum, centered, tmp_path):
    try:
        real = oracles.import_keras()
    except ImportError as error:
        pytest.skip(str(error))
    h5py = pytest.importorskip("h5py")
    model = real.Sequential([real.Input((2,)), real.layers.Dense(3, name="dense")])
    rate = 0.1 if lr == "constant" else real.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = real.optimizers.RMSprop(rate, momentum=momentum, centered=centered)
    model.compile(optimizer)
    optimizer.build(model.trainable_variables)
    for i, variable in enumerate(optimizer.variables):
        if "learning_rate" not in variable.path:
            square = "velocity" in variable.path  # no less than that of a mean
            variable.assign(np.full(variable.shape, i + (400 if square else 7)))
    model.save_weights(tmp_path / "model.weights.h5")
    ours = optax.cosine_decay_schedule(0.1, 10)
    config = {**optimizer.get_config(), **({} if lr == "constant" else {"learning_rate": ours})}
    tx = dialects.keras(**config)
    named = {v.path: np.asarray(v) for v in optimizer.variables}
    weights = {v.path: np.asarray(v) for v in model.trainable_variables}
    with h5py.File(tmp_path / "model.weights.h5") as file:
        in_file = {k: v[()] for k, v in file["optimizer/vars"].items()}
    expected = keras.load(tx, named, weights, same)
    assert expected[2].count == 7
    for saved in (in_file, list(optimizer.variables)):
        state = keras.load(tx, saved, weights, same)
        again = keras.dump(tx, state, weights, same)
        assert list(again) == list(named)
        for path, x in named.items():
            np.testing.assert_array_equal(again[path], x)
    # Into the file, by number, and from there into Keras.
    again = keras.dump(tx, expected, weights, same, like={k: 0 * x for k, x in in_file.items()})
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        for k, x in again.items():
            file["optimizer/vars"][k][...] = x
    for variable in optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    model.load_weights(tmp_path / "model.weights.h5")
    for variable in optimizer.variables:
        np.testing.assert_array_equal(variable, named[variable.path])


def message(load, *arguments, **options):
    with pytest.raises(ValueError, match=r".") as info:
        load(*arguments, **options)
    return str(info.value)


def keras_variables(**options):
    tx = dialects.keras(0.1, **options)
    return tx, keras.dump(tx, tx.init(WEIGHTS), WEIGHTS, same)


def test_keras_variables_that_are_wrong():
    tx, saved = keras_variables(**ON)
    del saved["rmsprop/net_dense_bias_momentum"]
    saved["rmsprop/net_dense_kernel_velocity"] = np.ones((3, 2))
    saved["rmsprop/surprise"] = np.ones(2)
    assert message(keras.load, tx, saved, WEIGHTS, same).splitlines()[1:] == [
        "  missing: net_dense_bias_momentum, float (3,)",
        "  extra: rmsprop/surprise, float (2,)",
        "  wrong: rmsprop/net_dense_kernel_velocity is float (3, 2), should be float (2, 3)",
    ]


def test_keras_lists_of_another_length():
    """Other options have other variables: nothing is guessed."""
    for had, has in ((ON, {}), ({}, ON), ({"momentum": 0.9}, ON), (ON, {"centered": True})):
        _, saved = keras_variables(**had)
        tx = dialects.keras(0.1, **has)
        in_order = message(keras.load, tx, list(saved.values()), WEIGHTS, same)
        assert "variables, where tx needs" in in_order or "doesn't fit" in in_order
        assert "doesn't fit" in message(keras.load, tx, saved, WEIGHTS, same)


def test_one_weight_and_its_momentum_are_not_a_learning_rate():
    weights = {"w": np.ones((2, 3), np.float32)}
    saved = [np.int32(7), np.ones((2, 3)), np.ones((2, 3))]  # the count, a velocity, a momentum
    assert "where tx needs" in message(keras.load, dialects.keras(0.1), saved, weights, same)


def test_keras_nan():
    tx, saved = keras_variables(**ON)
    saved["rmsprop/net_dense_bias_velocity"] = np.array([1, np.nan, np.nan])
    with pytest.warns(UserWarning, match="2 NaN: rmsprop/net_dense_bias_velocity 2"):
        keras.load(tx, saved, WEIGHTS, same)


def test_names_that_keras_makes_equal():
    weights = {"a/b": np.ones(2), "a_b": np.ones(2)}
    tx = dialects.keras(0.1)
    assert "same name" in message(keras.load, tx, {"x": np.ones(2)}, weights, same)


def test_other_dialects_are_refused():
    tx = dialects.pytorch()
    for function in (keras.dump, tensorflow.dump):
        assert "dialects.pytorch" in message(function, tx, tx.init(WEIGHTS), WEIGHTS, same)


def test_tensorflow_has_no_place_for_a_part_of_keras():
    kernel, bias = WEIGHTS
    txs = {"keras": dialects.keras(0.1), "tensorflow1": dialects.tensorflow1(0.1)}
    tx = optax.partition(txs, {kernel: "keras", bias: "tensorflow1"})
    _, saved = slots()
    assert "dialects.keras has no slots" in message(tensorflow.load, tx, saved, WEIGHTS, same)


def slots(**options):
    tx = dialects.tensorflow1(0.1, **options)
    return tx, tensorflow.dump(tx, tx.init(WEIGHTS), WEIGHTS, same)


def test_the_second_slot_is_what_tx_says():
    """`w/RMSProp_1` is the mean if centered, else the momentum; the other reading is refused."""
    weights = {"w": np.ones(2, np.float32)}
    two = {"w/RMSProp": np.full(2, 5.0), "w/RMSProp_1": np.full(2, 2.0)}
    three = {**two, "w/RMSProp_2": np.full(2, 3.0)}
    plain, centered = (dialects.tensorflow1(0.1, momentum=0.9, centered=c) for c in (False, True))
    state = tensorflow.load(plain, two, weights, same)
    assert (state[0].nu["w"][0], state[2].trace["w"][0]) == (5, -2)
    state = tensorflow.load(centered, three, weights, same)
    assert (state[0].nu["w"][0], state[0].mu["w"][0], state[2].trace["w"][0]) == (1, 2, -3)
    assert "missing: w/RMSProp_2" in message(tensorflow.load, centered, two, weights, same)
    assert "extra: w/RMSProp_2" in message(tensorflow.load, plain, three, weights, same)


def test_names_of_object_checkpoints():
    tx = dialects.tensorflow1(0.1, **ON)
    saved = tensorflow.dump(tx, tx.init(WEIGHTS), WEIGHTS, same, optimizer="model/opt")
    key = "net/dense/bias/.OPTIMIZER_SLOT/model/opt/mg/.ATTRIBUTES/VARIABLE_VALUE"
    assert key in saved
    count = {"model/opt/iter/.ATTRIBUTES/VARIABLE_VALUE": np.int64(7)}
    assert tensorflow.load(tx, {**saved, **count}, WEIGHTS, same)[0].count == 7
    del saved[key]
    assert f"missing: {key}" in message(tensorflow.load, tx, saved, WEIGHTS, same)


def test_another_name_of_the_optimizer():
    tx, saved = slots(name="Critic", **ON)
    assert "net/dense/bias/Critic_1" in saved
    tensorflow.load(tx, saved, WEIGHTS, same)
    other = dialects.tensorflow1(0.1, **ON)
    assert message(tensorflow.load, other, saved, WEIGHTS, same).count("missing: ") == 6


def test_tensorflow_nan():
    tx, saved = slots()
    saved["net/dense/bias/RMSProp"] = jnp.array([1.0, jnp.nan, 1.0])
    with pytest.warns(UserWarning, match="1 NaN: net/dense/bias/RMSProp 1"):
        tensorflow.load(tx, saved, WEIGHTS, same)


def test_numbers_of_variables_are_no_words():
    """Sorted as words, as files list them, the 10th variable comes before the 2nd."""
    weights = {f"layer{i}/kernel": np.ones(2, np.float32) for i in range(12)}
    saved = [np.int32(7), np.float32(0.1), *(np.full(2, float(i)) for i in range(12))]
    files = dict(sorted((str(i), x) for i, x in enumerate(saved)))
    state = keras.load(dialects.keras(0.1), files, weights, same)
    assert [state[2].nu[name][0] for name in weights] == list(range(12))
