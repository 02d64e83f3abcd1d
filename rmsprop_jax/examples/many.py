"""Many runs of the MNIST example as one program: what `sweep` and `compare` have in common."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rmsprop_jax.examples import mnist


@dataclasses.dataclass(frozen=True)
class Task:
    """The options that many runs share, as in `mnist.Config`."""

    model: Literal["linear", "mlp", "cnn"] = "linear"
    """Logistic regression, two hidden layers of 512, or two convolutions with BatchNorm and
    Dropout."""
    epochs: int = 5
    """Passes over the training set."""
    batch_size: int = 64
    """Images per step; the last step of an epoch has what is left."""
    dataset: Literal["auto", "mnist", "digits"] = "auto"
    """auto takes scikit-learn's small digits where MNIST can't be had, and says so."""
    data_dir: Annotated[Path | None, mnist.default("MNIST_DIR, or a cached download")] = None
    """Directory with the four MNIST files."""
    plot: Annotated[Path | None, mnist.default("no plot")] = None
    """PNG file for the picture."""
    json: Annotated[Path | None, mnist.default("no JSON")] = None
    """JSON file for the configuration, the versions and the results of every run and epoch."""


def single(task: Task, **options: Any) -> mnist.Config:
    """Returns one run of the task with more `options`; refuses what `rmsprop-jax mnist` refuses."""
    shared = {field.name: getattr(task, field.name) for field in dataclasses.fields(Task)}
    return mnist.checked(mnist.Config(**shared, **options))


def check_list(name: str, values: Sequence[Any]) -> None:
    """Raises for a list that is empty or has a value twice."""
    if not values:
        raise ValueError(f"{name} is empty: give it one value or more.")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name} has {value!r} twice.")


def check_count(task: Task, *names: str) -> None:
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
