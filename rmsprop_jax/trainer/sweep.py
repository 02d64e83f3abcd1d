"""A grid of RMSProp's hyperparameters on MNIST, trained as one compiled program.

Hyperparameters can be traced, so `jax.vmap` makes of `training.train_epoch` a function that
trains many settings at once. They share the order of the images: each batch is gathered once, and
its products with the weights of all settings are one large product. Run it as
`rmsprop-jax sweep`, or call `sweep(Config(...))`.
"""

import csv
import dataclasses
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import rmsprop_jax
from rmsprop_jax.examples.data import Dataset, load
from rmsprop_jax.trainer import many, options, reports, training

Config = options.Sweep

GRID = ("learning_rate", "decay", "eps", "momentum")
AXES = training.State._make([None, 0, 0, 0])  # settings differ in all but the number of steps made


class Row(NamedTuple):
    """What one epoch of one run came to."""

    learning_rate: float
    decay: float
    eps: float
    momentum: float
    seed: int
    epoch: int  # counted from 1
    loss: float  # mean over the training images, each at the step that used it
    test_accuracy: float  # 0 to 1, after the epoch


class Result(NamedTuple):
    """What `sweep` returns."""

    dataset: str
    rows: list[Row]
    finished: bool  # False after an interrupt; the rows are then those of the finished chunks


class Programs(NamedTuple):
    """Compiled functions for a chunk: settings [size, 4], in the order of GRID, and one seed."""

    size: int
    start: Callable[..., training.State]  # of settings and seed
    train: Callable[
        ..., tuple[training.State, jax.Array]
    ]  # of state, settings, seed, rows; an epoch
    test: Callable[..., jax.Array]  # of the state; how many images of the test set are right
    memory: int  # bytes that `train` takes on each device


def sweep(config: Config) -> Result:
    """Trains every setting with every seed, prints the best, and writes the files asked for.

    The settings go in chunks. After each chunk the files are written anew, and an interrupt
    (Ctrl-C) ends the sweep as if the finished chunks were all there is.

    Raises:
      ValueError: for a bad configuration, before any work is done.
      OSError: if MNIST can't be had, or a file not be written.

    Example:
      >>> grid = {"learning_rate": (1e-3, 1e-2), "decay": (0.9,)}
      >>> result = sweep(Config(dataset="digits", **grid))  # doctest: +ELLIPSIS
      scikit-learn digits (8x8, NOT MNIST): settings: 2, seeds: 1, trained at once: 2
      ...
      >>> [row.learning_rate for row in result.rows if row.epoch == 5]
      [0.001, 0.01]
    """
    run = checked(config)
    if config.plot:
        import matplotlib.figure  # noqa: F401  # if it is missing, say so now
    data = load(config.dataset, config.data_dir)
    settings = list(itertools.product(*(getattr(config, name) for name in GRID)))
    programs = fit(run, data, settings, config.chunk)
    chunks = [settings[i : i + programs.size] for i in range(0, len(settings), programs.size)]
    print(
        f"{data.name}: settings: {len(settings)}, seeds: {config.seeds}, "
        f"trained at once: {len(chunks[0])}",
        flush=True,
    )

    rows: list[Row] = []
    total = config.seeds * len(chunks) * config.epochs
    with tqdm(total=total, desc=data.name, unit="epoch", disable=None) as bar:  # on terminals only
        try:
            for seed, chunk in itertools.product(range(config.seeds), chunks):
                began = time.perf_counter()
                rows += train_chunk(programs, run, data, seed, chunk, bar.update)
                write(config, data.name, rows)
                with bar.external_write_mode():
                    print(
                        f"{data.name}: {len(rows) // config.epochs} of "
                        f"{config.seeds * len(settings)} runs, {time.perf_counter() - began:.2f} s",
                        flush=True,
                    )
            finished = True
        except KeyboardInterrupt:
            finished = False
    if not finished:
        print(f"{data.name}: interrupted, {len(rows) // config.epochs} runs are finished")
    if rows:
        write(config, data.name, rows)  # the interrupt may have come between chunk and files
        print(table(rows, config.top))
        if config.plot:
            how = f"{config.epochs} epochs, batch size {config.batch_size}, seeds {config.seeds}"
            draw(config.plot, f"{config.model} model on {data.name}, {how}", rows)
    return Result(data.name, rows, finished)


def fit(run: options.Config, data: Dataset, settings: Sequence[Any], chunk: int) -> Programs:
    """Compiles for equal chunks of at most `chunk` settings per device that the memory holds."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("settings",))
    momentum = any(setting[-1] for setting in settings)
    while True:
        chunks = -(-len(settings) // (chunk * mesh.size))
        chunk = -(-len(settings) // (chunks * mesh.size))
        programs = compile_chunk(run, data, momentum, mesh, chunk * mesh.size)
        if chunk == 1 or programs.memory <= (free := free_memory(mesh)):
            return programs
        chunk = max(1, min(chunk - 1, int(chunk * free / programs.memory)))


def free_memory(mesh: jax.sharding.Mesh) -> float:
    """Returns the bytes that a program may take on each device."""
    if stats := mesh.devices[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if not hasattr(os, "sysconf"):  # a CPU under Windows tells nothing
        return math.inf
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 / mesh.size


def compile_chunk(
    run: options.Config, data: Dataset, momentum: bool, mesh: jax.sharding.Mesh, size: int
) -> Programs:
    """Compiles for `size` settings, split evenly over the devices."""
    split, whole = jax.NamedSharding(mesh, jax.P("settings")), jax.NamedSharding(mesh, jax.P())
    states = training.State._make([whole, split, split, split])
    image_shape = data.train_images.shape[1:]

    def optimizer(setting):
        learning_rate, decay, eps, rate = setting
        # A rate of 0 is no momentum too, but has a buffer.
        return rmsprop_jax.rmsprop(learning_rate, decay, eps, momentum=rate if momentum else None)

    def start(settings, seed):
        one = lambda setting: training.start(run.model, image_shape, optimizer(setting), seed)
        return jax.vmap(one, out_axes=(None, AXES))(settings)

    like = jax.ShapeDtypeStruct((size, len(GRID)), np.float32)
    graphdef, state = jax.eval_shape(start, like, 0)

    def train(state, settings, seed, rows, images, labels):
        def one(state, setting):
            key, tx = jax.random.key(seed), optimizer(setting)
            return training.train_epoch(graphdef, tx, key, state, images, labels, rows)

        return jax.vmap(one, (AXES, 0), (AXES, 0))(state, settings)

    def test(state, images, labels, rows):
        one = lambda state: training.count_correct(graphdef, state, images, labels, rows)
        return jax.vmap(one, (AXES,))(state)

    train_set = jax.device_put((data.train_images, data.train_labels), whole)
    # In batches of the same size as in training, testing takes no more memory.
    test_rows = training.batches(np.arange(len(data.test_labels)), run.batch_size)
    test_set = jax.device_put((data.test_images, data.test_labels, test_rows), whole)
    rows = training.shuffled(run, 1, len(data.train_labels))
    compiled_train = (
        jax.jit(
            train,
            in_shardings=(states, split, whole, whole, whole, whole),
            out_shardings=(states, split),
            donate_argnums=0,
        )
        .lower(state, like, 0, rows, *train_set)
        .compile()
    )
    memory: Any = compiled_train.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    compiled_test = jax.jit(test)
    return Programs(
        size=size,
        start=jax.jit(lambda settings, seed: start(settings, seed)[1], out_shardings=states),
        train=lambda *args: compiled_train(*args, *train_set),
        test=lambda state: compiled_test(state, *test_set),
        memory=kept + memory.temp_size_in_bytes,
    )


def train_chunk(
    programs: Programs,
    run: options.Config,
    data: Dataset,
    seed: int,
    chunk: Sequence[Sequence[float]],
    tick: Callable[[], Any],
) -> list[Row]:
    """Trains settings with one seed, and calls `tick` after every epoch."""
    run = dataclasses.replace(run, seed=seed)
    padding = [chunk[-1]] * (programs.size - len(chunk))
    settings = np.array([*chunk, *padding], np.float32)
    state = programs.start(settings, seed)
    rows = []
    for epoch in range(1, run.epochs + 1):
        order = training.shuffled(run, epoch, len(data.train_labels))
        state, losses = programs.train(state, settings, seed, order)
        accuracies = np.asarray(programs.test(state)) / len(data.test_labels)
        results = zip(chunk, np.asarray(losses).tolist(), accuracies.tolist(), strict=False)
        rows += [Row._make((*setting, seed, epoch, *result)) for setting, *result in results]
        tick()
    return rows


def write(config: Config, dataset: str, rows: list[Row]) -> None:
    """Writes the rows to the files asked for."""
    if config.json:
        reports.write_json(config.json, dataclasses.asdict(config), dataset, rows)
    if config.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([Row._fields, *rows])
        reports.write(config.csv, text.getvalue().encode())


def ranking(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Returns the last rows of each setting, one per seed; the best setting comes first."""
    last = max(row.epoch for row in rows)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.epoch == last:
            groups.setdefault(row[: len(GRID)], []).append(row)
    return dict(sorted(groups.items(), key=lambda item: -accuracy(item[1])))


def accuracy(rows: Sequence[Row]) -> float:
    """Returns the mean test accuracy in percent."""
    return 100 * float(np.mean([row.test_accuracy for row in rows]))


def table(rows: list[Row], top: int) -> str:
    """Returns the best settings, with the standard deviation over the seeds, as lines of text."""
    lines = ["learning rate   decay      eps  momentum  seeds    training loss    test accuracy, %"]
    for setting, group in itertools.islice(ranking(rows).items(), top):
        learning_rate, decay, eps, momentum = setting
        loss = many.spread([row.loss for row in group], 4)
        percent = many.spread([100 * row.test_accuracy for row in group], 2)
        lines.append(
            f"{learning_rate:13g}  {decay:6g}  {eps:7g}  {momentum:8g}  {len(group):5}  "
            f"{loss:>15}  {percent:>18}"
        )
    return "\n".join(lines)


def draw(path: Path, title: str, rows: list[Row]) -> None:
    """Maps the test accuracy over learning rate and decay, for each eps and momentum."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rates, decays, epses, momenta = (sorted({row[i] for row in rows}) for i in range(len(GRID)))
    means = {setting: accuracy(group) for setting, group in ranking(rows).items()}
    best, *_ = means
    # What matters are the differences close to the best: all that is far off gets one colour.
    low = max(min(means.values()), means[best] - 5)
    height = 1.3 + len(epses) * (0.7 + 0.4 * len(decays))
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle(f"{title} (framed: the best)", fontsize="medium")
    panels = figure.subplots(len(epses), len(momenta), squeeze=False, sharex=True, sharey=True)
    crowded = len(rates) * len(momenta) > 14
    image: Any = None
    for (i, eps), (j, momentum) in itertools.product(enumerate(epses), enumerate(momenta)):
        panel = panels[i, j]
        grid = [[means.get((x, y, eps, momentum), math.nan) for x in rates] for y in decays]
        image = panel.imshow(grid, vmin=low, vmax=means[best], origin="lower", aspect="auto")
        panel.set_title(f"eps {eps:g}, momentum {momentum:g}", fontsize="medium")
        panel.set_xticks(
            range(len(rates)), [f"{rate:g}" for rate in rates], rotation=90 if crowded else 30
        )
        panel.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays])
        if (eps, momentum) == best[2:]:
            corner = rates.index(best[0]) - 0.5, decays.index(best[1]) - 0.5
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=3))
        if not crowded:
            for (y, x), value in np.ndenumerate(grid):
                color = "black" if value > (low + means[best]) / 2 else "white"
                text = "" if math.isnan(value) else f"{value:.1f}"  # missing after an interrupt
                panel.text(x, y, text, ha="center", va="center", color=color)
    figure.supxlabel("learning rate")
    figure.supylabel("decay")
    extend = "min" if low > min(means.values()) else "neither"
    figure.colorbar(image, ax=panels, label="test accuracy, %", extend=extend)
    reports.write_figure(path, figure)


def checked(config: Config) -> options.Config:
    """Returns the run that all settings are variations of, or refuses the configuration."""
    many.check_count(config, "seeds", "chunk", "top")
    for name in GRID:
        many.check_list(name, values := getattr(config, name))
        for value in values:
            many.single(config, **{name: value})
    options.check_file("csv", config.csv)
    return many.single(config)
