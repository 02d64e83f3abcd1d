"""Time of one update called outside of `jit`, beside the same call under it, and beside Optax's.

    python benchmarks/eager_time.py [--arrays 50] [--seconds 20]

All contestants take turns in the same process; medians, and their ratios. The parameters are arrays
of 100 x 100.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from measure import medians, ratio, setting, table

import rmsprop_jax


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--arrays", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()

    params = [jnp.full((100, 100), 0.5) for _ in range(args.arrays)]
    contestants = {}
    for name, tx in {
        "rmsprop_jax": rmsprop_jax.rmsprop(1e-3, momentum=0.9),
        "optax": optax.rmsprop(1e-3, momentum=0.9),
    }.items():
        state = tx.init(params)
        for how, update in {"eager": tx.update, "jit": jax.jit(tx.update)}.items():
            contestants[f"{name}, {how}"] = lambda update=update, state=state: (
                jax.block_until_ready(update(params, state, params))
            )
    for call in contestants.values():  # compilation
        call()
    times, rounds = medians(contestants, args.seconds)

    print(setting("jax", "optax"))
    print(f"\n{args.arrays} arrays, {rounds} rounds")
    row = table("update", "ms", "/ the same under jit", "/ optax's")
    for name, t in times.items():
        package, how = name.split(", ")
        row(name, f"{t * 1e3:.3f}", ratio(times, name, f"{package}, jit"),
            ratio(times, name, f"optax, {how}"))  # fmt: skip


if __name__ == "__main__":
    main()
