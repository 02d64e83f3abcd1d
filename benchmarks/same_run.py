"""How far a run ends from PyTorch's, with the right RMSProp and with one that shares its name.

    python benchmarks/same_run.py [--epochs 5] [--plot FILE] [--data-dir DIR]

Softmax regression on MNIST in batches of 64, with torch.optim.RMSprop(lr=1e-3), and in JAX from the
same weights and in the same order with other optimizers, given the same numbers. The distance is
the largest of any parameter, in units of the largest one of PyTorch's. In float32, the gradients of
the two frameworks differ by rounding already, which a first step along tiny ones makes visible; how
much that is shows PyTorch's own run with each batch read backwards.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import save, setting, table

from rmsprop_jax import dialects
from rmsprop_jax.examples.data import load
from rmsprop_jax.trainer.training import batches

OURS = dialects.pytorch(lr=1e-3)
OTHERS = {
    "optax.rmsprop": optax.rmsprop(1e-3, decay=0.99, eps=1e-8),
    "TensorFlow 1's formula": dialects.tensorflow1(1e-3, decay=0.99, epsilon=1e-8),
}
EVERY = 50  # updates from one comparison to the next


def pytorch(images, labels, orders):
    """Yields the parameters after each of the lists of batches."""
    import torch

    images, labels = torch.tensor(images), torch.tensor(labels).long()
    model = torch.nn.Linear(images.shape[1], 10, dtype=images.dtype)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for order in orders:
        for row in order:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[row]), labels[row]).backward()
            optimizer.step()
        yield [p.detach().numpy().copy() for p in model.parameters()]


def in_jax(tx, images, labels, orders):
    """The same with an Optax transformation."""
    images, labels = jnp.asarray(images), jnp.asarray(labels, int)

    def loss(params, row):
        logits = images[row] @ params[0].T + params[1]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[row]).mean()

    def step(carry, row):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, row), state, params)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, order: jax.lax.scan(step, carry, order)[0])
    params = [jnp.zeros((10, images.shape[1]), images.dtype), jnp.zeros(10, images.dtype)]
    carry = params, tx.init(params)
    for order in orders:
        carry = train(carry, order)
        yield carry[0]


def distance(params, reference):
    """The largest difference of any parameter, in units of the largest parameter."""
    largest = max(abs(r).max() for r in reference)
    return max(abs(p - r).max() for p, r in zip(params, reference, strict=True)) / largest


def draw(steps, distances, path):
    """The distances over the updates."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=100, layout="constrained")
    for name, values in distances.items():
        axes.plot(steps, values, label=name)
    axes.set(yscale="log", xlabel="updates", ylabel="largest difference of a parameter, relative")
    axes.set_title("Softmax regression on MNIST: distance to the run with torch.optim.RMSprop")
    axes.grid(alpha=0.3)
    axes.legend(loc="center", bbox_to_anchor=(0.5, 0.38))
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE", help="a chart over the updates")
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # so that dtypes are what they are said to be

    data = load("mnist", args.data_dir)
    images = data.train_images.reshape(len(data.train_labels), -1) / np.float64(255)
    rng = np.random.default_rng(0)
    # An epoch's last batch is smaller, which would be a second program: it is left out.
    rows = [batches(rng.permutation(len(images)), 64)[:-1] for _ in range(args.epochs)]
    rows = np.concatenate(rows)
    orders = [rows[i : i + EVERY] for i in range(0, len(rows) - EVERY + 1, EVERY)]
    steps = EVERY * np.arange(1, len(orders) + 1)

    double, single = ((images.astype(t), data.train_labels) for t in (np.float64, np.float32))
    right = list(pytorch(*single, orders))
    compare = lambda run, right: list(map(distance, run, right))
    distances = {name: compare(in_jax(tx, *single, orders), right) for name, tx in OTHERS.items()}
    distances["rmsprop_jax, float32"] = compare(in_jax(OURS, *single, orders), right)
    backwards = [order[:, ::-1].copy() for order in orders]
    distances["PyTorch, batches backwards, float32"] = compare(pytorch(*single, backwards), right)
    right = list(pytorch(*double, orders))
    distances["rmsprop_jax, float64"] = compare(in_jax(OURS, *double, orders), right)

    print(setting("jax", "optax", "torch", "numpy"))
    print(f"\n{data.name}, {args.epochs} epochs without their last batches, {steps[-1]} updates")
    row = table("the same arguments", f"after {steps[0]}", f"after {steps[-1]}", "largest")
    for name, values in distances.items():
        row(name, *(f"{value:.1e}" for value in (values[0], values[-1], max(values))))
    if args.plot:
        draw(steps, distances, args.plot)


if __name__ == "__main__":
    main()
