"""Time of one update called outside of `jit`, beside the same call under it, and beside Optax's.

    python benchmarks/eager_time.py [--leaves 50] [--rounds 200]

All contestants run in turn in the same process; medians. The parameters are arrays of 100 x 100.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import rmsprop_jax


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--leaves", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()

    params = [jnp.full((100, 100), 0.5) for _ in range(args.leaves)]
    contestants = {}
    for name, tx in {
        "rmsprop_jax": rmsprop_jax.rmsprop(1e-3, momentum=0.9),
        "optax": optax.rmsprop(1e-3, momentum=0.9),
    }.items():
        state = tx.init(params)
        contestants[f"{name}, eager"] = tx.update, state
        contestants[f"{name}, jit"] = jax.jit(tx.update), state
    times = {name: [] for name in contestants}
    for i in range(args.rounds + 1):
        for name, (update, state) in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(update(params, state, params))
            if i:  # the first call compiles
                times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) for name, t in times.items()}

    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "optax"))
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    print(f"{args.leaves} leaves, medians of {args.rounds} rounds; {device}; {versions}")
    for name, t in median.items():
        print(f"{name:20s} {t * 1e3:8.2f} ms")
    ours = median["rmsprop_jax, eager"]
    print(f"eager against jit:          {ours / median['rmsprop_jax, jit']:.2f}")
    print(f"Optax's eager against jit:  {median['optax, eager'] / median['optax, jit']:.2f}")
    print(f"Optax's eager against ours: {median['optax, eager'] / ours:.2f}")


if __name__ == "__main__":
    main()
