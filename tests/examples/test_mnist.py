"""The page that people copy: as NumPy, which the trainer is compared with, too."""

import re
import subprocess
import sys

import digits
import jax
import numpy as np
import pytest
from digits import REAL, real_mnist

from rmsprop_jax.examples import data, mnist


def printed(out):
    """Losses and accuracies of the epochs."""
    return re.findall(r"training loss ([\d.]+), test accuracy ([\d.]+)%", out)


def same_as_numpy(out, **options):
    """Compares what was printed of three epochs, and returns the weights."""
    expected = list(digits.regression(3, **options))
    for line, (loss, accuracy, _) in zip(printed(out), expected, strict=True):
        assert float(line[0]) == pytest.approx(loss, abs=6e-5)
        assert float(line[1]) == pytest.approx(100 * accuracy, abs=0.3)
    return expected[-1][2]


def test_same_as_numpy(capsys):
    options = {"momentum": 0.5, "centered": True, "decay": 0.95, "eps": 1e-4}
    model = mnist.train(dataset="digits", epochs=3, learning_rate=2e-3, **options)
    weights = same_as_numpy(capsys.readouterr().out, rate=lambda step: 2e-3, **options)
    np.testing.assert_allclose(model.out.kernel[...], weights[:-1].T, atol=1e-5)
    np.testing.assert_allclose(model.out.bias[...], weights[-1], atol=1e-5)


def test_process():
    """Nothing that one doesn't need is imported, and nothing but the lines is printed."""
    code = (
        "import sys; from rmsprop_jax import cli; cli.main()\n"
        "lazy = {'matplotlib', 'orbax', 'tqdm', 'pooch'}\n"
        "assert not lazy & {m.partition('.')[0] for m in sys.modules}"
    )
    line = [sys.executable, "-W", "error", "-c", code, "mnist", "--dataset", "digits"]
    line += ["--epochs", "3", "--seed", "3", "--batch-size", "479"]  # a third, with nothing left
    run = subprocess.run(line, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 3
    same_as_numpy(run.stdout, batch_size=479, seed=3)


@real_mnist
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.nightly) for i in range(1, 5))]
)
def test_accuracy(seed, capsys):
    """What the README says of these seeds."""
    mnist.train(seed=seed, dataset="mnist", data_dir=REAL)
    assert 92.45 <= float(printed(capsys.readouterr().out)[-1][1]) < 92.75


def test_cnn_learns(capsys):
    with jax.default_prng_impl("rbg"):  # JAX's own random numbers take long to compile
        model = mnist.train("cnn", 12, 479, 3e-3, dataset="digits")
    accuracy = float(printed(capsys.readouterr().out)[-1][1])
    assert accuracy > 80
    model.eval()
    test_set = data.load("digits")[-2:]
    assert accuracy == pytest.approx(100 * float(mnist.accuracy(model, *test_set)), abs=0.01)


@pytest.mark.nightly
def test_cnn_in_a_compiled_loop(monkeypatch, capsys):
    """As on an accelerator; it does the same."""
    runs = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        mnist.train("cnn", 1, dataset="digits")
        runs.append(np.array(printed(capsys.readouterr().out), float))
    np.testing.assert_allclose(*runs, rtol=0.02)
