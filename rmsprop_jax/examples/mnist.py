"""RMSProp on MNIST: a Flax NNX model, an Optax optimizer, one compiled function per epoch.

Run it as `rmsprop-jax mnist`, or call `train(Config(...))`.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import rmsprop_jax
from rmsprop_jax.examples import devices, runs
from rmsprop_jax.examples.data import load

# The arguments that an optimizer has besides the learning rate, each with the default that it gets
# here. Another optimizer refuses them: an argument never goes without effect.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "rmsprop": {"decay": 0.9, "eps": 1e-8, "momentum": None, "centered": False},
    "adam": {"eps": 1e-8},
    "sgd": {"momentum": None},
}


def default(text: str):
    """Says in the help what `None` stands for."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclasses.dataclass(frozen=True)
class Task:
    """What all commands that train on MNIST let one choose."""

    model: Literal["linear", "mlp", "cnn"] = "linear"
    """Logistic regression, two hidden layers of 512, or two convolutions with BatchNorm and
    Dropout."""
    epochs: int = 5
    """Passes over the training set."""
    batch_size: int = 64
    """Images per step, over all devices; the last step of an epoch has what is left."""
    dataset: Literal["auto", "mnist", "digits"] = "auto"
    """auto takes scikit-learn's small digits where MNIST can't be had, and says so."""
    data_dir: Annotated[Path | None, default("MNIST_DIR, or a cached download")] = None
    """Directory with the four MNIST files."""
    plot: Annotated[Path | None, default("no plot")] = None
    """PNG file for the picture."""
    json: Annotated[Path | None, default("no JSON")] = None
    """JSON file for the configuration, the versions and the results of every run and epoch."""


@dataclasses.dataclass(frozen=True)
class Config(Task):
    """Trains a model on MNIST; prints the mean training loss and the test accuracy per epoch."""

    seed: int = 0
    """Of the weights, the order of the images, and Dropout."""
    optimizer: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    """This library's RMSProp, or Optax's Adam or SGD for comparison."""
    learning_rate: float = 1e-3
    """Step size, at the start if there is a schedule."""
    decay: Annotated[float | None, default("0.9")] = None
    """Rate of RMSProp's average of squared gradients."""
    eps: Annotated[float | None, default("1e-8")] = None
    """Added to the denominator of RMSProp or Adam."""
    momentum: Annotated[float | None, default("none")] = None
    """Rate of the trace of RMSProp or SGD."""
    centered: bool = False
    """RMSProp divides by the standard deviation of the gradients."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """Learning rate: constant, falling to 0 along a cosine, or halved whenever the training loss
    of half an epoch is not 1% below the best."""
    save: Annotated[Path | None, default("no checkpoints")] = None
    """Directory for a checkpoint after every epoch; the newest is kept."""
    resume: Annotated[Path | None, default("start anew")] = None
    """Directory of a checkpoint to continue from, and to save to if there is no --save."""
    devices: Annotated[int | None, default("all")] = None
    """Devices to train on, in each process; they share the images of every step."""
    coordinator: Annotated[str | None, default("a single process")] = None
    """HOST:PORT of process 0, if several processes train together, each started with the same
    command but for --process-id, and with --save in a directory that they share; or auto, where
    Slurm, Open MPI, Kubernetes or Cloud TPU start them and JAX finds the rest by itself."""
    processes: Annotated[int | None, default("a single process")] = None
    """How many processes train together."""
    process_id: Annotated[int | None, default("a single process")] = None
    """Which of them this is, from 0; 0 prints and writes the files."""


class Result(NamedTuple):
    """What `train` returns."""

    dataset: str
    history: list[runs.Epoch]
    model: nnx.Module


class State(NamedTuple):
    """All that training changes, a pytree of arrays."""

    step: jax.Array  # number of steps made
    params: Any  # nnx.State, as is the next
    rest: Any  # the running averages of BatchNorm
    opt_state: optax.OptState


# Models take images [n, height, width] in 0..1, which of them are real (`batches` pads the last
# batch; None for all), and the random numbers for Dropout; they return logits [n, 10].


class MLP(nnx.Module):
    """Hidden layers of the given widths, then a dense layer; without hidden ones, linear."""

    def __init__(self, hidden, height, width, rngs):  # noqa: D107
        *_, last = widths = (height * width, *hidden)
        pairs = itertools.pairwise(widths)
        self.hidden = nnx.List([nnx.Linear(m, n, rngs=rngs) for m, n in pairs])
        # This is nnx.Linear(last, 10) with the transposed kernel: twice as fast on a CPU for so
        # few outputs. It starts at 0, which is as good as anything for a convex problem.
        zeros = nnx.initializers.zeros_init()
        self.out = nnx.Einsum("np,kp->nk", (10, last), (10,), kernel_init=zeros, rngs=rngs)

    def __call__(self, images, real=None, rngs=None):
        """Returns logits; no layer depends on `real` or `rngs`."""
        del real, rngs
        x = images.reshape(len(images), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


class CNN(nnx.Module):
    """Two convolutions, each with BatchNorm, then Dropout and a dense layer."""

    def __init__(self, height, width, rngs):  # noqa: D107
        # nnx.Conv(1, 32, (3, 3), strides=2) computes the same as `patches` and this Linear, and
        # is the better choice on an accelerator. On a CPU, XLA takes 20 times as long for its
        # gradient inside of a scan: https://github.com/jax-ml/jax/issues/12868
        #
        # BatchNorm takes away what a bias adds: its gradient would be nothing but rounding, of
        # which RMSProp makes whole steps.
        self.conv1 = nnx.Linear(9, 32, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.conv2 = nnx.Linear(9 * 32, 64, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = nnx.Linear(-(-height // 4) * -(-width // 4) * 64, 10, rngs=rngs)

    def __call__(self, images, real=None, rngs=None):
        """Returns logits; only `real` images enter the averages of BatchNorm."""
        mask = None if real is None else real[:, None, None, None]
        x = nnx.relu(self.norm1(self.conv1(patches(images[..., None])), mask=mask))
        x = nnx.relu(self.norm2(self.conv2(patches(x)), mask=mask))
        return self.out(self.dropout(x.reshape(len(x), -1), rngs=rngs))


def patches(x):
    """Gathers 3x3 neighbourhoods at every second pixel: [n, h, w, c] to [n, h/2, w/2, 9 c]."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


MODELS = {
    "linear": functools.partial(MLP, ()),
    "mlp": functools.partial(MLP, (512, 512)),
    "cnn": CNN,
}


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer; its `update` needs the loss, as `value`, for the plateau schedule."""
    learning_rate = config.learning_rate
    if config.schedule == "cosine":
        steps = config.epochs * steps_per_epoch
        learning_rate = optax.cosine_decay_schedule(learning_rate, steps)
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


@functools.partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnames="state")
def train_epoch(graphdef, tx, key, state: State, images, labels, rows):
    """Trains for one epoch.

    Args:
      graphdef: the model without its arrays, from `nnx.split`.
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


def train(config: Config) -> Result:
    """Trains as configured, prints a line per epoch, and writes the files asked for.

    With several processes, every one of them calls this, before it uses JAX for anything else.

    Raises:
      ValueError: for a bad configuration, before any work is done; and for checkpoints of another
        run in `save` or `resume`.
      OSError: if MNIST can't be had, a file not be written, or another process not be reached.

    Example:
      >>> result = train(Config(dataset="digits", epochs=1))  # doctest: +ELLIPSIS
      scikit-learn digits (8x8, NOT MNIST): epoch 1/1, training loss ...
      >>> result.history[0].test_accuracy > 0.7
      True
    """
    config = checked(config)
    if config.plot:
        import matplotlib.figure  # noqa: F401  # if it is missing, say so now
    if config.coordinator:
        devices.connect(config.coordinator, config.processes, config.process_id)
    mesh = devices.mesh(config.devices)
    config = dataclasses.replace(config, devices=mesh.size // jax.process_count())
    data = load(config.dataset, config.data_dir)
    n = len(data.train_labels)
    run = identity(config, data.name)
    devices.agree(run | {"epochs": config.epochs, "save": config.save, "resume": config.resume})
    tx = make_optimizer(config, steps_per_epoch=len(shuffled(config, 1, n)))

    # Op by op, each initializer would be compiled on its own.
    @functools.partial(jax.jit, out_shardings=jax.NamedSharding(mesh, jax.P()))
    def start():
        height, width = data.train_images.shape[1:]
        model = MODELS[config.model](height, width, rngs=nnx.Rngs(config.seed))
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        return graphdef, State(jnp.int32(0), params, rest, tx.init(params))

    graphdef, state = start()
    history: list[runs.Epoch] = []
    first = jax.process_index() == 0
    write = functools.partial(print, flush=True) if first else lambda line: None
    if config.resume:
        state, history = runs.restore(config.resume, run, state)
        if len(history) > config.epochs:
            raise ValueError(
                f"epochs={config.epochs}, but the run has made {len(history)} already."
            )
        write(f"{data.name}: continuing after epoch {len(history)}")
    manager = runs.checkpoints(directory) if (directory := config.save or config.resume) else None
    if manager and directory != config.resume and manager.latest_step() is not None:
        raise ValueError(f"save={str(directory)!r} holds another run; to go on with it, resume it.")

    key = jax.random.key(config.seed)
    train_set = devices.feed(mesh, data.train_images, data.train_labels)
    test_set = devices.feed(mesh, data.test_images, data.test_labels)
    test_batches = test_set(batches(np.arange(len(data.test_labels)), 1000))
    epochs = range(len(history) + 1, config.epochs + 1)
    if first and sys.stderr.isatty():
        from tqdm import tqdm

        epochs, write = tqdm(epochs, data.name, unit="epoch"), tqdm.write
    for epoch in epochs:
        began = time.perf_counter()
        rows = shuffled(config, epoch, n)
        state, loss = train_epoch(graphdef, tx, key, state, *train_set(rows))
        correct = int(count_correct(graphdef, state, *test_batches))
        accuracy = correct / len(data.test_labels)
        history.append(runs.Epoch(epoch, float(loss), accuracy, time.perf_counter() - began))
        if manager:
            runs.save(manager, run, state, history)
        write(
            f"{data.name}: epoch {epoch}/{config.epochs}, training loss {history[-1].loss:.4f}, "
            f"test accuracy {accuracy:.2%}, {history[-1].seconds:.3f} s"
        )

    if first and config.plot:
        runs.draw(config.plot, f"{config.model}, {config.optimizer} on {data.name}", history)
    if first and config.json:
        runs.write_json(config.json, dataclasses.asdict(config), data.name, history)
    return Result(data.name, history, nnx.merge(graphdef, state.params, state.rest))


def checked(config: Config) -> Config:
    """Returns the configuration with the defaults of its optimizer, or refuses it."""

    def refuse_if(condition, name, reason):
        if condition:
            value = getattr(config, name)
            value = str(value) if isinstance(value, Path) else value
            raise ValueError(f"{name}={value!r} {reason}")

    for name, hint in get_type_hints(Config).items():
        choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
        wrong = choices and getattr(config, name) not in choices
        refuse_if(wrong, name, f"is none of {', '.join(choices)}.")
    if config.coordinator in (None, "auto"):
        reason = f"needs coordinator='HOST:PORT', but that is {config.coordinator!r}."
        for name in ("processes", "process_id"):
            refuse_if(getattr(config, name) is not None, name, reason)
    else:
        port = config.coordinator.rpartition(":")[2]
        refuse_if(not port.isdecimal(), "coordinator", "is neither HOST:PORT nor auto.")
        for name in ("processes", "process_id"):
            refuse_if(getattr(config, name) is None, name, "is missing: a coordinator needs it.")
    counts = ("epochs", "batch_size", "devices", "processes")
    ranges = dict.fromkeys(counts, (1, math.inf)) | {"seed": (0, 2**32)}
    ranges |= {"process_id": (0, config.processes or 1)}
    ranges |= dict.fromkeys(("learning_rate", "eps"), (0, math.inf))
    ranges |= dict.fromkeys(("decay", "momentum"), (0, 1))
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        wrong = value is not None and not low <= value < high
        refuse_if(wrong, name, f"is out of range: it must be at least {low} and less than {high}.")
    for name in ARGUMENTS["rmsprop"].keys() - ARGUMENTS[config.optimizer]:
        others = " or ".join(other for other, names in ARGUMENTS.items() if name in names)
        reason = f"means nothing to {config.optimizer}: leave it out, or take optimizer={others}."
        refuse_if(getattr(config, name) != getattr(Config, name), name, reason)
    for name in ("plot", "json"):
        if (path := getattr(config, name)) and not config.process_id:
            wrong = path.is_dir() or not os.access(path.parent, os.W_OK)
            refuse_if(wrong, name, f"can't be written: is {path.parent} a directory of yours?")
    refuse_if(config.plot and config.plot.suffix != ".png", "plot", "doesn't end in .png.")
    given = {name: getattr(config, name) for name in ARGUMENTS[config.optimizer]}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(config, **ARGUMENTS[config.optimizer] | given)


def identity(config: Config, dataset: str) -> dict[str, Any]:
    """Returns what a run must have in common with the one that it continues."""
    free = {"epochs", "data_dir", "save", "resume", "plot", "json"}
    free |= {"devices", "coordinator", "processes", "process_id"}
    run = dataclasses.asdict(config) | {"dataset": dataset}
    run = {name: value for name, value in run.items() if name not in free}
    return run | {"epochs": config.epochs} if config.schedule == "cosine" else run


def main(args: Sequence[str] | None = None) -> None:
    """The command `rmsprop-jax mnist`."""
    options = (tyro.conf.FlagCreatePairsOff,)
    config = tyro.cli(Config, prog="rmsprop-jax mnist", args=args, config=options)
    try:
        with devices.together() if config.coordinator else contextlib.nullcontext():
            train(config)
    except (ValueError, OSError) as error:
        devices.leave(f"rmsprop-jax mnist: {error}")


if __name__ == "__main__":
    main()
