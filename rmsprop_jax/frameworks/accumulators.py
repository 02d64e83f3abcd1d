"""What the checkpoints of all frameworks have in common: accumulators, by name of their parameter.

Three accumulators are known, by the names that they have in the states here: `"nu"`, `"mu"` and
`"trace"`. Outside of a state, nu is the second moment E|g|^2 (the state of a centered optimizer has
the variance), and the trace is what is subtracted from the parameters (a state in which the
learning rate comes before the momentum has it with the opposite sign).
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import anatomy, parts
from rmsprop_jax.frameworks import arrays
from rmsprop_jax.frameworks.arrays import Named, as_array
from rmsprop_jax.transform import RmsState, scale_by_rms

ACCUMULATORS = ("nu", "mu", "trace")

Keys = Mapping[str, Mapping[str, str]]
"""For each accumulator and each name of a parameter the key that a framework saves it under."""


class Port(NamedTuple):
    """A rearrangement: where in the named arrays each element of a tree comes from.

    Attributes:
      names: of the arrays, in order.
      starts: for each of them the number of its first element, and at the end their sum.
      tree: for each leaf an array of numbers of elements.
    """

    names: tuple[str, ...]
    starts: np.ndarray
    tree: Any

    def apply(self, named: Named, dtype: Any) -> Any:
        """The tree of named arrays; 0 for what isn't there."""
        flat = np.zeros(self.starts[-1], dtype)
        for name, start, stop in zip(self.names, self.starts, self.starts[1:], strict=False):
            if name in named:
                flat[start:stop] = named[name].reshape(-1)
        return jax.tree.map(lambda index: flat[index], self.tree)

    def owners(self, index: np.ndarray) -> list[str]:
        """The names of the arrays that a leaf is made of."""
        numbers = np.unique(np.searchsorted(self.starts, index.reshape(-1), "right") - 1)
        return [self.names[k] for k in numbers]


_ONE = np.float32(1).view(np.int32)


def probe(
    function: Callable[[dict[str, Any]], Any],
    weights: Named,
    needed: Collection[str],
    name: str = "to_params",
) -> Port:
    """Finds out what a function does with arrays, by one call with distinct numbers.

    Accumulators are squares, sums and means: a function for weights may be applied to them if it
    only moves elements.

    Args:
      function: from a dictionary like weights to a tree.
      weights: arrays by name; only the shapes count.
      needed: the names of arrays that must not get lost.
      name: what the user calls the function.

    Returns:
      What the function does.

    Raises:
      ValueError: unless each element of the result is one of the arguments, and none of the needed
        ones is lost, or there twice.
    """
    sizes = [int(np.prod(x.shape)) for x in weights.values()]
    starts = np.cumsum([0, *sizes])
    numbers = (np.arange(starts[-1], dtype=np.int32) + _ONE).view(np.float32)
    numbered = {
        n: numbers[start : start + size].reshape(x.shape)
        for (n, x), start, size in zip(weights.items(), starts, sizes, strict=False)
    }
    new = function({n: x.copy() for n, x in numbered.items()})
    rule = f"{name} is applied to squares, so it may rename, transpose, reshape, stack and split"

    def index(path, leaf):
        place = jax.tree_util.keystr(path) or "the only array"
        x = as_array(leaf)
        wide = x.real.astype(np.float32)
        found = wide.view(np.int32).astype(np.int64) - _ONE if wide.size else wide.astype(np.int64)
        made_up = (found < 0) | (found >= starts[-1]) | (x.real != wide)
        if made_up.any():
            what = f"{made_up.sum()} of {x.size} elements that aren't among the weights'"
            if str(x.dtype) in ("bfloat16", "float16") or "bfloat16" in str(getattr(leaf, "dtype", "")):
                what = f"the weights rounded to {x.dtype if x.dtype.itemsize < 4 else 'bfloat16'}"
            raise ValueError(f"{name} puts {what} into {place}: {rule}, and cast them afterwards.")
        return found.reshape(x.shape)

    tree = jax.tree_util.tree_map_with_path(index, new)
    leaves = [x.reshape(-1) for x in jax.tree.leaves(tree)]
    times = np.bincount(np.concatenate([np.zeros(0, np.int64), *leaves]), minlength=starts[-1])
    port = Port(tuple(weights), starts, tree)
    lines = []
    for n, start, stop in zip(weights, starts, starts[1:], strict=False):
        part = times[start:stop]
        if n in needed and not part.all():
            lines.append(f"{n}: {(part == 0).sum()} of {part.size} elements get lost")
        if (part > 1).any():
            lines.append(f"{n}: {(part > 1).sum()} of {part.size} elements are used several times")
    if lines:
        raise ValueError(f"{rule}, and here it doesn't:\n  " + "\n  ".join(lines))
    return port


# States


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


def groups_of(tx: optax.GradientTransformation, state: optax.OptState) -> list[Group]:
    """The dialects in a transformation, in whatever it wraps them, with their states.

    Raises:
      ValueError: if there is none, and if state isn't one of tx.
    """
    inner = getattr(tx, "gradient_transformation", None)
    tx = tx if inner is None else optax.GradientTransformation(*inner())  # of optax.MultiSteps
    found = [p for p in anatomy.take_apart(tx, state).walk() if is_dialect(p)]
    if not found:
        raise ValueError(
            "There is no dialect in tx, only what one of rmsprop_jax.dialects made can be read from "
            "and written for a framework. Other states of this library are moved into a dialect's "
            "by restore(dialects.pytorch(...), opt_state, params)."
        )
    groups = []
    for part in found:
        inside = [p for p in part.walk() if not p.children]
        names = [p.name for p in inside]
        rms = next(p.state for p in inside if p.name == scale_by_rms.__name__)
        trace = next((p.state for p in inside if p.name == parts.trace.__name__), None)
        behind = trace is not None and (
            names.index(parts.trace.__name__) > max(
                (i for i, p in enumerate(inside) if p.name.startswith("scale_by_learning_rate")), default=99
            )
        )
        counts = [p.state for p in inside if getattr(p.state, "_fields", ()) == ("count",)]
        if not isinstance(rms, RmsState):
            raise ValueError(
                f"the accumulators of dialects.{part.name} aren't as it keeps them, but "
                f"{type(rms).__name__}: unpack the state first, see storage."
            )
        groups.append(
            Group(part.name, part.arguments, rms, trace, -1 if behind else 1, counts, part.state)
        )
    return groups


def is_dialect(part: anatomy.Part) -> bool:
    """Whether a part was made by a function of a framework's file."""
    module = getattr(part.factory, "__module__", "") or ""
    return module.rpartition(".")[0] == __package__ and part.factory.__name__ == module.rpartition(".")[2]
