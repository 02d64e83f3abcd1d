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


def unset(metavar: str, text: str, *aliases: str) -> Any:
    """Says in the help what an option takes, and what happens without it."""
    hint = f"(default: {text})"
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, aliases=aliases)


def several(metavar: str, *aliases: str) -> Any:
    """Says in the help that an option takes one value or more."""
    return tyro.conf.arg(metavar=f"{metavar} ...", aliases=aliases)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      model: Logistic regression, two hidden layers of 512, or two convolutions with BatchNorm and
        Dropout.
      epochs: Passes over the training set.
      batch_size: Images per step, over all devices; the last step of an epoch has what is left.
      dataset: auto takes scikit-learn's small digits where MNIST can't be had, and says so.
      data_dir: Directory with the four MNIST files.
    """

    model: Literal["linear", "mlp", "cnn"] = "linear"
    epochs: int = 5
    batch_size: int = 64
    dataset: Literal["auto", "mnist", "digits"] = "auto"
    data_dir: Annotated[Path | None, unset("DIR", "MNIST_DIR, or a cached download")] = None


@dataclasses.dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
      plot: PNG file for the picture.
      json: JSON file for the configuration, the versions and the results of every run and epoch.
    """

    plot: Annotated[Path | None, unset("FILE.png", "no plot")] = None
    json: Annotated[Path | None, unset("FILE.json", "no JSON")] = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What it is trained with.

    Attributes:
      optimizer: This library's RMSProp, or Optax's Adam or SGD for comparison.
      learning_rate: Step size, at the start if there is a schedule.
      decay: Rate of RMSProp's average of squared gradients.
      eps: Added to the denominator of RMSProp or Adam.
      momentum: Rate of the trace of RMSProp or SGD.
      centered: RMSProp divides by the standard deviation of the gradients.
      schedule: Learning rate: constant, falling to 0 along a cosine, or halved whenever the
        training loss of half an epoch is not 1% below the best.
      seed: Of the weights, the order of the images, and Dropout.
    """

    optimizer: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    learning_rate: Annotated[float, tyro.conf.arg(aliases=("--lr",))] = 1e-3
    decay: Annotated[float | None, unset("FLOAT", "0.9")] = None
    eps: Annotated[float | None, unset("FLOAT", "1e-8")] = None
    momentum: Annotated[float | None, unset("FLOAT", "none")] = None
    centered: bool = False
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where the run is saved, to go on from there.

    Attributes:
      save: Directory for a checkpoint after every epoch; the newest two are kept.
      resume: Directory of a checkpoint to continue from, and to save to if there is no --save.
    """

    save: Annotated[Path | None, unset("DIR", "no checkpoints")] = None
    resume: Annotated[Path | None, unset("DIR", "start anew")] = None


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Where it runs.

    Attributes:
      devices: Devices to train on, in each process; they share the images of every step.
      coordinator: HOST:PORT of process 0, if several processes train together, each started with
        the same command but for --process-id, and with --save in a directory that they share; or
        auto, where Slurm, Open MPI, Kubernetes or Cloud TPU start them and JAX finds the rest by
        itself.
      processes: How many processes train together.
      process_id: Which of them this is, from 0; 0 prints and writes the files.
    """

    devices: Annotated[int | None, unset("INT", "all")] = None
    coordinator: Annotated[str | None, unset("HOST:PORT", "a single process")] = None
    processes: Annotated[int | None, unset("INT", "a single process")] = None
    process_id: Annotated[int | None, unset("INT", "a single process")] = None


@dataclasses.dataclass(frozen=True)
class Config(Parallel, Checkpoint, Output, Optimizer, Task):
    """Trains a model on MNIST; prints the mean training loss and the test accuracy per epoch."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Hyperparameters; all combinations are trained.

    Attributes:
      learning_rate: Step sizes.
      decay: Rates of the average of squared gradients.
      eps: Added to the denominator.
      momentum: Rates of the trace; 0 is no momentum.
      seeds: Runs of each setting, with the seeds 0, 1, 2, ...
      chunk: Settings trained at once on each device; fewer where the memory doesn't hold them.
      top: Settings in the table.
      csv: CSV file for the results of every run and epoch.
    """

    learning_rate: Annotated[tuple[float, ...], several("FLOAT", "--lr")] = (
        *(1e-4, 2e-4, 5e-4),
        *(1e-3, 2e-3, 5e-3, 1e-2),
    )
    decay: Annotated[tuple[float, ...], several("FLOAT")] = (0.9, 0.95, 0.98, 0.99)
    eps: Annotated[tuple[float, ...], several("FLOAT")] = (1e-8,)
    momentum: Annotated[tuple[float, ...], several("FLOAT")] = (0.0,)
    seeds: int = 1
    chunk: int = 64
    top: int = 10
    csv: Annotated[Path | None, unset("FILE.csv", "no CSV")] = None


@dataclasses.dataclass(frozen=True)
class Sweep(Output, Grid, Task):
    """Trains on MNIST with all combinations of hyperparameters at once, and prints the best.

    The best are those with the highest test accuracy after the last epoch. Chosen by it, they seem
    a little better than they are.
    """


@dataclasses.dataclass(frozen=True)
class Entrant:
    """Who takes part.

    Attributes:
      optimizers: Names, each with its framework's defaults; NAME=RATE also sets the learning rate.
      learning_rate: Step size of those named without one.
      seeds: Runs of each optimizer, with the seeds 0, 1, 2, ...
    """

    optimizers: Annotated[tuple[str, ...], several("NAME[=RATE]")] = ("rmsprop", "adam", "sgd")
    learning_rate: Annotated[float | None, unset("FLOAT", "its framework's, or 0.001", "--lr")] = (
        None
    )
    seeds: int = 5


@dataclasses.dataclass(frozen=True)
class Compare(Output, Entrant, Task):
    """Trains on MNIST with several optimizers and prints how they end.

    The optimizers are rmsprop, adam, sgd, and what other frameworks call RMSProp, by the names that
    `rmsprop-jax dialects` lists.
    """


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
