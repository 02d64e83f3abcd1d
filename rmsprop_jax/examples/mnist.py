"""MNIST with Flax NNX and RMSProp: softmax regression, or a small convolutional network.

This is a page to copy and to change; `rmsprop-jax mnist` runs it.
"""

import functools
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx

from rmsprop_jax import rmsprop
from rmsprop_jax.examples.data import load


class Linear(nnx.Module):
    """Softmax regression."""

    def __init__(self, height: int, width: int, rngs: nnx.Rngs):  # noqa: D107
        # nnx.Linear(height * width, 10) with the transposed kernel: on a CPU, twice as fast.
        zeros = nnx.initializers.zeros_init()  # the problem is convex: any start will do
        self.out = nnx.Einsum(
            "np,kp->nk", (10, height * width), (10,), kernel_init=zeros, rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [n, 10] of images [n, height, width] in 0..1."""
        return self.out(images.reshape(len(images), -1))


class CNN(nnx.Module):
    """Two convolutions with BatchNorm, then Dropout and a dense layer."""

    def __init__(self, height: int, width: int, rngs: nnx.Rngs):  # noqa: D107
        # No biases: BatchNorm takes away what they add.
        conv = functools.partial(nnx.Conv, strides=2, padding=1, use_bias=False, rngs=rngs)
        self.conv1 = conv(1, 32, (3, 3))
        self.norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.conv2 = conv(32, 64, (3, 3))
        self.norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(-(-height // 4) * -(-width // 4) * 64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [n, 10] of images [n, height, width] in 0..1."""
        x = nnx.relu(self.norm1(self.conv1(images[..., None])))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.out(self.dropout(x.reshape(len(x), -1)))


@nnx.jit
def train_step(model, optimizer, images, labels, rows):
    """Trains on the images in `rows`, and returns their mean loss before."""

    def loss_fn(model):
        logits = model(images[rows] / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def train_steps(model, optimizer, images, labels, batches):
    """Trains on the images in each row of `batches`, as one compiled loop; returns the losses."""

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def step(carry, rows):
        return carry, train_step(carry[0], carry[1], images, labels, rows)

    return step((model, optimizer), batches)[1]


@nnx.jit
def accuracy(model, images, labels):
    """Returns the share of the images that the model labels correctly."""
    return (model(images / 255).argmax(-1).astype(labels.dtype) == labels).mean()


def train(
    model: Literal["linear", "cnn"] = "linear",
    epochs: int = 5,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    decay: float = 0.9,
    eps: float = 1e-8,
    momentum: float | None = None,
    centered: bool = False,
    seed: int = 0,
    dataset: Literal["auto", "mnist", "digits"] = "auto",
    data_dir: Path | None = None,
) -> nnx.Module:
    """Trains and returns a model; prints the mean training loss and test accuracy per epoch.

    Args:
      model: softmax regression, or two convolutions with BatchNorm and Dropout.
      epochs: passes over the training set.
      batch_size: images per step; the last step of an epoch has what is left.
      learning_rate: step size.
      decay: rate of the average of squared gradients.
      eps: added to the denominator.
      momentum: rate of the trace; None for none.
      centered: divide by the standard deviation of the gradients.
      seed: of the weights, the order of the images, and Dropout.
      dataset: auto takes scikit-learn's small digits where MNIST can't be had, and says so.
      data_dir: directory with the four MNIST files; else MNIST_DIR, or a cached download.
    """
    name, *arrays = load(dataset, data_dir)
    images, labels, test_images, test_labels = jax.device_put(arrays)
    tx = rmsprop(learning_rate, decay, eps, momentum=momentum, centered=centered)

    @nnx.jit  # op by op, each initializer would be compiled on its own
    def start():
        network = {"linear": Linear, "cnn": CNN}[model](*images.shape[1:], rngs=nnx.Rngs(seed))
        return network, nnx.Optimizer(network, tx, wrt=nnx.Param)

    network, optimizer = start()
    # On a CPU, XLA takes ten times as long for convolutions in a compiled loop.
    in_python = model == "cnn" and jax.default_backend() == "cpu"
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        network.train()
        order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        whole, rest = np.split(order, [len(order) // batch_size * batch_size])
        batches = whole.reshape(-1, batch_size)
        if in_python:
            losses = [train_step(network, optimizer, images, labels, rows) for rows in batches]
        else:
            losses = train_steps(network, optimizer, images, labels, batches)
        total = np.asarray(losses).sum() * batch_size
        if len(rest):
            total += float(train_step(network, optimizer, images, labels, rest)) * len(rest)
        network.eval()
        print(
            f"{name}: epoch {epoch}/{epochs}, training loss {total / len(order):.4f}, "
            f"test accuracy {accuracy(network, test_images, test_labels):.2%}, "
            f"{time.perf_counter() - began:.3f} s",
            flush=True,
        )
    return network


if __name__ == "__main__":
    tyro.cli(train)
