"""Time of a sweep over settings of RMSProp on MNIST, beside as many single runs.

    python benchmarks/sweep_time.py [--settings 64] [--rounds 5] [--model linear] [--data-dir DIR]

Both train for one epoch in batches of 64 and test, in this process and after compilation: the sweep
with all settings at once, as `rmsprop-jax sweep` does; the single runs one after the other, each by
one call of the jitted `training.train_epoch` and one of `count_correct`, as the trainer's.
The settings have different learning rates, decays and eps, and the same seed. Sweep and single runs
take turns, round after round. Medians and minima; and the largest difference of their
losses. Files are found as by the example: --data-dir, MNIST_DIR, or its cache.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from measure import setting, table

from rmsprop_jax import rmsprop
from rmsprop_jax.examples.data import load
from rmsprop_jax.trainer import models, options, sweep, training


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--settings", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=models.MODELS, default="linear")
    parser.add_argument("--data-dir")
    args = parser.parse_args()

    run = options.Config(model=args.model)
    data = load("mnist", args.data_dir)
    i = np.arange(args.settings)
    settings = np.stack(
        [
            np.geomspace(1e-4, 1e-2, args.settings),
            np.linspace(0.9, 0.99, 8)[i % 8],
            np.geomspace(1e-10, 1e-6, 4)[i % 4],
            np.zeros(args.settings),
        ],
        axis=1,
    ).astype(np.float32)
    rows = jax.device_put(training.shuffled(run, 1, len(data.train_labels)))

    device = jax.devices()[:1]
    mesh = jax.sharding.Mesh(np.array(device), ("settings",))
    programs = sweep.compile_chunk(run, data, momentum=False, mesh=mesh, size=args.settings)

    def together():
        state = jax.block_until_ready(programs.start(settings, run.seed))
        began = time.perf_counter()
        state, losses = programs.train(state, settings, run.seed, rows)
        correct = np.asarray(programs.test(state))
        return time.perf_counter() - began, np.asarray(losses), correct

    train_set = jax.device_put((data.train_images, data.train_labels))
    test_rows = training.batches(np.arange(len(data.test_labels)), 1000)
    test_set = jax.device_put((data.test_images, data.test_labels, test_rows))
    key = jax.random.key(run.seed)
    begin = lambda: training.start(run.model, data.train_images.shape[1:], rmsprop(), run.seed)
    graphdef, _ = jax.eval_shape(begin)
    start = jax.jit(lambda: begin()[1])

    @jax.jit  # with the setting as an argument, so that one compilation does for all
    def train(state, setting, images, labels, rows):
        learning_rate, decay, eps, _ = setting
        tx = rmsprop(learning_rate, decay, eps)
        return training.train_epoch(graphdef, tx, key, state, images, labels, rows)

    def one_by_one():
        seconds, losses, correct = 0.0, [], []
        for values in settings:
            state = jax.block_until_ready(start())
            began = time.perf_counter()
            state, loss = train(state, values, *train_set, rows)
            correct.append(int(training.count_correct(graphdef, state, *test_set)))
            losses.append(float(loss))
            seconds += time.perf_counter() - began
        return seconds, np.array(losses), np.array(correct)

    _, losses, correct = together()  # compiles, as does the next line
    _, other_losses, other_correct = one_by_one()
    times = {"one sweep": [], "single runs": []}
    for _ in range(args.rounds):
        times["one sweep"].append(together()[0])
        times["single runs"].append(one_by_one()[0])

    print(setting("jax", "optax", "flax", "numpy"))
    print(
        f"\n{args.model}, {args.settings} settings, an epoch of {data.name}, {args.rounds} rounds; "
        f"largest difference: loss {abs(losses - other_losses).max():.1e}, images labelled "
        f"correctly {abs(correct - other_correct).max()} of {len(data.test_labels)}"
    )
    row = table("", "s, median", "s, minimum")
    for name, values in times.items():
        row(name, f"{statistics.median(values):.3f}", f"{min(values):.3f}")
    one, other = times.values()
    row(
        "ratio",
        f"{statistics.median(one) / statistics.median(other):.3f}",
        f"{min(one) / min(other):.3f}",
    )


if __name__ == "__main__":
    main()
