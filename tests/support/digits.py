"""Softmax regression on scikit-learn's digits in NumPy; and where the files of MNIST are."""

import os
from pathlib import Path

import numpy as np
import pytest

from rmsprop_jax.examples import data

REAL = Path(os.environ.get("MNIST_DIR") or Path(__file__).parents[3] / "shared" / "mnist")
real_mnist = pytest.mark.skipif(
    not all((REAL / f"{name}.gz").is_file() for name in data.SHA256),
    reason="needs the four MNIST files in MNIST_DIR or ../shared/mnist",
)


def regression(
    epochs, batch_size=64, seed=0, rate=lambda step: 1e-3, decay=0.9, eps=1e-8, momentum=0.0,
    centered=False,
):  # fmt: skip
    """Yields loss, test accuracy and weights of each epoch; the last row of weights is the bias."""
    dataset = data.load("digits")
    x, test_x = (
        np.column_stack([images.reshape(-1, 64) / 255, np.ones(len(images))])
        for images in (dataset.train_images, dataset.test_images)
    )
    y, step = dataset.train_labels, 0
    w = nu = mu = trace = np.zeros((65, 10))
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng((seed, epoch)).permutation(len(y))
        total = 0.0
        for rows in np.split(order, range(batch_size, len(y), batch_size)):
            p = np.exp(x[rows] @ w)
            p /= p.sum(1, keepdims=True)
            total -= np.log(p[range(len(rows)), y[rows]]).sum()
            g = x[rows].T @ (p - np.eye(10)[y[rows]]) / len(rows)
            nu, mu = decay * nu + (1 - decay) * g**2, decay * mu + (1 - decay) * g
            root = np.sqrt(np.maximum(nu - mu**2, 0.0) if centered else nu)
            trace = momentum * trace + g / (root + eps)
            w, step = w - rate(step) * trace, step + 1
        yield total / len(y), np.mean((test_x @ w).argmax(1) == dataset.test_labels), w
