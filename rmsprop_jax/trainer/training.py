"""The program: an optimizer, one compiled function per epoch, and one that tests."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rmsprop_jax
from rmsprop_jax.examples.data import Dataset
from rmsprop_jax.trainer import devices
from rmsprop_jax.trainer.models import MODELS
from rmsprop_jax.trainer.options import ARGUMENTS, Config


class State(NamedTuple):
    """All that training changes, a pytree of arrays."""

    step: jax.Array  # number of steps made
    params: Any  # nnx.State, as is the next
    rest: Any  # the running averages of BatchNorm
    opt_state: optax.OptState


def schedule(config: Config, steps_per_epoch: int) -> optax.ScalarOrSchedule:
    """Returns the learning rate, before a plateau halves it."""
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps_per_epoch)
    return config.learning_rate


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer; its `update` needs the loss, as `value`, for the plateau schedule."""
    learning_rate = schedule(config, steps_per_epoch)
    make = {"rmsprop": rmsprop_jax.rmsprop, "adam": optax.adam, "sgd": optax.sgd}
    arguments = {name: getattr(config, name) for name in ARGUMENTS[config.optimizer]}
    tx = make[config.optimizer](learning_rate, **arguments)
    if config.schedule == "plateau":
        half = -(-steps_per_epoch // 2)
        plateau = optax.contrib.reduce_on_plateau(
            factor=0.5, patience=1, rtol=0.01, accumulation_size=half
        )
        return optax.chain(tx, plateau)
    return optax.with_extra_args_support(tx)


def batches(order: np.ndarray, size: int) -> np.ndarray:
    """Cuts a list of indices into rows [steps, size], the last one padded with -1."""
    size = min(size, len(order))
    padding = np.full(-len(order) % size, -1)
    return np.concatenate([order, padding]).astype(np.int32).reshape(-1, size)


def shuffled(config: Config, epoch: int, n: int) -> np.ndarray:
    """Returns the batches of an epoch, a function of the seed and the epoch alone.

    They are made by NumPy: `jax.random.permutation` takes seconds to compile at this length.
    """
    return batches(np.random.default_rng((config.seed, epoch)).permutation(n), config.batch_size)


def start(model: str, image_shape: Sequence[int], tx: Any, seed: Any) -> tuple[Any, State]:
    """Returns the model without its arrays, and the state in which training starts.

    It can be vmapped over the seed and over the numbers in the optimizer `tx`.
    """
    module = MODELS[model](*image_shape, rngs=nnx.Rngs(jax.random.key(seed)))
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    return graphdef, State(jnp.int32(0), params, rest, tx.init(params))


@functools.partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnames="state")
def train_epoch(graphdef, tx, key, state: State, images, labels, rows):
    """Trains for one epoch.

    Args:
      graphdef: the model without its arrays, from `start`.
      tx: the optimizer.
      key: for Dropout.
      state: where to start; its memory is reused, so it is gone afterwards.
      images: uint8 [n, height, width]; or the batches themselves [steps, size, height, width].
      labels: integers [n], or [steps, size].
      rows: the indices of the images of each step [steps, size], from `batches`.

    Returns:
      The new state and the mean loss over all images.
    """
    xs, batch, n = devices.scan_over(images, labels, rows)

    def step(state, x):
        images, labels, row = batch(x)
        real = row >= 0
        step_key = jax.random.fold_in(key, state.step)

        def loss_fn(params):
            model = nnx.merge(graphdef, params, state.rest, copy=True)
            logits = model(images / 255, real, nnx.Rngs(step_key))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(where=real), nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, rest, opt_state), loss * real.sum(dtype=loss.dtype)

    state, losses = jax.lax.scan(step, state, xs)
    return state, losses.sum() / n


@functools.partial(jax.jit, static_argnames="graphdef")
def count_correct(graphdef, state: State, images, labels, rows):
    """Returns how many images the model labels correctly; of the arguments of `train_epoch`."""
    model = nnx.merge(graphdef, state.params, state.rest)
    model.eval()
    xs, batch, _ = devices.scan_over(images, labels, rows)

    def correct(x):
        images, labels, row = batch(x)
        predicted = model(images / 255).argmax(-1).astype(labels.dtype)
        return jnp.sum((predicted == labels) & (row >= 0))

    return jax.lax.map(correct, xs).sum()


class Program(NamedTuple):
    """A run that is ready to start."""

    start: State
    epoch: Callable[[State, int], tuple[State, float, float]]  # the new state, loss, accuracy
    learning_rate: Callable[[State], float]  # in force at the next step
    model: Callable[[State], nnx.Module]


def prepare(config: Config, data: Dataset, mesh: jax.sharding.Mesh) -> Program:
    """Returns the program of one run, on the devices of the mesh."""
    n, *image_shape = data.train_images.shape
    tx = make_optimizer(config, steps_per_epoch=len(shuffled(config, 1, n)))
    # Op by op, each initializer would be compiled on its own.
    whole = jax.NamedSharding(mesh, jax.P())
    first = functools.partial(start, config.model, image_shape, tx, config.seed)
    graphdef, state = jax.jit(first, out_shardings=whole)()
    key = jax.random.key(config.seed)
    train_set = devices.feed(mesh, data.train_images, data.train_labels)
    test_set = devices.feed(mesh, data.test_images, data.test_labels)
    test_batches = test_set(batches(np.arange(len(data.test_labels)), 1000))

    def epoch(state, number):
        rows = train_set(shuffled(config, number, n))
        state, loss = train_epoch(graphdef, tx, key, state, *rows)
        correct = int(count_correct(graphdef, state, *test_batches))
        return state, float(loss), correct / len(data.test_labels)

    def learning_rate(state):
        if config.schedule == "plateau":
            return config.learning_rate * float(state.opt_state[-1].scale)
        if config.schedule == "constant":
            return config.learning_rate
        rate: Any = schedule(config, len(shuffled(config, 1, n)))
        return float(rate(int(state.step)))

    return Program(
        state, epoch, learning_rate, lambda state: nnx.merge(graphdef, state.params, state.rest)
    )
