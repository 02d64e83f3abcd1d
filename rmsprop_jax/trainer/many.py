"""Many runs as one program: what `sweep` and `compare` have in common."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop_jax.trainer.options import Compare, Config, Output, Sweep, Task, checked


def single(task: Sweep | Compare, **options: Any) -> Config:
    """Returns one run of the task with more `options`; refuses what `rmsprop-jax mnist` refuses."""
    fields = (*dataclasses.fields(Task), *dataclasses.fields(Output))
    shared = {field.name: getattr(task, field.name) for field in fields}
    return checked(Config(**shared, **options))


def check_list(name: str, values: Sequence[Any]) -> None:
    """Raises for a list that is empty or has a value twice."""
    if not values:
        raise ValueError(f"{name} is empty: give it one value or more.")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name} has {value!r} twice.")


def check_count(task: Sweep | Compare, *names: str) -> None:
    """Raises for an option that is less than 1."""
    for name in names:
        if (value := getattr(task, name)) < 1:
            raise ValueError(f"{name}={value} is out of range: it must be at least 1.")


def spread(values: Sequence[float], digits: int) -> str:
    """Formats the mean, and with two values or more, after ±, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    # An ASCII terminal gets +- for it.
    sign = "±" if "±".encode(sys.stdout.encoding or "utf-8", "ignore") else "+-"
    return f"{mean} {sign} {np.std(values, ddof=1):.{digits}f}"
