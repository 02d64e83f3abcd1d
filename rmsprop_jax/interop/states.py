"""What all frameworks have in common: accumulators by the name of their parameter.

Three accumulators are known, by the names that they have in the states here: `"nu"`, `"mu"` and
`"trace"`. Outside of a state, nu is the second moment E|g|^2 (the state of a centered optimizer has
the variance), and the trace is what is subtracted from the parameters (a state in which the
learning rate comes before the momentum has it with the opposite sign).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import dialects
from rmsprop_jax.anatomy import Part, find_traces, take_apart
from rmsprop_jax.interop.arrays import Named, as_array, cast_like, check, check_numbers
from rmsprop_jax.transform import RmsState

ACCUMULATORS = ("nu", "mu", "trace")

Keys = Mapping[str, Mapping[str, str]]
"""For each accumulator and each name of a parameter the key that a framework saves it under."""


def load(
    tx: optax.GradientTransformation,
    weights: Named,
    to_params: Callable[[dict[str, Any]], Any],
    saved: Named,
    keys: Keys,
    count: int | None,
) -> optax.OptState:
    """Makes a state of what a framework has saved.

    Args:
      tx: the transformation that the state is for.
      weights: the parameters, by name.
      to_params: makes a pytree of parameters from a dictionary like weights.
      saved: everything that the framework has saved, by its own keys.
      keys: where to look for which accumulator.
      count: number of updates made, or `None` if the framework doesn't say.

    Returns:
      The state, with the structure and the dtypes of `tx.init(to_params(weights))`.

    Raises:
      ValueError: if anything is missing, left over, or of another shape than its parameter; for a
        negative average of squares; and for a schedule without a count.
    """
    weights = {name: as_array(x) for name, x in weights.items()}
    saved = {key: as_array(x) for key, x in saved.items()}
    check(saved, {key: weights[n] for part in keys.values() for n, key in part.items()})
    check_numbers(saved, keys["nu"].values())

    def tree(part):
        return to_params(
            {n: saved[part[n]] if n in part else np.zeros_like(x) for n, x in weights.items()}
        )

    template = tx.init(to_params(weights))
    return put(tx, template, {name: tree(part) for name, part in keys.items()}, count)


def dump(
    trees: Mapping[str, Any], weights: Named, from_params: Callable[[Any], Named], keys: Keys
) -> dict[str, Any]:
    """Names accumulators as a framework does.

    Args:
      trees: the accumulators, from `take`.
      weights: the parameters, by name.
      from_params: makes a dictionary like weights from a pytree of parameters.
      keys: which accumulators of which parameters the framework has, and their keys.

    Returns:
      What from_params made of the accumulators, by the framework's keys, in their order.

    Raises:
      ValueError: if from_params doesn't come to the names and shapes of weights.
    """
    arrays = {}
    for accumulator, part in keys.items():
        named = from_params(trees[accumulator])
        label = lambda arrays, end=f" ({accumulator})": {n + end: x for n, x in arrays.items()}
        check(label(named), label(weights))
        arrays |= {key: named[name] for name, key in part.items()}
    return arrays


def put(tx: Any, template: Any, trees: Mapping[str, Any], count: int | None) -> Any:
    """Puts accumulators into a state in the place of its own.

    Args:
      tx: the transformation that the state is of.
      template: a state; that of `optax.partition` takes from the trees what its groups have.
      trees: the accumulators, each a tree like the parameters.
      count: number of updates made; `None` leaves it 0, if nothing depends on it.

    Returns:
      The state, in the dtypes of the template and, where it is sharded, sharded like it.

    Raises:
      ValueError: if a schedule depends on the count, and for complex accumulators where the state
        has real ones.
    """
    nodes, treedef = jax.tree.flatten(template, is_leaf=_is_node)
    if count is None and any(_is_node(x) and x._fields == ("count",) for x in nodes):
        raise ValueError(
            "The checkpoint doesn't say how many updates were made, and a schedule depends on it: "
            "pass count."
        )
    sign_of = _signs(take_apart(tx, template))

    def fill(node: Any) -> Any:
        if not _is_node(node):
            return node
        new: dict[str, Any] = {}
        if "count" in node._fields:
            new["count"] = np.asarray(count or 0)
        if "nu" in node._fields:
            nu = _like(node.nu, trees["nu"])
            if node.mu is not None:
                new["mu"] = _like(node.mu, trees["mu"])
                nu = _map(variance, nu, new["mu"])
            new["nu"] = nu
        if "trace" in node._fields:
            new["trace"] = _like(node.trace, _map(lambda x: sign_of[id(node)] * x, trees["trace"]))
        return jax.tree.map(cast_like, node, node._replace(**new))

    return treedef.unflatten(map(fill, nodes))


def take(tx: Any, state: Any, join: bool = False) -> tuple[dict[str, Any], int]:
    """Takes the accumulators out of a state.

    Args:
      tx: the transformation that the state is of.
      state: its state; the groups of `optax.partition` are put together.
      join: make complex arrays of pairs of arrays, which is how `dialects.pytorch` keeps them.

    Returns:
      The accumulators as trees of NumPy arrays, 0 where the state has none; and the count.

    Raises:
      ValueError: for a state that isn't one of tx, and if no dialect made tx.
    """
    whole = take_apart(tx, state)
    made = find_dialects(whole)
    if not made:
        raise _not_one(0)
    sign_of, nodes = _signs(whole), [part.state for call in made for part in call.walk()]
    parts: dict[str, list[Any]] = {name: [] for name in ACCUMULATORS}
    for node in {id(node): node for node in nodes}.values():
        if isinstance(node, RmsState) and node.mu is None:
            parts["nu"].append(_map(np.array, node.nu))
        elif isinstance(node, RmsState):
            parts["nu"].append(_map(second_moment, node.nu, node.mu))
            parts["mu"].append(_map(np.array, node.mu))
        elif "trace" in getattr(node, "_fields", ()):
            sign = sign_of[id(node)]
            parts["trace"].append(_map(lambda x, sign=sign: sign * np.array(x), node.trace))
    if join:
        parts = {name: [_join_pairs(tree) for tree in part] for name, part in parts.items()}

    first = lambda xs, default: next((x for x in xs if not _is_masked(x)), default)
    nu = jax.tree.map(lambda *xs: first(xs, xs[0]), *parts["nu"], is_leaf=_is_masked)
    or_zeros = lambda nu, *xs: first(xs, np.zeros_like(nu))
    trees = {name: jax.tree.map(or_zeros, nu, *part) for name, part in parts.items()}
    return trees, max(int(node.count) for node in nodes if isinstance(node, RmsState))


def variance(second: Any, mu: Any) -> Any:
    """E|g|^2 - |E g|^2, but for one rounding; 0 where a framework's own errors are larger."""
    wide = np.maximum(_wide(second) - _abs_sq(mu), 0)  # NaN stays
    return wide.astype(np.asarray(second).dtype)


def second_moment(nu: Any, mu: Any) -> Any:
    """The inverse of `variance`."""
    return (_wide(nu) + _abs_sq(mu)).astype(np.asarray(nu).dtype)


def made_by(tx: optax.GradientTransformation | Part) -> tuple[str, dict[str, Any]]:
    """The call of a dialect that made a transformation, maybe behind others in a chain.

    Args:
      tx: such as `dialects.keras(0.01)`, `optax.chain(optax.clip(1.0), dialects.pytorch())` or
        `recipes.pymarl()`.

    Returns:
      The name of the dialect and all of its arguments.

    Raises:
      ValueError: unless there is exactly one dialect in tx, and nothing behind it.

    Example:
      >>> name, arguments = made_by(optax.chain(optax.clip(1.0), dialects.mlx(0.1)))
      >>> print(name, arguments)
      mlx {'learning_rate': 0.1, 'alpha': 0.99, 'eps': 1e-08}
    """
    whole = tx if isinstance(tx, Part) else take_apart(tx)
    calls = find_dialects(whole)
    if len(calls) != 1:
        raise _not_one(len(calls))
    check_end(whole, calls[0])
    return calls[0].name, calls[0].arguments


def find_dialects(whole: Part) -> list[Part]:
    """All parts that dialects made."""
    known = [getattr(dialects, name) for name in dialects.__all__]
    return [part for part in whole.walk() if part.factory in known]


def check_end(whole: Part, end: Part) -> None:
    """Raises if anything but parts in front changes what a part does."""
    while whole is not end:
        children = [c for c in whole.children.values() if c.factory is not optax.identity]
        is_last = whole.in_turn and any(part is end for part in children[-1].walk())
        if not is_last:
            other = children[-1].name if whole.in_turn else whole.name
            raise ValueError(
                f"{other} changes the updates of {end.name}, so that nothing that can be written "
                "for a framework would go on like this optimizer: pass the dialect and its own "
                "part of the state."
            )
        whole = children[-1]


def _not_one(number: int) -> ValueError:
    return ValueError(
        f"Only what one of rmsprop_jax.dialects made can be written for a framework; here are "
        f"{number} of them. Other states of this library can be moved into a dialect's by "
        "interop.restore(dialects.pytorch(...), opt_state, params)."
    )


def rate_at(learning_rate: Any, count: int) -> float:
    """The learning rate of the update after `count` others, as a Python number."""
    rate: Any = learning_rate(jnp.asarray(count)) if callable(learning_rate) else learning_rate
    return float(rate)


def _is_node(x: Any) -> bool:
    """Whether x is the part of a state that holds accumulators or a count."""
    fields = getattr(x, "_fields", ())
    return bool(fields) and set(fields) <= {"count", *ACCUMULATORS}


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _signs(whole: Part) -> dict[int, int]:
    """For each trace by the id of its state +1 or -1, which is what the learning rate brings."""
    traces = [trace for made in find_dialects(whole) for trace in find_traces(made)]
    return {id(trace.state): 1 if trace.side == "outside" else -1 for trace in traces}


def _map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps arrays, and leaves alone what `optax.masked` has masked."""
    keep = lambda x, *xs: x if _is_masked(x) else function(x, *xs)
    return jax.tree.map(keep, tree, *rest, is_leaf=_is_masked)


def _like(old: Any, new: Any) -> Any:
    """The new tree in the structure and dtypes of the old one."""
    if any(np.iscomplexobj(x) for x in jax.tree.leaves(new)):
        new = jax.tree.map(lambda x: (x.real, x.imag) if np.iscomplexobj(x) else x, new)

    def cast(old, new):
        if np.shape(new) != old.shape:
            raise ValueError(
                "to_params makes other shapes of the accumulators than of the parameters. (If they "
                "are complex: these can be carried over for dialects.pytorch only.)"
            )
        return np.asarray(new).astype(old.dtype)

    return _map(cast, old, new)


def _join_pairs(tree: Any) -> Any:
    is_pair = lambda x: type(x) is tuple and len(x) == 2 and all(hasattr(y, "dtype") for y in x)
    join = lambda x: x[0] + 1j * x[1] if is_pair(x) else x
    return jax.tree.map(join, tree, is_leaf=lambda x: is_pair(x) or _is_masked(x))


def _wide(x: Any) -> Any:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _abs_sq(x: Any) -> Any:
    x = _wide(x)
    return x.real**2 + x.imag**2
