"""A small convolutional network on MNIST in JAX, and how its weights are ported from PyTorch."""

import functools
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.examples import data

STEPS, BATCH = 16, 32  # STEPS in one framework, as many in the next, as many again in the first
SETTINGS = {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "centered": True, "weight_decay": 1e-4}
LEARNING_RATE = 2e-3


def rate(step):
    """A cosine from LEARNING_RATE to 0 in all steps; in Python, for PyTorch and Keras."""
    return LEARNING_RATE * (1 + math.cos(math.pi * step / (3 * STEPS))) / 2


schedule = optax.cosine_decay_schedule(LEARNING_RATE, 3 * STEPS)


@functools.cache
def batches():
    """Images [step, batch, height, width, 1] in [0, 1] and labels [step, batch], for all steps."""
    shared = Path(__file__).parents[3] / "shared" / "mnist"
    directory = os.environ.get("MNIST_DIR") or (str(shared) if shared.is_dir() else None)
    mnist = data.load("mnist" if directory else "digits", directory)
    n = 3 * STEPS * BATCH
    rows = np.random.default_rng(0).integers(len(mnist.train_images), size=n)
    images = mnist.train_images[rows].astype(np.float32) / 255
    height, width = images.shape[1:]
    if height < 28:  # scikit-learn's digits are 8 x 8
        images, height, width = np.kron(images, np.ones((1, 3, 3), np.float32)), 24, 24
    labels = mnist.train_labels[rows].astype(np.int32)
    return images.reshape(3 * STEPS, BATCH, height, width, 1), labels.reshape(3 * STEPS, BATCH)


def sizes():
    """Height and width before the dense layer: two convolutions of 3 x 3 in strides of 2."""
    size = batches()[0].shape[2]
    return ((size - 3) // 2 + 1 - 3) // 2 + 1


def to_params(named):
    """Named arrays in PyTorch's layouts as the tree of our model, in JAX's."""
    s = sizes()
    return {
        "conv1": {"kernel": named["0.weight"].transpose(2, 3, 1, 0), "bias": named["0.bias"]},
        "conv2": {"kernel": named["2.weight"].transpose(2, 3, 1, 0), "bias": named["2.bias"]},
        "dense": {
            # PyTorch flattens channels first, we flatten them last.
            "kernel": named["5.weight"].reshape(10, 8, s, s).transpose(2, 3, 1, 0).reshape(-1, 10),
            "bias": named["5.bias"],
        },
    }


def from_params(params):
    """The inverse of `to_params`."""
    s = sizes()
    kernel = np.asarray(params["dense"]["kernel"]).reshape(s, s, 8, 10)
    layers = {"0": params["conv1"], "2": params["conv2"]}
    convolutions = {
        f"{k}.weight": np.asarray(x["kernel"]).transpose(3, 2, 0, 1) for k, x in layers.items()
    }
    return {
        **{f"{k}.bias": np.asarray(x["bias"]) for k, x in layers.items()},
        **convolutions,
        "5.weight": kernel.transpose(3, 2, 0, 1).reshape(10, -1),
        "5.bias": np.asarray(params["dense"]["bias"]),
    }


def loss(params, images, labels):
    x = images
    for name in ("conv1", "conv2"):
        layer = params[name]
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.tanh(x + layer["bias"])
    logits = x.reshape(len(x), -1) @ params["dense"]["kernel"] + params["dense"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(tx, params, opt_state, start):
    """STEPS steps, from batch number start on."""

    @jax.jit
    def step(params, opt_state, images, labels):
        grads = jax.grad(loss)(params, images, labels)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    images, labels = batches()
    params = jax.tree.map(jnp.asarray, params)
    for i in range(start, start + STEPS):  # in a scan, convolutions run on a single core
        params, opt_state = step(params, opt_state, images[i], labels[i])
    return params, opt_state


def largest_difference(left, right):
    """Over all parameters."""
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)
