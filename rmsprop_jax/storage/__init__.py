"""How accumulators are kept in memory: in four bytes, in two, or in one.

A running average that is rounded to nearest after every update stops moving once an update is less
than half the distance to the next number: in bfloat16, with decay = 0.999, the average of a
constant stops at a quarter of its value (at half, if the arithmetic is in bfloat16 too), and never
falls again. `store` rounds up or down at random, with the odds that make it right on average.

    tx = store(rmsprop(1e-3), nu=U8)                  # one byte per parameter
    tx = store(optax.adamw(1e-3), mu=BF16, nu=U16)    # two and two

`nu` is never negative; `mu` and `trace` are, and are refused for `U16` and `U8`.

A format that knows the decay rounds less, above all where gradients are rare or have become small:

    tx = store(rmsprop(1e-3, decay=0.99), nu=U8.with_decay(0.99))

| format | bytes | keeps, beside 0 and NaN              | relative distance | for                |
|--------|-------|--------------------------------------|-------------------|--------------------|
| `U16`  | 2     | 1.2e-38 to 3.4e38, infinity          | 1/511 to 1/256    | nu                 |
| `BF16` | 2     | the same, with a sign                | 1/255 to 1/128    | mu, trace, also nu |
| `U8`   | 1     | 8.9e-16 to 4.9e4, can be moved       | 1/7 to 1/4        | nu                 |
"""

from rmsprop_jax.storage.formats import BF16, U8, U16, Format
from rmsprop_jax.storage.saturation import Extremes, extremes
from rmsprop_jax.storage.state import StoreState
from rmsprop_jax.storage.wrapper import pack, store, unpack

__all__ = [
    "BF16",
    "U8",
    "U16",
    "Extremes",
    "Format",
    "StoreState",
    "extremes",
    "pack",
    "store",
    "unpack",
]
