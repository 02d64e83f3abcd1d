"""What the tests of the trainer share."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from flax import nnx

from rmsprop_jax.trainer.options import Config

DIGITS = Config(dataset="digits", epochs=2, devices=1)
NAME = "scikit-learn digits (8x8, NOT MNIST)"


class Tiny(nnx.Module):
    """What the CNN has besides arrays of parameters, without the time to compile convolutions."""

    def __init__(self, height, width, rngs):
        # A bias would have no gradient but rounding errors, which RMSProp makes steps of.
        self.dense = nnx.Linear(height * width, 16, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, images, real=None, rngs=None):
        mask = None if real is None else real[:, None]
        x = nnx.relu(self.norm(self.dense(images.reshape(len(images), -1)), mask=mask))
        return self.out(self.dropout(x, rngs=rngs))


def results(result):
    """What must not depend on the clock."""
    return [epoch[:3] for epoch in result.history]


def arrays(result):
    return jax.tree.leaves(nnx.state(result.model))


def assert_identical(one, two):
    assert results(one) == results(two)
    for a, b in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def options(config):
    """The command line of a configuration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            yield f"--{field.name.replace('_', '-')}"
            yield from () if value is True else map(str, value if type(value) is tuple else [value])


def command(name, *args, **popen) -> Any:
    """Starts `rmsprop-jax` in a process of its own; `args` are options or a configuration."""
    args = [o for arg in args for o in (options(arg) if dataclasses.is_dataclass(arg) else [arg])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = [sys.executable, "-m", "rmsprop_jax.cli", name, *args]
    return subprocess.Popen(line, **pipes | popen)
