"""The commands behave as programs in a shell do: pipes, terminals, Ctrl-C."""

import dataclasses
import io
import os
import signal
import subprocess
import sys

import pytest
from real_checkpoints import FOLDER
from runs import DIGITS, NAME, command, options

from rmsprop_jax import cli
from rmsprop_jax.trainer import training

DIGITS_ONLY = ["--dataset", "digits"]


def test_head():
    """A reader that has seen enough ends the command, in silence, the end of Python included."""
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # so all is written at the end
    with command("recipes", env=buffered) as child:
        child.stdout.close()
        child.stdout = None
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")


@pytest.mark.parametrize(
    "line",
    [
        ["mnist", *options(dataclasses.replace(DIGITS, epochs=9999))],
        ["sweep", *DIGITS_ONLY, "--seeds", "100000", "--lr", "0.01", "--decay", "0.9"],
        ["linear-regression", "--steps", "100000", "--every", "1"],
    ],
    ids=lambda value: value[0],
)
def test_closed_pipe(line, monkeypatch, capsys):
    """The same without a process, of commands that would go on for long."""
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *line])
    with os.fdopen(write, "w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert (caught.value.code, capsys.readouterr().err) == (141, "")


@pytest.mark.parametrize(("line", "shown"), [
    (["compare", "--optimizers", "sgd", *DIGITS_ONLY, "--epochs", "1", "--seeds", "2"], " +- "),
    (["inspect", str(FOLDER / "files" / "rmsprop_jax.npz")], " ?nu "),
])  # fmt: skip
def test_ascii_terminal(line, shown, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *line])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    cli.main()
    out = sys.stdout.buffer.getvalue().decode("ascii")
    assert shown in out
    assert ("?" in out) == ("?" in shown)


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


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_during_training(monkeypatch, capsys):
    prepare = training.prepare

    def interrupted(*args):
        program = prepare(*args)

        def epoch(state, number):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return program.epoch(state, number)

        return program._replace(epoch=epoch)

    monkeypatch.setattr(training, "prepare", interrupted)
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", "mnist", *options(DIGITS)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    assert out.startswith(f"{NAME}: epoch 1/")
    assert out.count("\n") == 1
    assert (caught.value.code, err) == (130, "rmsprop-jax mnist: interrupted\n")
