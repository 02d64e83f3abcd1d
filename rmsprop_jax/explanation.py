"""What an optimizer does, in words: its update as lines of text, and eps moved over the root."""

import argparse
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import core

from rmsprop_jax import dialects
from rmsprop_jax.checks import check_range


class Part(NamedTuple):
    """One part of a chain.

    Attributes:
      name: the function that made it, such as `"trace"`.
      numbers: its arguments, such as `{"decay": 0.9, "nesterov": False}`.
      inner: the parts that it wraps, if any.
    """

    name: str
    numbers: dict[str, Any]
    inner: "list[Part]"


def explain(tx: optax.GradientTransformation) -> str:
    """Writes down the update that a transformation makes.

    The lines are Python, and run as they stand with NumPy's functions, for one parameter p with
    gradient g. They are read off the transformation itself, not off its documentation: wrapped in
    your own `optax.chain`, they tell what you wrapped it in. A part that isn't known here appears
    by its name, as a call.

    Args:
      tx: a transformation of this library, or any chain of Optax's parts.

    Returns:
      The text. `t` is the number of updates made before this one, u the update so far.

    Example:
      >>> from rmsprop_jax import dialects, explain
      >>> print(explain(dialects.tensorflow1(0.01, momentum=0.9)))
      # before the first update
      nu = 1
      trace = 0
      # every update
      u = g
      nu = 0.9 * nu + (1 - 0.9) * abs(u)**2
      u = u / sqrt(nu + 1e-10)
      u = -0.01 * u
      trace = u + 0.9 * trace
      u = trace
      p = p + u
    """
    lines = [_lines(part) for part in take_apart(tx)]
    start = [line for before, _ in lines for line in before]
    update = [line for _, every in lines for line in every]
    before = ["# before the first update", *start] if start else []
    return "\n".join([*before, "# every update", "u = g", *update, "p = p + u"])


def take_apart(tx: optax.GradientTransformation) -> list[Part]:
    """Takes a transformation apart.

    Optax's transformations are pairs of functions, which remember the arguments that they were made
    with as closures do; that memory is read here, so it is as good as the Optax installed.

    Args:
      tx: any transformation.

    Returns:
      The parts in the order in which they act; chains within chains are made flat.

    Example:
      >>> import optax
      >>> [part.name for part in take_apart(optax.chain(optax.clip(1.0), optax.sgd(0.1)))]
      ['clip', 'scale']
    """
    memory = {**closure(tx.init), **closure(tx.update)}
    name = getattr(tx.update, "__qualname__", type(tx.update).__name__).partition(".")[0]
    if name in ("compiled", "with_extra_args_support"):
        return take_apart(memory["transformation" if name == "compiled" else "tx"])
    if name == "chain":
        pairs = zip(memory["init_fns"], memory["update_fns"], strict=True)
        return [p for pair in pairs for p in take_apart(optax.GradientTransformation(*pair))]
    if name == "identity":
        return []
    inner = next((v for v in memory.values() if isinstance(v, optax.GradientTransformation)), None)
    return [Part(name, memory, take_apart(inner) if inner else [])]


def convert_eps(eps: float, *, into_sqrt: bool, at: float = 0.0) -> "EpsConversion":
    """Moves eps from one side of the square root to the other.

    The two denominators, sqrt(nu) + eps outside and sqrt(nu + eps) inside, can agree for one value
    of sqrt(nu) only. For all others the steps change, by the factors that come with the answer.

    Args:
      eps: the eps that you have, more than 0.
      into_sqrt: true to move eps into the root, false to move it out.
      at: the value of sqrt(nu), a typical size of the gradients, where both denominators shall be
        equal; 0 or more. At 0 it is the largest possible step, g / eps or g / sqrt(eps), that is
        kept.

    Returns:
      An `EpsConversion`.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for an argument that is no number.

    Example:
      >>> from rmsprop_jax import convert_eps
      >>> eps, slowest, fastest = convert_eps(1e-3, into_sqrt=False)  # Keras's to PyTorch's
      >>> print(f"eps = {eps:.4f}: steps times {slowest:.3f} to {fastest:.3f}")
      eps = 0.0316: steps times 0.707 to 1.000
    """
    check_range("eps", eps)
    check_range("at", at)
    if eps == 0:
        raise ValueError("eps=0 is on neither side of the root: it must be more than 0.")
    new = eps * (2 * at + eps) if into_sqrt else eps / (math.hypot(at, math.sqrt(eps)) + at)
    inside, outside = (math.sqrt(new), eps) if into_sqrt else (math.sqrt(eps), new)
    # sqrt(x^2 + inside^2) / (x + outside) is inside/outside at x = 0, has its minimum at
    # x = inside^2 / outside, and tends to 1. It is the factor of the steps when eps moves out.
    least, most = inside / math.hypot(inside, outside), max(inside / outside, 1.0)
    return EpsConversion(new, 1 / most, 1 / least) if into_sqrt else EpsConversion(new, least, most)


def dialect_table() -> str:
    """Sets the dialects beside each other.

    Returns:
      A table in Markdown, read off the signatures and off the chains that the dialects make.

    Example:
      >>> from rmsprop_jax.explanation import dialect_table
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


def main(args: Sequence[str]) -> None:
    """The command `rmsprop-jax dialects`."""
    description = "Sets the RMSProps of all frameworks beside each other."
    argparse.ArgumentParser("rmsprop-jax dialects", description=description).parse_args(args)
    print(dialect_table())


class EpsConversion(NamedTuple):
    """What `convert_eps` returns.

    Attributes:
      eps: the number for the other side of the root.
      slowest: the smallest factor by which the conversion changes a step, over all nu.
      fastest: the largest factor.

    Example:
      >>> import rmsprop_jax
      >>> rmsprop_jax.convert_eps(1e-4, into_sqrt=False).eps
      0.01
    """

    eps: float
    slowest: float
    fastest: float


def _variants(dialect: Callable[..., Any]) -> list[optax.GradientTransformation]:
    """The dialect with all of its parts, then without momentum, then with each switch turned."""
    parameters = inspect.signature(dialect).parameters
    all_parts = {k: 0.5 for k in ("learning_rate", "lr", "momentum", "weight_decay")}
    given = {k: v for k, v in all_parts.items() if k in parameters}
    turns = [{}, {"momentum": 0}] if "momentum" in parameters else [{}]
    turns += [{k: not p.default} for k, p in parameters.items() if isinstance(p.default, bool)]
    turns = [turn for turn in turns if "use_ema" not in turn]  # refused
    return [dialect(**{**given, **turn}) for turn in turns]


def _traits(tx: optax.GradientTransformation) -> tuple[str, ...]:
    """How a dialect answers the questions that the columns of the table ask; empty if it can't."""
    flat = [p for part in take_apart(tx) for p in (part, *part.inner)]
    names = [part.name for part in flat]
    at = {name: i for i, name in enumerate(names)}
    rms = flat[at["scale_by_rms"]].numbers
    rate, trace = at["scale"], at.get("trace")
    decays = {"coupled": "add_decayed_weights", "decoupled": "decoupled_decay"}
    return (
        f"{rms['initial_scale']:g}",
        "inside" if rms["eps_in_sqrt"] else "outside",
        "yes" if rms["centered"] else "no",
        "" if trace is None else "inside momentum" if rate < trace else "outside momentum",
        next((kind for kind, name in decays.items() if name in at), ""),
    )


def _defaults(dialect: Callable[..., Any]) -> str:
    names = ("lr", "learning_rate", "alpha", "rho", "decay", "momentum", "eps", "epsilon")
    defaults = [(k, p.default) for k, p in inspect.signature(dialect).parameters.items()]
    return ", ".join(f"{k} {v:g}" for k, v in defaults if k in names and isinstance(v, float) and v)


def closure(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function remembers, by name."""
    function = inspect.unwrap(function)  # from jit
    if inspect.ismethod(function):  # optax.MultiSteps
        return vars(function.__self__)
    return dict(inspect.getclosurevars(function).nonlocals)


def _lines(part: Part) -> tuple[list[str], list[str]]:
    """The lines of a part before the first update, and those of every update."""
    name, numbers, inner = part
    n = {key: _text(key, value) for key, value in numbers.items()}
    plain = {k: v for k, v in numbers.items() if isinstance(v, int | float | str)}
    arguments = ", ".join(f"{k}={v!r}" for k, v in plain.items())
    start = [line for part in inner for line in _lines(part)[0]]
    update = [line for part in inner for line in _lines(part)[1]]
    if name == "scale_by_rms":
        return _rms_lines(numbers, n)
    if name == "trace":
        decayed = f"u + {n['decay']} * trace"
        return ["trace = 0"], [
            f"trace = {decayed}",
            f"u = {decayed}" if numbers["nesterov"] else "u = trace",
        ]
    if name == "cautious":
        return start, [
            "before = u",
            *update,
            "against = u * before < 0",
            "u = u * against / maximum(mean(against), 0.001)",
        ]
    if inner:
        return start, [f"# {name}({arguments}) of:", *update, f"# end of {name}"]
    one_line = {
        "scale": "u = {step_size} * u",
        "scale_by_schedule": "u = {step_size_fn} * u",
        "add_decayed_weights": "u = u + {weight_decay} * p",
        "decoupled_decay": "u = u - {rate} * p",
        "clip": "u = clip(u, -{max_delta}, {max_delta})",
        "clip_by_leaf_norm": "u = u * {max_norm} / maximum(norm(u), {max_norm})",
        "clip_by_torch_norm": "u = u * minimum(1, {max_norm} / (norm(u) + 1e-06))",
    }
    if name in one_line:
        return [], [one_line[name].format(**n).replace("+ -", "- ")]
    return [], [f"u = {name}(u{', ' * bool(plain)}{arguments})"]


def _rms_lines(numbers: dict[str, Any], n: dict[str, str]) -> tuple[list[str], list[str]]:
    rho, eps = n["decay"], n["eps"]
    start, update = [f"nu = {n['initial_scale']}"], []
    if numbers["bias_correction"]:
        update.append(f"rho = {rho} * (1 - {rho}**t) / (1 - {rho}**(t + 1))")
        rho = "rho"
    if numbers["centered"]:
        start.append("mu = 0")
        update.append(f"nu = {rho} * (nu + (1 - {rho}) * abs(u - mu)**2)")
        update.append(f"mu = mu + (1 - {rho}) * (u - mu)")
    else:
        update.append(f"nu = {rho} * nu + (1 - {rho}) * abs(u)**2")
    root = f"sqrt(nu + {eps})" if numbers["eps_in_sqrt"] else f"(sqrt(nu) + {eps})"
    return start, [*update, f"u = u / {root}"]


def _text(name: str, value: Any) -> str:
    """A number as text, a schedule as a call; by its name what is known only under jit."""
    if callable(value):
        if {"learning_rate", "m"} <= closure(value).keys():  # optax.scale_by_learning_rate
            return "-learning_rate(t)"
        own_name = getattr(value, "__name__", "<lambda>")
        return f"{name if own_name == '<lambda>' else own_name}(t)"
    is_scalar = isinstance(value, int | float | jax.Array | np.ndarray) and np.ndim(value) == 0
    if not is_scalar or isinstance(value, core.Tracer):
        return name
    return f"{float(value):.12g}"
