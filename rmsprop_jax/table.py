"""The dialects beside each other, as a table."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import optax

from rmsprop_jax import dialects, parts
from rmsprop_jax.anatomy import take_apart
from rmsprop_jax.checks import given
from rmsprop_jax.transform import scale_by_rms


def dialect_table() -> str:
    """Sets the dialects beside each other.

    Returns:
      A table in Markdown, read off the signatures and off the chains that the dialects make.

    Example:
      >>> from rmsprop_jax.table import dialect_table
      >>> [cell.strip() for cell in dialect_table().splitlines()[0].split("|")[1:4]]
      ['dialect', 'defaults', 'nu from']
    """
    header = ("dialect", "defaults", "nu from", "eps", "centered", "learning rate", "weight decay")
    rows: list[tuple[str, ...]] = [header]
    for name in dialects.__all__:
        dialect = getattr(dialects, name)
        columns = zip(*map(_traits, _variants(dialect)), strict=True)
        traits = [" or ".join(dict.fromkeys(filter(None, column))) or "-" for column in columns]
        rows.append((name, _defaults(dialect), *traits))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    padded = [[cell.ljust(n) for cell, n in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def _variants(dialect: Callable[..., Any]) -> Iterator[optax.GradientTransformation]:
    """The dialect with all of its parts, then without momentum, then with each switch turned."""
    parameters = inspect.signature(dialect).parameters
    rates = ("learning_rate", "lr", "step_size", "momentum", "mom", "weight_decay", "wd")
    all_parts = dict.fromkeys(rates, 0.5)
    numbers = {k: v for k, v in all_parts.items() if k in parameters}
    turns: list[dict[str, Any]] = [{}]
    turns += [{name: 0} for name in ("momentum", "mom") if name in parameters]
    turns += [{k: not p.default} for k, p in parameters.items() if isinstance(p.default, bool)]
    for turn in turns:
        with contextlib.suppress(ValueError):  # a switch that it has, and refuses to turn
            yield dialect(**{**numbers, **turn})


def _traits(tx: optax.GradientTransformation) -> tuple[str, ...]:
    """How a dialect answers the questions that the columns of the table ask; empty if it can't."""
    order = [(part.factory, part.arguments) for part in take_apart(tx).walk()]
    factories, arguments = [factory for factory, _ in order], dict(order)
    rms, decay = arguments[scale_by_rms], arguments.get(parts.decoupled_decay, {})
    side = ""
    if parts.trace in factories:
        first = factories.index(parts.scale_by_learning_rate) < factories.index(parts.trace)
        side = "inside momentum" if first else "outside momentum"
    coupled = "coupled" if parts.add_decayed_weights in factories else ""
    return (
        f"{rms['initial_scale']:g}",
        "inside" if rms["eps_in_sqrt"] else "outside",
        "yes" if rms["centered"] else "no",
        side,
        "decoupled" if given(decay.get("weight_decay")) else coupled,
    )


def _defaults(dialect: Callable[..., Any]) -> str:
    names = ("lr", "learning_rate", "alpha", "rho", "decay", "gamma", "sqr_mom", "momentum")
    names += ("eps", "epsilon")
    defaults = [(k, p.default) for k, p in inspect.signature(dialect).parameters.items()]
    return ", ".join(f"{k} {v:g}" for k, v in defaults if k in names and isinstance(v, float) and v)
