"""All that is known of an optimizer, as one table."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax.anatomy import Part, take_apart
from rmsprop_jax.diagnostics.factors import find_rms
from rmsprop_jax.diagnostics.names import grouping, name_at, named, plain, together
from rmsprop_jax.diagnostics.rates import effective_rates_of, rates_of
from rmsprop_jax.precision import widen_leaf
from rmsprop_jax.storage import StoreState, store
from rmsprop_jax.storage.saturation import extremes_of_parameters


class Report(NamedTuple):
    """What `report` returns: a pytree of scalars, which `print` shows as a table.

    Attributes:
      learning_rate: what `learning_rate` returns.
      effective_learning_rate: what `effective_learning_rate` returns.
      update_ratio: for each parameter by its name, the norm of its update over its own.
      nonfinite: for each parameter by its name, how many numbers are infinite or NaN: in its
        averages, and in itself and in its update if they were given.
      stored: for each parameter by its name whose accumulators `storage.store` keeps, the shares of
        their numbers that are 0, as `"zero"` (too small for the format, or 0), and that are the
        largest of the format, as `"largest"`.

    With `by`, parameters are groups of parameters, and all numbers are those of the group as if it
    were one array.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import diagnostics, rmsprop
      >>> tx = rmsprop(0.1)
      >>> made = diagnostics.report(tx, tx.init({"w": jnp.ones(2)}))
      >>> made.nonfinite, made.scalars()["nonfinite/w"]
      ({'w': Array(0, dtype=int32)}, 0.0)
    """

    learning_rate: Any
    effective_learning_rate: dict[str, dict[str, Any]]
    update_ratio: dict[str, Any]
    nonfinite: dict[str, Any]
    stored: dict[str, dict[str, Any]]

    def scalars(self) -> dict[str, float]:
        """All numbers by flat names, such as `"effective_learning_rate/dense/kernel/p50"`."""
        numbers = jax.tree.leaves_with_path(jax.device_get(self))
        return {name_at(path): float(x) for path, x in numbers}

    def __str__(self) -> str:
        """A table with a row for each parameter."""
        columns = self._columns()
        widths = [max(map(len, column)) for column in columns]
        rows = [
            [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            for row in zip(*columns, strict=True)
        ]
        return "\n".join("  ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in rows)

    def _repr_html_(self) -> str:
        """The table as notebooks show it."""
        header, *rows = zip(*self._columns(), strict=True)
        line = lambda tag, row: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        lines = [line("th", header), *(line("td", row) for row in rows)]
        return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in lines)}</table>"

    def _columns(self) -> list[list[str]]:
        """The columns of the table, the names of the parameters first."""
        rate, effective, ratio, nonfinite, stored = jax.tree.map(float, jax.device_get(self))
        rates = rate if isinstance(rate, dict) else dict.fromkeys(effective, rate)
        columns = {"learning rate": (rates, ".3g")}
        keys = next(iter(effective.values()), {}).keys() - {"eps_share"}  # in any order, from jit
        for key in [*sorted(keys, key=lambda p: float(p[1:])), "eps_share"]:
            form = ".1%" if key == "eps_share" else ".3g"
            columns[key] = ({name: numbers[key] for name, numbers in effective.items()}, form)
        columns |= {"update_ratio": (ratio, ".3g"), "nonfinite": (nonfinite, ".0f")}
        for key in ("zero", "largest") if stored else ():
            numbers = {name: numbers[key] for name, numbers in stored.items()}
            columns[f"stored_as_{key}"] = (numbers, ".1%")
        table = [["", *nonfinite]]
        for title, (numbers, form) in columns.items():
            cells = [format(numbers[k], form) if k in numbers else "-" for k in nonfinite]
            table.append([title.replace("_", " "), *cells])
        return table


def report(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    params: optax.Params | None = None,
    updates: optax.Updates | None = None,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    by: int | Callable[[str], str] | None = None,
) -> Report:
    """Tells all that this module knows about an optimizer.

    Args:
      tx: any transformation with one or more RMSProps of this library in it.
      opt_state: its state after an update.
      params: the parameters, if they shall be looked at.
      updates: what the update came to, if it shall be looked at; with params, also their ratio.
      quantiles: of the effective learning rates, each in [0, 1].
      by: what to put together. A number is how many parts of a name count: with `by=1`,
        `"dense/kernel"` and `"dense/bias"` are `"dense"`. Or a function from the name of a
        parameter to that of its group. `None` leaves them apart.

    Returns:
      A `Report`. The names of parameters are their paths, such as `"dense/kernel"`; an array that
      is in no tree is called `"params"`.

    Raises:
      ValueError: as from `learning_rate`, for a quantile out of its range, and for a `by` below 1.

    Example:
      >>> import jax.numpy as jnp, rmsprop_jax
      >>> tx = rmsprop_jax.rmsprop(0.1, decay=0.75, eps=0.01)
      >>> params = {"w": jnp.full(4, 2.0), "b": jnp.ones(1)}
      >>> grads = {"w": jnp.array([0.01, 0.08, 0.2, 0.4]), "b": jnp.full(1, jnp.nan)}
      >>> updates, opt_state = tx.update(grads, tx.init(params))
      >>> print(report(tx, opt_state, params, updates))
         learning rate     p5    p50   p95  eps share  update ratio  nonfinite
      b            0.1    nan    nan   nan       0.0%           nan          2
      w            0.1  0.476  0.909  6.67      25.0%        0.0788          0
    """
    group = grouping(by)
    found = find_rms(tx, opt_state)
    averages = [named(average) for rms in found for average in (rms.nu, rms.mu)]
    arrays, steps = named(params), named(updates)
    return Report(
        learning_rate=rates_of(found, group),
        effective_learning_rate=effective_rates_of(found, quantiles, group),
        update_ratio=_ratios(together([steps], group, arrays), together([arrays], group, steps)),
        nonfinite=_count_nonfinite(together([*averages, arrays, steps], group)),
        stored=_stored(take_apart(tx, plain(opt_state)), group),
    )


@jax.jit
def _ratios(updates, params):
    def norm(xs):
        return jnp.sqrt(sum(jnp.sum(jnp.abs(widen_leaf(x)) ** 2) for x in xs))

    def ratio(above, below):
        return jnp.where(above == 0, 0.0, above / below)  # 0/0 is 0

    with jax.numpy_dtype_promotion("standard"):
        return {k: ratio(norm(us), norm(params[k])) for k, us in updates.items()}


@jax.jit
def _count_nonfinite(groups):
    count = lambda x: jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)
    return {name: sum(map(count, xs)) for name, xs in groups.items()}


def _stored(whole: Part, group: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """The shares of the numbers that the formats of `storage.store` had no place for."""
    found = []
    for part in whole.walk():
        if part.factory is store and isinstance(part.state, StoreState):
            ends = extremes_of_parameters(part.state, **part.arguments["formats"])
            found += [{name_at(path) or "params": x} for path, x in ends]
    shares = {}
    for name, ends in together(found, group).items():
        size = max(1, sum(x.size for x in ends))
        shares[name] = {
            key: sum(getattr(x, key) for x in ends) / size for key in ("zero", "largest")
        }
    return shares
