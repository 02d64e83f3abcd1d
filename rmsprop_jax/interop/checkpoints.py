"""States of this library from checkpoints, also from those of other options."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.interop import arrays, states


def restore(
    tx: optax.GradientTransformation,
    saved: Any,
    params: optax.Params,
    *,
    learning_rate: float | None = None,
) -> optax.OptState:
    """Makes a state of a saved one, also if that is of other options or of another dialect.

    What is saved is found by name, so that it doesn't matter in which containers it comes back, nor
    where in a chain it stood. Where tx has other options than the optimizer that was saved:

        momentum turned on      trace = 0
        momentum turned off     the trace is dropped
        centered turned on      mu = 0 and nu as it was, since all of E|g|^2 is variance about 0
        centered turned off     nu = nu + |mu|^2, which is E|g|^2
        a new schedule          goes on at the count of `RmsState`
        no schedule any more    its count is dropped
        bias_correction         nu and mu as they were, since averages are kept corrected
        learning rate now before the momentum, it was after it      trace = -learning_rate trace
        learning rate now after the momentum, it was before it      trace = -trace / learning_rate

    Args:
      tx: what the state is for.
      saved: the state itself; or how it came back from Orbax, `flax.serialization` or an npz file,
        in tuples, lists and dictionaries, with or without what is empty. In an npz file, names are
        paths: `np.savez(file, **{jax.tree_util.keystr(path, simple=True, separator="/"): x for
        path, x in jax.tree.leaves_with_path(state)})`. Lists in the place of named tuples are
        understood if tx has the options of what was saved.
      params: the parameters; only shapes, dtypes and shardings count.
      learning_rate: the one in force, for a trace that the learning rate enters or leaves. A trace
        is a sum of steps that had their own learning rates, so the change is exact if those were
        the same.

    Returns:
      A state like `tx.init(params)`, and sharded like that.

    Raises:
      ValueError: naming all arrays that are missing, too many, of a wrong shape or of another kind
        of number; for another optimizer's state; for a negative nu; and if the learning rate enters
        or leaves the trace and isn't given.
      TypeError: for what is no state, such as the path or the bytes of a file.

    Example:
      >>> from rmsprop_jax import rmsprop
      >>> saved = {"0": {"count": 7, "nu": np.ones(2), "mu": None}, "1": {}}
      >>> tx = rmsprop(optax.cosine_decay_schedule(0.1, 9), momentum=0.9)
      >>> state = restore(tx, saved, np.zeros(2))
      >>> print(state[0].count, state[0].nu, state[1].trace, state[2].count)
      7 [1. 1.] [0. 0.] 7

    References:
      https://orbax.readthedocs.io/en/latest/

      https://flax.readthedocs.io/en/stable/api_reference/flax.serialization.html
    """
    template = tx.init(params)
    mine, theirs = _entries(template), _entries(_name_fields(saved, template))
    want, have = _arrays(mine), _arrays(theirs)
    _check_options(have, want)
    arrays.check_numbers(have, [key for key in have if _part(key) == "nu"])
    factors = _trace_factors(mine, theirs, learning_rate)

    def value(key, old):
        mu_key = key.replace("nu", "mu", 1)
        drops_mu = _part(key) == "nu" and mu_key in have and mu_key not in want
        if (drops_mu or key in factors) and not jnp.issubdtype(old.dtype, jnp.inexact):
            raise ValueError(f"{key} is stored as {old.dtype}: unpack both states, see storage.")
        if drops_mu:
            return states.second_moment(have[key], have[mu_key])
        if key in factors:
            return factors[key] * have[key]
        return have.get(key, have[_COUNT] if _part(key) == "count" else old)

    return _fill(mine, template, value)


def match(template: Any, saved: Any, kinds: str) -> Any:
    """Puts a saved state into the containers of a template of the same options.

    Args:
      template: a state.
      saved: a state in whatever containers, see `restore`.
      kinds: a regular expression for the names of the classes that hold a nu.

    Returns:
      The saved numbers in the structure and the dtypes of the template.

    Raises:
      ValueError: naming all arrays that differ in name, shape or kind of number.
    """
    entries = _entries(template, kinds)
    have = _arrays(_entries(_name_fields(saved, template), kinds))
    arrays.check(have, _arrays(entries))
    arrays.check_numbers(have, [key for key in have if _part(key) == "nu"])
    return _fill(entries, template, lambda key, old: have[key])


_COUNT = "count of nu"


def _part(key: str) -> str:
    """What an array is: one of the accumulators, `"count"`, or anything else."""
    words = key.split("/")
    if words[0] in states.ACCUMULATORS:
        return words[0]
    return "count" if key == _COUNT or words[-1] == "count" else ""


def _entries(tree: Any, kinds: str = "RmsState") -> list[tuple[str, list[str], Any]]:
    """All arrays of a state with a name for what they are and the path of what they are in.

    Accumulators are named by the parameter, wherever in the state they are. The first of their
    names on the way counts: what comes below it is the user's parameters.
    """
    has_nu = lambda x: "nu" in getattr(x, "_fields", ())
    for x in jax.tree.leaves(tree, is_leaf=has_nu):
        if has_nu(x) and not re.fullmatch(kinds, type(x).__name__):
            raise ValueError(f"{type(x).__name__} is the state of another optimizer.")
    # Flax NNX keeps an array in the field "value" of a variable, and saves it without.
    words = lambda path: jax.tree_util.keystr(path, simple=True, separator="/").removesuffix(
        "/value"
    )
    paths = [(words(path).split("/"), x) for path, x in jax.tree.leaves_with_path(tree)]
    depth = lambda path: next((i for i, w in enumerate(path) if w in states.ACCUMULATORS), None)
    averages = [path[: depth(path)] for path, _ in paths if "nu" in path]
    entries = []
    for path, x in paths:
        at = depth(path)
        if at is not None:
            entries.append(("/".join(path[at:]), path[:at], x))
        elif path[-1] == "count" and path[:-1] in averages:
            entries.append((_COUNT, path[:-1], x))
        else:
            entries.append(("/".join(path), [], x))
    return entries


def _arrays(entries: list[tuple[str, list[str], Any]]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for key, _, x in entries:
        x = arrays.as_array(x)
        if key in named and key != _COUNT:  # of which each group of optax.partition has one
            raise ValueError(f"There are several arrays that are {key}: pass a single state.")
        named[key] = np.maximum(x, named.get(key, 0)) if key == _COUNT else x
    return named


def _fill(entries: list[Any], template: Any, value: Callable[[str, Any], Any]) -> Any:
    leaves = [arrays.cast_like(x, value(key, x)) for key, _, x in entries]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _name_fields(saved: Any, template: Any) -> Any:
    """Gives lists that stand for named tuples the names back, where the template has them."""
    if isinstance(saved, Mapping):
        known = template if isinstance(template, Mapping) else {}
        return {key: _name_fields(x, known.get(key)) for key, x in saved.items()}
    same = isinstance(saved, list | tuple) and isinstance(template, tuple)
    if not same or hasattr(saved, "_fields") or len(saved) != len(template):
        return saved
    named = [_name_fields(x, t) for x, t in zip(saved, template, strict=True)]
    fields = getattr(template, "_fields", None)
    return named if fields is None else dict(zip(fields, named, strict=True))


def _check_options(have: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Raises unless have and want are of the same parameters; their options may differ."""
    come_and_go = lambda key: _part(key) == "count" and key != _COUNT  # the counts of schedules
    have = {key: x for key, x in have.items() if not come_and_go(key)}
    want = {key: x for key, x in want.items() if not come_and_go(key)}
    for part in ("mu", "trace"):
        mine, theirs = ([key for key in x if _part(key) == part] for x in (want, have))
        if not theirs:
            want = {key: x for key, x in want.items() if key not in mine}
        elif not mine:  # even if it will be dropped, it must be whole
            dtype = have[theirs[0]].dtype
            nus = {key.replace("nu", part, 1): x for key, x in want.items() if _part(key) == "nu"}
            want |= {key: np.empty(x.shape, dtype) for key, x in nus.items()}
    arrays.check(have, want)


def _trace_factors(mine: Any, theirs: Any, learning_rate: float | None) -> dict[str, float]:
    """What a saved trace is multiplied by, where the learning rate changes its side.

    In all chains here, a trace is 1 place after its nu, or 2 if the learning rate is in between.
    """

    def distances(entries):
        places = {key: place[-1:] for key, place, _ in entries if _part(key) in ("nu", "trace")}
        return {
            key: int(place[0]) - int(places[key.replace("trace", "nu", 1)][0])
            for key, place in places.items()
            if _part(key) == "trace" and place and place[0].isdecimal()
        }

    now, before = distances(mine), distances(theirs)
    moves = {key: (before[key], now[key]) for key in before.keys() & now.keys()}
    moves = {key: move for key, move in moves.items() if move[0] != move[1]}
    if not moves:
        return {}
    if not learning_rate or not set(moves.values()) <= {(1, 2), (2, 1)}:
        raise ValueError(
            "The learning rate is on the other side of the momentum in tx than in what was saved: "
            "pass the learning_rate that is in force, to scale the trace."
        )
    return {
        key: -learning_rate if move == (1, 2) else -1 / learning_rate for key, move in moves.items()
    }
