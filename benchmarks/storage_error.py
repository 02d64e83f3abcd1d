"""Error of stored accumulators: how far the root of nu is from that of the float32 one.

    python benchmarks/storage_error.py [--size 16384] [--fall]

`bias ± spread` is mean and standard deviation over the elements of sqrt(nu / exact nu) - 1, both
in percent, after 8 / (1 - decay) steps from 0, and 1,000 or more for sparse gradients. Scales of
the gradients are equal, or log-normal within the array with a standard deviation of two octaves.
Elements whose exact nu a format has no numbers for are left out. `+d` is `with_decay`, `U8 3-bit`
is U8 with a range of its own, `nearest` bfloat16 rounded to nearest, and `bitsandbytes`, if
installed, its own RMSprop8bit. With --fall: median and mean of nu / exact nu, in percent off 1,
10 / (1 - decay) steps after the scale of Gaussian gradients has changed.
"""

import argparse
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from measure import setting, table

from rmsprop_jax import scale_by_rms
from rmsprop_jax.storage import BF16, U8, U16, store, unpack

U8_3_BIT = U8.with_range(2.0**-18, 2.0**13)
KINDS = ("Gaussian", "Student-t(3)", "1 %-sparse")
DECAYS = (0.9, 0.99, 0.999)
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


def formats_for(decay):
    mine = {"U16": U16, "BF16": BF16, "U8": U8, "U8 3-bit": U8_3_BIT}
    decaying = {f"{name} +d": form.with_decay(decay) for name, form in mine.items()}
    return mine | decaying | {"nearest": jnp.bfloat16}


def errors(nus, decay):
    """nu / exact nu for each format, of the elements within its range."""
    exact = np.asarray(nus.pop("float32"), np.float64)
    for name, nu in nus.items():
        form = formats_for(decay).get(name)
        low, high = getattr(form, "smallest", 1e-37), getattr(form, "largest", np.inf)
        inside = (low < exact) & (exact < high)
        yield name, np.asarray(nu, np.float64)[inside] / exact[inside]


def pool(kind, size, steps=1024):
    """Gradients of some steps, to be dealt out again and again in an order of their own."""
    rng = np.random.default_rng(0)
    if kind == "Student-t(3)":
        return rng.standard_t(3, (steps, size)).astype(np.float32)
    g = rng.standard_normal((steps, size), np.float32)
    return g * (rng.random((steps, size)) < 0.01) if kind == "1 %-sparse" else g


def scales(name, size):
    octaves = 2 * np.random.default_rng(1).standard_normal(size)
    return (2.0**octaves if name == "log-normal" else np.ones(size)).astype(np.float32)


def order(steps, rows, size):
    """For each step a row of the pool, and by how much it is rolled, so that none comes twice."""
    rng = np.random.default_rng(2)
    return rng.integers(rows, size=steps), rng.integers(size, size=steps)


def ours(formats, decay, gradients, scale, deals, start=None, factor=1.0):
    """nu of every format, and the exact one as `float32`, after the steps that are dealt."""
    plain = scale_by_rms(decay)
    transformations = {"float32": plain} | {n: store(plain, nu=f) for n, f in formats.items()}

    @jax.jit
    def run(states, gradients, scale, deals):
        def step(states, deal):
            g = factor * scale * jnp.roll(gradients[deal[0]], deal[1])
            return {n: transformations[n].update(g, s)[1] for n, s in states.items()}, None

        return jax.lax.scan(step, states, deals)[0]

    zeros = jnp.zeros(gradients.shape[1])
    states = start or {n: tx.init(zeros) for n, tx in transformations.items()}
    states = run(states, gradients, scale, deals)
    nus = {n: unpack(states[n], nu=f).nu for n, f in formats.items()}
    return nus | {"float32": states["float32"].nu}, states


def bitsandbytes(decay, gradients, scale, deals):
    """nu of bitsandbytes' 8-bit RMSprop, or None without it."""
    if not HAS_BITSANDBYTES:
        return None
    import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]
    import torch

    param = torch.nn.Parameter(torch.zeros(gradients.shape[1]))
    optimizer = bnb.optim.RMSprop8bit([param], lr=1e-3, alpha=decay)
    gradients, scale = torch.from_numpy(gradients), torch.from_numpy(scale)
    for row, shift in zip(*deals, strict=True):
        param.grad = scale * torch.roll(gradients[row], int(shift))
        optimizer.step()
    state = optimizer.state[param]
    return bnb.functional.dequantize_blockwise(
        state["state1"], absmax=state["absmax1"], code=state["qmap1"], blocksize=256
    ).numpy()


def stationary(size):
    """Prints bias and spread for every kind of gradients, scales and decay."""
    names = [*formats_for(0.9), *(["bitsandbytes"] if HAS_BITSANDBYTES else [])]
    row = table("gradients", "scales", "decay", *names)
    for kind in KINDS:
        gradients = pool(kind, size)
        for scale_name in ("equal", "log-normal"):
            scale = scales(scale_name, size)
            for decay in DECAYS:
                steps = round(8 / (1 - decay))
                deals = order(max(steps, 1000) if "sparse" in kind else steps, *gradients.shape)
                nus, _ = ours(formats_for(decay), decay, gradients, scale, deals)
                if (theirs := bitsandbytes(decay, gradients, scale, deals)) is not None:
                    nus["bitsandbytes"] = theirs
                cells = []
                for _, ratio in errors(nus, decay):
                    error = 100 * (np.sqrt(ratio) - 1)
                    cells.append(f"{error.mean():+.2g} ± {error.std():.3g}")
                row(kind, scale_name, decay, *cells)


def fall(size):
    """Prints how far nu is off after the scale of the gradients has changed."""
    gradients = pool("Gaussian", size)
    row = table("scales", "factor", "decay", *formats_for(0.9))
    for scale_name, decay in itertools.product(("equal", "log-normal"), DECAYS):
        formats, scale = formats_for(decay), scales(scale_name, size)
        deals = order(round(10 / (1 - decay)), *gradients.shape)
        _, start = ours(formats, decay, gradients, scale, deals)
        for factor in (1e-2, 1e-4, 1e2):
            nus, _ = ours(formats, decay, gradients, scale, deals, start, factor)
            off = [100 * (ratio - 1) for _, ratio in errors(nus, decay)]
            row(scale_name, factor, decay, *(f"{np.median(x):+.2f}, {x.mean():+.2f}" for x in off))


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", type=int, default=16_384)
    parser.add_argument("--fall", action="store_true", help="after a change of scale instead")
    args = parser.parse_args()
    print(setting("jax", "bitsandbytes"))
    what = "median, mean" if args.fall else "bias ± spread"
    print(f"\n{args.size:,} elements; {what}, in percent")
    (fall if args.fall else stationary)(args.size)


if __name__ == "__main__":
    main()
