"""Final losses with accumulators of four, two and one bytes, beside their spread over seeds.

    MNIST_DIR=... python benchmarks/storage_training.py [--seeds 5] [--steps 400]

Two problems: a 784-512-512-10 network on MNIST, and a language model that predicts a character of
Python's own documentation from the 16 before it (16-dimensional embeddings, one hidden layer of
256). RMSProp with decays 0.9, 0.99 and 0.999, and AdamW. Every seed has its own initial parameters
and order of the examples, the same for all formats; seeds run together under `vmap`. The loss is
that on held-out data after the last step, and `difference` the mean over the seeds of its
difference to float32, which the spread of float32 over the seeds is there to be compared with.
"""

import argparse
import importlib
import importlib.metadata
import inspect
import os
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import rmsprop
from rmsprop_jax.examples.data import load
from rmsprop_jax.storage import BF16, U8, U16, store

MODULES = ("argparse", "asyncio", "collections", "csv", "datetime", "decimal", "email", "fractions")
MODULES += ("heapq", "http", "json", "logging", "optparse", "pathlib", "pdb", "pickle", "random")
MODULES += ("shutil", "smtplib", "statistics", "string", "tarfile", "textwrap", "threading")
MODULES += ("typing", "unittest", "urllib.request", "uuid", "zipfile")


def dense(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def mnist():
    """Data for training and testing, a function to initialize, and one from input to logits."""
    data = load("mnist")

    def pair(images, labels):
        return jnp.asarray(images.reshape(len(images), -1) / np.float32(255)), jnp.asarray(labels)

    train = pair(data.train_images, data.train_labels)
    return train, pair(data.test_images, data.test_labels), (784, 512, 512, 10), forward


def text():
    """The same for characters; every tenth line of the documentation is held out."""
    documents = [inspect.getdoc(importlib.import_module(name)) or "" for name in MODULES]
    for name in MODULES:
        members = inspect.getmembers(importlib.import_module(name), callable)
        documents += [inspect.getdoc(member) or "" for _, member in members]
    lines = list(dict.fromkeys("\n".join(documents).splitlines()))

    def pair(lines):
        codes = np.clip(
            np.frombuffer("\n".join(lines).encode("ascii", "replace"), np.uint8), 9, 127
        )
        windows = np.lib.stride_tricks.sliding_window_view(codes, 17)
        return jnp.asarray(windows[:, :16]), jnp.asarray(windows[:, 16])

    def model(params, x):
        table, layers = params
        return forward(layers, table[x].reshape(*x.shape[:-1], -1))

    train = [line for i, line in enumerate(lines) if i % 10]
    return pair(train), pair(lines[::10]), (256, 256, 128), model


def final_losses(tx, problem, seeds, steps):
    """Losses on the held-out data, one for each seed."""
    (x, y), (x_test, y_test), sizes, model = problem

    def loss(params, x, y):
        logits = model(params, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def run(seed, x, y, x_test, y_test):
        key = jax.random.key(seed)
        params = dense(key, *sizes)
        if model is not forward:
            params = (0.1 * jax.random.normal(key, (128, 16)), params)

        def step(carry, t):
            params, state = carry
            batch = jax.random.randint(jax.random.fold_in(key, t), (64,), 0, len(x))
            gradients = jax.grad(loss)(params, x[batch], y[batch])
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
        return loss(params, x_test[:10_000], y_test[:10_000])

    runs = jax.jit(jax.vmap(run, in_axes=(0, None, None, None, None)))
    return np.asarray(runs(jnp.arange(seeds), x, y, x_test, y_test), np.float64)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "optax"))
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}; {versions}"
    )
    print(f"{args.seeds} seeds, {args.steps} steps of 64 examples")

    nus = {"U16": {"nu": U16}, "U8": {"nu": U8}, "bfloat16 to nearest": {"nu": jnp.bfloat16}}
    optimizers: dict[str, Any] = {}
    optimizers |= {f"rmsprop {decay}": (rmsprop(5e-4, decay), nus) for decay in (0.9, 0.99, 0.999)}
    optimizers["adamw"] = (optax.adamw(1e-3), {"mu BF16, nu U8": {"mu": BF16, "nu": U8}})
    for name, problem in (("MNIST", mnist()), ("characters", text())):
        print(
            f"{name}: {len(problem[0][0]):,} examples to train on, {len(problem[1][0]):,} held out"
        )
        for title, (tx, stored) in optimizers.items():
            start = time.perf_counter()
            exact = final_losses(tx, problem, args.seeds, args.steps)
            seconds = time.perf_counter() - start
            spread = exact.std(ddof=1)
            print(
                f"{title:14s} {'float32':20s} loss {exact.mean():.4f}  spread {spread:.4f}", end=""
            )
            print(f"  ({seconds:.0f} s)", flush=True)
            for form, formats in stored.items():
                losses = final_losses(store(tx, **formats), problem, args.seeds, args.steps)
                difference = np.mean(losses - exact)
                print(
                    f"{title:14s} {form:20s} loss {losses.mean():.4f}  spread "
                    f"{losses.std(ddof=1):.4f}  difference {difference:+.4f} = "
                    f"{difference / spread:+.2f} spreads",
                    flush=True,
                )


if __name__ == "__main__":
    main()
