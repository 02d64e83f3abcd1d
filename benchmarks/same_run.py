"""One run in PyTorch, and the same run here: the losses, and how far the parameters part.

    python benchmarks/same_run.py [--epochs 5] [--plot FILE] [--data-dir DIR]

Softmax regression on MNIST in batches of 64, with torch.optim.RMSprop(lr=1e-3), and in JAX from the
same weights and in the same order with several optimizers, given the same numbers. The distance is
the largest difference of any parameter, in units of the largest parameter of PyTorch's run.

Two things can differ: the optimizer and the gradients. In float32 the gradients of two frameworks
differ by rounding, and RMSProp's first step divides even the tiniest gradient by its own size. So
two runs show each alone: rmsprop_jax fed with the gradients that PyTorch recorded, which leaves the
optimizer; and PyTorch against itself with the images of each batch in reverse, which leaves the
gradients.
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
    """Yields parameters and mean loss after each of the lists of batches, and all its gradients."""
    import torch

    images, labels = torch.tensor(images), torch.tensor(labels).long()
    model = torch.nn.Linear(images.shape[1], 10, dtype=images.dtype)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for order in orders:
        losses, grads = [], []
        for row in order:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[row]), labels[row])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            grads.append([p.grad.numpy().copy() for p in model.parameters()])  # pyright: ignore[reportOptionalMemberAccess]
        params = [p.detach().numpy().copy() for p in model.parameters()]
        yield params, np.mean(losses), [np.stack(g) for g in zip(*grads, strict=True)]


def in_jax(tx, images, labels, orders):
    """The same with an Optax transformation."""
    images, labels = jnp.asarray(images), jnp.asarray(labels, int)

    def loss(params, row):
        logits = images[row] @ params[0].T + params[1]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[row]).mean()

    def step(carry, row):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, row)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    train = jax.jit(lambda carry, order: jax.lax.scan(step, carry, order))
    params = [jnp.zeros((10, images.shape[1]), images.dtype), jnp.zeros(10, images.dtype)]
    carry = params, tx.init(params)
    for order in orders:
        carry, losses = train(carry, order)
        yield carry[0], losses.mean()


def with_gradients(tx, blocks):
    """The parameters that an Optax transformation makes of recorded gradients."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, grads: jax.lax.scan(step, carry, grads)[0])
    params = [jnp.zeros(g.shape[1:], g.dtype) for g in blocks[0]]
    carry = params, tx.init(params)
    for grads in blocks:
        carry = train(carry, [jnp.asarray(g) for g in grads])
        yield carry[0], None


def distance(params, reference):
    """The largest difference of any parameter, in units of the largest parameter."""
    largest = max(abs(r).max() for r in reference)
    return max(abs(p - r).max() for p, r in zip(params, reference, strict=True)) / largest


def draw(steps, losses, distances, path):
    """The losses, and the distances over the updates."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), dpi=100, layout="constrained")
    wide = {"color": "0.75", "linewidth": 6}
    for name, values in losses.items():
        left.plot(steps, values, label=name, **(wide if name.startswith("torch") else {}))
    left.set(xlabel="updates", ylabel="training loss, mean of 50 updates")
    left.set_title("The loss")
    for name, values in distances.items():
        right.plot(steps, values, label=name)
    right.set(yscale="log", ylim=(1e-13, 10), xlabel="updates", ylabel="relative distance")
    right.set_title("The parameters: distance to torch.optim.RMSprop's")
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize="small", ncols=2)
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
    reference, loss, grads = zip(*pytorch(*single, orders), strict=True)
    losses, distances = {"torch.optim.RMSprop": loss}, {}

    def compare(name, run, reference=reference):
        params, loss, *_ = zip(*run, strict=True)
        distances[name] = list(map(distance, params, reference))
        return loss

    for name, tx in OTHERS.items():
        compare(name, in_jax(tx, *single, orders))
    ours = "dialects.pytorch, float32"
    losses["dialects.pytorch"] = compare(ours, in_jax(OURS, *single, orders))
    backwards = [order[:, ::-1].copy() for order in orders]
    compare("PyTorch itself, images of a batch reversed", pytorch(*single, backwards))
    compare(f"{ours}, PyTorch's gradients", with_gradients(OURS, grads))
    reference = next(zip(*pytorch(*double, orders), strict=True))
    compare("dialects.pytorch, float64", in_jax(OURS, *double, orders), reference)

    print(setting("jax", "optax", "torch", "numpy"))
    print(f"\n{data.name}, {args.epochs} epochs without their last batches, {steps[-1]} updates")
    row = table("the same arguments", f"after {steps[0]}", f"after {steps[-1]}", "largest")
    for name, values in distances.items():
        row(name, *(f"{value:.1e}" for value in (values[0], values[-1], max(values))))
    if args.plot:
        draw(steps, losses, distances, args.plot)


if __name__ == "__main__":
    main()
