"""Export, import, export again: the second export is the first, bit for bit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import checks, dialects, interop, recipes
from rmsprop_jax.frameworks import accumulators

SCHEDULE = optax.linear_schedule(0.1, 0.05, 20)
SWITCH = (False, True)
MOMENTUM = {"momentum": (0, 0.9)}


def grid(**options):
    values = itertools.product(*options.values())
    return [dict(zip(options, v, strict=True)) for v in values]


def to_params(named):
    return {"dense": {"kernel": jnp.asarray(named["w"]).T, "bias": jnp.asarray(named["b"])}}


def from_params(params):
    dense = params["dense"]
    return {"b": np.asarray(dense["bias"]), "w": np.asarray(dense["kernel"]).T}


WEIGHTS = {"w": np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5), "b": np.ones(3, np.float32)}


def trained(tx, weights=WEIGHTS, to_params=to_params):
    """A state as after 7 steps; made up, since what it is doesn't matter."""
    random = np.random.default_rng(0)

    def fill(x):
        if x.dtype == np.int32:
            return jnp.asarray(7, x.dtype)
        # Much of the second moment is the mean's; and nu is what may have started at 1.
        return jnp.asarray(random.uniform(1.0, 2.0, x.shape), x.dtype)

    return jax.tree.map(fill, tx.init(to_params(weights)))


def bits(saved):
    """A checkpoint as something to compare, bit for bit and with its structure."""
    return jax.tree.map(lambda x: (np.asarray(x).dtype.name, np.asarray(x).tobytes()), saved)


def near(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-6), left, right)


def calls(dialect, /, **options):
    return [(dialect, chosen) for chosen in grid(**MOMENTUM, **options)]


DECOUPLED = {"weight_decay": (0.03,), "decoupled_decay": (True,), "max_lr": (0.1,)}
PYTORCH = [
    *calls(dialects.pytorch, centered=SWITCH, weight_decay=(0, 0.01), maximize=SWITCH),
    *calls(dialects.stable_baselines3, centered=SWITCH),
    *calls(dialects.timm, centered=SWITCH, lr_in_momentum=SWITCH, caution=SWITCH),
    *calls(dialects.timm, corrected_weight_decay=SWITCH, **DECOUPLED),
]


@pytest.mark.parametrize("lr", [0.01, SCHEDULE], ids=["constant", "schedule"])
@pytest.mark.parametrize(("dialect", "options"), PYTORCH)
def test_pytorch(dialect, options, lr):
    tx = dialect(lr, **options)
    state = trained(tx)
    first = interop.pytorch.dump(tx, state, WEIGHTS, from_params)
    told = dialect if dialect is dialects.stable_baselines3 else None
    again, loaded = interop.pytorch.load(
        first, WEIGHTS, to_params, lr=lr if callable(lr) else None, dialect=told
    )
    second = interop.pytorch.dump(again, loaded, WEIGHTS, from_params)
    assert bits(first) == bits(second)
    near(state, loaded)
    assert ("momentum_buffer" in first["state"][0]) == bool(options["momentum"])
    assert first["param_groups"][0]["lr"] == (0.01 if lr == 0.01 else float(SCHEDULE(7)))


def test_bitsandbytes():
    tx = dialects.pytorch(0.01, 0.9, weight_decay=0.1)
    first = interop.pytorch.dump(tx, trained(tx), WEIGHTS, from_params, bitsandbytes=True)
    group = {"lr": 0.01, "betas": (0.9, 0), "eps": 1e-8, "weight_decay": 0.1, "params": [0, 1]}
    assert first["param_groups"] == [group]
    assert first["state"][0].keys() == {"step", "__bnb_optimizer_quant_state__"}
    again, loaded = interop.pytorch.load(first, WEIGHTS, to_params)
    second = interop.pytorch.dump(again, loaded, WEIGHTS, from_params, bitsandbytes=True)
    assert bits(first) == bits(second)
    live = {0: {"step": 7, "state1": np.ones((3, 5))}, 1: {"step": 7, "state1": np.ones(3)}}
    _, loaded = interop.pytorch.load({**first, "state": live}, WEIGHTS, to_params)
    assert (loaded[2].nu["dense"]["kernel"] == 1).all()
    for bad in (dialects.pytorch(momentum=0.9), dialects.pytorch(centered=True), dialects.timm()):
        with pytest.raises(ValueError, match="bitsandbytes has"):
            interop.pytorch.dump(bad, trained(bad), WEIGHTS, from_params, bitsandbytes=True)


def test_pytorch_complex():
    weights = {"w": np.ones((3, 5), np.complex64), "b": np.ones(3, np.float32)}
    for momentum, centered in itertools.product((0, 0.9), SWITCH):
        tx = dialects.pytorch(momentum=momentum, centered=centered)
        state = trained(tx, weights=weights)
        first = interop.pytorch.dump(tx, state, weights, from_params)
        assert first["state"][0]["square_avg"].dtype == np.complex64
        again, loaded = interop.pytorch.load(first, weights, to_params)
        assert jax.tree.structure(loaded) == jax.tree.structure(state)
        assert bits(first) == bits(interop.pytorch.dump(again, loaded, weights, from_params))
    slots = {i: {"step": 1, "square_avg": x} for i, x in enumerate(weights.values())}
    tx = dialects.timm()
    params = to_params({n: x.real for n, x in weights.items()})
    group = interop.pytorch.dump(tx, tx.init(params), WEIGHTS, from_params)["param_groups"]
    with pytest.raises(ValueError, match=r"dialects.pytorch only"):
        interop.pytorch.load({"state": slots, "param_groups": group}, weights, to_params)


KERAS = [
    *calls(dialects.keras, centered=SWITCH, weight_decay=(None, 0.1)),
    *calls(dialects.tf_keras_legacy, centered=SWITCH),
]


@pytest.mark.parametrize("lr", [0.01, SCHEDULE], ids=["constant", "schedule"])
@pytest.mark.parametrize(("dialect", "options"), KERAS)
def test_keras(dialect, options, lr):
    tx = dialect(lr, **options)
    state = trained(tx)
    first = interop.keras.dump(tx, state, WEIGHTS, from_params)
    in_order = list(first.values())
    numbered = {str(i): x for i, x in enumerate(in_order)}
    # As h5py has them: 10 before 2.
    for saved in (first, in_order, dict(sorted(numbered.items()))):
        loaded = interop.keras.load(tx, saved, WEIGHTS, to_params)
        assert bits(interop.keras.dump(tx, loaded, WEIGHTS, from_params)) == bits(first)
        near(state, loaded)


def test_keras_legacy_without_iter():
    tx = dialects.tf_keras_legacy(0.01, momentum=0.9)
    _, *slots = interop.keras.dump(tx, trained(tx), WEIGHTS, from_params).values()
    loaded = interop.keras.load(tx, slots, WEIGHTS, to_params, count=7)
    assert loaded[1].count == 7
    scheduled = dialects.tf_keras_legacy(SCHEDULE, momentum=0.9)
    with pytest.raises(ValueError, match="pass count"):
        interop.keras.load(scheduled, slots, WEIGHTS, to_params)


TENSORFLOW = [
    (*call, name)
    for dialect, *names in (
        (dialects.tensorflow1, None, "opt"),
        (dialects.tf_keras_legacy, "optimizer"),
    )
    for call in calls(dialect, centered=SWITCH)
    for name in names
]


@pytest.mark.parametrize("lr", [0.01, SCHEDULE], ids=["constant", "schedule"])
@pytest.mark.parametrize(("dialect", "options", "optimizer"), TENSORFLOW)
def test_tensorflow(dialect, options, optimizer, lr):
    tx = dialect(lr, **options)
    state = trained(tx)
    first = interop.tensorflow.dump(tx, state, WEIGHTS, from_params, optimizer=optimizer)
    saved = {**first, **WEIGHTS, "global_step": np.int64(7), "w/Adam": np.ones(1)}
    loaded = interop.tensorflow.load(tx, saved, WEIGHTS, to_params)
    second = interop.tensorflow.dump(tx, loaded, WEIGHTS, from_params, optimizer=optimizer)
    assert bits(first) == bits(second)
    near(state, loaded)
    if callable(lr) and optimizer is None:
        with pytest.raises(ValueError, match="pass count"):
            interop.tensorflow.load(tx, first, WEIGHTS, to_params)


OPTAX = grid(momentum=(None, 0, 0.9), nesterov=SWITCH, centered=SWITCH, bias_correction=SWITCH)


@pytest.mark.parametrize("lr", [0.01, SCHEDULE], ids=["constant", "schedule"])
@pytest.mark.parametrize("options", OPTAX)
def test_optax(options, lr):
    params = to_params(WEIGHTS)
    tx = dialects.optax(lr, **options)
    state = trained(tx)
    first = interop.optax.dump(tx, state, params)
    theirs = optax.rmsprop(lr, **options).init(params)
    assert jax.tree.structure(first) == jax.tree.structure(theirs)
    loaded = interop.optax.load(tx, first, params, count=7)
    near(state, loaded)
    assert bits(first) == bits(interop.optax.dump(tx, loaded, params))


def test_moments_are_inverse():
    """Whatever the numbers are, the second export of a centered state is the first."""
    random = np.random.default_rng(0)
    any_size = lambda high: np.ldexp(
        random.uniform(0.5, 1, 100_000), random.integers(-149, high, 100_000)
    )
    nu, mu = any_size(60).astype(np.float32), any_size(30).astype(np.float32)
    nu[:300], mu[100:400] = 0, 0
    mu[::2] *= -1
    second = accumulators.second_moment(nu, mu)
    again = accumulators.second_moment(accumulators.variance(second, mu), mu)
    assert second.dtype == np.float32
    np.testing.assert_array_equal(again, second, strict=True)


def test_what_stands_around_a_dialect():
    tx = recipes.pymarl()
    saved = interop.pytorch.dump(tx, trained(tx), WEIGHTS, from_params)
    assert saved["param_groups"][0]["alpha"] == 0.99
    near(saved["state"][0]["square_avg"], from_params(trained(tx)[1][2].nu)["w"])
    for bad in (optax.chain(tx, tx), optax.sgd(0.1), recipes):
        with pytest.raises((ValueError, AttributeError)):
            interop.pytorch.dump(bad, bad.init(to_params(WEIGHTS)), WEIGHTS, from_params)


def test_given_is_what_makes_a_buffer():
    assert not checks.given(0)
    tx = dialects.pytorch(momentum=jnp.float32(0))
    assert (
        "momentum_buffer" in interop.pytorch.dump(tx, trained(tx), WEIGHTS, from_params)["state"][0]
    )
