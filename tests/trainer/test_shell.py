"""The commands behave as programs in a shell do: pipes, terminals, Ctrl-C."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from runs import DIGITS, NAME, command

from rmsprop_jax import cli

DIGITS_ONLY = ["--dataset", "digits"]


def test_head():
    """A reader that has seen enough ends the command, in silence."""
    line = ["mnist", *DIGITS_ONLY, "--epochs", "100000"]
    with command(*line, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as child:
        assert child.stdout.readline().startswith(f"{NAME}: epoch 1/")
        child.stdout.close()
        child.stdout = None
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")


@pytest.mark.parametrize(
    "line",
    [
        ["mnist", *DIGITS_ONLY, "--epochs", "9999", "--optimizer", "sgd"],
        ["sweep", *DIGITS_ONLY, "--seeds", "100000", "--lr", "0.01", "--decay", "0.9"],
        ["linear-regression", "--steps", "100000", "--every", "1"],
        ["dialects"],
    ],
    ids=lambda value: value[0],
)
def test_closed_pipe(line, monkeypatch, capsys):
    """The same without a process, where the reader has gone before the first line."""
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *line])
    with os.fdopen(write, "w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert (caught.value.code, capsys.readouterr().err) == (141, "")


@pytest.mark.parametrize(("line", "spreads"), [
    (["compare", "--optimizers", "sgd", *DIGITS_ONLY, "--epochs", "1", "--seeds", "2"], 2),
    (["dialects"], 0),
])  # fmt: skip
def test_ascii_terminal(line, spreads, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *line])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    cli.main()
    out = sys.stdout.buffer.getvalue().decode("ascii")
    assert out.count(" +- ") == spreads
    assert out
    assert "?" not in out


def test_ctrl_c_during_imports():
    """Interrupted where Flax is being imported."""
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'flax':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from rmsprop_jax.cli import main\n"
        "main()\n"
    )
    line = [sys.executable, "-c", code, "mnist", *DIGITS_ONLY]
    child = subprocess.run(line, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (130, "")
    assert child.stderr == "rmsprop-jax mnist: interrupted\n"


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores Ctrl-C, and so would a child of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_during_training():
    with command("mnist", DIGITS, "--epochs", "1000000") as child:
        assert child.stdout.readline().startswith(f"{NAME}: epoch 1/")
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "rmsprop-jax mnist: interrupted\n")
