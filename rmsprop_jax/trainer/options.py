"""What one can choose of a run, and what is refused before any work is done."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

from rmsprop_jax.trainer.reports import check_space

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
    """Directory for a checkpoint after every epoch; the newest two are kept."""
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


def checked(config: Config) -> Config:
    """Returns the configuration with the defaults of its optimizer.

    Raises:
      ValueError: for an option out of its range, or one that would be without effect.
    """

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
        if not config.process_id:
            check_file(name, getattr(config, name))
    refuse_if(config.plot and config.plot.suffix != ".png", "plot", "doesn't end in .png.")
    given = {name: getattr(config, name) for name in ARGUMENTS[config.optimizer]}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(config, **ARGUMENTS[config.optimizer] | given)


def check_file(name: str, path: Path | None) -> None:
    """Raises for a file that can't be written."""
    if path is None:
        return
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = f"can't be written: is {path.parent} a directory of yours?"
        raise ValueError(f"{name}={str(path)!r} {reason}")
    check_space(path, 2**20)


def identity(config: Config, dataset: str) -> dict[str, Any]:
    """Returns what a run must have in common with the one that it continues."""
    free = {"epochs", "data_dir", "save", "resume", "plot", "json"}
    free |= {"devices", "coordinator", "processes", "process_id"}
    run = dataclasses.asdict(config) | {"dataset": dataset}
    run = {name: value for name, value in run.items() if name not in free}
    return run | {"epochs": config.epochs} if config.schedule == "cosine" else run
