"""What is said of a checkpoint, whoever wrote it."""

import importlib
import inspect
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from rmsprop_jax import dialects, rmsprop
from rmsprop_jax.calls import evaluate
from rmsprop_jax.explanation import explain
from rmsprop_jax.frameworks import arrays


class Report(NamedTuple):
    """What is in a checkpoint.

    Attributes:
      written_by: framework and optimizer.
      calls: for each group the call of a dialect, or of `rmsprop`.
      unknown: what isn't in the file, and has to be put in by the user.
      count: number of updates made, if the file says so.
      accumulators: for each array what it is, of which parameter, its shape and its numbers.
      missing: what isn't there, or is there besides.
      lines: code that loads the file.
    """

    written_by: str
    calls: list[str]
    unknown: list[str]
    count: int | None  # pyright: ignore[reportIncompatibleMethodOverride]
    accumulators: list[dict[str, Any]]
    missing: list[str]
    lines: list[str]


# The extras of this library that bring what reads files; the others are in `inspect`.
_LARGE = ("torch", "tensorflow")


def need(package: str) -> Any:
    """A module that reads files.

    Raises:
      ModuleNotFoundError: naming the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        reader = package.partition(".")[0]
        extra = reader if reader in _LARGE else "inspect"
        raise ModuleNotFoundError(
            f"This file is read by {reader}, which isn't installed: "
            f"pip install 'rmsprop_jax[{extra}]'",
            name=error.name,
        ) from None


def call(name: str, arguments: dict[str, Any]) -> str:
    """The call of `rmsprop` or of a dialect, without what is its default or isn't its argument."""
    parameters = inspect.signature(function(name)).parameters
    given = {k: v.item() if hasattr(v, "item") else v for k, v in arguments.items()}
    text = [
        f"{k}={v!r}" for k, v in given.items() if k in parameters and parameters[k].default != v
    ]
    return f"{name}({', '.join(text)})"


def function(name: str) -> Any:
    """`rmsprop`, or the dialect of a name."""
    return rmsprop if name == "rmsprop" else getattr(dialects, name.removeprefix("dialects."))


def row(name: str, part: str, x: Any, rate: float | None) -> dict[str, Any]:
    """The numbers of an accumulator; for nu those of its root, and what it makes of a step."""
    x = arrays.as_array(x)
    wide = np.abs(x.astype(np.complex128 if np.iscomplexobj(x) else np.float64))
    finite = wide[np.isfinite(wide)]
    root = np.sqrt(finite) if part == "nu" else finite
    quantiles = np.quantile(root, [0, 0.5, 1]).tolist() if root.size else [math.nan] * 3
    steps = part == "nu" and rate is not None and quantiles[1] > 0
    return {
        "parameter": name,
        "accumulator": part,
        "shape": list(x.shape),
        **dict(zip(("lowest", "median", "highest"), quantiles, strict=True)),
        "effective_lr": rate / quantiles[1] if rate is not None and steps else None,
        "zeros": int((x == 0).sum()),
        "nan": int(np.isnan(x).sum()),
        "inf": int(np.isinf(x).sum()),
    }


def some(keys: Iterable[Any]) -> str:
    """The first of some keys."""
    text = list(map(str, keys))
    return ", ".join(text[:8]) + (", ..." if len(text) > 8 else "")


def as_text(report: Report) -> str:
    """A report for people."""
    lines = [f"written by    {report.written_by}"]
    lines.append(f"updates made  {'not in the file' if report.count is None else report.count}")
    for text in report.calls:
        lines += ["", text, *(f"  {line}" for line in explain(evaluate(text)).splitlines())]
    if report.unknown:
        lines += ["", f"not in the file, so put in your own: {', '.join(report.unknown)}"]
    lines += ["", *_table(report.accumulators)]
    if report.missing:
        lines += ["", "missing", *(f"  {line}" for line in report.missing)]
    return "\n".join([*lines, "", "to load it", *(f"    {line}" for line in report.lines)])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    label = {"nu": "√nu", "mu": "|mu|", "trace": "|trace|"}
    number = lambda x: "" if x is None else f"{x:.2g}"
    cells = [("", "shape", "lowest", "median", "highest", "lr/median", "zeros", "NaN", "inf")]
    cells += [
        (
            f"{row['parameter']} {label[row['accumulator']]}",
            "×".join(map(str, row["shape"])) or "()",
            *(number(row[k]) for k in ("lowest", "median", "highest", "effective_lr")),
            *(str(row[k]) for k in ("zeros", "nan", "inf")),
        )
        for row in rows
    ]
    first, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
    return [
        "  ".join(
            [head.ljust(first), *(c.rjust(n) for c, n in zip(rest, widths, strict=True))]
        ).rstrip()
        for head, *rest in cells
    ]
