"""What the checkpoints of all frameworks have in common: accumulators, by name of their parameter.

Three accumulators are known, by the names that they have in the states here: `"nu"`, `"mu"` and
`"trace"`. Outside of a state, nu is the second moment E|g|^2 (the state of a centered optimizer has
the variance), and the trace is what is subtracted from the parameters (a state in which the
learning rate comes before the momentum has it with the opposite sign).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import anatomy
from rmsprop_jax.frameworks import arrays
from rmsprop_jax.frameworks.arrays import Named
from rmsprop_jax.frameworks.pairing import Port, probe
from rmsprop_jax.transform import RmsState, scale_by_rms

ACCUMULATORS = ("nu", "mu", "trace")

Keys = Mapping[str, Mapping[str, str]]
"""For each accumulator and each name of a parameter the key that a framework saves it under."""


class Group(NamedTuple):
    """A dialect in a transformation, with the parts of its state.

    Attributes:
      name: of the dialect.
      arguments: of its call.
      rms: its `RmsState`.
      trace: the state of its momentum, or `None`.
      sign: of the trace here against that of what is subtracted; -1 behind the learning rate.
      counts: the states of its schedules.
      state: all of its state.
    """

    name: str
    arguments: dict[str, Any]
    rms: RmsState
    trace: Any
    sign: int
    counts: list[Any]
    state: Any


def groups_of(
    tx: optax.GradientTransformation, state: optax.OptState, *, writes: bool = False
) -> list[Group]:
    """The dialects in a transformation, in whatever it wraps them, with their states.

    Raises:
      ValueError: if there is none, if state isn't one of tx, and, for what is to be written, if
        something behind a dialect changes what it does.
    """
    whole = anatomy.take_apart(tx, state)
    found = [part for part in whole.walk() if is_dialect(part)]
    if not found:
        raise ValueError(
            "There is no dialect in tx, and only what one of rmsprop_jax.dialects made can be read "
            "and written for a framework. Other states of this library are moved into a dialect's "
            "by interop.restore(dialects.pytorch(...), opt_state, params)."
        )
    groups = []
    for part in found:
        inside = [p for p in part.walk() if not p.children]
        average = next(p for p in part.walk() if p.factory is scale_by_rms)
        if average.arguments["numerator"] is not None:
            raise ValueError(
                f"dialects.{part.name} isn't what any file that is read or written here has a "
                "place for: what it sums up are gradients, not steps. Save its state as it is, and "
                "get it back by interop.restore."
            )
        rms, traces = average.state, anatomy.find_traces(part)
        if not isinstance(rms, RmsState) or len(traces) > 1:
            raise ValueError(
                f"the accumulators of dialects.{part.name} aren't as it keeps them, but in a "
                f"{type(rms).__name__}: unpack the state first, see storage."
            )
        empty = [
            p.state for p in inside if p.factory is optax.identity and jax.tree.leaves(p.state)
        ]
        if empty or (rms.mu is not None) != bool(average.arguments["centered"]):
            raise ValueError(
                f"opt_state isn't a state of tx, but of dialects.{part.name} with other options: "
                f"{f'it has a {type(empty[0]).__name__}' if empty else f'mu is {rms.mu!r:.20}'}. "
                "interop.restore moves it into a state of tx."
            )
        counts = [p.state for p in inside if getattr(p.state, "_fields", ()) == ("count",)]
        trace = traces[0].state if traces else None
        sign = 1 if traces and traces[0].side == "outside" else -1
        groups.append(Group(part.name, part.arguments, rms, trace, sign, counts, part.state))
    if writes and len(found) == 1:
        _check_end(whole, found[0])
    return groups


def is_dialect(part: anatomy.Part) -> bool:
    """Whether a part was made by the function of a framework's file."""
    package, _, name = (getattr(part.factory, "__module__", None) or "").rpartition(".")
    return package == __package__ and getattr(part.factory, "__name__", None) == name


def _check_end(whole: anatomy.Part, end: anatomy.Part) -> None:
    """Raises if anything but parts in front changes what a dialect does."""
    while whole is not end and whole.factory is not optax.partition:
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


def members_of(groups: list[Group], port: Port) -> dict[str, int]:
    """For each parameter that one of the groups has the number of the group."""
    members: dict[str, int] = {}
    for k, group in enumerate(groups):
        own = lambda index, nu: [] if is_masked(nu) else port.owners(index)
        tree = jax.tree.map(own, port.tree, group.rms.nu)
        members |= dict.fromkeys(jax.tree.leaves(tree), k)
    return {name: members[name] for name in port.names if name in members}


def start(
    tx: optax.GradientTransformation, weights: Named, to_params: Callable[[dict[str, Any]], Any]
) -> optax.OptState:
    """The state of tx as at the start, for the parameters that weights make."""
    return tx.init(jax.tree.map(jnp.asarray, to_params(dict(weights))))


def by_name(found: Named, wanted: Named, keys: Keys) -> dict[str, Named]:
    """For each accumulator the arrays by name of the parameter, all checked.

    Args:
      found: the arrays that there are, by key.
      wanted: arrays like those that there should be, by key.
      keys: the key of each.
    """
    arrays.check(found, wanted)
    means = {keys["nu"][n]: key for n, key in keys.get("mu", {}).items()}
    arrays.check_numbers(found, keys["nu"].values(), means)
    return {part: {n: found[key] for n, key in own.items()} for part, own in keys.items()}


def load(
    tx: optax.GradientTransformation,
    template: optax.OptState,
    port: Port,
    saved: Mapping[str, Named],
    count: int | None,
) -> optax.OptState:
    """Puts accumulators into a state in the place of its own.

    Args:
      tx: the transformation that the state is of.
      template: a state of it as at the start.
      port: from names to parameters.
      saved: for each accumulator the arrays by name of the parameter; those that aren't there stay
        as at the start.
      count: number of updates made; `None` leaves it 0, if nothing depends on it.

    Returns:
      The state, in the dtypes of the template and, where it is sharded, sharded like it.

    Raises:
      ValueError: if a schedule depends on the count, and for complex accumulators where the state
        has real ones.
    """
    new: dict[int, Any] = {}
    groups = groups_of(tx, template)
    if count is None and any(group.counts for group in groups):
        raise ValueError(
            "The checkpoint doesn't say how many updates were made, and a schedule depends on it: "
            "pass count."
        )
    number = {"count": np.asarray(count or 0)}
    for group in groups:
        nu: Named = saved.get("nu", {})
        fields: dict[str, Any] = {"nu": nu, **number}
        if group.rms.mu is not None:
            mu = saved.get("mu", {})
            fields |= {
                "mu": mu,
                "nu": {n: variance(x, mu[n]) if n in mu else x for n, x in nu.items()},
            }
        new[id(group.rms)] = _fill(group.rms, port, fields)
        if group.trace is not None:
            trace = {n: group.sign * x for n, x in saved.get("trace", {}).items()}
            new[id(group.trace)] = _fill(group.trace, port, {"trace": trace})
        new |= {id(x): _fill(x, port, number) for x in group.counts}
    is_new = lambda x: id(x) in new
    return jax.tree.map(lambda x: new.get(id(x), x), template, is_leaf=is_new)


def _fill(node: Any, port: Port, fields: Mapping[str, Any]) -> Any:
    """A part of a state with other numbers; arrays by name go where the port has them."""
    new = {}
    for field, x in fields.items():
        if isinstance(x, Mapping):
            dtype = np.result_type(np.float32, *(y.dtype for y in x.values()))
            ones = {name: np.ones(y.shape, bool) for name, y in x.items()}
            known, numbers = port.apply(ones, bool), port.apply(x, dtype)
            put = lambda known, new, old: _put(known, new, old)
            new[field] = jax.tree.map(put, known, numbers, getattr(node, field))
        else:
            new[field] = arrays.cast_like(getattr(node, field), x)
    return node._replace(**new)


def _put(known: Any, new: Any, old: Any) -> Any:
    """An array where it is known, elsewhere the old one."""
    if is_masked(old):
        return old
    if type(old) is tuple:  # real and imaginary part
        return tuple(_put(known, x, y) for x, y in zip((new.real, new.imag), old, strict=True))
    if np.iscomplexobj(new) and not np.iscomplexobj(old):
        if np.any(new.imag):
            raise ValueError("There are complex accumulators of real parameters.")
        new = new.real
    return arrays.cast_like(old, np.where(known, new, np.asarray(old)))


def take(groups: list[Group], params: Any = None, join: bool = False) -> dict[str, Any]:
    """Takes the accumulators out of groups.

    Args:
      groups: of a transformation; those of `optax.partition` are put together.
      params: the parameters, for the shapes of those that are in no group.
      join: make complex arrays of pairs of arrays, which is how `dialects.pytorch` keeps them.

    Returns:
      The accumulators as trees of NumPy arrays, 0 where the state has none; and as "group" a tree
      with the number of the group of each, -1 for none.
    """
    trees: dict[str, list[Any]] = {name: [] for name in ("group", *ACCUMULATORS)}
    for group in groups:
        nu, mu, trace = group.rms.nu, group.rms.mu, getattr(group.trace, "trace", None)
        trees["nu"].append(_map(np.array, nu) if mu is None else _map(second_moment, nu, mu))
        if mu is not None:
            trees["mu"].append(_map(np.array, mu))
        if trace is not None:
            trees["trace"].append(_map(lambda x, sign=group.sign: sign * np.array(x), trace))
    if join:
        trees = {name: [_join_pairs(tree) for tree in part] for name, part in trees.items()}
    trees["group"] = [
        _map(lambda x, k=k: np.full(x.shape, k), nu) for k, nu in enumerate(trees["nu"])
    ]

    def first(xs: Any, default: Any) -> Any:
        own = [x for x in xs if not is_masked(x)]
        if len(own) > 1:
            raise ValueError(f"tx has {len(own)} dialects one after the other: pass a single one.")
        return own[0] if own else default

    whole = jax.tree.map(lambda *xs: first(xs, xs[0]), *trees["nu"], is_leaf=is_masked)
    if params is not None:
        zero = lambda x, p: np.zeros(np.shape(p), np.float32) if is_masked(x) else x
        whole = jax.tree.map(zero, whole, params, is_leaf=is_masked)
    elif any(map(is_masked, jax.tree.leaves(whole, is_leaf=is_masked))):
        raise ValueError("Some parameters are in no group and have no accumulators: pass params.")
    fill = {"group": -1, "nu": 0, "mu": 0, "trace": 0}
    return {
        name: jax.tree.map(
            lambda x, *xs, name=name: first(xs, np.full(x.shape, fill[name], x.dtype)), whole, *part
        )
        for name, part in trees.items()
    }


def dump(
    groups: list[Group],
    weights: Named,
    from_params: Callable[[Any], Named],
    params: Any = None,
    join: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Takes the accumulators out of groups, and names them as weights are named.

    Args:
      groups: of a transformation.
      weights: the parameters, by name.
      from_params: makes a dictionary like weights from a pytree of parameters.
      params: the parameters, for `take`.
      join: make complex arrays, for `take`.

    Returns:
      For each accumulator what from_params made of it, and for each name the number of its group.

    Raises:
      ValueError: if from_params doesn't come to the names and shapes of weights, if it does more
        than to rearrange, and if it makes one array of several groups.
    """
    trees = take(groups, params, join)
    leaves, treedef = jax.tree.flatten(trees["nu"])
    named: dict[str, dict[str, Any]] = {}
    for accumulator in ACCUMULATORS:
        named[accumulator] = dict(from_params(trees[accumulator]))
        label = lambda arrays, end=f" ({accumulator})": {n + end: x for n, x in arrays.items()}
        arrays.check(label(named[accumulator]), label(weights))
    restored = lambda numbered: from_params(treedef.unflatten(numbered.values()))
    port = probe(restored, {str(i): x for i, x in enumerate(leaves)}, (), "from_params")
    numbers = port.apply(
        {str(i): x for i, x in enumerate(jax.tree.leaves(trees["group"]))}, np.int64
    )
    members: dict[str, int] = {}
    for name in weights:
        kinds = np.unique(numbers[name])
        if len(kinds) > 1:
            raise ValueError(f"from_params makes {name} of parameters of several groups.")
        members[name] = int(kinds[0]) if len(kinds) else 0
    return named, members


def wanted(group: Group) -> list[str]:
    """The accumulators that a group has."""
    has = {"nu": True, "mu": group.rms.mu is not None, "trace": group.trace is not None}
    return [name for name in ACCUMULATORS if has[name]]


def variance(second: Any, mu: Any) -> Any:
    """E|g|^2 - |E g|^2, but for one rounding; 0 where a framework's own errors are larger."""
    if np.iscomplexobj(second):  # of the real and the imaginary part, each for itself
        return variance(second.real, mu.real) + 1j * variance(second.imag, mu.imag)
    wide = np.maximum(_wide(second) - _abs_sq(mu), 0)  # NaN stays
    return wide.astype(np.asarray(second).dtype)


def second_moment(nu: Any, mu: Any) -> Any:
    """The inverse of `variance`."""
    return (_wide(nu) + _abs_sq(mu)).astype(np.asarray(nu).dtype)


def rate_at(learning_rate: Any, count: int) -> float:
    """The learning rate of the update after `count` others, as a Python number."""
    rate: Any = learning_rate(jnp.asarray(count)) if callable(learning_rate) else learning_rate
    return float(rate)


def is_masked(x: Any) -> bool:
    """True for what `optax.masked` leaves in the place of a parameter."""
    return isinstance(x, optax.MaskedNode)


def _map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps arrays, and leaves alone what `optax.masked` has masked."""
    keep = lambda x, *xs: x if is_masked(x) else function(x, *xs)
    return jax.tree.map(keep, tree, *rest, is_leaf=is_masked)


def _join_pairs(tree: Any) -> Any:
    is_pair = lambda x: type(x) is tuple and len(x) == 2 and all(hasattr(y, "dtype") for y in x)
    join = lambda x: x[0] + 1j * x[1] if is_pair(x) else x
    return jax.tree.map(join, tree, is_leaf=lambda x: is_pair(x) or is_masked(x))


def _wide(x: Any) -> Any:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _abs_sq(x: Any) -> Any:
    x = _wide(x)
    return x.real**2 + x.imag**2
