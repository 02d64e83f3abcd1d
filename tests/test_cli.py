"""The command `rmsprop-jax`: which module runs, and what it says when it can't."""

import importlib.metadata
import re
import subprocess
import sys

import optax
import pytest

from rmsprop_jax import cli, dialects, explain, recipes, rmsprop


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", *args])
    cli.main()


def ended(monkeypatch, *args):
    """What the command exits with: a number, or a line for stderr, with which Python exits 1."""
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *args)
    return caught.value.code


def test_entry_point():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="rmsprop-jax")
    assert entry.load() is cli.main


@pytest.mark.parametrize(
    ("args", "allowed"),
    [([], ()), (["--help"], ()), (["--version"], ()), (["mnist", "--help"], ("tyro",))],
    ids=str,
)
def test_help_is_fast(args, allowed):
    """Nothing is imported that takes time: no JAX, and of the extra the parser at most."""
    code = (
        "import sys; from rmsprop_jax import cli\n"
        "try: cli.main()\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        f"slow = {{'jax', 'numpy', 'optax', *{cli.EXTRA}}} - {{*{allowed}}}\n"
        "imported = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not imported & slow, imported & slow"
    )
    line = [sys.executable, "-c", code, *args]
    run = subprocess.run(line, check=True, capture_output=True, text=True)
    if args == ["--version"]:
        assert run.stdout == f"rmsprop-jax {importlib.metadata.version('rmsprop_jax')}\n"
    else:
        assert "usage: rmsprop-jax" in run.stdout
        assert args[:1] == ["mnist"] or all(name in run.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["mnits"], "there is no command mnits. Did you mean mnist?"),
        (["what"], "there is no command what.\n"),
        (["--versoin"], "Did you mean --version?"),
        (["inspect", "--jsn", "x"], ""),  # an abbreviation is not an error
        (["inspect", "--jsno", "x"], "Did you mean --json?"),
        (["mnist", "--batchsize", "3"], "--batch-size INT"),
        (["mnist", "--epochs", "x"], "--epochs"),
        (["mnist", "--no-centered"], "--no-centered"),
    ],
    ids=str,
)
def test_did_you_mean(monkeypatch, capsys, args, meant):
    code = ended(monkeypatch, *args)
    if meant:
        assert code == 2
        assert meant in capsys.readouterr().err


def test_interrupt(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("rmsprop_jax.commands.dialects", interrupted)
    assert ended(monkeypatch, "dialects") == 130
    assert capsys.readouterr().err == "rmsprop-jax dialects: interrupted\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_command(monkeypatch, capsys, command):
    assert ended(monkeypatch, command, "--help") == 0
    out = capsys.readouterr().out
    assert f"usage: rmsprop-jax {command}" in out
    trains = cli.COMMANDS[command][0].startswith("trainer")
    assert ("--learning-rate" in out) == ("--lr " in out) == trains
    assert "{None}" not in out


def test_help_shows_the_defaults_in_force(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    ended(monkeypatch, "mnist", "--help")
    out = capsys.readouterr().out
    for default in ("(default: 0.9)", "(default: 1e-8)", "(default: 0.001)", "(default: 64)"):
        assert default in out
    assert "(default: None)" not in out
    assert "BatchNorm and Dropout." in out  # which the source breaks over two lines
    for group in ("task", "optimizer", "output", "checkpoint", "parallel"):
        assert f" {group} options " in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mnist --batch-size 0", "--batch-size=0 is out of range"),
        ("mnist --optimizer adam --momentum 0.5", "--momentum=0.5 .* or take --optimizer=rmsprop"),
        ("mnist --dataset digits --resume nowhere", "--resume='nowhere' has no checkpoint"),
        ("sweep --lr 0.1 0.1", "--learning-rate has 0.1 twice"),
        ("compare --optimizers lion", "--optimizers: 'lion' is none of"),
        ("linear-regression --lr -1", "--learning-rate=-1.0"),
        ("a2c --seeds 0", "--seeds=0, --steps=500000"),
        ("mnist --data-dir nowhere", "nowhere does not exist"),
        ("sweep --learning-rate", "--learning-rate is empty"),
        ("sweep --decay 1.0", "--decay=1.0 is out of range"),
    ],
)
def test_errors_are_one_line_and_name_options_as_the_shell_does(monkeypatch, line, message):
    said = ended(monkeypatch, *line.split())
    assert re.match(f"rmsprop-jax {line.split()[0]}: .*{message}", said)
    assert "\n" not in said


def test_a_terminal_shows_that_packages_are_loaded(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(monkeypatch, "recipes")
    shown, wiped, rest = capsys.readouterr().err.split("\r")
    assert shown == "rmsprop-jax recipes: loading ..."
    assert (wiped, rest) == (" " * len(shown), "")


def test_recipes(monkeypatch, capsys):
    run(monkeypatch, "recipes")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipes.__all__
    run(monkeypatch, "recipes", "a3c")
    out = capsys.readouterr().out
    assert out.startswith("recipes.a3c(learning_rate: ")
    assert "https://arxiv.org/abs/1602.01783" in out
    assert "no recipe dqn" in ended(monkeypatch, "recipes", "dqn")


def test_explain(monkeypatch, capsys):
    chain = optax.chain(optax.clip_by_global_norm(1.0), rmsprop(1e-3))
    for text, tx in (
        ("dialects.pytorch(1e-2, momentum=0.9)", dialects.pytorch(1e-2, momentum=0.9)),
        ("rmsprop_jax.dialects.keras(clipnorm=1.0)", dialects.keras(clipnorm=1.0)),
        ("keras", dialects.keras()),
        ("recipes.pymarl()", recipes.pymarl()),
        ("pymarl", recipes.pymarl()),
        ("optax.chain(optax.clip_by_global_norm(1.0), rmsprop_jax.rmsprop(1e-3))", chain),
    ):
        run(monkeypatch, "explain", text)
        assert capsys.readouterr().out == explain(tx) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dialects.pytoch(1e-2)", "'dialects.pytoch' is not known. Did you mean pytorch?"),
        ("pytorch(1e-2, momentm=0.9)", "momentm"),
        ("pytorch(-1.0)", "lr=-1.0"),
        ("pytorch(", "is no call"),
        ("1 + 1", "only numbers, strings, and functions of rmsprop_jax and optax"),
        ("0.1", "is not an optimizer, but float"),
        ("hinton2012", "learning_rate"),
        ("__import__('os').system('touch seen')", "is not known"),
        ("optax.os.system('touch seen')", "is not known"),
        ("rmsprop.__globals__", "is not known"),
        ("rmsprop(**{'decay': 0.5})", "only numbers"),
        ("(lambda: rmsprop())()", "only numbers"),
    ],
)
def test_explain_refuses(monkeypatch, text, message):
    assert message in ended(monkeypatch, "explain", text)


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
    monkeypatch.delattr("rmsprop_jax.trainer.mnist", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    args = ["--dataset", "digits"] if missing == "sklearn" else []
    message = ended(monkeypatch, command, *args)
    assert isinstance(message, str)
    assert "\n" not in message
    assert missing in message
    assert "pip install 'rmsprop_jax[examples]'" in message


def test_other_import_errors_are_not_hidden(monkeypatch):
    monkeypatch.delitem(sys.modules, "rmsprop_jax.examples.linear_regression", raising=False)
    monkeypatch.setitem(sys.modules, "rmsprop_jax.examples.linear_regression", None)
    with pytest.raises(ModuleNotFoundError):
        run(monkeypatch, "linear-regression")
