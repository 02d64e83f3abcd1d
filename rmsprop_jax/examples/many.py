"""Many runs of the MNIST example as one program: what `sweep` and `compare` have in common."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rmsprop_jax.examples import mnist


def single(task: mnist.Task, **options: Any) -> mnist.Config:
    """Returns one run of the task with more `options`; refuses what `rmsprop-jax mnist` refuses."""
    shared = {field.name: getattr(task, field.name) for field in dataclasses.fields(mnist.Task)}
    return mnist.checked(mnist.Config(**shared, **options))


def check_list(name: str, values: Sequence[Any]) -> None:
    """Raises for a list that is empty or has a value twice."""
    if not values:
        raise ValueError(f"{name} is empty: give it one value or more.")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name} has {value!r} twice.")


def check_count(task: mnist.Task, *names: str) -> None:
    """Raises for an option that is less than 1."""
    for name in names:
        if (value := getattr(task, name)) < 1:
            raise ValueError(f"{name}={value} is out of range: it must be at least 1.")


def start(model: str, image_shape: Sequence[int], tx: Any, seed: Any):
    """Returns the model without its arrays, and the state in which `mnist.train` starts.

    It can be vmapped over the seed and over the numbers in the optimizer `tx`.
    """
    module = mnist.MODELS[model](*image_shape, rngs=nnx.Rngs(jax.random.key(seed)))
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    return graphdef, mnist.State(jnp.int32(0), params, rest, tx.init(params))


def spread(values: Sequence[float], digits: int) -> str:
    """Formats the mean, and with two values or more, after ±, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean
