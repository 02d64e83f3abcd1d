"""Training: against PyTorch and NumPy, what it says and writes, and what it refuses."""

import dataclasses
import datetime
import functools
import json
import sys
from pathlib import Path
from typing import Any

import digits
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits import REAL, real_mnist
from flax import nnx
from runs import DIGITS, NAME, assert_identical

from rmsprop_jax.examples import data
from rmsprop_jax.examples import mnist as example
from rmsprop_jax.trainer import commands, mnist, reports, training
from rmsprop_jax.trainer.mnist import train
from rmsprop_jax.trainer.models import MODELS
from rmsprop_jax.trainer.options import Config, checked


@pytest.fixture(scope="module")
def base():
    return train(DIGITS)


# The numbers.


@real_mnist
@pytest.mark.nightly  # NumPy says the same of the digits every day
def test_same_as_pytorch(request):
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for batches this small, more only wait for each other
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    config = Config(data_dir=REAL, devices=1, epochs=2)
    ours = train(config)
    dataset = data.load("mnist", REAL)
    x, tx = (
        torch.tensor(a.reshape(len(a), -1) / np.float32(255))
        for a in (dataset.train_images, dataset.test_images)
    )
    y, ty = (torch.tensor(a.astype(np.int64)) for a in (dataset.train_labels, dataset.test_labels))
    start: Any = nnx.state(MODELS["linear"](28, 28, rngs=nnx.Rngs(0)), nnx.Param)
    model = torch.nn.Linear(784, 10)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.asarray(start["out"]["kernel"][...])))
        model.bias.copy_(torch.tensor(np.asarray(start["out"]["bias"][...])))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-8)
    for epoch, loss, accuracy, *_ in ours.history:
        order = training.shuffled(config, epoch, len(y)).ravel()
        assert sorted(order[order >= 0]) == list(range(60_000))
        total = 0.0
        for rows in torch.split(torch.tensor(order[order >= 0]), 64):
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
        with torch.no_grad():
            theirs = (model(tx).argmax(1) == ty).double().mean().item()
        assert loss == pytest.approx(total / 60_000, abs=1e-6)
        assert accuracy == pytest.approx(theirs, abs=3e-4)


def assert_same_as_numpy(result, **options):
    expected = digits.regression(len(result.history), **options)
    for ours, (loss, accuracy, _) in zip(result.history, expected, strict=True):
        assert ours.loss == pytest.approx(loss, abs=1e-5)
        assert ours.test_accuracy == pytest.approx(accuracy, abs=0.003)  # one on the edge


def test_same_as_numpy(base):
    assert_same_as_numpy(base)  # with a short last batch


def test_batches():
    np.testing.assert_array_equal(training.batches(np.arange(5), 3), [[0, 1, 2], [3, 4, -1]])
    np.testing.assert_array_equal(training.batches(np.arange(3), 5), [[0, 1, 2]])


def test_padding_does_not_reach_the_model():
    """BatchNorm sees the real images only, and so do the logits, in training too."""
    images = data.load("digits").train_images[:16].astype(np.float32) / np.float32(255)
    new = lambda: MODELS["cnn"](8, 8, rngs=nnx.Rngs(1))
    graphdef, shapes = nnx.split(nnx.eval_shape(new))
    random = np.random.default_rng(0)  # without the time to compile JAX's
    start = jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(x.dtype), shapes)

    @jax.jit
    def run(start, images, real):
        model = nnx.merge(graphdef, start)
        model.dropout.rate = 0.0  # each place has random numbers of its own
        logits = model(images, real, nnx.Rngs(0))[:16]
        return logits, jax.tree.leaves(nnx.state(model, nnx.BatchStat))

    # The same images twice have the averages that they have once.
    one, own = run(start, np.concatenate([images, images]), np.full(32, True))
    padded = np.concatenate([images, np.full_like(images, 9.0)])
    two, others = run(start, padded, np.arange(32) < 16)
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert len(own) == 4
    for a, b in zip(own, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("model", "enough"), [("mlp", 0.88), pytest.param("cnn", 0.85, marks=pytest.mark.nightly)]
)
@pytest.mark.usefixtures("compiled_quickly")
def test_models_learn_and_predict(model, enough):
    with jax.numpy_dtype_promotion("strict"):
        result = train(dataclasses.replace(DIGITS, model=model, epochs=8))
    assert [epoch.epoch for epoch in result.history] == list(range(1, 9))
    assert result.history[-1].test_accuracy >= enough
    result.model.eval()
    dataset = data.load("digits")
    images = np.float32(dataset.test_images) / 255
    right = (
        np.asarray(nnx.jit(lambda model, x: model(x).argmax(-1))(result.model, images))
        == dataset.test_labels
    )
    assert right.mean() == pytest.approx(result.history[-1].test_accuracy, abs=0.003)


def test_every_argument_counts():
    """Those of the optimizers in their updates, all in one program; the others in the order."""
    changes = [{}, {"learning_rate": 2e-3}, {"decay": 0.8}, {"eps": 1e-3}, {"momentum": 0.5}]
    changes += [{"centered": True}, {"schedule": "cosine"}, {"schedule": "plateau"}]
    changes += [{"optimizer": "adam"}, {"optimizer": "adam", "eps": 1e-3}]
    changes += [{"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5}]
    configs = [checked(dataclasses.replace(DIGITS, **change)) for change in changes]
    txs = [training.make_optimizer(config, 2) for config in configs]

    @jax.jit
    def last(grads):
        def step(states, g):
            new = [tx.update(g, s, g, value=g) for tx, s in zip(txs, states, strict=True)]
            return [state for _, state in new], jnp.stack([update for update, _ in new])

        return jax.lax.scan(step, [tx.init(grads[0]) for tx in txs], grads)[1][-1]

    updates = np.asarray(last(np.array([1, 2, 3, 5, 8], np.float32) / 100))
    assert len({float(update) for update in updates}) == len(changes)
    orders = [training.shuffled(dataclasses.replace(DIGITS, **c), 1, 99).tolist()
              for c in ({}, {"seed": 1}, {"batch_size": 65})]  # fmt: skip
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_defaults_given_are_defaults_left_out(base):
    """And the same program, compiled once for all epochs."""
    functions: list[Any] = [training.train_epoch, training.count_correct]
    before = [function._cache_size() for function in functions]
    assert_identical(train(dataclasses.replace(DIGITS, decay=0.9, eps=1e-8)), base)
    grown = [f._cache_size() - size for f, size in zip(functions, before, strict=True)]
    assert grown == [1, 0]


# What it says, and where.


def test_report_and_picture(tmp_path, monkeypatch, capsys):
    """And lines above a bar on a terminal; of a run in two steps an epoch."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    report, picture = tmp_path / "a.json", tmp_path / "a.png"
    report.write_text("old")
    config = dataclasses.replace(DIGITS, epochs=3, batch_size=1000, momentum=0.5)
    result = train(dataclasses.replace(config, schedule="cosine", json=report, plot=picture))
    rate = lambda step: 5e-4 * (1 + np.cos(np.pi * step / 6))
    assert_same_as_numpy(result, batch_size=1000, rate=rate, momentum=0.5)
    rates = [epoch.learning_rate for epoch in result.history]
    assert rates == pytest.approx([rate(2), rate(4), 0], abs=1e-9)
    about = json.loads(report.read_text())
    assert about["schema"] == 1
    assert datetime.datetime.fromisoformat(about["date"]).year >= 2026
    assert about["dataset"] == NAME
    assert about["config"]["decay"] == 0.9
    assert about["config"]["momentum"] == 0.5
    assert set(about["config"]) == {field.name for field in dataclasses.fields(Config)}
    assert about["versions"]["jax"] == jax.__version__
    assert "cpu" in about["device"]
    assert [tuple(epoch.values()) for epoch in about["epochs"]] == result.history
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.png"]
    out, err = capsys.readouterr()
    for (epoch, loss, accuracy, *_), line in zip(result.history, out.splitlines(), strict=True):
        start = f"{NAME}: epoch {epoch}/3, training loss {loss:.4f}, test accuracy {accuracy:.2%}, "
        assert line.startswith(start)
        assert line.endswith(" s")
    assert "3/3" in err
    assert all(NAME in bar for bar in err.split("\r") if bar.strip())


def test_learning_rates_that_change_are_drawn(base, tmp_path, monkeypatch):
    labels: list[str] = []
    told = lambda path, figure: labels.extend(panel.get_ylabel() for panel in figure.axes)
    monkeypatch.setattr(reports, "write_figure", told)
    assert [epoch.learning_rate for epoch in base.history] == [1e-3] * 2
    reports.draw(tmp_path / "a.png", "title", base.history)
    assert labels == ["mean training loss", "test accuracy, %"]
    falling = [row._replace(learning_rate=1e-3 / row.epoch) for row in base.history]
    reports.draw(tmp_path / "a.png", "title", falling)
    assert labels[2:] == [*labels[:2], "learning rate after the epoch"]


def test_json_of_a_run_that_diverged(tmp_path):
    epoch = mnist.Epoch(1, float("nan"), 0.1, 2.0)
    reports.write_json(tmp_path / "a.json", {}, NAME, [epoch])
    text = (tmp_path / "a.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert report["epochs"] == [epoch._asdict() | {"loss": None, "learning_rate": None}]


# Who runs: the example, or the trainer.


@pytest.mark.parametrize(
    ("args", "count", "given"),
    [
        ([], 1, {}),
        (["--model", "cnn", "--epochs", "3", "--centered"], 1, {"epochs": 3, "centered": True}),
        ([], 8, None),
        (["--model", "mlp"], 1, None),
        (["--optimizer", "sgd"], 1, None),
        (["--save", "here"], 1, None),
    ],
    ids=str,
)
def test_the_example_runs_what_it_can(monkeypatch, capsys, args, count, given):
    """And says on a terminal what takes so long; the trainer has a bar."""
    ran: list[Any] = []
    fake = functools.wraps(example.train)(lambda **options: ran.append(options))
    monkeypatch.setattr(jax, "local_device_count", lambda: count)
    monkeypatch.setattr(example, "train", fake)
    monkeypatch.setattr(mnist, "train", ran.append)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    commands.mnist(args)
    said = "compiling the first epoch ...\n" in capsys.readouterr().err
    assert said == (given is not None)
    (got,) = ran
    assert isinstance(got, Config) if given is None else given.items() <= got.items()


# What it refuses.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": 2**32}, "seed=4294967296 is out of range"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range"),
        ({"learning_rate": float("inf")}, "learning_rate=inf is out of range"),
        ({"decay": 1.0}, "decay=1.0 is out of range"),
        ({"eps": -1.0}, "eps=-1.0 is out of range"),
        ({"momentum": 1.0}, "momentum=1.0 is out of range"),
        ({"optimizer": "adam", "decay": 0.9}, "decay=0.9 .* adam.* optimizer=rmsprop"),
        ({"optimizer": "sgd", "decay": 0.0}, "decay=0.0 .* sgd.* optimizer=rmsprop"),
        ({"optimizer": "adam", "centered": True}, "centered=True .* adam"),
        ({"optimizer": "adam", "momentum": 0.0}, "momentum=0.0 .* adam.*rmsprop or sgd"),
        ({"optimizer": "sgd", "eps": 1e-8}, "eps=1e-08 .* sgd.*rmsprop or adam"),
        ({"optimizer": "lion"}, "optimizer='lion' is none of rmsprop, adam, sgd"),
        ({"model": "resnet"}, "model='resnet' is none of"),
        ({"schedule": "warmup"}, "schedule='warmup' is none of"),
        ({"dataset": "cifar"}, "dataset='cifar' is none of"),
        ({"plot": Path("nowhere/a.png")}, "plot='nowhere/a.png' can't be written"),
        ({"json": Path("nowhere/a.json")}, "json='nowhere/a.json' can't be written"),
        ({"plot": Path("a.jpg")}, r"plot='a.jpg' doesn't end in .png"),
        ({"json": Path()}, "json='.' can't be written"),
        ({"devices": 0}, "devices=0 is out of range"),
        ({"devices": 9}, "devices=9, but JAX finds 8 here"),
        ({"processes": 4}, "processes=4 needs coordinator='HOST:PORT', but that is None"),
        ({"process_id": 0}, "process_id=0 needs coordinator='HOST:PORT', but that is None"),
        ({"coordinator": "auto", "processes": 4}, "processes=4 needs .* but that is 'auto'"),
        ({"coordinator": "here:1"}, "processes=None is missing: a coordinator needs it"),
        ({"coordinator": "here:1", "processes": 4}, "process_id=None is missing"),
        ({"coordinator": "here", "processes": 4}, "coordinator='here' is neither HOST:PORT nor"),
        ({"coordinator": "h:1", "processes": 0, "process_id": 0}, "processes=0 is out of range"),
        ({"coordinator": "h:1", "processes": 4, "process_id": 4}, "process_id=4 is out of range"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refusals(monkeypatch, change, message):
    monkeypatch.setattr(mnist, "load", lambda *args: pytest.fail("data was loaded"))
    with pytest.raises(ValueError, match=message):
        train(Config(**change))
