"""The MNIST example: against PyTorch and NumPy, killed and resumed, and what it says and refuses.

What needs no real MNIST runs on scikit-learn's digits, which takes milliseconds.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from test_data import REAL, real_mnist

from rmsprop_jax.examples import data, mnist
from rmsprop_jax.examples.mnist import Config, train

DIGITS = Config(dataset="digits", epochs=2, devices=1)
NAME = "scikit-learn digits (8x8, NOT MNIST)"


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's Adam and reduce_on_plateau don't run under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def spy(monkeypatch):
    """Fails the test if any data is loaded."""

    def load(*args):
        pytest.fail(f"data was loaded: {args}")

    monkeypatch.setattr(mnist, "load", load)


def arrays(result):
    return jax.tree.leaves(nnx.state(result.model))


def results(result):
    """What must not depend on the clock."""
    return [epoch[:3] for epoch in result.history]


def assert_identical(one, two):
    assert results(one) == results(two)
    for a, b in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


# The numbers.


@real_mnist
def test_same_as_pytorch(request):
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for batches this small, more only wait for each other
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    config = Config(data_dir=REAL, devices=1)
    ours = train(config)
    dataset = data.load("mnist", REAL)
    x, tx = (
        torch.tensor(a.reshape(len(a), -1) / np.float32(255))
        for a in (dataset.train_images, dataset.test_images)
    )
    y, ty = (torch.tensor(a.astype(np.int64)) for a in (dataset.train_labels, dataset.test_labels))
    start: Any = nnx.state(mnist.MODELS["linear"](28, 28, rngs=nnx.Rngs(0)), nnx.Param)
    model = torch.nn.Linear(784, 10)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.asarray(start["out"]["kernel"][...])))
        model.bias.copy_(torch.tensor(np.asarray(start["out"]["bias"][...])))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-8)
    for epoch, loss, accuracy, _ in ours.history:
        order = mnist.shuffled(config, epoch, len(y)).ravel()
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
        print(
            f"PyTorch: epoch {epoch}, training loss {total / 60_000:.7f}, {theirs:.2%}; {loss:.7f}"
        )
        assert loss == pytest.approx(total / 60_000, abs=1e-4)
        assert accuracy == pytest.approx(theirs, abs=5e-4)


@real_mnist
@pytest.mark.parametrize("seed", range(5))
def test_accuracy(seed):
    result = train(Config(seed=seed, dataset="mnist", data_dir=REAL, devices=1))
    assert result.dataset == "MNIST"
    assert result.history[-1].test_accuracy >= 0.922


@pytest.mark.parametrize("batch_size", [100, 1437, 5000])
def test_same_as_numpy(batch_size):
    config = dataclasses.replace(DIGITS, batch_size=batch_size)
    ours = train(config)
    dataset = data.load("digits")
    x, y = dataset.train_images.reshape(-1, 64) / 255, dataset.train_labels
    tx, ty = dataset.test_images.reshape(-1, 64) / 255, dataset.test_labels
    w, nu = np.zeros((65, 10)), np.zeros((65, 10))  # the last row is the bias
    for epoch, loss, accuracy, _ in ours.history:
        order = mnist.shuffled(config, epoch, len(y)).ravel()
        order, total = order[order >= 0], 0.0
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            inputs = np.column_stack([x[rows], np.ones(len(rows))])
            p = np.exp(inputs @ w)
            p /= p.sum(1, keepdims=True)
            total -= np.log(p[range(len(rows)), y[rows]]).sum()
            g = inputs.T @ (p - np.eye(10)[y[rows]]) / len(rows)
            nu = 0.9 * nu + 0.1 * g**2
            w -= 1e-3 * g / (np.sqrt(nu) + 1e-8)
        assert loss == pytest.approx(total / len(y), abs=1e-5)
        right = (tx @ w[:-1] + w[-1]).argmax(1) == ty
        assert accuracy == pytest.approx(right.mean(), abs=0.003)  # an image may be on the edge


def test_padding_does_not_reach_the_model():
    """BatchNorm sees the real images only, and so do the logits, in training too."""
    images = data.load("digits").train_images[:24].astype(np.float32) / np.float32(255)
    models = [mnist.MODELS["cnn"](8, 8, rngs=nnx.Rngs(1)) for _ in range(2)]
    for model in models:
        model.dropout.rate = 0.0  # its random numbers are those of a batch of another size
    padded = np.concatenate([images, np.full_like(images[:8], 9.0)])
    real = np.arange(32) < 24
    call = nnx.jit(lambda model, images, real: model(images, real, nnx.Rngs(0)))
    one = call(models[0], images, np.full(24, True))
    two = call(models[1], padded, real)[:24]
    np.testing.assert_allclose(one, two, atol=1e-6)
    states = [jax.tree.leaves(nnx.state(model, nnx.BatchStat)) for model in models]
    assert len(states[0]) == 4
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(call(models[0], images, None), one, atol=1e-6)


@pytest.mark.parametrize(("model", "enough"), [("linear", 0.82), ("mlp", 0.88), ("cnn", 0.85)])
def test_models_learn_and_predict(model, enough):
    with jax.numpy_dtype_promotion("strict"):
        result = train(Config(model=model, dataset="digits", epochs=8, devices=1))
    assert [epoch.epoch for epoch in result.history] == list(range(1, 9))
    assert result.history[-1].test_accuracy >= enough
    result.model.eval()
    dataset = data.load("digits")
    images = np.float32(dataset.test_images) / 255
    right = np.asarray(result.model(images).argmax(-1)) == dataset.test_labels
    assert right.mean() == pytest.approx(result.history[-1].test_accuracy, abs=0.003)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"decay": 0.8},
        {"eps": 1e-3},
        {"momentum": 0.5},
        {"centered": True},
        {"schedule": "cosine"},
        {"schedule": "plateau", "learning_rate": 0.1, "epochs": 6},
        {"seed": 1},
        {"batch_size": 65},
        {"optimizer": "adam"},
        {"optimizer": "adam", "eps": 1e-2},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.5},
        {"model": "mlp"},
    ],
    ids=str,
)
def test_every_argument_counts(change):
    name, value = list(change.items())[-1 if len(change) < 3 else 0]
    base = dataclasses.replace(DIGITS, **{k: v for k, v in change.items() if k != name})
    one, two = train(base), train(dataclasses.replace(base, **{name: value}))
    assert results(one) != results(two)


def test_defaults_given_are_defaults_left_out():
    assert_identical(train(DIGITS), train(dataclasses.replace(DIGITS, decay=0.9, eps=1e-8)))


def test_one_compilation():
    functions: list[Any] = [mnist.train_epoch, mnist.count_correct]
    before = [function._cache_size() for function in functions]
    train(dataclasses.replace(DIGITS, epochs=4, batch_size=63))
    grown = [f._cache_size() - size for f, size in zip(functions, before, strict=True)]
    assert grown[0] == 1
    assert grown[1] <= 1  # another test may have compiled the same


# Killed and resumed. `test_mnist_killed.py` has more: killed from outside, at random moments.

# Runs the example and kills itself at the first file operation that fits.
CHILD = """
import os, signal, sys
operation, path, *args = sys.argv[1:]
def hook(name, values):
    if name == operation and values and str(values[0]).endswith(path):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from rmsprop_jax.examples import mnist
mnist.main(args)
"""
LINEAR = Config(dataset="digits", epochs=4, devices=1)
CNN = dataclasses.replace(LINEAR, model="cnn", schedule="plateau", learning_rate=0.05)
MLP = dataclasses.replace(LINEAR, model="mlp", schedule="cosine", learning_rate=1e-4)
MLP = dataclasses.replace(MLP, momentum=0.5, centered=True, batch_size=100)
MOMENTS = {
    "before the first commit": (LINEAR, "os.rename", "/1.orbax-checkpoint-tmp"),
    "in a save": (CNN, "open", "/2.orbax-checkpoint-tmp/state.orbax-checkpoint-tmp/_METADATA"),
    "while the old one goes": (MLP, "os.rmdir", "/1"),
}


def options(config):
    """The command line of a configuration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            yield f"--{field.name.replace('_', '-')}"
            yield from () if value is True else (str(value),)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Directories of runs that were killed, by moment, and how many lines each had printed."""
    children = {}
    for moment, (config, operation, path) in MOMENTS.items():
        directory = tmp_path_factory.mktemp("killed")
        command = [sys.executable, "-c", CHILD, operation, path]
        command += options(dataclasses.replace(config, save=directory))
        pipe = subprocess.PIPE
        children[moment] = directory, subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    left = {}
    for moment, (directory, child) in children.items():
        out, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        left[moment] = directory, out.count("\n")
    return left


@pytest.fixture(scope="module")
def whole():
    """Uninterrupted runs."""
    return {config: train(config) for config in (CNN, MLP, LINEAR)}


@pytest.mark.parametrize("moment", [m for m in MOMENTS if m != "before the first commit"])
def test_killed_and_resumed(moment, killed, whole, capsys):
    config, *_ = MOMENTS[moment]
    directory, printed = killed[moment]
    done = max(int(p.name) for p in directory.iterdir() if p.name.isdigit())
    assert done == {"in a save": 1}.get(moment, 2)
    assert printed == 1  # of the second epoch, the save was not over
    capsys.readouterr()
    resumed = train(dataclasses.replace(config, resume=directory))
    assert_identical(resumed, whole[config])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{NAME}: continuing after epoch {done}"
    assert len(lines) == 1 + config.epochs - done
    assert [p.name for p in directory.iterdir()] == [str(config.epochs)]


def test_killed_before_the_first_commit(killed, whole):
    directory, printed = killed["before the first commit"]
    assert printed == 0
    with pytest.raises(ValueError, match="has no checkpoint"):
        train(dataclasses.replace(LINEAR, resume=directory))
    assert_identical(train(dataclasses.replace(LINEAR, save=directory)), whole[LINEAR])


def test_the_plateau_was_reached(whole):
    """Otherwise the runs above wouldn't show that the schedule's state is kept."""
    constant = train(dataclasses.replace(CNN, schedule="constant"))
    assert results(constant) != results(whole[CNN])


# Checkpoints of other runs.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with two epochs, to be read only."""
    directory = tmp_path_factory.mktemp("saved") / "new" / "run"
    train(dataclasses.replace(DIGITS, save=directory))
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mlp"}, "model='mlp', .* model='linear'"),
        ({"batch_size": 65}, "batch_size=65, .* batch_size=64"),
        ({"seed": 1}, "seed=1, .* seed=0"),
        ({"optimizer": "adam"}, "optimizer='adam', .* optimizer='rmsprop'"),
        ({"learning_rate": 0.5}, "learning_rate=0.5, .* learning_rate=0.001"),
        ({"decay": 0.5}, "decay=0.5, .* decay=0.9"),
        ({"eps": 0.5}, "eps=0.5, .* eps=1e-08"),
        ({"momentum": 0.5}, "momentum=0.5, .* momentum=None"),
        ({"centered": True}, "centered=True, .* centered=False"),
        ({"schedule": "cosine"}, "schedule='cosine', .* schedule='constant'"),
        ({"epochs": 1}, "epochs=1, .* 2 "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_is_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(DIGITS, resume=saved, **change))
    assert [p.name for p in saved.iterdir()] == ["2"]


def test_another_dataset_is_refused(saved, monkeypatch):
    other = data.load("digits")._replace(name="MNIST")
    monkeypatch.setattr(mnist, "load", lambda *args: other)
    with pytest.raises(ValueError, match=r"dataset='MNIST', .* dataset='scikit-learn digits"):
        train(Config(resume=saved, devices=1))


def test_a_cosine_needs_its_epochs(tmp_path):
    config = dataclasses.replace(DIGITS, schedule="cosine", save=tmp_path)
    train(config)
    with pytest.raises(ValueError, match=r"epochs=3, .* epochs=2"):
        train(dataclasses.replace(config, save=None, resume=tmp_path, epochs=3))


def test_resume_to_another_directory(saved, tmp_path, capsys):
    new = dataclasses.replace(DIGITS, epochs=3, resume=saved, save=tmp_path / "new")
    files = {"json": tmp_path / "a.json", "plot": tmp_path / "a.png", "decay": 0.9}
    result = train(dataclasses.replace(new, **files))
    assert_identical(result, train(dataclasses.replace(DIGITS, epochs=3)))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["3"]
    assert [p.name for p in saved.iterdir()] == ["2"]
    report = json.loads((tmp_path / "a.json").read_text())
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert "continuing after epoch 2" in capsys.readouterr().out


def test_save_overwrites_nothing(saved, tmp_path):
    with pytest.raises(ValueError, match="another run"):
        train(dataclasses.replace(DIGITS, save=saved))
    with pytest.raises(ValueError, match="another run"):
        train(dataclasses.replace(DIGITS, save=saved, seed=1))
    assert [p.name for p in saved.iterdir()] == ["2"]
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match="file"):
        train(dataclasses.replace(DIGITS, save=file))
    assert file.read_text() == "precious"


def test_nothing_to_resume(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"resume='{directory}' has no checkpoint"):
            train(dataclasses.replace(DIGITS, resume=directory))
    assert not list(tmp_path.iterdir())
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match=f"resume='{tmp_path}' is of another program"):
        train(dataclasses.replace(DIGITS, resume=tmp_path))


# What it says, and where.


def test_json(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text("old")
    result = train(dataclasses.replace(DIGITS, json=path, momentum=0.5))
    report = json.loads(path.read_text())
    assert report["dataset"] == NAME
    assert report["config"]["decay"] == 0.9
    assert report["config"]["momentum"] == 0.5
    assert set(report["config"]) == {field.name for field in dataclasses.fields(Config)}
    assert report["versions"]["jax"] == jax.__version__
    assert "cpu" in report["device"]
    assert [tuple(epoch.values()) for epoch in report["epochs"]] == result.history
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    out = capsys.readouterr().out
    for (epoch, loss, accuracy, _), line in zip(result.history, out.splitlines(), strict=True):
        start = f"{NAME}: epoch {epoch}/2, training loss {loss:.4f}, test accuracy {accuracy:.2%}, "
        assert line.startswith(start)
        assert line.endswith(" s")


def test_json_of_a_run_that_diverged(tmp_path):
    path = tmp_path / "a.json"
    config = dataclasses.replace(DIGITS, optimizer="sgd", learning_rate=3e38, model="mlp")
    train(dataclasses.replace(config, json=path))
    report = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert report["epochs"][-1]["loss"] is None


def test_json_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        train(dataclasses.replace(DIGITS, json=path))
    assert path.read_text() == "old"


def test_plot(tmp_path):
    path = tmp_path / "a.png"
    train(dataclasses.replace(DIGITS, plot=path))
    two = path.read_bytes()
    assert two.startswith(b"\x89PNG")
    train(dataclasses.replace(DIGITS, plot=path, epochs=3))
    assert path.read_bytes() != two


def test_pipe_and_imports():
    code = (
        "import sys; from rmsprop_jax.examples import mnist; mnist.main(sys.argv[1:])\n"
        "lazy = {'matplotlib', 'orbax', 'tqdm', 'pooch'}\n"
        "assert not lazy & {m.partition('.')[0] for m in sys.modules}"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "--dataset", "digits", "--epochs", "3"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.split("\n")
    assert [line.startswith(f"{NAME}: epoch ") for line in lines] == [True, True, True, False]
    assert lines[3] == ""
    assert "\r" not in run.stdout


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(DIGITS)
    out, err = capsys.readouterr()
    assert [line.startswith(f"{NAME}: epoch ") for line in out.splitlines()] == [True, True]
    assert "2/2" in err
    assert all(NAME in bar for bar in err.split("\r") if bar.strip())


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
        ({"optimizer": "sgd", "centered": True}, "centered=True .* sgd"),
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
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("spy")
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        train(Config(**change))


def test_data_dir_means_nothing_to_digits(tmp_path):
    with pytest.raises(ValueError, match="data_dir"):
        train(dataclasses.replace(DIGITS, data_dir=tmp_path))


@pytest.mark.parametrize(
    "args",
    [
        ["--epochs", "0"],
        ["--optimizer", "adam", "--centered"],
        ["--data-dir", "nowhere"],
        ["--dataset", "digits", "--resume", "nowhere"],
    ],
    ids=str,
)
def test_errors_are_one_line(args):
    with pytest.raises(SystemExit) as caught:
        mnist.main(args)
    message = caught.value.code  # Python prints it on stderr and exits with 1
    assert isinstance(message, str)
    assert message.startswith("rmsprop-jax mnist: ")
    assert "\n" not in message
