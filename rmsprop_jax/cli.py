"""The command `rmsprop-jax`, which behaves as programs in a shell do."""

import argparse
import contextlib
import difflib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Generator, Iterable
from typing import NoReturn

import rmsprop_jax

COMMANDS = {  # the function that takes the rest of the command line, and what it does
    "mnist": ("trainer.commands:mnist", "train a Flax model on MNIST"),
    "sweep": ("trainer.commands:sweep", "train MNIST with a grid of hyperparameters at once"),
    "compare": ("trainer.commands:compare", "draw the curves of several optimizers on MNIST"),
    "linear-regression": (
        "trainer.commands:linear_regression",
        "fit a line, with eps outside and under the root",
    ),
    "a2c": ("trainer.commands:a2c", "balance a pole on a cart, by actor-critic"),
    "dialects": ("commands:dialects", "set the RMSProps of all frameworks beside each other"),
    "recipes": ("commands:recipes", "list the settings of papers and agents, with their sources"),
    "explain": ("commands:explain", "print the update that an optimizer makes"),
    "inspect": ("inspect_checkpoint:main", "say what is in a checkpoint, and how to load it"),
    "identify": ("identification.command:main", "tell which RMSProp made a recorded run"),
}
# What `pip install 'rmsprop_jax[examples]'` brings, by the names that Python imports.
EXTRA = {"flax", "matplotlib", "orbax", "pooch", "sklearn", "tqdm", "tyro"}


class Parser(argparse.ArgumentParser):
    """A parser of a command, which says what was meant by a word that it doesn't know."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage and the error, and exits."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        known = re.findall(r"(?<!\S)--?[a-z][a-z-]*", self.format_help())
        hints = "".join(did_you_mean(word, known) for word in unknown)
        super().error(f"{message}.{hints}" if hints else message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns a question that names what is spelled alike, or nothing."""
    known = list(known)
    close = [name for name in known if name.startswith(word)]
    close = close or difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


@contextlib.contextmanager
def loading(command: str) -> Generator[None]:
    """Says on a terminal that packages are imported, and ends in silence if interrupted meanwhile.

    Extension modules make other errors of an interrupt; while they are imported, there is nothing
    to clean up.
    """
    text = f"rmsprop-jax {command}: loading ..." if sys.stderr.isatty() else ""
    print(text, end="\r" if text else "", file=sys.stderr, flush=True)

    def stop(*_: object) -> None:
        print(interrupted(command), file=sys.stderr, flush=True)
        os._exit(130)

    handler = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        print(" " * len(text), end="\r" if text else "", file=sys.stderr, flush=True)


def interrupted(command: str) -> str:
    """Returns what a command says that Ctrl-C ends."""
    return f"rmsprop-jax {command}: interrupted"


def main() -> None:
    """Runs the subcommand that the command line names.

    Only the module of that subcommand is imported: `--help` is fast, and works without the
    packages that the examples need.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal that can't show all letters
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as shells say of a program that a closed pipe ended


def run() -> None:
    """Runs the subcommand, and says in one line why it fails."""
    parser = Parser(
        prog="rmsprop-jax",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="RMSProp in JAX: examples, and what differs between frameworks.",
        epilog="rmsprop-jax COMMAND --help lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_argument_group("commands")
    for name, (_, text) in COMMANDS.items():
        commands.add_argument(name, help=text, nargs="?")
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command.startswith("-"):
        if parser.parse_args([command]).version:
            print(f"rmsprop-jax {rmsprop_jax.__version__}")
        sys.exit(0)
    if command not in COMMANDS:
        parser.error(f"there is no command {command}.{did_you_mean(command, COMMANDS)}")
    module, _, function = COMMANDS[command][0].partition(":")
    try:
        with loading(command):
            start = getattr(importlib.import_module(f"rmsprop_jax.{module}"), function)
        start(sys.argv[2:])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.exit(
            f"rmsprop-jax {command} needs {missing}, which is not installed: "
            "pip install 'rmsprop_jax[examples]'"
        )
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        sys.exit(f"rmsprop-jax {command}: {error}")
    except KeyboardInterrupt:
        print(interrupted(command), file=sys.stderr)
        sys.exit(130)  # as shells expect of a command that Ctrl-C ended


if __name__ == "__main__":
    main()
