"""Arrays from anywhere: made NumPy's, compared by what they are, and given back as JAX has them."""

import warnings
from collections.abc import Iterable, Mapping
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
    if number.size != 1 or not (number >= 0).all() or number.item() != np.floor(number.item()):
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


def check_numbers(arrays: Named, squares: Iterable[str], means: Mapping[str, str] = {}) -> None:  # noqa: B006
    """Raises for numbers that no RMSProp makes, and warns of those that aren't finite.

    Args:
      arrays: the arrays by key.
      squares: the keys of averages of squares.
      means: for keys of averages of squares those of the averages of the same gradients.

    Raises:
      ValueError: for a negative average of squares, which another optimizer may have written, and
        for one that is smaller than the square of its mean.
    """
    if negative := [key for key in squares if (arrays[key].real < 0).any()]:
        raise ValueError(f"Averages of squares are negative: {', '.join(negative)}.")
    for square, mean in means.items():
        # Less than the mean's square by more than the frameworks' own rounding, and in many places.
        with np.errstate(over="ignore", invalid="ignore"):
            short = arrays[square].real < 0.99 * np.abs(arrays[mean]) ** 2
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
        warnings.warn(f"The checkpoint holds {text}: {where}.", stacklevel=5)


def _describe(x: Any) -> str:
    kinds = {jnp.complexfloating: "complex", jnp.floating: "float"}
    # By name, since torch has dtypes of its own.
    dtype = str(x.dtype).removeprefix("torch.")
    kind = next((text for kind, text in kinds.items() if jnp.issubdtype(dtype, kind)), dtype)
    return f"{'integer' if 'int' in kind and not x.shape else kind} {tuple(x.shape)}"
