"""The sweep over hyperparameters: against NumPy, cut into chunks, over devices, interrupted.

All on scikit-learn's digits. The tests run with 8 devices, over which the sweep is split.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import digits
import jax
import numpy as np
import pytest
from runs import NAME, Tiny, command
from tqdm import tqdm

from rmsprop_jax.trainer import commands, mnist, models, options, sweep
from rmsprop_jax.trainer.sweep import Config

SMALL = Config(
    dataset="digits",
    epochs=2,
    learning_rate=(1e-3, 1e-2, 3e38),  # the last diverges, which must not reach the others
    decay=(0.9, 0.99),
    eps=(1e-8, 1e-3),
    momentum=(0.0, 0.5),
    seeds=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `SMALL` (24 settings, 3 on each device, and 2 seeds) returns, writes and prints."""
    directory, out = tmp_path_factory.mktemp("small"), io.StringIO()
    files = {"csv": directory / "a.csv", "json": directory / "a.json", "plot": directory / "a.png"}
    files["csv"].write_text("old")
    with contextlib.redirect_stdout(out):
        result = sweep.sweep(dataclasses.replace(SMALL, top=2, **files))
    return result, directory, out.getvalue()


@pytest.fixture
def small(run):
    return run[0]


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda *args, **kwargs: jax.devices()[:1])


def settings(rows):
    return [row[: len(sweep.GRID)] for row in rows]


def assert_same(one, two):
    """The same rows in the same order, but for rounding."""
    assert [row[:6] for row in one] == [row[:6] for row in two]
    for name in ("loss", "test_accuracy"):
        a, b = ([getattr(row, name) for row in rows] for rows in (one, two))
        # An image in 360 may be on the edge between two labels.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if name == "loss" else 0.003)


# The numbers.


@pytest.mark.parametrize(
    ("setting", "seed"),
    [
        ((1e-3, 0.9, 1e-8, 0.0), 0),
        ((1e-2, 0.99, 1e-3, 0.5), 1),
    ],
)
def test_same_as_numpy(small, setting, seed):
    """As `test_train` has it of single runs."""
    learning_rate, decay, eps, momentum = setting
    epochs = digits.regression(
        2, seed=seed, rate=lambda step: learning_rate, decay=decay, eps=eps, momentum=momentum
    )
    ours = [row for row in small.rows if settings([row]) == [setting] and row.seed == seed]
    expected = [
        sweep.Row(*setting, seed, epoch, loss, accuracy)
        for epoch, (loss, accuracy, _) in enumerate(epochs, 1)
    ]
    assert_same(ours, expected)


@pytest.mark.nightly
@pytest.mark.usefixtures("one_device")
def test_batch_norm_and_dropout(monkeypatch):
    """The running averages and the random numbers are those of the single run."""
    monkeypatch.setitem(models.MODELS, "cnn", Tiny)
    task = Config(model="cnn", dataset="digits", epochs=2, learning_rate=(1e-4, 1e-3), decay=(0.9,))
    rows = sweep.sweep(task).rows
    epochs = mnist.train(options.Config(model="cnn", dataset="digits", epochs=2)).history
    assert_same(rows[1::2], [sweep.Row(1e-3, 0.9, 1e-8, 0.0, 0, *epoch[:3]) for epoch in epochs])
    assert rows[0].loss > rows[1].loss


def test_every_combination_is_there_once(small):
    assert small.dataset == NAME
    assert small.finished
    runs = {(row[:6]) for row in small.rows}
    assert len(runs) == len(small.rows) == 3 * 2 * 2 * 2 * 2 * 2
    # Whatever is varied makes a difference.
    start = [row for row in small.rows if row.learning_rate == 1e-3 and row.epoch == 1]
    assert len({row.loss for row in start}) == len(start)


@pytest.mark.usefixtures("one_device")
def test_chunks_and_devices(small, monkeypatch, capsys):
    """On one device, in chunks with padding, as on 8; and with a bar, on a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = sweep.sweep(dataclasses.replace(SMALL, chunk=5))
    assert_same(sorted(result.rows), sorted(small.rows))
    out, err = capsys.readouterr()
    assert f"{NAME}: settings: 24, seeds: 2, trained at once: 5\n" in out
    assert "20/20" in err


def test_chunks_fit_the_memory(small, monkeypatch, capsys):
    """Three settings on each device take one byte too much, so it has to be two."""
    compile_chunk, needs = sweep.compile_chunk, []

    def spy(*args):
        programs = compile_chunk(*args)
        needs.append((programs.size, programs.memory))
        return programs

    monkeypatch.setattr(sweep, "compile_chunk", spy)
    monkeypatch.setattr(sweep, "free_memory", lambda mesh: needs[0][1] - 1)
    result = sweep.sweep(dataclasses.replace(SMALL, seeds=1, epochs=1))
    assert_same(result.rows, [row for row in small.rows if row.seed == 0 and row.epoch == 1])
    assert [size for size, _ in needs] == [24, 16]
    assert "trained at once: 16\n" in capsys.readouterr().out


# What it says and writes.


def test_table(run):
    result, _, out = run
    out = out.splitlines()
    assert out[0] == f"{NAME}: settings: 24, seeds: 2, trained at once: 24"
    assert [line.partition(" runs, ")[0] for line in out[1:3]] == [
        f"{NAME}: {done} of 48" for done in (24, 48)
    ]
    assert out[3].split()[:2] == ["learning", "rate"]
    assert len(out) == 6
    means = {}
    for row in result.rows:
        if row.epoch == 2:
            means.setdefault(row[:4], []).append(row)
    best = sorted(np.mean([row.test_accuracy for row in rows]) for rows in means.values())[-2:]
    for line, expected in zip(out[4:], reversed(best), strict=True):
        words = line.split()
        rows = means[tuple(float(word) for word in words[:4])]
        losses, accuracies = [row.loss for row in rows], [100 * row.test_accuracy for row in rows]
        assert words[4:] == [
            "2",
            *f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}".split(),
            *f"{100 * expected:.2f} ± {np.std(accuracies, ddof=1):.2f}".split(),
        ]


def test_csv_and_json(run):
    result, directory, _ = run
    with (directory / "a.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == [*sweep.GRID, "seed", "epoch", "loss", "test_accuracy"]
    assert lines == [[repr(value) for value in row] for row in result.rows]
    text = (directory / "a.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert report["dataset"] == NAME
    assert report["config"]["decay"] == [0.9, 0.99]
    assert report["versions"]["jax"] == jax.__version__
    for epoch, row in zip(report["epochs"], result.rows, strict=True):
        assert epoch == row._asdict() | ({"loss": None} if np.isnan(row.loss) else {})
    assert any(np.isnan(row.loss) for row in result.rows)
    assert sorted(path.name for path in directory.iterdir()) == ["a.csv", "a.json", "a.png"]


def test_plot(run, tmp_path):
    result, directory, _ = run
    sweep.draw(tmp_path / "a.png", "title", [row for row in result.rows if row.eps == 1e-8])
    pictures = [(path / "a.png").read_bytes() for path in (directory, tmp_path)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    widths, heights = zip(*[np.frombuffer(p, ">u4", 2, offset=16) for p in pictures], strict=True)
    assert widths == (800, 800)  # pixels, the width of a README
    assert heights[0] > heights[1]  # a row of maps for each eps


# Interrupted.


@pytest.mark.parametrize(("ticks", "finished"), [(1, 0), (3, 1)])
@pytest.mark.usefixtures("one_device")
def test_interrupt(tmp_path, monkeypatch, capsys, small, ticks, finished):
    """What the finished chunks of 5 settings found is printed and written."""

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def update(self, n=1):
            nonlocal ticks
            ticks -= 1
            if ticks == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "tqdm", Bar)
    files = {"csv": tmp_path / "a.csv", "plot": tmp_path / "a.png"}
    result = sweep.sweep(dataclasses.replace(SMALL, chunk=5, **files))
    assert not result.finished
    expected = {row[:6]: row for row in small.rows}
    assert_same(result.rows, [expected[row[:6]] for row in result.rows])
    assert len(result.rows) == finished * 5 * 2
    out = capsys.readouterr().out
    assert f"{NAME}: interrupted, {finished * 5} runs are finished\n" in out
    assert ("learning rate" in out) == bool(finished)
    if finished:
        lines = files["csv"].read_text().splitlines()[1:]
        assert lines == [",".join(map(repr, row)) for row in result.rows]
    assert len(list(tmp_path.iterdir())) == (2 if finished else 0)


def test_an_interrupted_command_ends_as_shells_expect(monkeypatch):
    monkeypatch.setattr(sweep, "sweep", lambda task: sweep.Result(NAME, [], finished=False))
    with pytest.raises(SystemExit, match="130"):
        commands.sweep([])


@pytest.mark.nightly
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c(tmp_path):
    table, report = tmp_path / "a.csv", tmp_path / "a.json"
    task = Config(dataset="digits", seeds=1_000_000, csv=table, json=report)
    child = command("sweep", task)
    while not table.exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err == ""
    with table.open(newline="") as file:
        _, *rows = csv.reader(file)
    assert len(rows) == len(json.loads(report.read_text())["epochs"]) > 0
    assert f"interrupted, {len(rows) // 5} runs are finished\nlearning rate " in out
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.json"]


# What it refuses.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": ()}, "learning_rate is empty"),
        ({"momentum": ()}, "momentum is empty"),
        ({"learning_rate": (0.1, -0.1)}, "learning_rate=-0.1 is out of range"),
        ({"learning_rate": (0.1, 0.1)}, "learning_rate has 0.1 twice"),
        ({"decay": (0.9, 1.0)}, "decay=1.0 is out of range"),
        ({"eps": (-1e-8,)}, "eps=-1e-08 is out of range"),
        ({"momentum": (float("nan"),)}, "momentum=nan is out of range"),
        ({"seeds": 0}, "seeds=0 is out of range"),
        ({"chunk": 0}, "chunk=0 is out of range"),
        ({"top": 0}, "top=0 is out of range"),
        ({"epochs": 0}, "epochs=0 is out of range"),
        ({"csv": Path("nowhere/a.csv")}, "csv='nowhere/a.csv' can't be written"),
        ({"json": Path("nowhere/a.json")}, "json='nowhere/a.json' can't be written"),
    ],
    ids=str,
)
def test_refusals(monkeypatch, change, message):
    monkeypatch.setattr(sweep, "load", lambda *args: pytest.fail("data was loaded"))
    with pytest.raises(ValueError, match=message):
        sweep.sweep(dataclasses.replace(SMALL, **change))
