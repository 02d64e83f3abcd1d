"""Broken and foreign checkpoints: one clear error each, nothing half-loaded, nothing executed."""

import copy
import io
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from real_checkpoints import family

from rmsprop_jax import dialects, rmsprop
from rmsprop_jax.interop import keras, pytorch, restore, tensorflow
from rmsprop_jax.interop import optax as optax_states

same = lambda named: dict(named)
NAN = float("nan")


class Bomb:
    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def group(saved):
    return saved["param_groups"][0]


def slots(saved, i=0):
    return saved["state"][i]


def put(place, key, value):
    """A change of one entry of a checkpoint."""
    return lambda saved: place(saved).__setitem__(key, value)


def drop(place, key):
    return lambda saved: place(saved).pop(key)


top = lambda saved: saved
LOOKAHEAD = family("timm")["lookahead"]["checkpoint"]
PYTORCH = {  # how a real checkpoint is changed, or what stands in its place; the error
    "a path": ("optimizer.pt", "must be what"),
    "bytes": (pickle.dumps(Bomb()), "must be what"),
    "an open file": (io.BytesIO(pickle.dumps(Bomb())), "must be what"),
    "a list": ([1, 2], "must be what"),
    "None": (None, "must be what"),
    "nothing": ({}, "must be what"),
    "no groups": (drop(top, "param_groups"), "must be what"),
    "no state": (drop(top, "state"), "must be what"),
    "a model's": ({"0.weight": np.ones(3)}, "must be what"),
    "a checkpoint around it": (
        {"optimizer": family("pytorch")["foreach"]["checkpoint"]},
        "'optimizer'",
    ),
    "state is a list": (put(top, "state", []), "must be what"),
    "groups are a number": (put(top, "param_groups", 3), "list of dictionaries"),
    "groups of numbers": (put(top, "param_groups", [3]), "list of dictionaries"),
    "groups are empty": (put(top, "param_groups", []), "no parameters"),
    "no params": (drop(group, "params"), "0 parameters"),
    "params are a number": (put(group, "params", 8), "0 parameters"),
    "a parameter twice": (put(group, "params", [0, 1, 2, 3, 4, 5, 6, 6]), "several times"),
    "too few params": (put(group, "params", [0, 1, 2]), "3 parameters, weights has 8"),
    "too few names": (put(group, "param_names", ["0.weight"]), "1 param_names for 8"),
    "other names": (put(group, "param_names", list("abcdefgh")), "none by these names: a, b"),
    "no lr": (drop(group, "lr"), "missing: param_groups.0..lr"),
    "no alpha": (drop(group, "alpha"), "missing: param_groups.0..alpha"),
    "lr is NaN": (put(group, "lr", NAN), "lr"),
    "lr is text": (put(group, "lr", "fast"), "lr"),
    "alpha is 1.5": (put(group, "alpha", 1.5), "alpha"),
    "eps is negative": (put(group, "eps", -1.0), "eps"),
    "momentum is None": (put(group, "momentum", None), "extra: 0.weight.momentum_buffer"),
    "not centered": (put(group, "centered", False), "extra: 0.weight.grad_avg"),
    "step is NaN": (put(slots, "step", NAN), "step of 0.weight is nan"),
    "step is negative": (put(slots, "step", -1), "step of 0.weight is -1"),
    "step is a half": (put(slots, "step", 0.5), "step of 0.weight is 0.5"),
    "step is infinite": (put(slots, "step", float("inf")), "step of 0.weight is inf"),
    "step is text": (put(slots, "step", "seven"), "array of numbers"),
    "no step": (drop(slots, "step"), "step of 0.weight"),
    "slots are an array": (put(lambda s: s["state"], 0, np.ones(3)), "a dictionary for each"),
    "no square_avg": (drop(slots, "square_avg"), "missing: 0.weight.square_avg"),
    "no grad_avg": (drop(slots, "grad_avg"), "missing: 0.weight.grad_avg"),
    "another slot": (put(slots, "surprise", np.ones(2)), "extra: 0.weight.surprise"),
    "a parameter too many": (put(lambda s: s["state"], 99, {"step": 1}), "parameter 99"),
    "a wrong shape": (put(slots, "square_avg", np.ones((4, 4))), "wrong: 0.weight.square_avg"),
    "integers": (put(slots, "square_avg", np.ones((4, 3), int)), "wrong: 0.weight.square_avg"),
    "negative squares": (put(slots, "square_avg", np.full((4, 3), -1.0)), "negative: 0.weight"),
    "squares that are text": (put(slots, "square_avg", "abc"), "array of numbers"),
    "squares that are None": (put(slots, "square_avg", None), "array of numbers"),
    "squares that are a pickle": (put(slots, "square_avg", pickle.dumps(Bomb())), "array of num"),
    "objects": (put(slots, "square_avg", np.array(Bomb(), object)), "array of numbers"),
    "a momentum for a mean": (put(slots, "grad_avg", np.full((4, 3), 99.0)), "no average"),
    "a momentum that is cycled": (put(group, "max_momentum", 0.95), "cycles the momentum"),
    "bytes without a table": (put(slots, "state1", np.ones((4, 3), np.uint8)), "qmap1"),
    "Adam's": (put(slots, "exp_avg_sq", np.ones((4, 3))), "of Adam"),
    "SGD's": (put(group, "nesterov", False), "of SGD"),
    "Adagrad's": (put(group, "lr_decay", 0.0), "of Adagrad"),
    "Adadelta's": (put(slots, "acc_delta", np.ones((4, 3))), "of Adadelta"),
    "Lookahead's": (LOOKAHEAD, "Lookahead"),
    "two optimizers of Lightning": ({"optimizer_states": [{}, {}]}, "2 optimizers"),
}


@pytest.mark.parametrize("case", PYTORCH)
def test_pytorch(case):
    change, says = PYTORCH[case]
    recorded = family("pytorch")["parameters"]
    saved = copy.deepcopy(recorded["checkpoint"])
    if callable(change):
        change(saved)
    else:
        saved = change
    with pytest.raises((ValueError, TypeError), match=says) as info:
        pytorch.load(saved, recorded["weights"], same)
    assert type(info.value) in (ValueError, TypeError)
    assert not Bomb.went_off


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([np.ones((4, 3))], "dictionary of arrays by name.* not list"),
        ((x for x in ()), "not generator"),
        ({"1.running_mean": np.ones(4)}, "no buffers, which are 1.running_mean"),
        ({"0.weight": "text"}, "array of numbers"),
        ({}, "8 parameters, weights has 0"),
    ],
)
def test_weights(weights, says):
    recorded = family("pytorch")["parameters"]
    if isinstance(weights, dict) and "1.running_mean" in weights:
        weights = {**recorded["weights"], **weights}
    with pytest.raises((ValueError, TypeError), match=says):
        pytorch.load(recorded["checkpoint"], weights, same)


@pytest.mark.parametrize("wrong", [dialects.keras, rmsprop, dialects.timm])
def test_the_dialect_of_another_framework(wrong):
    recorded = family("pytorch")["parameters"]
    with pytest.raises(ValueError, match="dialect="):
        pytorch.load(recorded["checkpoint"], recorded["weights"], same, dialect=wrong)


def test_rates():
    recorded = family("pytorch")["groups"]
    order = sorted(recorded["weights"], key=lambda n: recorded["weights"][n].ndim <= 1)
    weights = {n: recorded["weights"][n] for n in order}
    for lr, says in (([0.1], "1 learning rates for 2"), (0.1, "different learning rates")):
        with pytest.raises(ValueError, match=says):
            pytorch.load(recorded["checkpoint"], weights, same, lr=lr, in_order=True)
    with pytest.raises(ValueError, match="frozen: weights has no head"):
        pytorch.load(recorded["checkpoint"], weights, same, in_order=True, frozen=["head"])


def test_lr_scale_multiplies_a_single_schedule():
    recorded = family("timm")["lr_scale"]
    schedule = lambda count: 0.1 / (1 + count)
    tx, state = pytorch.load(
        recorded["checkpoint"], recorded["weights"], same, lr=schedule, in_order=True
    )
    saved = pytorch.dump(tx, state, recorded["weights"], same, like=recorded["checkpoint"])
    assert [g["lr"] for g in saved["param_groups"]] == pytest.approx([0.05 / 7, 0.1 / 7])


def replaced(key, value):
    return lambda saved: {**saved, key: value}


def removed(ending):
    return lambda saved: {k: x for k, x in saved.items() if not k.endswith(ending)}


KERNEL = "rm_sprop/sequential_dense_kernel"
KERAS = {
    "nothing": (lambda saved: {}, "variables, where tx needs"),
    "no velocities": (removed("_velocity"), "missing: "),
    "no momentums": (removed("_momentum"), "missing: "),
    "a wrong shape": (replaced(f"{KERNEL}_velocity", np.ones((4, 3))), "wrong: "),
    "one too many": (replaced("rm_sprop/extra", np.ones(3)), "extra: rm_sprop/extra"),
    "negative": (replaced(f"{KERNEL}_velocity", -np.ones((3, 4))), "negative"),
    "no mean": (replaced(f"{KERNEL}_average_gradient", np.full((3, 4), 99.0)), "no average"),
    "NaN updates": (replaced("rm_sprop/iteration", np.float32(NAN)), "iteration is"),
    "text": (replaced(f"{KERNEL}_velocity", "text"), "array of numbers"),
    "a list of another length": (lambda saved: list(saved.values())[:-3], "where tx needs"),
    "one too few": (lambda saved: list(saved.values())[:-1], "wrong: "),
    "weights alone": (lambda saved: {"layers/dense/vars/0": np.ones(3)}, "without its optimizer"),
    "Adam's": (lambda s: {k.replace("average_gradient", "v"): x for k, x in s.items()}, "missing"),
}


@pytest.mark.parametrize("case", KERAS)
def test_keras(case):
    change, says = KERAS[case]
    recorded = family("keras")["by_path"]
    tx = dialects.keras(**recorded["config"])
    with pytest.raises((ValueError, TypeError), match=says):
        keras.load(tx, change(recorded["checkpoint"]), recorded["weights"], same)


TENSORFLOW = {
    "nothing": (lambda saved: {}, "missing: "),
    "no rms": (removed("/RMSProp"), "missing: "),
    "one slot too few": (removed("/RMSProp_2"), "missing: "),
    "a slot of another": (replaced("other/RMSProp", np.ones(3)), "extra: other/RMSProp"),
    "a wrong shape": (replaced("net/hidden/bias/RMSProp", np.ones(3)), "wrong: net/hidden/bias"),
    "negative": (replaced("net/hidden/bias/RMSProp", -np.ones(4)), "negative"),
    "two steps": (replaced("global_step", np.float32(NAN)), "number of updates is"),
    "Adam's": (lambda s: {k.replace("RMSProp", "Adam"): x for k, x in s.items()}, "missing: "),
}


@pytest.mark.parametrize("case", TENSORFLOW)
def test_tensorflow(case):
    change, says = TENSORFLOW[case]
    recorded = family("tensorflow")["saver_centered"]
    tx = dialects.tensorflow1(**recorded["settings"])
    with pytest.raises(ValueError, match=says):
        tensorflow.load(tx, change(recorded["checkpoint"]), recorded["weights"], same)


def test_slots_that_end_alike():
    tx = dialects.tensorflow1(0.1)
    slots = {f"{s}/w/RMSProp{n}": np.ones(2) for s in ("a", "b") for n in ("", "_1")}
    with pytest.raises(ValueError, match="Several names in the file end in w/RMSProp: a/w"):
        tensorflow.load(tx, slots, {"w": np.ones(2, np.float32)}, same)


def test_restore_never_executes_a_pickle(tmp_path):
    bomb, path = pickle.dumps(Bomb()), tmp_path / "bomb.npz"
    np.savez(path, **{"0/nu": np.array(Bomb(), object)})
    with np.load(path) as file, pytest.raises(ValueError, match="allow_pickle"):
        restore(rmsprop(0.1), file, jnp.ones(2))
    for hidden in (bomb, path, str(path)):
        with pytest.raises(TypeError, match="an array of numbers"):
            restore(rmsprop(0.1), hidden, jnp.ones(2))
    assert not Bomb.went_off
    pickle.loads(bomb)  # it would have
    assert Bomb.went_off
    Bomb.went_off = False


@pytest.mark.parametrize("saved", ["text", b"bytes", 3, None, [], {"0": {"nu": "text"}}])
def test_optax(saved):
    with pytest.raises((ValueError, TypeError), match=r"nothing was converted|array of numbers"):
        optax_states.load(dialects.optax(0.1), saved, {"w": jnp.ones(2)})


def test_a_state_of_other_options_is_no_state_of_tx():
    """It isn't written, since what tx has no place for would be lost."""
    params = {"w": jnp.ones(2)}
    on, off = {"momentum": 0.9, "centered": True}, {}
    for had, has in ((on, off), (off, on), ({"centered": True}, off), ({"momentum": 0.9}, off)):
        state = dialects.pytorch(**had).init(params)
        with pytest.raises(ValueError, match=r"opt_state|state of"):
            pytorch.dump(dialects.pytorch(**has), state, params, same)
