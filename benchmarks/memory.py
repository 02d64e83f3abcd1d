"""Memory of one update, as the compiler reports it: bytes per parameter, beside Optax.

    python benchmarks/memory.py [--size 10000000]

One jitted call of `update` and `optax.apply_updates` with parameters and state donated, for one
array and for EfficientNet-B0. `state` is what the optimizer keeps, `in place` what the step updates
where it is besides the parameters, and `temporary` what it allocates and frees again. At best
`in place` equals `state`, and `temporary` is 0.
"""

import argparse
import math
from typing import Any

import efficientnet
import jax
import optax
from measure import setting, table

from rmsprop_jax import rmsprop
from rmsprop_jax.storage import BF16, U8, U16, store

CONTESTANTS = {
    "rmsprop": rmsprop(1e-3),
    "optax.rmsprop": optax.rmsprop(1e-3),
    "rmsprop centered": rmsprop(1e-3, centered=True),
    "optax.rmsprop centered": optax.rmsprop(1e-3, centered=True),
    "rmsprop momentum": rmsprop(1e-3, momentum=0.9),
    "optax.rmsprop momentum": optax.rmsprop(1e-3, momentum=0.9),
    "rmsprop nu=U16": store(rmsprop(1e-3), nu=U16),
    "rmsprop nu=BF16": store(rmsprop(1e-3), nu=BF16),
    "rmsprop nu=U8": store(rmsprop(1e-3), nu=U8),
    "optax.adamw": optax.adamw(1e-3),
    "adamw mu=BF16 nu=U8": store(optax.adamw(1e-3), mu=BF16, nu=U8),
}


def bytes_per_parameter(tx, shapes):
    """Of the state, of what the step updates in place besides parameters, and of what it frees."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    memory: Any = compiled.memory_analysis()
    number = sum(map(math.prod, shapes))
    live = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    in_place = memory.alias_size_in_bytes - 4 * number
    return [f"{b / number:.2f}" for b in (live, in_place, memory.temp_size_in_bytes)]


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000_000)
    args = parser.parse_args()
    network = "EfficientNet-B0"
    print(setting("jax", "optax"))
    columns = ("state", "in place", "temporary")
    row = table("optimizer", *(f"{where}: {c}" for where in ("array", network) for c in columns))
    for name, tx in CONTESTANTS.items():
        cells = [
            bytes_per_parameter(tx, shapes)
            for shapes in ([(args.size,)], efficientnet.shapes(network))
        ]
        row(name, *cells[0], *cells[1])


if __name__ == "__main__":
    main()
