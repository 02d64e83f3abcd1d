"""The commands behave as programs in a shell do: pipes, terminals, Ctrl-C, errors of one line."""

import os
import signal
import subprocess
import sys
import time

import pytest
from runs import DIGITS, NAME, command

from rmsprop_jax import cli


@pytest.mark.parametrize(
    ("line", "first"),
    [
        (["mnist", "--dataset", "digits", "--epochs", "9999", "--optimizer", "sgd"], f"{NAME}: ep"),
        (["mnist", "--dataset", "digits", "--epochs", "100000"], f"{NAME}: epoch 1/"),
        (["sweep", "--dataset", "digits", "--seeds", "100000"], f"{NAME}: settings: 28"),
        (["linear-regression", "--steps", "100000", "--every", "1"], ""),
        (["dialects"], "| dialect"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_head(line, first):
    """A reader that has seen enough ends the command, in silence."""
    with command(*line, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as child:
        assert child.stdout.readline().startswith(first)
        child.stdout.close()
        child.stdout = None
        _, err = child.communicate(timeout=60)
    assert err == ""
    assert child.returncode in (0, 141) if line == ["dialects"] else child.returncode == 141


@pytest.mark.parametrize("line", [["compare", "--optimizers", "sgd"], ["dialects"]], ids=str)
def test_ascii_terminal(line):
    task = ["--dataset", "digits", "--epochs", "1", "--seeds", "2"] if line[0] == "compare" else []
    with command(*line, *task, env=os.environ | {"PYTHONIOENCODING": "ascii"}) as child:
        out, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (0, "")
    assert out.isascii()
    assert out.count(" +- ") == (2 if task else 0)
    assert "?" not in out


@pytest.mark.parametrize("when", ["jax", "flax", "numpy"])
def test_ctrl_c_during_imports(tmp_path, when):
    """Interrupted where the package `when` is being imported."""
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {when!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from rmsprop_jax.cli import main\n"
        "main()\n"
    )
    line = [sys.executable, "-c", code, "mnist", "--dataset", "digits"]
    child = subprocess.run(line, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (130, "")
    assert child.stderr == "rmsprop-jax mnist: interrupted\n"


def test_ctrl_c_during_training():
    with command("mnist", DIGITS, "--epochs", "1000000") as child:
        assert child.stdout.readline().startswith(f"{NAME}: epoch 1/")
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "rmsprop-jax mnist: interrupted\n")


@pytest.mark.parametrize(
    "line",
    [
        ["mnist", "--epochs", "0"],
        ["mnist", "--optimizer", "adam", "--centered"],
        ["mnist", "--data-dir", "nowhere"],
        ["mnist", "--dataset", "digits", "--resume", "nowhere"],
        ["sweep", "--learning-rate"],
        ["sweep", "--decay", "1.0"],
        ["compare", "--optimizers", "lion"],
        ["linear-regression", "--steps", "0"],
        ["linear-regression", "--decay", "1"],
        ["a2c", "--seeds", "0"],
    ],
    ids=str,
)
def test_errors_are_one_line(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *line])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    message = caught.value.code  # Python prints it on stderr and exits with 1
    assert isinstance(message, str)
    assert message.startswith(f"rmsprop-jax {line[0]}: ")
    assert "\n" not in message
