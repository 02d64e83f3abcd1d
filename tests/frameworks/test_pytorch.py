"""The real optimizers of PyTorch and timm, their groups, and checkpoints that are broken."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from rmsprop_jax import dialects, scale_by_rms
from rmsprop_jax.frameworks import accumulators
from rmsprop_jax.interop import pytorch

torch = pytest.importorskip("torch")

SETTINGS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "centered": True}
IMAGES = np.random.default_rng(0).normal(size=(12, 16, 5)).astype(np.float32)


def to_params(named):
    layers = {"0": "first", "2": "second"}
    return {
        ours: {"kernel": named[f"{k}.weight"].T, "bias": named[f"{k}.bias"]}
        for k, ours in layers.items()
    }


def from_params(params):
    layers = {"0": "first", "2": "second"}
    weights = {f"{k}.weight": params[ours]["kernel"].T for k, ours in layers.items()}
    biases = {f"{k}.bias": params[ours]["bias"] for k, ours in layers.items()}
    return {n: torch.from_numpy(np.array(x)) for n, x in {**weights, **biases}.items()}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))


def train(model, optimizer, batches):
    for x in batches:
        optimizer.zero_grad()
        (model(torch.from_numpy(x)) ** 2).sum().backward()
        optimizer.step()


def train_here(tx, params, state, batches):
    @jax.jit
    def step(params, state, x):
        def loss(params):
            hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
            return jnp.sum((hidden @ params["second"]["kernel"] + params["second"]["bias"]) ** 2)

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for x in batches:
        params, state = step(params, state, x)
    return params, state


def weights_of(model, names=None):
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return weights if names is None else {name: weights[name] for name in names}


@pytest.fixture
def checkpoint():
    model = network()
    optimizer = torch.optim.RMSprop(model.parameters(), **SETTINGS)
    train(model, optimizer, IMAGES[:4])
    return copy.deepcopy(optimizer.state_dict()), weights_of(model)


def grouped(model, **settings):
    """No decay on biases, and half the learning rate on the last layer."""
    first, last = model[0], model[2]
    groups = [
        {"params": [first.weight], "weight_decay": 0.1},
        {"params": [first.bias], "weight_decay": 0.0},
        {"params": [last.weight], "weight_decay": 0.1, "lr": 0.005},
        {"params": [last.bias], "weight_decay": 0.0, "lr": 0.005, "momentum": 0.0},
    ]
    return torch.optim.RMSprop(groups, **{**SETTINGS, **settings})


def test_groups_go_there_and_back():
    straight = network()
    train(straight, grouped(straight), IMAGES)

    model = network()
    optimizer = grouped(model)
    train(model, optimizer, IMAGES[:4])
    weights = weights_of(model, ["0.weight", "0.bias", "2.weight", "2.bias"])
    before = copy.deepcopy(optimizer.state_dict())
    tx, state = pytorch.load(before, weights, to_params)
    again = pytorch.dump(tx, state, weights, from_params)
    for mine, theirs in zip(again["param_groups"], before["param_groups"], strict=True):
        assert mine == theirs
    params, state = train_here(tx, to_params(weights), state, IMAGES[4:8])
    model.load_state_dict(from_params(params))
    optimizer = grouped(model, lr=1.0)  # which the checkpoint has otherwise
    optimizer.load_state_dict(pytorch.dump(tx, state, weights, from_params))
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.01, 0.005, 0.005]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0, 0.1, 0.0]
    assert "momentum_buffer" not in optimizer.state[model[2].bias]
    train(model, optimizer, IMAGES[8:])
    for mine, theirs in zip(model.parameters(), straight.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach(), theirs.detach(), atol=2e-6)


def test_groups_in_one_array_are_refused():
    model = network()
    rates = zip(model.parameters(), (1, 2, 1, 2), strict=True)
    groups = [{"params": [p], "lr": lr} for p, lr in rates]
    optimizer = torch.optim.RMSprop(groups)
    train(model, optimizer, IMAGES[:1])
    flat = lambda named: np.concatenate([x.ravel() for x in named.values()])
    with pytest.raises(ValueError, match="several groups into one array"):
        pytorch.load(optimizer.state_dict(), weights_of(model), flat)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("framework", ["pytorch", "timm"])
def test_what_a_real_optimizer_saved_is_exported_again(framework, momentum, centered):
    model, settings = network(), {**SETTINGS, "momentum": momentum, "centered": centered}
    optimizer = oracles.optimizer(framework)(model.parameters(), **settings)
    train(model, optimizer, IMAGES)
    saved, weights = optimizer.state_dict(), weights_of(model)
    tx, state = pytorch.load(saved, weights, to_params)
    assert accumulators.groups_of(tx, state)[0].name == framework
    again = pytorch.dump(tx, state, weights, from_params)
    assert saved["param_groups"][0].items() <= again["param_groups"][0].items()
    for i, slots in saved["state"].items():
        assert slots.keys() == again["state"][i].keys()
        for slot, x in slots.items():
            np.testing.assert_array_equal(np.asarray(x), np.asarray(again["state"][i][slot]))


def test_old_pytorch_and_stable_baselines3_must_be_told_apart(checkpoint):
    saved, weights = checkpoint
    keys = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "params")
    saved["param_groups"] = [{key: saved["param_groups"][0][key] for key in keys}]
    tx, state = pytorch.load(saved, weights, to_params)  # nu can't have started at 1
    assert accumulators.groups_of(tx, state)[0].name == "pytorch"
    with pytest.raises(ValueError, match=r"starts at 1, and that of 0.weight"):
        pytorch.load(saved, weights, to_params, dialect=dialects.stable_baselines3)
    for slots in saved["state"].values():
        slots["square_avg"] += 1.0
    with pytest.raises(ValueError, match=r"pass dialect.*as if it had started at 1"):
        pytorch.load(saved, weights, to_params)
    for dialect in (dialects.pytorch, dialects.stable_baselines3):
        tx, state = pytorch.load(saved, weights, to_params, dialect=dialect)
        assert accumulators.groups_of(tx, state)[0].name == dialect.__name__


# Checkpoints that are broken


def test_all_that_is_wrong_is_said_at_once(checkpoint):
    saved, weights = checkpoint
    del saved["state"][3], saved["state"][0]["grad_avg"]
    saved["state"][1]["square_avg"] = torch.ones(7)
    saved["state"][2]["surprise"] = torch.ones(2)
    saved["state"][9] = {"step": 4, "square_avg": torch.ones(1)}
    with pytest.raises(ValueError, match="nothing was converted") as info:
        pytorch.load(saved, weights, to_params)
    assert str(info.value).splitlines()[1:] == [
        "  missing: 0.weight.grad_avg, float (4, 5)",
        "  wrong: 0.bias.square_avg is float (7,), should be float (4,)",
        "  extra: 2.weight.surprise, float (2,)",
        "  extra: parameter 9, which no group has",
    ]


def test_nan_is_loaded_with_a_warning(checkpoint):
    saved, weights = checkpoint
    saved["state"][0]["square_avg"][0, :2] = torch.nan
    saved["state"][3]["momentum_buffer"][1] = torch.nan
    message = r"holds 3 NaN: 0.weight.square_avg 2, 2.bias.momentum_buffer 1"
    with pytest.warns(UserWarning, match=message):
        _, state = pytorch.load(saved, weights, to_params)
    assert np.isnan(state[2].nu["first"]["kernel"]).sum() == 2


def test_from_params_that_forgets(checkpoint):
    saved, weights = checkpoint
    tx, state = pytorch.load(saved, weights, to_params)
    forgetful = lambda tree: {n: x for n, x in from_params(tree).items() if n != "0.bias"}
    with pytest.raises(ValueError, match=r"missing: 0.bias \(nu\), float \(4,\)"):
        pytorch.dump(tx, state, weights, forgetful)
    straight = lambda tree: {**from_params(tree), "0.weight": tree["first"]["kernel"]}
    with pytest.raises(ValueError, match=r"wrong: 0.weight \(nu\) is float \(5, 4\)"):
        pytorch.dump(tx, state, weights, straight)


def test_dump_of_what_is_not_pytorch(checkpoint):
    _, weights = checkpoint
    params = to_params(weights)
    write = functools.partial(pytorch.dump, weights=weights, from_params=from_params)
    twice = optax.chain(dialects.pytorch(), dialects.pytorch())
    by_hand = optax.chain(scale_by_rms(), optax.scale(-0.1))
    behind = optax.chain(dialects.pytorch(0.1), optax.trace(0.9))
    for tx, says in (
        (dialects.keras(0.1), "keras isn't"),
        (twice, "2 dialects"),
        (by_hand, "no dialect"),
        (optax.sgd(0.1), "no dialect"),
        (behind, "trace changes the updates of pytorch"),
    ):
        with pytest.raises(ValueError, match=says):
            write(tx, tx.init(params))
    in_front = optax.chain(optax.trace(0.9), dialects.pytorch(0.1, momentum=0.5))
    state = in_front.init(params)
    alone = write(dialects.pytorch(0.1, momentum=0.5), state[1])
    jax.tree.map(np.testing.assert_array_equal, write(in_front, state), alone)


def test_bfloat16_weights(checkpoint):
    """A model in bfloat16: float32 accumulators here, and PyTorch casts them back."""
    saved, weights = checkpoint
    model = network().bfloat16()
    optimizer = torch.optim.RMSprop(model.parameters(), **SETTINGS)
    optimizer.load_state_dict(saved)
    weights, narrow = dict(model.named_parameters()), optimizer.state_dict()
    for slots in narrow["state"].values():
        slots["step"] = int(slots["step"])
        slots["square_avg"].requires_grad_()
    tx, state = pytorch.load(narrow, weights, to_params)
    assert state[2].count == 4
    again = pytorch.dump(tx, state, weights, from_params)
    optimizer.load_state_dict(again)
    for i, p in enumerate(model.parameters()):
        mine, theirs = optimizer.state[p]["square_avg"], saved["state"][i]["square_avg"]
        assert mine.dtype == torch.bfloat16
        assert again["state"][i]["square_avg"].dtype == torch.float32
        np.testing.assert_array_equal(mine.float(), theirs.bfloat16().float())


def test_groups_of_different_orders():
    """One group of timm keeps the learning rate in its buffer, the other doesn't."""
    model = network()
    groups = [
        {"params": [model[0].weight, model[0].bias], "lr_in_momentum": True},
        {"params": [model[2].weight, model[2].bias], "lr_in_momentum": False},
    ]
    optimizer = oracles.import_timm_rmsprop()(groups, **SETTINGS)
    train(model, optimizer, IMAGES[:4])
    weights, saved = weights_of(model), copy.deepcopy(optimizer.state_dict())
    tx, state = pytorch.load(saved, weights, to_params)
    params = to_params(copy.deepcopy(weights))
    train(model, optimizer, IMAGES[4:8])
    params, state = train_here(tx, params, state, IMAGES[4:8])
    again = pytorch.dump(tx, state, weights, from_params)
    for i, slots in optimizer.state_dict()["state"].items():
        for slot, x in slots.items():
            np.testing.assert_allclose(np.asarray(again["state"][i][slot]), x, 1e-4, 1e-6)
    for name, x in from_params(params).items():
        np.testing.assert_allclose(x, weights_of(model)[name], atol=2e-6)
