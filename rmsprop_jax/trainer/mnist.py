"""`rmsprop-jax mnist` with all its options: a run that can be killed, resumed, spread and drawn.

Run it as the command, or call `train(Config(...))`.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import sys
import time
from typing import NamedTuple

import jax
from flax import nnx

from rmsprop_jax.examples import mnist
from rmsprop_jax.examples.data import load
from rmsprop_jax.trainer import devices, processes, reports, training
from rmsprop_jax.trainer.checkpoints import Store
from rmsprop_jax.trainer.options import ARGUMENTS, Config, checked, identity


class Epoch(NamedTuple):
    """What one epoch came to."""

    epoch: int  # counted from 1
    loss: float  # mean over the training images, each at the step that used it
    test_accuracy: float  # 0 to 1, after the epoch
    seconds: float  # training and testing; in the first epoch also compilation
    learning_rate: float = math.nan  # in force after the epoch; NaN from checkpoints without it


class Result(NamedTuple):
    """What `train` returns."""

    dataset: str
    history: list[Epoch]
    model: nnx.Module


def train(config: Config) -> Result:
    """Trains as configured, prints a line per epoch, and writes the files asked for.

    With several processes, every one of them calls this, before it uses JAX for anything else.

    Raises:
      ValueError: for a bad configuration, before any work is done; for a directory that another
        run uses, and for checkpoints of another run or damaged ones in `save` or `resume`.
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
        processes.connect(config.coordinator, config.processes, config.process_id)
    with Store(config.save, config.resume) as store:
        mesh = devices.mesh(config.devices)
        config = dataclasses.replace(config, devices=mesh.size // jax.process_count())
        store.check({k: v for k, v in identity(config, "").items() if k != "dataset"})
        data = load(config.dataset, config.data_dir)
        run = identity(config, data.name)
        same = run | {name: getattr(config, name) for name in ("epochs", "save", "resume")}
        processes.agree(same)
        program = training.prepare(config, data, mesh)
        state, rows = store.restore(run, program.start)
        history = [Epoch(*row) for row in rows]
        processes.agree({"epochs made": len(history)})
        if len(history) > config.epochs:
            raise ValueError(
                f"epochs={config.epochs}, but the run has made {len(history)} already."
            )

        first = jax.process_index() == 0
        write = functools.partial(print, flush=True) if first else lambda line: None
        if config.resume:
            write(f"{data.name}: continuing after epoch {len(history)}")
        epochs = range(len(history) + 1, config.epochs + 1)
        if first and sys.stderr.isatty():
            from tqdm import tqdm

            epochs, write = tqdm(epochs, data.name, unit="epoch"), tqdm.write
        for epoch in epochs:
            began = time.perf_counter()
            state, loss, accuracy = program.epoch(state, epoch)
            seconds, rate = time.perf_counter() - began, program.learning_rate(state)
            history.append(Epoch(epoch, loss, accuracy, seconds, rate))
            store.save(run, state, history)
            write(
                f"{data.name}: epoch {epoch}/{config.epochs}, training loss {loss:.4f}, "
                f"test accuracy {accuracy:.2%}, {history[-1].seconds:.3f} s"
            )
        if first and config.plot:
            reports.draw(config.plot, title(config, data.name), history)
        if first and config.json:
            reports.write_json(config.json, dataclasses.asdict(config), data.name, history)
        return Result(data.name, history, program.model(state))


def title(config: Config, dataset: str) -> str:
    """Returns what is to be read above a picture of a run: all that was chosen for it."""
    names = ("learning_rate", *ARGUMENTS[config.optimizer], "schedule", "batch_size", "seed")
    given = {name: getattr(config, name) for name in names}
    told = (
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in given.items()
        if value is not None and value is not False and value != "constant"
    )
    return f"{config.model} model on {dataset}, {config.optimizer}\n{', '.join(told)}"


def run(config: Config) -> None:
    """Runs `rmsprop-jax mnist`.

    It runs the example where that does all that is asked for: one device, and none of the options
    that the example doesn't have.
    """
    given = {
        field.name: value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default
    }
    simple = given.keys() <= inspect.signature(mnist.train).parameters.keys()
    if simple and config.model != "mlp" and jax.local_device_count() == 1:
        checked(config)
        if sys.stderr.isatty():  # the trainer shows a bar meanwhile
            print("compiling the first epoch ...", file=sys.stderr)
        mnist.train(**given)
        return
    prog = "rmsprop-jax mnist"
    with processes.together(prog) if config.coordinator else contextlib.nullcontext():
        train(config)
