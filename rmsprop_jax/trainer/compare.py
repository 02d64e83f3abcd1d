"""Optimizers beside each other on MNIST: RMSProp in any framework's dialect, Adam and SGD.

Each optimizer trains with all seeds at once, by `jax.vmap`. Run it as `rmsprop-jax compare`, or
call `compare(Config(...))`.
"""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

import rmsprop_jax
from rmsprop_jax import dialects
from rmsprop_jax.examples.data import Dataset, load
from rmsprop_jax.trainer import many, options, reports, training

Config = options.Compare

# By name, what makes each optimizer; the learning rate is the first argument of them all.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "rmsprop": rmsprop_jax.rmsprop,
    "adam": optax.adam,
    "sgd": optax.sgd,
    **{name: getattr(dialects, name) for name in dialects.__all__},
}


class Row(NamedTuple):
    """What one epoch of one run came to."""

    optimizer: str
    learning_rate: float
    seed: int
    epoch: int  # counted from 1
    loss: float  # mean over the training images, each at the step that used it
    test_accuracy: float  # 0 to 1, after the epoch


class Result(NamedTuple):
    """What `compare` returns."""

    dataset: str
    rows: list[Row]


def compare(config: Config) -> Result:
    """Trains every optimizer with every seed, prints a table, and writes the files asked for.

    Raises:
      ValueError: for a bad configuration, before any work is done.
      OSError: if MNIST can't be had, or a file not be written.

    Example:
      >>> task = Config(dataset="digits", optimizers=("rmsprop", "keras"), seeds=2)
      >>> result = compare(task)  # doctest: +ELLIPSIS
      scikit-learn digits (8x8, NOT MNIST): rmsprop, ... s
      scikit-learn digits (8x8, NOT MNIST): keras, ... s
      ...
      >>> len(result.rows)  # 2 optimizers, 2 seeds, 5 epochs
      20
    """
    run, entrants = checked(config)
    if config.plot:
        import matplotlib.figure  # noqa: F401  # if it is missing, say so now
    data = load(config.dataset, config.data_dir)
    rows: list[Row] = []
    total = len(entrants) * config.epochs
    with tqdm(total=total, desc=data.name, unit="epoch", disable=None) as bar:  # on terminals only
        for name, rate in entrants:
            began = time.perf_counter()
            tx = optax.with_extra_args_support(OPTIMIZERS[name](rate))
            results = train_seeds(run, data, tx, config.seeds, bar.update)
            rows += [Row(name, rate, *result) for result in results]
            with bar.external_write_mode():
                seconds = time.perf_counter() - began
                print(f"{data.name}: {name}, {rate:g}: {seconds:.2f} s", flush=True)
    print(table(rows))
    if config.plot:
        how = f"batch size {config.batch_size}, seeds {config.seeds}"
        draw(config.plot, f"{config.model} model on {data.name}, {how}", rows)
    if config.json:
        reports.write_json(config.json, dataclasses.asdict(config), data.name, rows)
    return Result(data.name, rows)


def train_seeds(
    run: options.Config,
    data: Dataset,
    tx: optax.GradientTransformationExtraArgs,
    seeds: int,
    tick: Callable[[], Any],
) -> list[tuple[int, int, float, float]]:
    """Trains with all seeds at once, and calls `tick` after every epoch.

    Returns:
      Seed, epoch, loss and test accuracy of every run and epoch.
    """
    n, *image_shape = data.train_images.shape
    start = lambda seed: training.start(run.model, image_shape, tx, seed)
    graphdef, state = jax.jit(jax.vmap(start, out_axes=(None, 0)))(np.arange(seeds))
    train = functools.partial(training.train_epoch, graphdef, tx)
    train = jax.jit(jax.vmap(train, (0, 0, None, None, 0)), donate_argnums=1)
    test = functools.partial(training.count_correct, graphdef)
    test = jax.jit(jax.vmap(test, (0, None, None, None)))

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    train_set = jax.device_put((data.train_images, data.train_labels))
    test_rows = training.batches(np.arange(len(data.test_labels)), run.batch_size)
    test_set = jax.device_put((data.test_images, data.test_labels, test_rows))
    runs_of_seeds = [dataclasses.replace(run, seed=seed) for seed in range(seeds)]
    results = []
    for epoch in range(1, run.epochs + 1):
        rows = np.stack([training.shuffled(one, epoch, n) for one in runs_of_seeds])
        state, losses = train(keys, state, *train_set, rows)
        accuracies = np.asarray(test(state, *test_set)) / len(data.test_labels)
        pairs = zip(np.asarray(losses).tolist(), accuracies.tolist(), strict=True)
        results += [(seed, epoch, *pair) for seed, pair in enumerate(pairs)]
        tick()
    return results


def by_optimizer(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Returns the rows of each optimizer and learning rate."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.optimizer, row.learning_rate), []).append(row)
    return groups


def table(rows: Sequence[Row]) -> str:
    """Returns how the runs end, with the standard deviation over the seeds, as lines of text."""
    last = max(row.epoch for row in rows)
    lines = ["optimizer          learning rate    training loss    test accuracy, %"]
    for (name, rate), group in by_optimizer([row for row in rows if row.epoch == last]).items():
        loss = many.spread([row.loss for row in group], 4)
        percent = many.spread([100 * row.test_accuracy for row in group], 2)
        lines.append(f"{name:17}  {rate:13g}  {loss:>15}  {percent:>18}")
    return "\n".join(lines)


def draw(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Draws mean and standard deviation over the seeds, of loss and accuracy over the epochs."""
    from matplotlib.figure import Figure

    groups = by_optimizer(rows)
    figure = Figure(figsize=(8, 4 + 0.25 * -(-len(groups) // 3)), layout="constrained")
    figure.suptitle(f"{title}; bands: standard deviation")
    losses, accuracies = figure.subplots(1, 2)
    for i, ((optimizer, rate), group) in enumerate(groups.items()):
        epochs = sorted({row.epoch for row in group})
        label = f"{optimizer}, {rate:g}"
        for panel, name, unit in (losses, "loss", 1), (accuracies, "test_accuracy", 100):
            values = [[getattr(row, name) for row in group if row.epoch == e] for e in epochs]
            values = unit * np.array(values)
            mean, deviation = values.mean(1), values.std(1, ddof=min(1, values.shape[1] - 1))
            style = {"color": f"C{i % 10}", "linestyle": ("-", "--")[i // 10 % 2]}
            panel.plot(epochs, mean, label=label, **style)
            panel.fill_between(
                epochs, mean - deviation, mean + deviation, alpha=0.25, color=style["color"]
            )
    for panel, label in (losses, "mean training loss"), (accuracies, "test accuracy, %"):
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = losses.get_legend_handles_labels()
    title = "optimizer, learning rate"
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3)
    reports.write_figure(path, figure)


def checked(config: Config) -> tuple[options.Config, list[tuple[str, float]]]:
    """Returns the run that all have in common, and names and learning rates; or refuses."""
    many.check_count(config, "seeds")
    many.check_list("optimizers", config.optimizers)
    if config.learning_rate is not None and all("=" in text for text in config.optimizers):
        rate = config.learning_rate
        raise ValueError(f"learning_rate={rate!r} has no effect: all optimizers have their own.")
    entrants = []
    for text in config.optimizers:
        name, equals, rate = text.partition("=")
        if name not in OPTIMIZERS:
            raise ValueError(f"optimizers: {name!r} is none of {', '.join(OPTIMIZERS)}.")
        try:
            rate = float(rate) if equals else config.learning_rate
        except ValueError:
            raise ValueError(f"optimizers: {text!r} is not NAME=RATE, as sgd=0.1 is.") from None
        rate = default_rate(name) if rate is None else rate
        entrants.append((name, many.single(config, learning_rate=rate).learning_rate))
    many.check_list("optimizers", entrants)
    return many.single(config), entrants


def default_rate(name: str) -> float:
    """Returns the learning rate that an optimizer has if none is given."""
    first, *_ = inspect.signature(OPTIMIZERS[name]).parameters.values()
    return options.Config.learning_rate if first.default is first.empty else first.default
