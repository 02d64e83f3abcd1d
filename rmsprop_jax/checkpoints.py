"""States of this library from checkpoints, also from those of other options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.anatomy import find_traces, take_apart
from rmsprop_jax.frameworks import accumulators, arrays


def restore(
    tx: optax.GradientTransformation,
    saved: Any,
    params: optax.Params,
    *,
    learning_rate: float | None = None,
    saved_by: optax.GradientTransformation | None = None,
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

    A state doesn't say on which side of the momentum the learning rate was. What tx does is known;
    pass as `saved_by` what made the state, unless that is tx, or has its accumulators in the very
    places of a state of tx.

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
      saved_by: the optimizer that the state was saved from, made as it was made there.

    Returns:
      A state like `tx.init(params)`, and sharded like that.

    Raises:
      ValueError: naming all arrays that are missing, too many, of a wrong shape or of another kind
        of number; for another optimizer's state; for a negative nu; if the learning rate enters or
        leaves the trace and isn't given; and if it can't be told whether it does.
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
    saved = _name_fields(saved, template)
    mine = _entries(template)
    theirs = _entries(saved, names=_names(mine))
    want, have = _arrays(mine), _arrays(theirs)
    _check_options(have, want)
    arrays.check_numbers(have, [key for key in have if _part(key) == "nu"])
    factors: dict[str, float] = {}
    if any(_part(key) == "trace" for key in want.keys() & have.keys()):
        if saved_by is not None:
            origin = saved_by.init(params)
            sides = _sides(tx, template, mine), _sides(saved_by, origin, _entries(origin))
            factors = _trace_factors(*sides, [key for key in want if key in have], learning_rate)
        elif not _are_in_place(saved, theirs, template, mine):
            raise ValueError(
                "saved has its accumulators in other places than a state of tx, so that the "
                "learning rate may have been on the other side of the momentum: pass saved_by, the "
                "optimizer that the state was saved from."
            )

    def value(key, old):
        mu_key = key.replace("nu", "mu", 1)
        drops_mu = _part(key) == "nu" and mu_key in have and mu_key not in want
        if (drops_mu or key in factors) and not jnp.issubdtype(old.dtype, jnp.inexact):
            raise ValueError(f"{key} is stored as {old.dtype}: unpack both states, see storage.")
        if drops_mu:
            return accumulators.second_moment(have[key], have[mu_key])
        if key in factors:
            return factors[key] * have[key]
        if key not in have and _part(key) == "count":
            arrays.check(have, {**have, _COUNT: old})
            return have[_COUNT]
        return have.get(key, old)

    return _fill(mine, template, value)


_COUNT = "count of nu"


def _part(key: str) -> str:
    """What an array is: one of the accumulators, `"count"`, or anything else."""
    words = key.split("/")
    if words[0] in accumulators.ACCUMULATORS:
        return words[0]
    return "count" if key == _COUNT or words[-1] == "count" else ""


def _words(path: Any) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _names(entries: list[Any]) -> set[str]:
    """The names of the parameters that accumulators are of."""
    keys = (key for key, _, _ in entries if _part(key) in accumulators.ACCUMULATORS)
    return {key.partition("/")[2] for key in keys}


def _entries(tree: Any, names: Collection[str] = ()) -> list[tuple[str, list[str], Any]]:
    """All arrays of a state with a name for what they are and the path of what they are in.

    Accumulators are named by the parameter, wherever in the state they are. The field of a named
    tuple tells one; where there is no such, the first word on the way behind which the name of a
    parameter comes, since users may call parameters and labels "nu" as well.
    """
    has_nu = lambda x: "nu" in getattr(x, "_fields", ())
    for x in jax.tree.leaves(tree, is_leaf=has_nu):
        if has_nu(x) and type(x).__name__ != "RmsState":
            raise ValueError(f"{type(x).__name__} is the state of another optimizer.")

    def depth(path, words):
        for i, key in enumerate(path):
            if isinstance(key, jax.tree_util.GetAttrKey) and key.name in accumulators.ACCUMULATORS:
                return len(_words(path[:i])) if i else 0
        places = (i for i, word in enumerate(words) if word in accumulators.ACCUMULATORS)
        return next((i for i in places if "/".join(words[i + 1 :]) in names), None)

    paths = []
    for path, x in jax.tree.leaves_with_path(tree):
        # Flax NNX keeps an array in the field "value" of a variable, and saves it without.
        words = _words(path)
        words = words[:-1] if len(words) > 1 and words[-1] == "value" else words
        paths.append((words, depth(path, words), x))
    averages = [words[:at] for words, at, _ in paths if at is not None and words[at] == "nu"]
    entries = []
    for words, at, x in paths:
        if at is not None:
            entries.append(("/".join(words[at:]), words[:at], x))
        elif words[-1] == "count" and words[:-1] in averages:
            entries.append((_COUNT, words[:-1], x))
        else:
            entries.append(("/".join(words), [], x))
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


def _are_in_place(saved: Any, theirs: list[Any], template: Any, mine: list[Any]) -> bool:
    """Whether accumulators of two states lie in the same places, in chains of the same length."""
    places, others = ({key: place for key, place, _ in x} for x in (mine, theirs))
    both = [key for key in places.keys() & others.keys() if _part(key) in accumulators.ACCUMULATORS]
    is_empty = lambda x: x is None or (isinstance(x, tuple | list | dict) and not x)

    def members(tree, place):
        paths = [_words(path) for path, _ in jax.tree.leaves_with_path(tree, is_leaf=is_empty)]
        return {p[len(place)] for p in paths if p[: len(place)] == place and len(p) > len(place)}

    chains = {tuple(places[key][:-1]): places[key][:-1] for key in both}.values()
    return all(places[key] == others[key] for key in both) and all(
        members(saved, chain) <= members(template, chain) for chain in chains
    )


def _trace_factors(
    now: dict[str, str | None], before: dict[str, str | None], keys: list[str], rate: float | None
) -> dict[str, float]:
    """What a saved trace is multiplied by, where the learning rate changes its side."""
    factors = {}
    for key in keys:
        if _part(key) != "trace":
            continue
        if key not in before:
            raise ValueError(f"saved_by has no {key}, which saved has: it wasn't saved by that.")
        if now[key] is None or before[key] is None:
            raise ValueError(
                f"{'tx' if now[key] is None else 'saved_by'} has a part beside its momentum that "
                "isn't known here, or scales on both sides of it, so that it can't be told whether "
                "the learning rate is in the trace."
            )
        if now[key] == before[key]:
            continue
        if not rate:
            raise ValueError(
                "The learning rate is on the other side of the momentum in tx than in saved_by: "
                "pass the learning_rate that is in force, to scale the trace."
            )
        factors[key] = -rate if now[key] == "inside" else -1 / rate
    return factors


def _sides(tx: Any, template: Any, entries: list[Any]) -> dict[str, str | None]:
    """For each trace in a template the side of the learning rate."""
    traces = find_traces(take_apart(tx, template))
    side_of = {id(x): trace.side for trace in traces for x in jax.tree.leaves(trace.state)}
    return {key: side_of.get(id(x)) for key, _, x in entries if _part(key) == "trace"}
