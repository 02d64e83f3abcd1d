"""Calls outside of `jit`, beside Optax's: runs with new numbers, memory, `init`, a warm update.

    python benchmarks/eager_time.py [--seconds 20] [--runs 300]

A run makes an optimizer, its state, and 5 updates of 10 small arrays. Contestants take turns in the
same process. Memory is the resident memory of a process of its own, between run 20 and the last.
"""

import argparse
import gc
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import optax
from measure import medians, ratio, setting, table

import rmsprop_jax

PARAMS = [jnp.full(3 + i, 0.5) for i in range(10)]
FACTORIES = {"rmsprop_jax": rmsprop_jax.rmsprop, "optax": optax.rmsprop}
RATES = {  # of run number i
    "new rate": lambda i: 1e-3 * (1 + i),
    "new cosine schedule": lambda i: optax.cosine_decay_schedule(1e-3 * (1 + i), 100),
    "new rate in an array": lambda i: jnp.float32(1e-3 * (1 + i)),
    "the same numbers": lambda i: 1e-3,
}


def one_run(factory, rate):
    tx = factory(rate)
    state = tx.init(PARAMS)
    updates = PARAMS
    for _ in range(5):
        updates, state = tx.update(PARAMS, state, PARAMS)
    jax.block_until_ready(updates)


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def growth(package, kind, runs):
    """MiB between run 20 and the last, printed by a process of its own."""
    before = 0.0
    for i in range(runs):
        if i == 20:
            gc.collect()
            before = resident_mib()
        one_run(FACTORIES[package], RATES[kind](i))
    gc.collect()
    print(resident_mib() - before)


def alive(factory):
    """How many of 10 trainers, whose method is the schedule, are kept by something."""

    class Trainer:
        def schedule(self, count):
            return 0.1 / (1 + count)

    def run():
        trainer = Trainer()
        one_run(factory, trainer.schedule)
        return weakref.ref(trainer)

    found = [run() for _ in range(10)]
    gc.collect()
    return sum(reference() is not None for reference in found)


def pairs(make):
    """A contestant of each package; compiled, as all are that take part."""
    contestants = {name: make(factory) for name, factory in FACTORIES.items()}
    for call in contestants.values():
        for _ in range(3):
            call()
    return contestants


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for each row")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--growth", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.growth:
        package, kind = args.growth
        return growth(package, kind, args.runs)

    print(setting("jax", "optax"))
    row = table("each run", "ms", "optax, ms", "ratio", "MiB", "optax, MiB")
    for kind, rate in RATES.items():

        def make(factory, rate=rate):
            numbers = iter(range(10**9))
            return lambda: one_run(factory, rate(next(numbers)))

        times, _ = medians(pairs(make), args.seconds / 4)
        command = [sys.executable, __file__, "--runs", str(args.runs), "--growth"]
        mib = [
            float(subprocess.run([*command, name, kind], capture_output=True, check=True).stdout)
            for name in FACTORIES
        ]
        ours, theirs = times.values()
        row(kind, f"{ours * 1e3:.1f}", f"{theirs * 1e3:.1f}", ratio(times, *times),
            *(f"{x:.1f}" for x in mib))  # fmt: skip
    for name, factory in FACTORIES.items():
        print(f"\n{name}: {alive(factory)} of 10 trainers whose method is the schedule are kept")

    row = table("call", "arrays", "ms", "optax, ms", "ratio")
    for momentum in (None, 0.9):
        for count in (10, 50, 300):
            params = [jnp.full((100, 100), 0.5) for _ in range(count)]

            def init(factory, params=params, momentum=momentum):
                tx = factory(1e-3, momentum=momentum)
                return lambda: jax.block_until_ready(tx.init(params))

            def update(factory, params=params, momentum=momentum):
                tx = factory(1e-3, momentum=momentum)
                state = tx.init(params)
                return lambda: jax.block_until_ready(tx.update(params, state, params))

            for call in (init, update):
                times, _ = medians(pairs(call), args.seconds / 8)
                ours, theirs = times.values()
                what = f"{call.__name__}{', momentum' if momentum else ''}"
                row(what, count, f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", ratio(times, *times))
    return None


if __name__ == "__main__":
    main()
