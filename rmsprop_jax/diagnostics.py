"""What an optimizer does to each parameter, read off its state: nothing is computed unless called.

`report` has all of it, as a table to read in a terminal and as numbers for TensorBoard or wandb:

    updates, opt_state = tx.update(grads, opt_state, params)
    print(report(tx, opt_state, params, updates))
    wandb.log(report(tx, opt_state, params, updates).scalars())

A state doesn't say what it was made with. So tx is asked: for eps, for the schedule whose count is
in the state, for the formats of `storage.store`. RMSProp is found in chains and in the wrappers
that Optax has; what an `nnx.Optimizer` has for a state is taken as it is. All functions also run
inside of `jax.jit`, with tx as a constant there, and on sharded arrays.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.checks import check_range
from rmsprop_jax.explanation import closure, take_apart
from rmsprop_jax.precision import widen
from rmsprop_jax.storage import unpack
from rmsprop_jax.transform import RmsState

__all__ = ["Report", "effective_learning_rate", "learning_rate", "report"]


class Report(NamedTuple):
    """What `report` returns: a pytree of scalars, which `print` shows as a table.

    Attributes:
      learning_rate: what `learning_rate` returns.
      effective_learning_rate: what `effective_learning_rate` returns.
      update_ratio: for each parameter by its name, the norm of its update over its own.
      nonfinite: for each parameter by its name, how many numbers are infinite or NaN: in its
        averages, and in itself and in its update if they were given.

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

    def scalars(self) -> dict[str, float]:
        """All numbers by flat names, such as `"effective_learning_rate/dense/kernel/p50"`."""
        numbers = jax.tree.leaves_with_path(jax.device_get(self))
        return {_name(path): float(x) for path, x in numbers}

    def __str__(self) -> str:
        """A table with a row for each parameter."""
        rate, effective, ratio, nonfinite = jax.tree.map(float, jax.device_get(self))
        rates = rate if isinstance(rate, dict) else dict.fromkeys(effective, rate)
        columns = {"learning rate": (rates, ".3g")}
        keys = next(iter(effective.values()), {}).keys() - {"eps_share"}  # in any order, from jit
        for key in [*sorted(keys, key=lambda p: float(p[1:])), "eps_share"]:
            form = ".1%" if key == "eps_share" else ".3g"
            columns[key] = ({name: numbers[key] for name, numbers in effective.items()}, form)
        columns |= {"update_ratio": (ratio, ".3g"), "nonfinite": (nonfinite, ".0f")}
        table = [["", *nonfinite]]
        for title, (numbers, form) in columns.items():
            cells = [format(numbers[k], form) if k in numbers else "-" for k in nonfinite]
            table.append([title.replace("_", " "), *cells])
        names, *others = [(column, max(map(len, column))) for column in table]
        padded = [[cell.ljust(names[1]) for cell in names[0]]]
        padded += [[cell.rjust(width) for cell in column] for column, width in others]
        return "\n".join("  ".join(row) for row in zip(*padded, strict=True))


def report(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    params: optax.Params | None = None,
    updates: optax.Updates | None = None,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
) -> Report:
    """Tells all that this module knows about an optimizer.

    Args:
      tx: any transformation with one or more RMSProps of this library in it.
      opt_state: its state after an update.
      params: the parameters, if they shall be looked at.
      updates: what the update came to, if it shall be looked at; with params, also their ratio.
      quantiles: of the effective learning rates, each in [0, 1].

    Returns:
      A `Report`. The names of parameters are their paths, such as `"dense/kernel"`; an array that
      is in no tree is called `"params"`.

    Raises:
      ValueError: as from `learning_rate`, and for a quantile out of its range.

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
    found = _find(tx, opt_state)
    averages = [_named(average) for rms in found for average in (rms.state.nu, rms.state.mu)]
    arrays, steps = _named(params), _named(updates)
    return Report(
        learning_rate=_rates(found),
        effective_learning_rate=_effective_rates(found, quantiles),
        update_ratio=_ratios(steps, arrays),
        nonfinite=_count_nonfinite([*averages, arrays, steps]),
    )


def learning_rate(
    tx: optax.GradientTransformation, opt_state: optax.OptState
) -> jax.Array | dict[str, jax.Array]:
    """The learning rate of the last update.

    That is the number by which tx multiplies what `scale_by_rms` gives, with its sign turned:
    the product of all `optax.scale`, of schedules at their own counts, and of the scale of
    `reduce_on_plateau`. With `optax.inject_hyperparams`, it is what the state holds. What other
    parts do, such as momentum and clipping, is left out.

    Args:
      tx: any transformation with one or more RMSProps of this library in it.
      opt_state: its state after an update; before any, it is the rate of the first one.

    Returns:
      A scalar; or, for several RMSProps, as in `optax.partition`, one for each parameter by name.

    Raises:
      ValueError: if tx has no RMSProp of this library or scales a part of the parameters after it,
        and if opt_state isn't a state of tx.

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
    """A `scale_by_rms`: its arguments, its state, and the factor that its updates get after it."""

    numbers: dict[str, Any]
    state: RmsState
    factor: Any = 1.0


def _find(tx: Any, opt_state: Any) -> list[_Rms]:
    try:
        with jax.numpy_dtype_promotion("standard"):  # between factors
            found = _walk(tx, _plain(opt_state), [])
    except AttributeError as error:
        raise ValueError(f"opt_state isn't a state of tx: {error}.") from error
    if not found:
        parts = ", ".join(part.name for part in take_apart(tx))
        raise ValueError(
            f"tx has no RMSProp of rmsprop_jax, only these parts: {parts}. (For optax.rmsprop, "
            "take rmsprop_jax.dialects.optax; interop.optax.load takes over its state.)"
        )
    return found


def _walk(tx: Any, state: Any, found: list[_Rms]) -> list[_Rms]:
    """Goes through a transformation, with its state beside it and what was found before it."""
    memory = {**closure(tx.init), **closure(tx.update)}
    times = lambda factor: [rms._replace(factor=rms.factor * factor) for rms in found]
    match getattr(tx.update, "__qualname__", "").partition(".")[0]:
        case "scale_by_rms" if "centered" in memory:  # Optax's has the same name
            if not isinstance(state, RmsState):
                raise _mismatch("an RmsState", state)
            return [*found, _Rms(memory, state)]
        case "scale":
            return times(memory["step_size"])
        case "scale_by_schedule":
            return times(memory["step_size_fn"](jnp.maximum(state.count - 1, 0)))
        case "reduce_on_plateau":
            return times(state.scale)
        case "compiled":
            return _walk(memory["transformation"], state, found)
        case "with_extra_args_support":
            return _walk(memory["tx"], state, found)
        case "inject_hyperparams":
            inner = memory["inner_factory"](**memory["other_hps"], **state.hyperparams)
            return _walk(inner, state.inner_state, found)
        case "chain":
            pairs = zip(memory["init_fns"], memory["update_fns"], strict=True)
            parts = [optax.GradientTransformation(*pair) for pair in pairs]
            if not isinstance(state, tuple) or len(state) != len(parts):
                raise _mismatch(f"a tuple of {len(parts)} states", state)
            for part, part_state in zip(parts, state, strict=True):
                found = _walk(part, part_state, found)
            return found
        case "named_chain":
            for name, part in memory["transforms"]:
                found = _walk(part, state[name], found)
            return found
        case "partition":
            branches = [(tx, state.inner_states[k]) for k, tx in memory["transforms"].items()]
            return found + [rms for tx, s in branches for rms in _walk_masked(tx, s, found)]
        case "masked":
            return found + _walk_masked(memory["inner"], state, found)
        case "store":
            return _walk(memory["tx"], unpack(state, **dict(memory["chosen"])), found)
    inner = next((v for v in memory.values() if isinstance(v, optax.GradientTransformation)), None)
    if inner is None:
        return found
    fields = ("inner_state", "inner_opt_state", "base_optimizer_state", "fast_state", "inner")
    inner_state = next((getattr(state, f) for f in fields if hasattr(state, f)), state)
    return _walk(inner, inner_state, found)


def _mismatch(expected: str, state: Any) -> ValueError:
    found = [type(s).__name__ for s in state] if type(state) is tuple else type(state).__name__
    return ValueError(f"opt_state isn't a state of tx: in the place of {expected} it has {found}.")


def _walk_masked(tx: Any, state: Any, before: list[_Rms]) -> list[_Rms]:
    """What is found in a transformation that acts on a part of the parameters only."""
    found = _walk(tx, state.inner_state, before)
    is_masked = lambda x: isinstance(x, optax.MaskedNode)
    for new, old in zip(found, before, strict=False):
        # An RMSProp that is masked too is taken to be that of other parameters.
        masked = any(map(is_masked, jax.tree.leaves(old.state.nu, is_leaf=is_masked)))
        if new is not old and not masked:
            raise ValueError(
                "tx scales a part of the parameters after an RMSProp of all, so that there is no "
                "one learning rate: give each part an RMSProp of its own, as in optax.partition("
                "{'fast': rmsprop(0.1), 'slow': rmsprop(0.01)}, labels)."
            )
    return found[len(before) :]


def _rates(found: list[_Rms]) -> Any:
    rates = [-jnp.asarray(rms.factor) for rms in found]
    if len(rates) == 1:
        return rates[0]
    return {k: rate for rms, rate in zip(found, rates, strict=True) for k in _named(rms.state.nu)}


def _effective_rates(found: list[_Rms], quantiles: Sequence[float]) -> dict[str, dict[str, Any]]:
    for q in quantiles:
        check_range("quantiles", q, upper=math.nextafter(1.0, 2.0))
    rates = {}
    for rms in found:
        eps, inside = rms.numbers["eps"], rms.numbers["eps_in_sqrt"]
        rates |= _divide(-rms.factor, _named(rms.state.nu), eps, inside, tuple(quantiles))
    return rates


@functools.partial(jax.jit, static_argnames=("inside", "quantiles"))
def _divide(rate, nus, eps, inside, quantiles):
    """The rate over the denominators, in quantiles; and the shares of eps."""

    def of(nu):
        e = jnp.asarray(eps, nu.dtype)
        added_to = nu if inside else jnp.sqrt(nu)
        denominator = jnp.sqrt(nu + e) if inside else added_to + e
        inverse = jnp.where(denominator == 0, 0.0, 1 / denominator)  # since 0/0 is 0
        rates = jnp.asarray(rate, nu.dtype) * _quantiles(inverse, quantiles)
        numbers = {f"p{100 * q:g}": rates[i] for i, q in enumerate(quantiles)}
        return {**numbers, "eps_share": jnp.mean(e > added_to)}

    return {name: of(nu) for name, nu in nus.items()}


def _quantiles(x: jax.Array, quantiles: Sequence[float]) -> jax.Array:
    """The elements of x, all of them 0 or more, that have the ranks ceil(q size).

    Read as integers, such floats have the same order. Bisecting these takes 32 passes for float32,
    no memory, and works on any sharding, where sorting would gather the array on each device.
    """
    bits = jnp.finfo(x.dtype).bits
    order = jax.lax.bitcast_convert_type(x, f"uint{bits}")
    ranks = jnp.array([max(1, math.ceil(q * x.size)) for q in quantiles], jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jax.vmap(lambda m: jnp.sum(order <= m, dtype=jnp.int32))(middle) >= ranks
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    bounds = (
        jnp.zeros(ranks.shape, order.dtype),
        jnp.full(ranks.shape, 2 ** (bits - 1) - 1, order.dtype),
    )
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, bits, halve, bounds)[0], x.dtype)


@jax.jit
def _ratios(updates, params):
    def ratio(update, param):
        above, below = (jnp.sqrt(jnp.sum(jnp.abs(x) ** 2)) for x in widen((update, param)))
        return jnp.where(above == 0, 0.0, above / below)  # 0/0 is 0

    with jax.numpy_dtype_promotion("standard"):
        return {k: ratio(u, params[k]) for k, u in updates.items() if k in params}


@jax.jit
def _count_nonfinite(trees):
    counts = {}
    for name, x in (item for tree in trees for item in tree.items()):
        counts[name] = counts.get(name, 0) + jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)
    return counts


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
