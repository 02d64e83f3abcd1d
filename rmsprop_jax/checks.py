"""Ranges and types of hyperparameters, for all rooms: each error names the argument and the range.

What is concrete is checked, a JAX or NumPy scalar as much as a Python number. Of what is traced, as
under `jax.jit`, only the shape and the kind of number are known.
"""

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = float(np.finfo(np.float32).max)


def is_traced(x: object) -> bool:
    """True for an array whose numbers aren't known yet, as inside of `jax.jit`."""
    return isinstance(x, jax.core.Tracer)  # pyright: ignore[reportAttributeAccessIssue]


def check_range(
    name: str,
    value: Any,
    lower: float = 0.0,
    upper: float = LARGEST,
    *,
    lower_open: bool = False,
    upper_open: bool = False,
) -> None:
    """Raises unless a hyperparameter is a real scalar between two numbers.

    Args:
      name: what the user calls it.
      value: a number of Python or NumPy, or a scalar array.
      lower: the smallest number that may be.
      upper: the largest; if none is given, what float32 can hold.
      lower_open: leave out `lower` itself.
      upper_open: leave out `upper` itself.

    Raises:
      TypeError: for what is not a real number, such as a boolean or a complex number.
      ValueError: for an array that is no scalar, and for a number out of its range.
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if value.shape != ():
            raise ValueError(f"{name} must be a scalar, and has the shape {value.shape}.")
        kinds = (jnp.integer, jnp.floating)
        is_number = any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(f"{name}={value!r} is not a real number or a JAX scalar.")
    if is_traced(value):
        return
    number = value if isinstance(value, int) else float(value)
    above = number > lower if lower_open else number >= lower  # so that NaN is refused
    below = number < upper if upper_open else number <= upper
    if not (above and below):
        left, right = "(" if lower_open else "[", ")" if upper_open else "]"
        interval = f"{left}{lower:g}, {upper:g}{right}"
        raise ValueError(f"{name}={number!r} is out of range: it must be in {interval}.")


def check_fraction(**numbers: Any) -> None:
    """Raises unless all are in [0, 1), such as the rates of averages."""
    for name, value in numbers.items():
        check_range(name, value, upper=1.0, upper_open=True)


def check_nonnegative(**numbers: Any) -> None:
    """Raises unless all are 0 or more."""
    for name, value in numbers.items():
        check_range(name, value)


def check_optional(**numbers: Any) -> None:
    """Raises unless all are 0 or more, or `None`, where that leaves something out."""
    check_nonnegative(**{name: value for name, value in numbers.items() if value is not None})


def check_positive(**numbers: Any) -> None:
    """Raises unless all are more than 0, or `None`."""
    for name, value in numbers.items():
        if value is not None:
            check_range(name, value, lower_open=True)


def check_one_of(**numbers: Any) -> None:
    """Raises unless at most one is given, and is more than 0."""
    check_positive(**numbers)
    if sum(value is not None for value in numbers.values()) > 1:
        raise ValueError(f"Only one of {', '.join(numbers)} can be given.")


def check_rate(**numbers: Any) -> None:
    """Raises unless all are 0 or more, or schedules: functions of the number of updates made."""
    check_nonnegative(**{name: value for name, value in numbers.items() if not callable(value)})


def check_decay(**numbers: Any) -> None:
    """Raises unless all are in [0, 1) and wide enough to tell 0.999 from 1."""
    check_wide(**numbers)
    check_fraction(**numbers)


def check_wide(**numbers: Any) -> None:
    """Raises unless all are held in float32 or better, as far as they have a dtype."""
    for name, value in numbers.items():
        dtype = getattr(value, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
            raise ValueError(
                f"{name} is held in {dtype}, which rounds 0.999 to 1. Pass a Python number or a "
                "float32 array; through optax.inject_hyperparams, say hyperparam_dtype=jnp.float32."
            )


def check_seed(seed: Any) -> None:
    """Raises unless seed is an integer in [0, 2^32), known or traced."""
    dtype = getattr(seed, "dtype", None)
    is_integer = jnp.issubdtype(dtype, jnp.integer) if dtype is not None else type(seed) is int
    if not is_integer:
        raise TypeError(f"seed={seed!r} is not an integer.")
    check_range("seed", seed, upper=2.0**32, upper_open=True)


def given(number: Any) -> TypeGuard[Any]:
    """False for `None` and for a 0 of Python or NumPy. An array is given: it may be traced."""
    return number is not None and not (isinstance(number, int | float | np.generic) and number == 0)
