"""The command `rmsprop-jax`, which behaves as programs in a shell do."""

import argparse
import importlib
import io
import os
import signal
import sys

COMMANDS = {  # the module whose `main` takes the rest of the command line, and what it does
    "mnist": ("trainer.mnist", "train a Flax model on MNIST"),
    "sweep": ("trainer.sweep", "train MNIST with a grid of hyperparameters, as one program"),
    "compare": ("trainer.compare", "draw the curves of several optimizers on MNIST"),
    "linear-regression": (
        "examples.linear_regression",
        "fit a line, with eps outside and under the root",
    ),
    "a2c": ("examples.a2c", "balance a pole on a cart, by actor-critic"),
    "inspect": ("inspect_checkpoint", "say what is in a checkpoint, and how to load it"),
    "identify": ("identification.command", "tell which RMSProp made a recorded run"),
    "dialects": ("table", "set the RMSProps of all frameworks beside each other"),
}
# What `pip install 'rmsprop_jax[examples]'` brings, by the names that Python imports.
EXTRA = {"flax", "matplotlib", "orbax", "pooch", "sklearn", "tqdm", "tyro"}


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
    parser = argparse.ArgumentParser(
        prog="rmsprop-jax",
        description="RMSProp in JAX: examples, and what differs between frameworks.",
        epilog="rmsprop-jax COMMAND --help lists the options of a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    command = parser.parse_known_args(sys.argv[1:2])[0].command
    message = f"rmsprop-jax {command}: interrupted"

    def stop(*_: object) -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(130)

    try:
        # Extension modules make other errors of an interrupt; while they are imported, there is
        # nothing to clean up.
        handler = signal.signal(signal.SIGINT, stop)
        try:
            module = importlib.import_module(f"rmsprop_jax.{COMMANDS[command][0]}")
        finally:
            signal.signal(signal.SIGINT, handler)
        module.main(sys.argv[2:])
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
        print(message, file=sys.stderr)
        sys.exit(130)  # as shells expect of a command that Ctrl-C ended


if __name__ == "__main__":
    main()
