"""The page that people copy: as the trainer, which is compared with PyTorch and NumPy."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_data import REAL, real_mnist

from rmsprop_jax.examples import mnist
from rmsprop_jax.trainer.mnist import train
from rmsprop_jax.trainer.options import Config


def printed(out):
    """Losses and accuracies of the epochs."""
    return re.findall(r"training loss ([\d.]+), test accuracy ([\d.]+)%", out)


@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.5, "centered": True, "decay": 0.95, "eps": 1e-4, "learning_rate": 2e-3},
     {"batch_size": 479, "seed": 3}],  # 1437 images are three of these, with none left
    ids=["numbers", "order"],
)  # fmt: skip
def test_same_as_the_trainer(options, capsys):
    options = {"dataset": "digits", "epochs": 3} | options
    model = mnist.train(**options)
    ours = printed(capsys.readouterr().out)
    expected = train(Config(devices=1, **options))
    assert len(ours) == 3
    for (loss, accuracy), epoch in zip(ours, expected.history, strict=True):
        assert float(loss) == pytest.approx(epoch.loss, abs=6e-5)
        assert float(accuracy) == pytest.approx(100 * epoch.test_accuracy, abs=0.3)
    kernel = expected.model.out.kernel[...]
    np.testing.assert_allclose(model.out.kernel[...], kernel, atol=1e-5)


@real_mnist
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.nightly) for i in range(1, 5))]
)
def test_accuracy(seed, capsys):
    """What the README says of these seeds."""
    mnist.train(seed=seed, dataset="mnist", data_dir=REAL)
    assert 92.45 <= float(printed(capsys.readouterr().out)[-1][1]) < 92.75


def test_cnn_learns(capsys):
    mnist.train("cnn", 5, dataset="digits")
    assert float(printed(capsys.readouterr().out)[-1][1]) > 80


@pytest.mark.nightly
def test_cnn_in_a_compiled_loop(monkeypatch, capsys):
    """As on an accelerator; it does the same."""
    runs = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        mnist.train("cnn", 1, dataset="digits")
        runs.append(np.array(printed(capsys.readouterr().out), float))
    np.testing.assert_allclose(*runs, rtol=0.02)


def test_process():
    """Nothing that one doesn't need is imported, and nothing but the lines is printed."""
    code = (
        "import sys; from rmsprop_jax import cli; cli.main()\n"
        "lazy = {'matplotlib', 'orbax', 'tqdm', 'pooch'}\n"
        "assert not lazy & {m.partition('.')[0] for m in sys.modules}"
    )
    line = [sys.executable, "-W", "error", "-c", code, "mnist", "--dataset", "digits"]
    run = subprocess.run([*line, "--epochs", "2"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(printed(run.stdout)) == 2
    assert run.stdout.count("\n") == 2
