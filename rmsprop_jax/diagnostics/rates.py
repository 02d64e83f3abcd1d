"""The learning rate in force, and what it comes to in each element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax.checks import check_range
from rmsprop_jax.diagnostics.factors import Rms, find_rms
from rmsprop_jax.diagnostics.names import named, together


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
    return rates_of(find_rms(tx, opt_state))


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
    return effective_rates_of(find_rms(tx, opt_state), quantiles)


def rates_of(found: list[Rms], group: Callable[[str], str] = lambda name: name) -> Any:
    """What `learning_rate` returns, by groups."""
    rates = [-jnp.asarray(rms.factor) for rms in found]
    if len(rates) == 1:
        return rates[0]
    of_names = [dict.fromkeys(named(rms.nu), i) for i, rms in enumerate(found)]
    # A group in which there are several has none.
    groups = {name: set(which) for name, which in together(of_names, group).items()}
    return {name: rates[which.pop()] for name, which in groups.items() if len(which) == 1}


def effective_rates_of(
    found: list[Rms],
    quantiles: Sequence[float],
    group: Callable[[str], str] = lambda name: name,
) -> dict[str, dict[str, Any]]:
    """What `effective_learning_rate` returns, by groups."""
    for q in quantiles:
        check_range("quantiles", q, upper=1.0)
    averages = []
    for rms in found:
        eps, root, least = (rms.arguments[k] for k in ("eps", "eps_root", "least_root"))
        places = (eps, 0.0, least) if rms.arguments["eps_in_sqrt"] else (root, eps, least)
        numbers = (-rms.factor, *places)
        averages.append({name: (nu, *numbers) for name, nu in named(rms.nu).items()})
    return _divide(together(averages, group), tuple(quantiles))


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
