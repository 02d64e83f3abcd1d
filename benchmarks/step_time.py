"""Time of one update on 5e7 float32 parameters, beside Optax, PyTorch and an in-place copy.

    python benchmarks/step_time.py [--size 50000000] [--rounds 7]

All contestants run in turn in the same process, round after round, and the ratios are those of
their median times: the absolute times of a shared machine mean little. Every JAX contestant is one
jitted call of `update` and `optax.apply_updates` with parameters and state donated.
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


def jax_step(tx, size):
    """A function that makes one step and waits for it."""

    @jax.jit
    def gradients(key):
        return jax.random.normal(key, (size,))

    g = gradients(jax.random.key(0))
    params = jnp.zeros(size)
    carry = [params, tx.init(params)]

    @jax.jit(donate_argnums=(0, 1))
    def step(params, state, g):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    def run():
        carry[:] = step(*carry, g)
        jax.block_until_ready(carry)

    return run


def copy_step(size):
    """x + 1 in place: 8 bytes an element, all that memory allows."""
    x = [jnp.zeros(size)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run():
        x[0] = add(x[0]).block_until_ready()

    return run


def torch_step(size):
    """torch.optim.RMSprop(foreach=True), or None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    param = torch.zeros(size, requires_grad=True)
    param.grad = torch.randn(size)
    optimizer = torch.optim.RMSprop([param], lr=1e-3, alpha=0.9, eps=1e-8, foreach=True)
    return optimizer.step


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", type=int, default=50_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    contestants = {
        "rmsprop_jax": jax_step(rmsprop_jax.rmsprop(1e-3), args.size),
        "rmsprop_jax centered": jax_step(rmsprop_jax.rmsprop(1e-3, centered=True), args.size),
        "optax": jax_step(optax.rmsprop(1e-3, eps_in_sqrt=False), args.size),
        "optax eps_in_sqrt": jax_step(optax.rmsprop(1e-3), args.size),
        "optax centered": jax_step(optax.rmsprop(1e-3, centered=True), args.size),
        "in-place copy": copy_step(args.size),
    }
    if (step := torch_step(args.size)) is not None:
        contestants["torch foreach"] = step
    times = {name: [] for name in contestants}
    for step in contestants.values():  # compilation and first touch of the memory
        step()
        step()
    for _ in range(args.rounds):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) for name, t in times.items()}

    packages = ["jax", "optax", "torch"] if "torch foreach" in median else ["jax", "optax"]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    print(f"{args.size:,} float32 parameters, medians of {args.rounds} rounds")
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}; {versions}"
    )
    # gradient, parameter and nu read, parameter and nu written: 20 bytes an element
    bandwidth = {name: 20 * args.size / t / 1e9 for name, t in median.items()}
    bandwidth["in-place copy"] = 8 * args.size / median["in-place copy"] / 1e9
    for name, t in median.items():
        rate = "" if "centered" in name else f"{bandwidth[name]:6.1f} GB/s"
        print(f"{name:22s} {t * 1e3:8.1f} ms   {rate}")
    ours = median["rmsprop_jax"]
    print(f"throughput against optax, same formula: {median['optax'] / ours:.2f}")
    print(f"throughput against optax, its default:  {median['optax eps_in_sqrt'] / ours:.2f}")
    centered = median["optax centered"] / median["rmsprop_jax centered"]
    print(f"throughput against optax, centered:     {centered:.2f}")
    if "torch foreach" in median:
        print(f"throughput against torch foreach:       {median['torch foreach'] / ours:.2f}")
    share = bandwidth["rmsprop_jax"] / bandwidth["in-place copy"]
    print(f"bytes per second against in-place copy: {share:.2f}")


if __name__ == "__main__":
    main()
