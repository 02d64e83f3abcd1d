"""Time of one update, over sizes and trees, beside Optax, PyTorch and an in-place copy.

    python benchmarks/step_time.py [--sizes 1000 1000000] [--arrays 1 1000] [--plot FILE]

All contestants take turns in the same process; medians. The absolute times of a shared machine mean
little, their ratios more: these are throughputs, above 1 where rmsprop_jax is the faster. Every JAX
contestant is one jitted call of `update` and `optax.apply_updates` with parameters and state
donated. An update reads gradient, parameter and nu, and writes parameter and nu: 20 bytes a
parameter; the copy, x + 1 in place, moves 8, and the ratio to it is that of bytes per second. The
last ratio counts the bytes that XLA's program moves, by its own account: on a CPU it makes one loop
for nu and one for the parameters, and both read the gradient and nu.
"""

import argparse
import math
from typing import Any

import efficientnet
import jax
import jax.numpy as jnp
import optax
from measure import medians, ratio, save, setting, table

import rmsprop_jax

OURS = "rmsprop_jax"
OPTAX = "optax"
SAME = "optax, same formula"
FOREACH = "torch foreach"
COMPILED = "torch compiled"
COPY = "in-place copy"
COMPILED_ARRAYS = 250  # beyond, torch.compile takes minutes


def jitted(tx):
    """One step of training, without the gradient."""

    @jax.jit(donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def bytes_moved():
    """Bytes that XLA's program of one step moves for each parameter."""
    params, tx = jnp.zeros(1_000_000), rmsprop_jax.rmsprop(1e-3)
    program: Any = jitted(tx).lower(params, tx.init(params), params).compile()
    return program.cost_analysis()["bytes accessed"] / params.size


def jax_step(tx, grads):
    """A function that makes one step and waits for it."""
    params = jax.tree.map(jnp.zeros_like, grads)
    carry, step = [params, tx.init(params)], jitted(tx)

    def run():
        carry[:] = step(*carry, grads)
        jax.block_until_ready(carry)

    return run


def copy_step(grads):
    """x + 1 in place: all that memory allows."""
    x = [jax.tree.map(jnp.zeros_like, grads)]
    add = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)

    def run():
        x[0] = jax.block_until_ready(add(x[0]))

    return run


def torch_step(shapes, compiled):
    """torch.optim.RMSprop(foreach=True), on the device that JAX uses."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    params = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = torch.optim.RMSprop(params, lr=1e-3, alpha=0.9, eps=1e-8, foreach=True)
    torch.compiler.reset()  # which else gives up after some compilations of the same function
    step = torch.compile(optimizer.step) if compiled else optimizer.step

    def run():
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def compete(shapes, seconds, skipped):
    """Median times of one update of parameters of these shapes, and the number of rounds."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    grads = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    contestants = {
        OURS: jax_step(rmsprop_jax.rmsprop(1e-3), grads),
        OPTAX: jax_step(optax.rmsprop(1e-3), grads),
        SAME: jax_step(optax.rmsprop(1e-3, eps_in_sqrt=False), grads),
        COPY: copy_step(grads),
    }
    for step in contestants.values():  # compilation and first touch of the memory
        step()
        step()
    for name in (FOREACH, COMPILED):
        if name == COMPILED and len(shapes) > COMPILED_ARRAYS:
            continue
        try:
            step = torch_step(shapes, compiled=name == COMPILED)
            step()
            step()
            contestants[name] = step
        except Exception as error:  # no PyTorch, none for this device, or no compiler for it
            skipped[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return medians(contestants, seconds)


def draw(sizes, results, path):
    """Throughput of rmsprop_jax over that of the others, for arrays of these sizes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=100, layout="constrained")
    labels = {
        FOREACH: "torch.optim.RMSprop(foreach=True)",
        COMPILED: "the same, torch.compile",
        OPTAX: "optax.rmsprop",
        SAME: "optax.rmsprop(eps_in_sqrt=False)",
    }
    for (name, label), marker in zip(labels.items(), "osv^", strict=True):
        points = [(n, t[name] / t[OURS]) for n, t in zip(sizes, results, strict=True) if name in t]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label="against " + label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="float32 parameters, in one array")
    axes.set(yscale="log", ylabel="throughput of rmsprop_jax, ratio")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    powers = [2.0**i for i in range(-4, 10) if axes.get_ylim()[0] <= 2.0**i <= axes.get_ylim()[1]]
    axes.set_yticks(powers, [f"{power:g}" for power in powers])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.set_title(f"One update, on {jax.devices()[0].device_kind}: above 1, rmsprop_jax is faster")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**n for n in range(3, 9)])
    parser.add_argument("--arrays", type=int, nargs="+", default=[1, 10, 100, 1000, 4000])
    parser.add_argument("--total", type=int, default=4_000_000, help="parameters in these arrays")
    parser.add_argument("--networks", nargs="*", default=list(efficientnet.MULTIPLIERS))
    parser.add_argument("--seconds", type=float, default=15, help="for each row, or 5 rounds")
    parser.add_argument("--plot", metavar="FILE", help="a chart over the sizes")
    args = parser.parse_args()

    trees = [("one array", [(size,)]) for size in args.sizes]
    trees += [("equal arrays", [(args.total // n,)] * n) for n in args.arrays]
    trees += [(name, efficientnet.shapes(name)) for name in args.networks]
    print(setting("jax", "optax", "torch"))
    row = table(
        "parameters", "number", "arrays", "ms", "GB/s", *(f"× {n}" for n in (OPTAX, SAME)),
        f"× {FOREACH}", f"× {COMPILED}", f"× {COPY}", "× XLA's bytes", "rounds",
    )  # fmt: skip
    results, skipped, by_xla = [], {}, bytes_moved()
    for name, shapes in trees:
        number = sum(map(math.prod, shapes))
        times, rounds = compete(shapes, args.seconds, skipped)
        results.append(times)
        ours = times[OURS]
        row(
            name, f"{number:,}", f"{len(shapes):,}", f"{ours * 1e3:.3f}",
            f"{20 * number / ours / 1e9:.1f}",
            *(ratio(times, other, OURS) for other in (OPTAX, SAME, FOREACH, COMPILED)),
            *(f"{moved / 8 * times[COPY] / ours:.2f}" for moved in (20, by_xla)), rounds,
        )  # fmt: skip
    print(f"\nXLA's program moves {by_xla:.1f} bytes a parameter.")
    print(f"\ntorch.compile is left out for more than {COMPILED_ARRAYS} arrays: it takes minutes.")
    for name, reason in skipped.items():
        print(f"\n{name} is left out: {reason}")
    if args.plot:
        draw(args.sizes, results[: len(args.sizes)], args.plot)


if __name__ == "__main__":
    main()
