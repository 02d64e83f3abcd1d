"""What an optimizer does to each parameter, read off its state: nothing is computed unless called.

`report` has all of it, as a table to read in a terminal and as numbers for TensorBoard or wandb:

    updates, opt_state = tx.update(grads, opt_state, params)
    print(report(tx, opt_state, params, updates))
    wandb.log(report(tx, opt_state, params, updates, by=1).scalars())  # one row for each layer

A state doesn't say what it was made with. So tx is asked: for eps, for the schedule whose count is
in the state, for the formats of `storage.store`. RMSProp is found in chains and in the wrappers
that Optax has; what an `nnx.Optimizer` has for a state is taken as it is. All functions also run
inside of `jax.jit`, with tx as a constant there, and on sharded arrays.
"""

from __future__ import annotations

import collections
import functools
import html
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import parts
from rmsprop_jax.anatomy import NOT_SCALING, PASSING, Part, mismatch, take_apart
from rmsprop_jax.checks import check_range
from rmsprop_jax.precision import widen_leaf
from rmsprop_jax.storage import StoreState, store, unpack
from rmsprop_jax.storage.wrapper import extremes_of_parameters
from rmsprop_jax.transform import NumeratorState, RmsState, scale_by_rms

__all__ = ["Report", "effective_learning_rate", "learning_rate", "report"]


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
        return {_name(path): float(x) for path, x in numbers}

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
    group = _grouping(by)
    found = _find(tx, opt_state)
    averages = [_named(average) for rms in found for average in (rms.nu, rms.mu)]
    arrays, steps = _named(params), _named(updates)
    return Report(
        learning_rate=_rates(found, group),
        effective_learning_rate=_effective_rates(found, quantiles, group),
        update_ratio=_ratios(_together([steps], group, arrays), _together([arrays], group, steps)),
        nonfinite=_count_nonfinite(_together([*averages, arrays, steps], group)),
        stored=_stored(take_apart(tx, _plain(opt_state)), group),
    )


def learning_rate(
    tx: optax.GradientTransformation, opt_state: optax.OptState
) -> jax.Array | dict[str, jax.Array]:
    """The learning rate of the last update.

    That is the number by which tx multiplies what `scale_by_rms` gives, with its sign turned:
    the product of all `optax.scale`, of schedules at their own counts, and of the scale of
    `reduce_on_plateau`. With `optax.inject_hyperparams`, it is what the state holds. What momentum,
    clipping and weight decay do is left out, and updates that `MultiSteps` or `apply_if_finite`
    hold back don't count.

    Args:
      tx: any transformation with one or more RMSProps of this library in it.
      opt_state: its state after an update; before any, it is the rate of the first one.

    Returns:
      A scalar; or, if parameters have several, as in `optax.partition` or with a masked
      `optax.scale`, one for each parameter by name.

    Raises:
      ValueError: if tx has no RMSProp of this library, if a part that isn't known here stands
        around or behind one, and if opt_state isn't a state of tx.

    Example:
      >>> import jax.numpy as jnp, optax, rmsprop_jax
      >>> tx = optax.MultiSteps(rmsprop_jax.rmsprop(lambda count: 0.5**count), 2)
      >>> opt_state, rates = tx.init(jnp.zeros(1)), []
      >>> for _ in range(6):
      ...     _, opt_state = tx.update(jnp.ones(1), opt_state, jnp.zeros(1))
      ...     rates.append(float(learning_rate(tx, opt_state)))
      >>> rates
      [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return _rates(_find(tx, opt_state))


def effective_learning_rate(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
) -> dict[str, dict[str, jax.Array]]:
    """The learning rate of the last update, divided by the denominator that each element has.

    It is learning_rate / (sqrt(nu) + eps), or learning_rate / sqrt(nu + eps): what the gradients
    were multiplied by, with the sign turned, if tx does nothing else. Where eps is larger than
    what it is added to, it dominates: there, steps are proportional to the gradients, as in SGD.

    Args:
      tx: any transformation with one or more RMSProps of this library in it.
      opt_state: its state after an update.
      quantiles: which to take over the elements of a parameter, each in [0, 1].

    Returns:
      For each parameter by its name a dictionary of scalars: the quantiles, as `"p50"`, and the
      share of the elements in which eps dominates, as `"eps_share"`. A quantile is the rate of an
      element (the nearest-rank method, by size if rates are negative), and NaN counts as the
      largest.

    Raises:
      ValueError: as from `learning_rate`, and for a quantile out of its range.

    Example:
      >>> import jax.numpy as jnp, rmsprop_jax
      >>> tx = rmsprop_jax.rmsprop(0.5, decay=0.75, eps=0.25)
      >>> grads = {"w": jnp.array([0.0, 1.0, 1.5, 3.5])}
      >>> updates, opt_state = tx.update(grads, tx.init(grads))
      >>> rates = effective_learning_rate(tx, opt_state, quantiles=(0, 0.5, 1))
      >>> print({key: float(x) for key, x in rates["w"].items()})
      {'eps_share': 0.25, 'p0': 0.25, 'p100': 2.0, 'p50': 0.5}
    """
    return _effective_rates(_find(tx, opt_state), quantiles)


class _Rms(NamedTuple):
    """A `scale_by_rms`: its arguments, its averages, and what its updates are multiplied by."""

    arguments: dict[str, Any]
    nu: Any
    mu: Any
    factor: Any = 1.0

    def times(self, factor: Any) -> _Rms:
        return self._replace(factor=self.factor * factor)

    def of(self, mask: Callable[[Any], bool], value: bool = True) -> _Rms:
        """The same for the parameters for whose paths a mask has a value."""
        choose = lambda path, x: x if mask(path) is value else optax.MaskedNode()
        nu, mu = (jax.tree.map_with_path(choose, tree) for tree in (self.nu, self.mu))
        return self._replace(nu=nu, mu=mu)


def _find(tx: Any, opt_state: Any) -> list[_Rms]:
    whole = take_apart(tx, _plain(opt_state))
    with jax.numpy_dtype_promotion("standard"):  # between factors
        found = _follow(whole, [])
    if not found:
        leaves = [p.name for p in whole.walk() if not p.children and p.factory != optax.identity]
        raise ValueError(
            f"tx has no RMSProp of rmsprop_jax, only these parts: {', '.join(leaves)}. (For "
            "optax.rmsprop, take rmsprop_jax.dialects.optax; interop.optax.load takes over its "
            "state.)"
        )
    return [rms for rms in found if _named(rms.nu)] or found[:1]


def _follow(part: Part, found: list[_Rms]) -> list[_Rms]:
    """Goes through a part, with the RMSProps found before it, whose updates it may scale."""
    factory, arguments, state = part.factory, part.arguments, part.state
    has_rms = any(p.factory is scale_by_rms for p in part.walk())
    if factory is scale_by_rms:
        state = state.rms if isinstance(state, NumeratorState) else state
        if not isinstance(state, RmsState):
            raise mismatch("an RmsState", state)
        return [*found, _Rms(arguments, state.nu, state.mu)]
    if not (has_rms or found) or factory in NOT_SCALING:
        return found
    if factory in _FACTORS:
        factor = _FACTORS[factory](part)
        return [rms.times(factor) for rms in found]
    if factory is store:
        inside = take_apart(arguments["tx"], unpack(state, **arguments["formats"]))
        return _follow(inside, found)
    passing = factory in PASSING and not (found and factory is optax.MultiSteps)
    if part.in_turn or passing:
        for child in part.children.values():
            found = _follow(child, found)
        return found
    if factory is optax.masked:
        return _follow_masked(part.children["inner"], found, arguments["mask"], True)
    if factory is optax.partition:
        for label, child in part.children.items():
            found = _follow_masked(child, found, arguments["param_labels"], label)
        return found
    if factory is optax.conditionally_mask:
        return _follow_conditional(part, found, 0.0)
    if factory is optax.conditionally_transform and not has_rms:
        return _follow_conditional(part, found, 1.0)
    raise ValueError(
        f"What {part.name} does to the updates of an RMSProp can't be told here, so neither can a "
        "learning rate: pass the RMSProp alone, with its own part of the state."
    )


def _follow_masked(part: Part, found: list[_Rms], tree: Any, value: Any) -> list[_Rms]:
    """The same for a part that acts where a mask, or a tree of labels, has a value."""

    def chosen(rms: _Rms) -> Callable[[Any], bool]:
        leaves = jax.tree.leaves(tree)
        is_function = callable(tree) and (not leaves or all(map(callable, leaves)))
        known = jax.tree.leaves_with_path(tree(rms.nu) if is_function else tree)
        return lambda path: any(bool(x == value) for p, x in known if path[: len(p)] == p)

    masks = [chosen(rms) for rms in found]
    inside = [rms.of(mask) for rms, mask in zip(found, masks, strict=True)]
    after = _follow(part, inside)
    if all(x.factor is y.factor for x, y in zip(inside, after, strict=False)):
        return found + after[len(found) :]
    return after + [rms.of(mask, False) for rms, mask in zip(found, masks, strict=True)]


def _follow_conditional(part: Part, found: list[_Rms], otherwise: float) -> list[_Rms]:
    """The same for a part that acted or not, at the step before the one that the state counts."""
    condition = part.arguments["should_transform_fn"]
    if part.arguments.get("forward_extra_args", True):
        raise ValueError(f"{part.name} depends on more than its state: there is no learning rate.")
    acted = condition(jnp.maximum(part.state.step - 1, 0))
    inner = part.children["inner"]
    if not found:
        return [rms.times(jnp.where(acted, 1.0, otherwise)) for rms in _follow(inner, [])]
    alone = [(rms, _follow(inner, [rms._replace(factor=1.0)])) for rms in found]
    return [
        new._replace(factor=rms.factor * jnp.where(acted, new.factor, otherwise))
        for rms, after in alone
        for new in after
    ]


def _count(part: Part) -> Any:
    """The number of updates that a part had made before its last one."""
    if not hasattr(part.state, "count"):
        raise mismatch(f"the state of {part.name}", part.state)
    return jnp.maximum(part.state.count - 1, 0)


def _learning_rate(part: Part) -> Any:
    rate: Any = part.arguments["learning_rate"]
    now: Any = rate(_count(part)) if callable(rate) else rate
    return -now


# What parts multiply updates by.
_FACTORS: dict[Any, Callable[[Part], Any]] = {
    parts.scale_by_learning_rate: _learning_rate,
    parts.scale: lambda part: part.arguments["step_size"],
    optax.scale: lambda part: part.arguments["step_size"],
    optax.scale_by_schedule: lambda part: part.arguments["step_size_fn"](_count(part)),
    optax.contrib.reduce_on_plateau: lambda part: part.state.scale,
    optax.set_to_zero: lambda part: 0.0,
}


def _grouping(by: int | Callable[[str], str] | None) -> Callable[[str], str]:
    """The function from names of parameters to those of groups."""
    if by is None:
        return lambda name: name
    if callable(by):
        return by
    if not isinstance(by, int) or isinstance(by, bool) or by < 1:
        raise ValueError(f"by={by!r} is neither a function nor a number of at least 1.")
    return lambda name: "/".join(name.split("/")[:by])


def _together(
    trees: Sequence[dict[str, Any]], group: Callable[[str], str], also_in: Any = None
) -> dict[str, list[Any]]:
    """What is named in some dictionaries, group by group; in another dictionary, too, if given."""
    groups: dict[str, list[Any]] = collections.defaultdict(list)
    for tree in trees:
        for name, x in tree.items():
            if also_in is None or name in also_in:
                groups[group(name)].append(x)
    return dict(groups)


def _rates(found: list[_Rms], group: Callable[[str], str] = lambda name: name) -> Any:
    rates = [-jnp.asarray(rms.factor) for rms in found]
    if len(rates) == 1:
        return rates[0]
    of_names = [dict.fromkeys(_named(rms.nu), i) for i, rms in enumerate(found)]
    # A group in which there are several has none.
    groups = {name: set(which) for name, which in _together(of_names, group).items()}
    return {name: rates[which.pop()] for name, which in groups.items() if len(which) == 1}


def _effective_rates(
    found: list[_Rms],
    quantiles: Sequence[float],
    group: Callable[[str], str] = lambda name: name,
) -> dict[str, dict[str, Any]]:
    for q in quantiles:
        check_range("quantiles", q, upper=1.0)
    averages = []
    for rms in found:
        eps, root, least = (rms.arguments[k] for k in ("eps", "eps_root", "least_root"))
        places = (eps, 0.0, least) if rms.arguments["eps_in_sqrt"] else (root, eps, least)
        numbers = (-rms.factor, *places)
        averages.append({name: (nu, *numbers) for name, nu in _named(rms.nu).items()})
    return _divide(_together(averages, group), tuple(quantiles))


@functools.partial(jax.jit, static_argnames="quantiles")
def _divide(groups, quantiles):
    """The rates over the denominators, in quantiles; and the shares of eps, wherever it is."""

    def of(nu, *numbers):
        rate, inside, outside, least = (jnp.asarray(x, nu.dtype) for x in numbers)
        root = jnp.sqrt(nu + inside)
        most = jnp.maximum(root, least)
        denominator = most + outside
        inverse = jnp.where(denominator == 0, 0.0, 1 / denominator)  # since 0/0 is 0
        dominated = (inside > nu) | (least > root) | (outside > most)
        return jnp.abs(rate) * inverse, jnp.sum(dominated), jnp.sign(rate)

    numbers = {}
    for name, rows in groups.items():
        rates, dominated, signs = zip(*(of(*row) for row in rows), strict=True)
        dtype = jnp.result_type(*rates)
        found = signs[0] * _quantiles([x.astype(dtype) for x in rates], quantiles)
        share = sum(dominated) / sum(x.size for x in rates)
        numbers[name] = {f"p{100 * q:g}": found[i] for i, q in enumerate(quantiles)}
        numbers[name]["eps_share"] = share
    return numbers


def _stored(whole: Part, group: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """The shares of the numbers that the formats of `storage.store` had no place for."""
    found = []
    for part in whole.walk():
        if part.factory is store and isinstance(part.state, StoreState):
            ends = extremes_of_parameters(part.state, **part.arguments["formats"])
            found += [{_name(path) or "params": x} for path, x in ends]
    shares = {}
    for name, ends in _together(found, group).items():
        size = max(1, sum(x.size for x in ends))
        shares[name] = {
            key: sum(getattr(x, key) for x in ends) / size for key in ("zero", "largest")
        }
    return shares


def _quantiles(xs: Sequence[jax.Array], quantiles: Sequence[float]) -> jax.Array:
    """The elements of some arrays, all of them 0 or more, that have the ranks ceil(q size).

    Read as integers, such floats have the same order. Bisecting these takes 32 passes for float32,
    no memory, and works on any sharding, where sorting would gather the array on each device.
    """
    dtype, size = xs[0].dtype, sum(x.size for x in xs)
    bits = jnp.finfo(dtype).bits
    orders = [jax.lax.bitcast_convert_type(x, f"uint{bits}") for x in xs]
    ranks = jnp.array([max(1, math.ceil(q * size)) for q in quantiles], jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        count = lambda m: sum(jnp.sum(order <= m, dtype=jnp.int32) for order in orders)
        enough = jax.vmap(count)(middle) >= ranks
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    bounds = (
        jnp.zeros(ranks.shape, orders[0].dtype),
        jnp.full(ranks.shape, 2 ** (bits - 1) - 1, orders[0].dtype),
    )
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, bits, halve, bounds)[0], dtype)


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


def _named(tree: Any) -> dict[str, jax.Array]:
    """The arrays of numbers in a tree by the names of their places."""
    kinds = jax.Array | np.ndarray | np.generic | float | complex
    leaves = jax.tree.leaves_with_path(_plain(tree))
    arrays = [(path, jnp.asarray(x)) for path, x in leaves if isinstance(x, kinds)]
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    return {_name(path) or "params": x for path, x in arrays if is_float(x) and x.size}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _plain(tree: Any) -> Any:
    """The tree with arrays in the place of the variables of Flax NNX."""
    is_variable = lambda x: hasattr(x, "get_value")
    get = lambda x: x.get_value() if is_variable(x) else x
    return jax.tree.map(get, tree, is_leaf=is_variable)
