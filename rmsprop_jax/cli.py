"""The command `rmsprop-jax`."""

import argparse
import importlib
import sys

COMMANDS = {  # the module whose `main` takes the rest of the command line, and what it does
    "mnist": ("examples.mnist", "train a Flax model on MNIST"),
    "sweep": ("examples.sweep", "train MNIST with a grid of hyperparameters, as one program"),
    "compare": ("examples.compare", "draw the curves of several optimizers on MNIST"),
    "linear-regression": (
        "examples.linear_regression",
        "fit a line, with eps outside and under the root",
    ),
    "inspect": ("inspect_checkpoint", "say what is in a checkpoint, and how to load it"),
    "dialects": ("table", "set the RMSProps of all frameworks beside each other"),
}
# What `pip install 'rmsprop_jax[examples]'` brings, by the names that Python imports.
EXTRA = {"flax", "matplotlib", "orbax", "pooch", "sklearn", "tqdm", "tyro"}


def main() -> None:
    """Runs the subcommand that the command line names.

    Only the module of that subcommand is imported: `--help` is fast, and works without the
    packages that the examples need.
    """
    parser = argparse.ArgumentParser(
        prog="rmsprop-jax",
        description="RMSProp in JAX: examples, and what differs between frameworks.",
        epilog="rmsprop-jax COMMAND --help lists the options of a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    command = parser.parse_known_args(sys.argv[1:2])[0].command
    try:
        importlib.import_module(f"rmsprop_jax.{COMMANDS[command][0]}").main(sys.argv[2:])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.exit(
            f"rmsprop-jax {command} needs {missing}, which is not installed: "
            "pip install 'rmsprop_jax[examples]'"
        )
    except KeyboardInterrupt:
        print(f"rmsprop-jax {command}: interrupted", file=sys.stderr)
        sys.exit(130)  # as shells expect of a command that Ctrl-C ended


if __name__ == "__main__":
    main()
