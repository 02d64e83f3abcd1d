"""The command `rmsprop-jax`: which module runs, and what it says when it can't."""

import importlib.metadata
import subprocess
import sys

import pytest

from rmsprop_jax import cli


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *args])
    cli.main()


def test_entry_point():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="rmsprop-jax")
    assert entry.load() is cli.main


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in out


def test_help_needs_no_extra_and_is_fast():
    """Only what `import rmsprop_jax` itself imports, and nothing of the examples."""
    code = (
        "import sys, rmsprop_jax; before = set(sys.modules);"
        "from rmsprop_jax import cli; sys.argv[1:] = ['--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "assert not new & {'flax', 'tyro', 'orbax', 'numpy', 'sklearn', 'tqdm'}, new\n"
        "assert 'rmsprop_jax.examples' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("args", [[], ["mnits"], ["--what"]], ids=str)
def test_wrong_command(monkeypatch, capsys, args):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *args)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "usage: rmsprop-jax" in err
    if args == ["mnits"]:
        assert "'mnist'" in err


def test_interrupt(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("rmsprop_jax.table.main", interrupted)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "dialects")
    assert caught.value.code == 130
    assert capsys.readouterr().err == "rmsprop-jax dialects: interrupted\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_command(monkeypatch, capsys, command):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, command, "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: rmsprop-jax {command}" in out
    assert ("--learning-rate" in out) == (command not in ("dialects", "inspect"))


def test_help_shows_the_defaults_in_force(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        run(monkeypatch, "mnist", "--help")
    out = capsys.readouterr().out
    for default in ("(default: 0.9)", "(default: 1e-8)", "(default: 0.001)", "(default: 64)"):
        assert default in out
    assert "(default: None)" not in out


@pytest.mark.parametrize("args", [["--epochs", "x"], ["--what"], ["--no-centered"]], ids=str)
def test_bad_option(monkeypatch, capsys, args):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "mnist", *args)
    assert caught.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_runs_the_command(monkeypatch, capsys):
    run(monkeypatch, "linear-regression", "--steps", "3")
    assert "closed form" in capsys.readouterr().out


def test_dialects_needs_no_extra(monkeypatch, capsys):
    for missing in cli.EXTRA:
        monkeypatch.setitem(sys.modules, missing, None)
    run(monkeypatch, "dialects")
    assert "tf_keras_legacy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "command"),
    [("flax", "mnist"), ("tyro", "mnist"), ("tyro", "linear-regression"), ("sklearn", "mnist")],
)
def test_extra_is_missing(monkeypatch, missing, command):
    for name in list(sys.modules):  # as if nothing of it had been imported yet
        if name.partition(".")[0] == missing or name.startswith(
            ("rmsprop_jax.examples.", "rmsprop_jax.trainer.")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    args = ["--dataset", "digits"] if missing == "sklearn" else []
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, command, *args)
    message = caught.value.code  # Python prints it on stderr and exits with 1
    assert isinstance(message, str)
    assert "\n" not in message
    assert missing in message
    assert "pip install 'rmsprop_jax[examples]'" in message


def test_other_import_errors_are_not_hidden(monkeypatch):
    monkeypatch.delitem(sys.modules, "rmsprop_jax.examples.linear_regression", raising=False)
    monkeypatch.setitem(sys.modules, "rmsprop_jax.examples.linear_regression", None)
    with pytest.raises(ModuleNotFoundError):
        run(monkeypatch, "linear-regression")
