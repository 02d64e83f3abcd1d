"""Which array belongs to which parameter: by name, and where there are no names, in order."""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from rmsprop_jax.frameworks import arrays
from rmsprop_jax.frameworks.arrays import Named, as_array


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
            if str(x.dtype) in ("bfloat16", "float16") or "bfloat16" in str(
                getattr(leaf, "dtype", "")
            ):
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


# Order, where there are no names


def check_order(
    weights: Named, shapes: list[tuple[int, ...] | None], groups: list[int], trust: bool
) -> None:
    """Raises unless weights in order fit arrays in order, and if another order would fit as well.

    Args:
      weights: by name, in the order to check, as many as shapes.
      shapes: of the arrays in order; `None` where there is none.
      groups: for each of them the number of its group.
      trust: whether the user says that the order is right.
    """
    names = list(weights)
    own = [tuple(weights[n].shape) for n in names]
    fits = lambda order: all(
        s in (None, tuple(weights[n].shape)) for n, s in zip(order, shapes, strict=True)
    )
    if not fits(names):  # if no other order does either, what is wrong is said elsewhere
        likely = {
            "the order of their names": sorted(names, key=natural),
            "arrays of one dimension first": sorted(names, key=lambda n: weights[n].ndim > 1),
            "arrays of one dimension last": sorted(names, key=lambda n: weights[n].ndim <= 1),
            "weights before biases": sorted(names, key=lambda n: natural(n, True)),
        }
        other = next((f"{text}: {order}" for text, order in likely.items() if fits(order)), None)
        if other is None and sorted(own) == sorted(
            t or s for s, t in zip(own, shapes, strict=True)
        ):
            other = "one that you know, since the shapes are the same ones"
        if other is not None:
            text = (
                f"{n} is {s}, should be {t}"
                for n, s, t in zip(names, own, shapes, strict=True)
                if t not in (None, s)
            )
            arrays.refuse(
                [*text, f"The order of weights isn't the optimizer's. Another fits, {other}"]
            )
        return
    if trust:
        return
    alike = lambda i, j: own[i] == own[j] and own[i] != ()
    pairs = [(i, j) for j in range(len(names)) for i in range(j) if alike(i, j)]
    across = [(names[i], names[j]) for i, j in pairs if groups[i] != groups[j]]
    why = "are in different groups"
    if not across and _are_of_a_file(names):
        across, why = [(names[i], names[j]) for i, j in pairs], "are sorted by name, as files are"
    if across:
        raise ValueError(
            f"The checkpoint has no names, and {len(across)} pairs of weights could be exchanged "
            f"without any error, since they have one shape and {why}, such as {across[0][0]} and "
            f"{across[0][1]}. Pass weights in the order in which the optimizer got them, group "
            "by group, and in_order=True to say that they are."
        )


def natural(name: str, weights_first: bool = False) -> list[Any]:
    """A key that sorts 2 before 10, and if asked weights and kernels before biases."""
    words = re.split(r"(\d+)", name)
    key = [(0, int(w), "") if w.isdecimal() else (1, 0, w) for w in words]
    if weights_first:
        head, _, last = name.rpartition("." if "." in name else "/")
        key = [*natural(head), (2, last not in ("weight", "kernel"), last)]
    return key


def _are_of_a_file(names: list[str]) -> bool:
    """Whether names are sorted as no model is: 10 before 2, a bias before its weight, or places."""
    if names != sorted(names):
        return False
    modules: dict[str, list[str]] = {}
    for name in names:
        head, _, last = name.rpartition("." if "." in name else "/")
        modules.setdefault(head, []).append(last)
    biases_first = [["bias", "kernel"], ["bias", "weight"]]
    return (
        names != sorted(names, key=natural)
        or any(own[:2] in biases_first for own in modules.values())
        or any(head.endswith("vars") for head in modules)
    )


def bare(name: str) -> str:
    """A name without what wrappers of PyTorch put into it."""
    return re.sub(
        r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", "", name
    )


def match_names(saved: list[str], weights: Named) -> dict[str, str]:
    """For each name in a file that of its parameter, prefixes of wrappers on either side left out.

    Raises:
      ValueError: naming those that have no partner, or several.
    """
    if set(saved) <= set(weights):
        return {name: name for name in saved}
    owners: dict[str, list[str]] = {}
    for name in weights:
        owners.setdefault(bare(name), []).append(name)
    found = {name: owners.get(bare(name), []) for name in saved}
    if wrong := [name for name, own in found.items() if len(own) != 1]:
        raise ValueError(
            f"Of the optimizer's {len(saved)} parameters, weights has none by these names: "
            f"{', '.join(wrong)}. It has {', '.join(weights) or 'none at all'}."
        )
    return {name: own[0] for name, own in found.items()}


def find(keys: Collection[str], *names: str) -> str | None:
    """The key that is one of some names, or the only one that ends in one of them.

    Raises:
      ValueError: if several end so.
    """
    for name in names:
        if name in keys:
            return name
    found = [key for key in keys for name in names if key.endswith(f"/{name}")]
    if len(found) > 1:
        raise ValueError(f"Several names in the file end in {names[0]}: {', '.join(found)}.")
    return found[0] if found else None
