"""The comparison of optimizers: against NumPy and single runs, and what it says, draws and refuses.

All on scikit-learn's digits.
"""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import digits
import numpy as np
import pytest
from runs import NAME

from rmsprop_jax import dialects
from rmsprop_jax.table import dialect_table
from rmsprop_jax.trainer import compare, mnist, options
from rmsprop_jax.trainer.compare import Config

SMALL = Config(
    dataset="digits",
    epochs=2,
    optimizers=("rmsprop", "adam=0.02", "sgd", "pytorch=0.005"),
    learning_rate=0.01,
    seeds=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `SMALL` returns, writes and prints."""
    directory, out = tmp_path_factory.mktemp("small"), io.StringIO()
    files = {"json": directory / "a.json", "plot": directory / "a.png"}
    with contextlib.redirect_stdout(out):
        result = compare.compare(dataclasses.replace(SMALL, **files))
    return result, directory, out.getvalue()


@pytest.mark.parametrize(
    ("optimizer", "rate", "seed", "decay"),
    [("rmsprop", 0.01, 1, 0.9), ("pytorch", 0.005, 0, 0.99), ("adam", 0.02, 0, None),
     ("sgd", 0.01, 1, None)],
)  # fmt: skip
def test_same_as_numpy_or_a_single_run(run, optimizer, rate, seed, decay):
    if decay:
        epochs = digits.regression(2, seed=seed, rate=lambda step: rate, decay=decay)
    else:
        task = options.Config(dataset="digits", epochs=2, seed=seed, learning_rate=rate)
        epochs = mnist.train(dataclasses.replace(task, optimizer=optimizer)).history
        epochs = [epoch[1:4] for epoch in epochs]
    ours = [row for row in run[0].rows if (row.optimizer, row.seed) == (optimizer, seed)]
    assert [row.learning_rate for row in ours] == [rate, rate]
    assert [row.epoch for row in ours] == [1, 2]
    for row, (loss, accuracy, _) in zip(ours, epochs, strict=True):
        assert row.loss == pytest.approx(loss, abs=1e-5)
        # An image in 360 may be on the edge between two labels.
        assert row.test_accuracy == pytest.approx(accuracy, abs=0.003)


def test_default_rates():
    """Of the frameworks that have one; else 0.001."""
    task = Config(optimizers=tuple(compare.OPTIMIZERS))
    _, entrants = compare.checked(task)
    defaults = dict.fromkeys(["pytorch", "timm", "stable_baselines3", "torchopt"], 0.01)
    defaults |= {"graves": 1e-4, "mindspore": 0.1}
    names = ["rmsprop", "adam", "sgd", *dialects.__all__]
    assert entrants == [(name, defaults.get(name, 1e-3)) for name in names]


def test_help_names_all_optimizers():
    known = f"{Config.__doc__}\n{dialect_table()}"
    assert "`rmsprop-jax dialects`" in known
    for name in compare.OPTIMIZERS:
        assert name in known


def test_table(run):
    result, _, out = run
    *_, header, one, two, three, four = out.splitlines()
    assert header.split()[0] == "optimizer"
    for line, (name, rate) in zip(
        (one, two, three, four),
        [("rmsprop", 0.01), ("adam", 0.02), ("sgd", 0.01), ("pytorch", 0.005)],
        strict=True,
    ):
        last = [row for row in result.rows if row.optimizer == name and row.epoch == 2]
        losses, accuracies = zip(
            *[(row.loss, 100 * row.test_accuracy) for row in last], strict=True
        )
        assert line.split() == [
            name,
            str(rate),
            *f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}".split(),
            *f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}".split(),
        ]


def test_json(run):
    result, directory, _ = run
    report = json.loads((directory / "a.json").read_text())
    assert report["dataset"] == result.dataset == NAME
    assert report["config"]["optimizers"] == list(SMALL.optimizers)
    assert report["epochs"] == [row._asdict() for row in result.rows]
    assert len(result.rows) == 4 * 2 * 2


def test_plot(run, tmp_path):
    result, directory, _ = run
    compare.draw(tmp_path / "a.png", "title", [row for row in result.rows if row.seed == 0])
    pictures = [(path / "a.png").read_bytes() for path in (directory, tmp_path)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
    widths = [int(np.frombuffer(picture, ">u4", 1, offset=16)[0]) for picture in pictures]
    assert widths == [800, 800]  # pixels, the width of a README


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": ()}, "optimizers is empty"),
        ({"optimizers": ("lion",)}, "optimizers: 'lion' is none of rmsprop, .*, timm"),
        ({"optimizers": ("sgd", "sgd=fast")}, "optimizers: 'sgd=fast' is not NAME=RATE"),
        ({"optimizers": ("sgd", "sgd=")}, "optimizers: 'sgd=' is not NAME=RATE"),
        ({"optimizers": ("sgd", "keras=-1")}, "learning_rate=-1.0 is out of range"),
        ({"optimizers": ("sgd", "sgd=0.01")}, r"optimizers has \('sgd', 0.01\) twice"),
        ({"optimizers": ("sgd=1",)}, "learning_rate=0.01 has no effect"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 is out of range"),
        ({"seeds": 0}, "seeds=0 is out of range"),
        ({"json": Path("nowhere/a.json")}, "json='nowhere/a.json' can't be written"),
    ],
    ids=str,
)
def test_refusals(monkeypatch, change, message):
    monkeypatch.setattr(compare, "load", lambda *args: pytest.fail("data was loaded"))
    with pytest.raises(ValueError, match=message):
        compare.compare(dataclasses.replace(SMALL, **change))
