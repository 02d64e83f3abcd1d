"""The commands that train: first what the command line says, then JAX, then the run.

An option that is wrong is refused, and `--help` shown, without a wait for JAX.
"""

import contextlib
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

import tyro

from rmsprop_jax.cli import loading
from rmsprop_jax.trainer import options

T = TypeVar("T", options.Config, options.Sweep, options.Compare)


def mnist(args: Sequence[str]) -> None:
    """The command `rmsprop-jax mnist`."""
    with parsed(options.Config, "mnist", args) as config:
        options.checked(config)
        with loading("mnist"):
            from rmsprop_jax.trainer import mnist
        mnist.run(config)


def sweep(args: Sequence[str]) -> None:
    """The command `rmsprop-jax sweep`."""
    with parsed(options.Sweep, "sweep", args) as config:
        with loading("sweep"):
            from rmsprop_jax.trainer import sweep
        if not sweep.sweep(config).finished:
            sys.exit(130)  # as shells expect of a command that Ctrl-C ended


def compare(args: Sequence[str]) -> None:
    """The command `rmsprop-jax compare`."""
    with parsed(options.Compare, "compare", args) as config:
        with loading("compare"):
            from rmsprop_jax.trainer import compare
        compare.compare(config)


def linear_regression(args: Sequence[str]) -> None:
    """The command `rmsprop-jax linear-regression`."""
    with loading("linear-regression"):
        from rmsprop_jax.examples.linear_regression import fit
    call(fit, "linear-regression", args)


def a2c(args: Sequence[str]) -> None:
    """The command `rmsprop-jax a2c`."""
    with loading("a2c"):
        from rmsprop_jax.examples.a2c import report
    call(report, "a2c", args)


@contextlib.contextmanager
def parsed(kind: type[T], command: str, args: Sequence[str]) -> Generator[T]:
    """Reads a command line; each class that the configuration is made of is a group of its help."""
    groups = [c for c in reversed(kind.__mro__) if c.__bases__ == (object,)]
    fields = [(c.__name__.lower(), c, dataclasses.field(default=c())) for c in groups]
    nested = dataclasses.make_dataclass(kind.__name__, fields)
    nested.__doc__ = kind.__doc__
    markers = tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone
    given = tyro.cli(nested, prog=f"rmsprop-jax {command}", args=args, config=markers)
    values = {k: v for group in vars(given).values() for k, v in vars(group).items()}
    with spelled_as_options(values):
        yield kind(**values)


def call(function: Callable[..., Any], command: str, args: Sequence[str]) -> None:
    """Calls a function with the options of a command line."""
    with spelled_as_options(inspect.signature(function).parameters):
        tyro.cli(function, prog=f"rmsprop-jax {command}", args=args)


@contextlib.contextmanager
def spelled_as_options(names: Iterable[str]) -> Generator[None]:
    """Names arguments in errors as the shell does: `--batch-size=0` for `batch_size=0`."""
    argument = rf"(^|(?<=[\s,]))({'|'.join(names)})(?==)|^({'|'.join(names)})\b"
    option = lambda found: f"--{found[0].replace('_', '-')}"
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(argument, option, str(error))) from error
