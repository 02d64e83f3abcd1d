"""Time and memory of the update with accumulators of four, two and one bytes.

    python benchmarks/storage_time.py [--shapes 1000000 1000x1000 50000000] [--seconds 10]

All contestants take turns in the same process, and the ratios are those of their median times.
`call` is one jitted call of `update` and `optax.apply_updates` with parameters and state donated;
`scan` is 10 such steps in one call, per step. Bytes per parameter are those of the live
accumulators, of what the compiled step updates in place besides the parameters, and of its
temporary memory. `moved` is the ratio of the bytes that a single pass over memory would move.

Arrays of one axis and of two are both here, since on CPUs they differ: the random bits are made of
the numbers of the elements, and LLVM makes those of one axis by vectors only from the end.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import optax
from measure import medians, setting, table

from rmsprop_jax import rmsprop
from rmsprop_jax.storage import BF16, U8, U16, store

CONTESTANTS = {  # a transformation, and the bytes of its accumulators
    "rmsprop float32": (rmsprop(1e-3), 4),
    "rmsprop U16": (store(rmsprop(1e-3), nu=U16), 2),
    "rmsprop BF16": (store(rmsprop(1e-3), nu=BF16), 2),
    "rmsprop U8": (store(rmsprop(1e-3), nu=U8), 1),
    "rmsprop U8 +d": (store(rmsprop(1e-3), nu=U8.with_decay(0.9)), 1),
    "adamw float32": (optax.adamw(1e-3), 8),
    "adamw BF16 U16": (store(optax.adamw(1e-3), mu=BF16, nu=U16), 4),
    "adamw BF16 U8": (store(optax.adamw(1e-3), mu=BF16, nu=U8), 3),
}


def contestant(tx, g, scan):
    """A function that makes one call and waits for it, and the bytes per parameter it takes."""

    def step(params, state, g):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    def ten_steps(params, state, g):
        once = lambda _, carry: step(carry[0], carry[1], g)
        return jax.lax.fori_loop(0, 10, once, (params, state))

    params = jnp.zeros_like(g)
    carry = [params, tx.init(params)]
    live = sum(x.nbytes for x in jax.tree.leaves(carry[1])) / g.size
    jitted = jax.jit(ten_steps if scan else step, donate_argnums=(0, 1))
    compiled = jitted.lower(*carry, g).compile()
    memory: Any = compiled.memory_analysis()
    in_place, temporary = (
        memory.alias_size_in_bytes / g.size - 4,
        memory.temp_size_in_bytes / g.size,
    )

    def run():
        carry[:] = compiled(*carry, g)
        jax.block_until_ready(carry)

    return run, [f"{number:.2f}" for number in (live, in_place, temporary)]


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["1000000", "1000x1000", "50000000"])
    parser.add_argument("--seconds", type=float, default=10, help="for each group, or 3 rounds")
    args = parser.parse_args()
    print(setting("jax", "optax"))
    row = table(
        "accumulators", "shape", "how", "ms", "/ float32", "moved", "live", "in place",
        "temporary", "rounds",
    )  # fmt: skip
    for text in args.shapes:
        shape = tuple(map(int, text.split("x")))
        g = jax.jit(lambda key, shape=shape: jax.random.normal(key, shape))(jax.random.key(0))
        for family in ("rmsprop", "adamw"):
            for scan in (False, True):
                mine = {n: c for n, c in CONTESTANTS.items() if n.startswith(family)}
                runs = {n: contestant(tx, g, scan) for n, (tx, _) in mine.items()}
                for run, _ in runs.values():  # first touch of the memory
                    run()
                calls = {name: run for name, (run, _) in runs.items()}
                median, rounds = medians(calls, args.seconds, least=3)
                reference = f"{family} float32"
                full = mine[reference][1]
                for name, t in median.items():
                    # Gradient, parameter twice, every accumulator twice.
                    moved = (12 + 2 * mine[name][1]) / (12 + 2 * full)
                    row(
                        name, text, "scan" if scan else "call",
                        f"{t * 1e3 / (10 if scan else 1):.3f}", f"{t / median[reference]:.2f}",
                        f"{moved:.2f}", *runs[name][1], rounds,
                    )  # fmt: skip


if __name__ == "__main__":
    main()
