"""Runs of real optimizers with drawn settings, for `identify`: NumPy alone.

`recorded/record_runs.py` makes them in the frameworks that aren't in a test environment, the
benchmark and the tests in those that are. A run is `Run(framework, arguments, dtype)`, and what the
optimizer is given are the gradients of its number: the same everywhere.
"""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STEPS = 30
SHAPES = {"kernel": (2, 4), "bias": (4,)}


class Run(NamedTuple):
    """One setting of a framework's optimizer.

    Attributes:
      number: of the run, which is the seed of its numbers.
      framework: whose.
      arguments: in the framework's own words, the learning rate included.
      dtype: of parameters and gradients.
    """

    number: int
    framework: str
    arguments: dict[str, Any]
    dtype: str


WORDS = {  # of each framework: learning rate, decay, eps, momentum, what else it may have
    "pytorch": ("lr", "alpha", "eps", "momentum", ("centered", "weight_decay")),
    "timm": ("lr", "alpha", "eps", "momentum", ("centered", "weight_decay", "decoupled_decay")),
    "keras": ("learning_rate", "rho", "epsilon", "momentum", ("centered", "weight_decay")),
    "optax": ("learning_rate", "decay", "eps", "momentum", ("centered", "eps_in_sqrt", "nesterov")),
    "jax_example_libraries": ("step_size", "gamma", "eps", "momentum", ()),
    "tensorflow1": ("learning_rate", "decay", "epsilon", "momentum", ("centered",)),
    "tf_keras_legacy": ("learning_rate", "rho", "epsilon", "momentum", ("centered",)),
    "sonnet": ("learning_rate", "decay", "epsilon", "momentum", ("centered",)),
    "paddle": ("learning_rate", "rho", "epsilon", "momentum", ("centered", "weight_decay")),
    "mlx": ("learning_rate", "alpha", "eps", "", ()),
    "stable_baselines3": ("lr", "alpha", "eps", "momentum", ("centered", "weight_decay")),
    "chainer_graves": ("lr", "alpha", "eps", "momentum", ()),
    "mxnet": ("learning_rate", "gamma1", "epsilon", "gamma2", ("centered",)),
    "numpyro": ("step_size", "gamma", "eps", "momentum", ()),
    "torchopt": ("lr", "alpha", "eps", "momentum", ("centered", "weight_decay", "nesterov")),
    "fastai": ("lr", "sqr_mom", "eps", "mom", ("wd", "decouple_wd")),
    "mindspore": ("learning_rate", "decay", "epsilon", "momentum", ("centered", "weight_decay")),
    "tensorflowjs": ("learning_rate", "decay", "epsilon", "momentum", ()),
}
FLOAT32 = ("mxnet", "mindspore", "tensorflowjs")
"""Those without float64."""


def draw(framework: str, number: int) -> Run:
    """A setting: half of the numbers as people type them, half any."""
    stream = np.random.RandomState([number, zlib.crc32(framework.encode())])
    pick = lambda *x: x[stream.randint(len(x))]

    def between(low: float, high: float, typed: tuple[float, ...]) -> float:
        if stream.random_sample() < 0.5:
            return pick(*typed)
        return float(f"{np.exp(stream.uniform(np.log(low), np.log(high))):.5g}")

    rate, decay, eps, momentum, others = WORDS[framework]
    arguments: dict[str, Any] = {
        rate: between(3e-4, 0.1, (1e-3, 2.5e-4, 7e-4, 1e-2, 0.05)),
        decay: round(1 - between(0.002, 0.3, (0.1, 0.05, 0.01, 0.001)), 7),
        eps: between(1e-10, 1e-2, (1e-8, 1e-7, 1e-10, 1e-5, 1e-3)),
    }
    if momentum and stream.random_sample() < 0.5:
        arguments[momentum] = between(0.3, 0.97, (0.9, 0.5, 0.95))
    for name in others:
        if name == "nesterov" and momentum not in arguments:
            continue
        if name == "decoupled_decay" and "weight_decay" not in arguments:
            continue
        if stream.random_sample() < 0.4:
            decayed = between(1e-3, 0.3, (1e-2, 5e-3, 0.1))
            switch = name != "decouple_wd"  # fastai's is on by default
            arguments[name] = decayed if name in ("weight_decay", "wd") else switch
    if framework == "mxnet":  # ignores gamma2 without centered, and has a default
        arguments["centered"] = True
        arguments.setdefault("gamma2", 0.0)
    if framework == "chainer_graves":
        arguments.setdefault("momentum", 0.0)
    dtype = "float32" if number % 3 or framework in FLOAT32 else "float64"
    return Run(number, framework, arguments, dtype)


def problem(run: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Initial parameters, and gradients [steps, ...]: of sizes from 1e-3 to 1, with a drift."""
    stream = np.random.RandomState(run.number)
    size = sum(int(np.prod(shape)) for shape in SHAPES.values())
    scale = np.geomspace(1e-3, 1.0, size)[stream.permutation(size)]
    grads = (stream.standard_normal((STEPS, size)) + 0.3 * stream.standard_normal(size)) * scale
    params = stream.standard_normal(size)
    cut = np.prod(SHAPES["kernel"], dtype=int)

    def split(x: np.ndarray) -> dict[str, np.ndarray]:
        x = x.astype(np.float32).astype(run.dtype)
        parts = {"kernel": x[..., :cut], "bias": x[..., cut:]}
        return {k: part.reshape(*x.shape[:-1], *SHAPES[k]) for k, part in parts.items()}

    return split(params), split(grads)


def stack(steps: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parameters after each step as arrays [steps + 1, ...]."""
    return {k: np.stack([np.array(step[k]) for step in steps]) for k in steps[0]}


def recorded_runs(framework: str) -> list[tuple[Run, dict[str, np.ndarray]]]:
    """Runs that were recorded, each with its parameters."""
    with np.load(Path(__file__).parents[1] / "recorded" / "runs" / f"{framework}.npz") as file:
        runs = [Run(**x) for x in json.loads(file["runs"].item())]
        arrays = {k: file[k] for k in file.files}
    return [(run, {k: arrays[f"{run.number}/{k}"] for k in SHAPES}) for run in runs]
