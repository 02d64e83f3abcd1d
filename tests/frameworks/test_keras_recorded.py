"""Checkpoints that Keras, tf_keras and TensorFlow wrote go on here, and back."""

import numpy as np
import optax
import pytest
from real_checkpoints import STEPS, family, gradient

from rmsprop_jax import dialects
from rmsprop_jax.interop import keras, tensorflow

TOLERANCE = 2e-6
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def to_params(named):
    return {f"my {name}": x.T for name, x in named.items()}


def from_params(tree):
    return {name.removeprefix("my "): np.asarray(x).T for name, x in tree.items()}


def go_on(tx, state, weights, name_of=lambda name: name, every=1):
    params, total = to_params(weights), {}
    for step in range(STEPS, 2 * STEPS):
        for name, x in from_params(params).items():
            total[name] = total.get(name, 0) + gradient(name_of(name), x, step)
        if (step + 1) % every == 0:
            mean = to_params({n: x / np.float32(every) for n, x in total.items()})
            updates, state = tx.update(mean, state, params)
            params, total = optax.apply_updates(params, updates), {}
    return params, state


def near(mine, theirs):
    np.testing.assert_allclose(mine, theirs, 10 * TOLERANCE, TOLERANCE)


def config_of(case):
    config = case["config"]
    config = config["inner_optimizer"]["config"] if "inner_optimizer" in config else config
    rate = config["learning_rate"]
    if isinstance(rate, dict):
        rate = optax.exponential_decay(0.03, 1, 0.9)
    none = {"use_ema": False, "gradient_accumulation_steps": None}
    return {**config, **none, "learning_rate": rate}


@pytest.mark.parametrize("kind", list(family("keras")))
@pytest.mark.filterwarnings("ignore:The checkpoint also holds averages of the weights")
def test_keras_goes_on_and_back(kind):
    case = family("keras")[kind]
    tx = dialects.keras(**config_of(case))
    weights = case["weights"]
    state = keras.load(tx, case["checkpoint"], weights, to_params)
    params, state = go_on(tx, state, weights, every=2 if kind == "accumulation" else 1)
    for name, x in from_params(params).items():
        near(x, case["final"][name])
    again = keras.dump(tx, state, weights, from_params, like=case["checkpoint"])
    assert list(again) == list(case["later"])
    later = case["later"]
    if any("/vars/" in key for key in later):  # a whole file: the weights in it are the user's
        later = {k: x for k, x in later.items() if "optimizer/vars" in k}
        later = {k: x for k, x in later.items() if "inner_optimizer" in k} or later
    for key, x in later.items():
        beside = ("_average", "step_counter", "dynamic_scale", "loss_scale_optimizer/iteration")
        # Keras counts batches.
        if not key.endswith(beside) and not (kind == "accumulation" and key.endswith("iteration")):
            near(again[key], x)


def test_averages_are_named():
    case = family("keras")["ema"]
    tx = dialects.keras(**config_of(case))
    with pytest.warns(UserWarning, match="averages of the weights, of use_ema.*kernel_average"):
        keras.load(tx, case["checkpoint"], case["weights"], to_params)


def test_an_accumulation_must_be_complete():
    case = family("keras")["accumulation"]
    checkpoint = {k: x + k.endswith("accumulator") for k, x in case["checkpoint"].items()}
    with pytest.raises(ValueError, match="middle of an accumulation"):
        keras.load(dialects.keras(**config_of(case)), checkpoint, case["weights"], to_params)


def test_the_order_of_a_file_is_refused():
    """Weights out of the same file: 12 layers of one shape, dense_10 in front of dense_2."""
    case = family("keras")["weights_h5"]
    weights = {k: x for k, x in case["checkpoint"].items() if k.startswith("layers/")}
    tx = dialects.keras(**config_of(case))
    with pytest.raises(ValueError, match="sorted by name, as files are"):
        keras.load(tx, case["checkpoint"], weights, to_params)
    names = sorted(weights, key=lambda k: int((k.split("/")[1] + "_0").split("_")[1]))
    in_order = {k: weights[k] for k in names}
    state = keras.load(tx, case["checkpoint"], in_order, to_params, in_order=True)
    right = keras.load(tx, case["checkpoint"], case["weights"], to_params)
    for mine, theirs in zip(in_order, case["weights"], strict=True):
        np.testing.assert_array_equal(in_order[mine], case["weights"][theirs])
        nu, expected = state[2].nu[f"my {mine}"], right[2].nu[f"my {theirs}"]
        np.testing.assert_array_equal(nu, expected)
    # What was said to be in order is written in that order, too.
    state = keras.load(tx, case["checkpoint"], weights, to_params, in_order=True)
    again = keras.dump(tx, state, weights, from_params, like=case["checkpoint"])
    assert again.keys() == case["checkpoint"].keys()
    for key, x in case["checkpoint"].items():
        np.testing.assert_array_equal(again[key], x)


def test_frozen_layers_in_a_partition():
    """All of a model's weights, of which the optimizer has got a part."""
    case = family("keras")["frozen"]
    trained = case["weights"]
    weights = {"frozen/kernel": np.ones((3, 4), np.float32), **trained}
    labels = {f"my {n}": "keras" if n in trained else "still" for n in weights}
    txs = {"keras": dialects.keras(**config_of(case)), "still": optax.set_to_zero()}
    tx = optax.partition(txs, labels)
    state = keras.load(tx, case["checkpoint"], weights, to_params)
    params, state = go_on(tx, state, weights)
    near(params["my frozen/kernel"], np.ones((4, 3)))
    for name, x in case["final"].items():
        near(params[f"my {name}"], x.T)
    again = keras.dump(tx, state, weights, from_params, like=case["checkpoint"], params=params)
    for key, x in case["later"].items():
        near(again[key], x)


def dialect_of(kind, case):
    settings = case["settings"]
    if "saver" in kind or kind.endswith("tensorflow1"):
        return dialects.tensorflow1(**settings)
    return (dialects.keras if "tf_keras" in kind else dialects.tf_keras_legacy)(**settings)


@pytest.mark.parametrize("kind", [k for k in family("tensorflow") if "saver" in k or "object" in k])
def test_tensorflow_goes_on_and_back(kind):
    case = family("tensorflow")[kind]
    tx = dialect_of(kind, case)
    keys = case.get("keys", {n: n for n in case["weights"]})
    name_of = {key: name for name, key in keys.items()}
    weights = {keys[n]: x for n, x in case["weights"].items() if not n.startswith("critic")}
    with_value = {f"{n}{VALUE}": x for n, x in weights.items()}
    counted = any("iter" in k or "global" in k for k in case["checkpoint"])
    steps = {} if counted else {"count": STEPS}
    state = tensorflow.load(tx, case["checkpoint"], weights, to_params, **steps)
    if "object" in kind:
        tensorflow.load(tx, case["checkpoint"], with_value, to_params, **steps)
    params, state = go_on(tx, state, weights, name_of.get)
    for name, x in from_params(params).items():
        near(x, case["final"][name_of[name]])
    again = tensorflow.dump(tx, state, weights, from_params, like=case["checkpoint"])
    slots = [k for k in case["later"] if "RMSProp" in k or "SLOT" in k or "_variables" in k]
    assert set(slots) <= again.keys() <= case["later"].keys()
    for key, x in again.items():
        if kind != "saver" or not key.endswith("_1"):  # which its next step overwrites
            near(x, case["later"][key])


def test_two_optimizers_in_one_graph():
    case = family("tensorflow")["saver_two_optimizers"]
    tx = dialects.tensorflow1(**{**case["settings"], "learning_rate": 0.01, "name": "Critic"})
    weights = {n: x for n, x in case["weights"].items() if n.startswith("critic")}
    state = tensorflow.load(tx, case["checkpoint"], weights, to_params)
    params, _ = go_on(tx, state, weights)
    for name, x in from_params(params).items():
        near(x, case["final"][name])


@pytest.mark.parametrize(
    "kind", [k for k in family("tensorflow") if "saver" not in k and "object" not in k]
)
def test_tf_keras_goes_on_and_back(kind):
    case = family("tensorflow")[kind]
    tx, weights = dialect_of(kind, case), case["weights"]
    state = keras.load(tx, case["checkpoint"], weights, to_params)
    params, state = go_on(tx, state, weights)
    for name, x in from_params(params).items():
        near(x, case["final"][name])
    again = keras.dump(tx, state, weights, from_params, like=case["checkpoint"])
    assert list(again) == list(case["later"])
    for key, x in case["later"].items():
        near(again[key], x)
    more = {**weights, "other:0": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="missing: "):
        keras.load(tx, case["checkpoint"], more, to_params)
