"""Arrays from anywhere: made NumPy's, compared by what they are, and given back as JAX has them."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Named = Mapping[str, Any]
"""Arrays by name."""


def as_array(x: Any) -> Any:
    """A NumPy array of an array of any library, PyTorch's included.

    Args:
      x: a number, a list of numbers or an array; bfloat16 tensors of PyTorch become float32.

    Returns:
      The array.

    Raises:
      TypeError: for what is no array of numbers.
    """
    if hasattr(x, "detach"):  # a tensor of PyTorch: with a gradient, on a GPU, or too narrow
        x = x.detach().cpu()
        x = x.float() if "bfloat16" in str(x.dtype) else x
    if isinstance(x, list):  # as JSON has arrays
        x = np.array(x, np.float32) if _is_of_numbers(x) else None
    array = np.asarray(x)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"an array of numbers was expected, not {type(x).__name__}: {x!r:.60}")
    return array


def _is_of_numbers(x: Any) -> bool:
    return all(map(_is_of_numbers, x)) if isinstance(x, list) else isinstance(x, int | float)


def as_named(weights: Any) -> dict[str, np.ndarray]:
    """Weights as NumPy arrays by name.

    Raises:
      TypeError: for a list, a generator or a model, saying what to pass.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must be a dictionary of arrays by name, such as "
            f"dict(model.named_parameters()), not {type(weights).__name__}."
        )
    return {name: as_array(x) for name, x in weights.items()}


def as_count(x: Any, name: str) -> int:
    """A number of updates.

    Raises:
      ValueError: unless it is a whole number, 0 or more.
    """
    number = as_array(x)
    if number.size != 1 or not 0 <= number < 2**63 or number.item() != np.floor(number.item()):
        raise ValueError(f"{name} is {x!r:.60}: it must be a number of updates, 0 or more.")
    return int(number.item())


def cast_like(old: Any, new: Any) -> Any:
    """The new array as a JAX array of the dtype of an old one, sharded if the old one is."""
    new = np.asarray(new).astype(old.dtype)
    return jax.device_put(new, old.sharding) if old.committed else jnp.asarray(new)


def refuse(lines: Iterable[str]) -> None:
    """Raises one error for all that is wrong, if anything is."""
    if lines := list(lines):
        raise ValueError("This doesn't fit, and nothing was converted:\n  " + "\n  ".join(lines))


def differences(found: Named, wanted: Named) -> list[str]:
    """A line for each array that is missing, left over, or of a wrong shape or kind.

    Args:
      found: the arrays that there are, by key.
      wanted: arrays like those that there should be.
    """
    have, want = ({key: _describe(x) for key, x in named.items()} for named in (found, wanted))
    lines = [f"missing: {key}, {text}" for key, text in want.items() if key not in have]
    lines += [f"extra: {key}, {text}" for key, text in have.items() if key not in want]
    both = [key for key in want if key in have and have[key] != want[key]]
    return lines + [f"wrong: {key} is {have[key]}, should be {want[key]}" for key in both]


def check(found: Named, wanted: Named) -> None:
    """Raises one error for all differences."""
    refuse(differences(found, wanted))


def check_numbers(arrays: Named, squares: Iterable[str], means: Mapping[str, str] = {}) -> None:
    """Raises for numbers that no RMSProp makes, and warns of those that aren't finite.

    Args:
      arrays: the arrays by key.
      squares: the keys of averages of squares.
      means: for keys of averages of squares those of the averages of the same gradients.

    Raises:
      ValueError: for a negative average of squares, which another optimizer may have written, and
        for one that is smaller than the square of its mean.
    """
    parts = lambda x: (x.real, x.imag) if np.iscomplexobj(x) else (x,)
    if negative := [k for k in squares if any((x < 0).any() for x in parts(arrays[k]))]:
        raise ValueError(f"Averages of squares are negative: {', '.join(negative)}.")
    for square, mean in means.items():
        # By more than the frameworks' own rounding, and in many places.
        with np.errstate(over="ignore", invalid="ignore"):
            own = arrays[mean] if np.iscomplexobj(arrays[square]) else np.abs(arrays[mean])
            pairs = zip(parts(arrays[square]), parts(own), strict=True)
            short = np.concatenate([(x < 0.99 * y**2).reshape(-1) for x, y in pairs])
        if short.size and short.mean() > 0.1:
            raise ValueError(
                f"{mean} is no average of the gradients whose squares are {square}: its square is "
                f"larger in {short.mean():.0%} of the elements. A momentum is, for instance: is "
                "the optimizer centered at all?"
            )
    counts = {key: int((~np.isfinite(x)).sum()) for key, x in arrays.items()}
    if any(counts.values()):
        nans = sum(int(np.isnan(x).sum()) for x in arrays.values())
        where = ", ".join(f"{key} {n}" for key, n in counts.items() if n)
        kinds = [(nans, "NaN"), (sum(counts.values()) - nans, "infinite")]
        text = " and ".join(f"{n} {kind}" for n, kind in kinds if n)
        warnings.warn(f"The checkpoint holds {text}: {where}.", stacklevel=4)


def into(template: Any, saved: Any, replace: Mapping[int, tuple[Any, Callable[[Any], Any]]]) -> Any:
    """Puts a saved state into the containers of a template.

    Args:
      template: a state.
      saved: a state with the same arrays, in named or other tuples, lists or dictionaries, with or
        without what is empty, as Orbax, msgpack or a flat file with paths for names gives it back.
      replace: by the id of a part of the template another one to read in its place, and a function
        of what was read that makes the part.

    Returns:
      The saved numbers in the structure and the dtypes of the template.

    Raises:
      ValueError: naming all arrays that are missing, left over, or of a wrong shape or kind, and
        parts of another class.
    """
    if isinstance(saved, Mapping) and any("/" in str(key) for key in saved):
        nested: dict[str, Any] = {}
        for key, x in saved.items():
            *words, last = str(key).split("/")
            inner = nested
            for word in words:
                inner = inner.setdefault(word, {})
            inner[last] = x
        saved = nested
    lines: list[str] = []

    def walk(own: Any, other: Any, path: str) -> Any:
        if id(own) in replace:
            theirs, make = replace[id(own)]
            read = walk(theirs, other, path)
            return make(read) if not lines else read
        fields = getattr(own, "_fields", None)
        if isinstance(own, tuple | list | dict) or own is None:
            keys = list(own) if isinstance(own, dict) else list(fields or range(len(own or ())))
            parts = _members(own, other, keys, path, lines)
            inner = own if isinstance(own, dict) else dict(zip(keys, own or (), strict=True))
            new = {key: walk(inner[key], parts.get(key), f"{path}/{key}") for key in keys}
            if own is None or isinstance(own, dict):
                return own if own is None else type(own)(new)
            return type(own)(*new.values()) if fields is not None else type(own)(new.values())
        if not hasattr(own, "dtype"):  # a tree of another kind: nnx.State, a dataclass
            leaves, treedef = jax.tree.flatten_with_path(own)
            text = lambda p: jax.tree_util.keystr(p, simple=True, separator="/").removesuffix(
                "/value"
            )
            have = {text(p): x for p, x in jax.tree.leaves_with_path(other)}
            return treedef.unflatten(
                [walk(x, have.get(text(p)), f"{path}/{text(p)}") for p, x in leaves]
            )
        key = path.removeprefix("/") or "the state"
        if other is None or (isinstance(other, Mapping | tuple | list) and not other):
            lines.extend(differences({}, {key: own}))
            return own
        if isinstance(other, Mapping | tuple | list):
            lines.append(f"wrong: {key} is a {type(other).__name__}, should be {_describe(own)}")
            return own
        x = as_array(other)
        lines.extend(differences({key: x}, {key: own}))
        return cast_like(own, x) if x.shape == own.shape else own

    new = walk(template, saved, "")
    refuse(lines)
    return new


def _members(own: Any, other: Any, keys: list[Any], path: str, lines: list[str]) -> dict[Any, Any]:
    """What a saved container has for the keys of another, which may be called by place or name."""
    key = path.removeprefix("/") or "the state"
    theirs, mine = getattr(other, "_fields", None), getattr(own, "_fields", None)
    if theirs is not None and mine is not None and type(other).__name__ != type(own).__name__:
        lines.append(
            f"wrong: {key} is the state {type(other).__name__} of another transformation, should "
            f"be {type(own).__name__}"
        )
        return {}
    if isinstance(other, Mapping):
        text = {str(k): x for k, x in other.items()}
        parts = {k: text.pop(str(k), text.pop(str(i), None)) for i, k in enumerate(keys)}
        full = {k: x for k, x in text.items() if jax.tree.leaves(x)}
        lines.extend(f"extra: {path.removeprefix('/')}/{k}" for k in full)
        return parts
    if other is None:
        return {}
    if isinstance(other, tuple | list) and len(other) == len(keys):
        return dict(zip(keys, other, strict=True))
    if jax.tree.leaves(other):
        kinds = lambda x: ", ".join(type(y).__name__ for y in x)
        what = f"no container, but {other!r:.40}"
        if isinstance(other, tuple | list):
            what = f"{len(other)} parts, {kinds(other)}"
        lines.append(f"wrong: {key} has {what}, should have {len(keys)}, {kinds(own)}")
    return {}


def _describe(x: Any) -> str:
    kinds = {jnp.complexfloating: "complex", jnp.floating: "float"}
    # By name, since torch has dtypes of its own.
    dtype = str(x.dtype).removeprefix("torch.")
    kind = next((text for kind, text in kinds.items() if jnp.issubdtype(dtype, kind)), dtype)
    return f"{'integer' if 'int' in kind and not x.shape else kind} {tuple(x.shape)}"
