"""The models, as the trainer needs them: fast in a compiled loop, also with padded batches.

They take images [n, height, width] in 0..1, which of them are real (`training.batches` pads the
last batch; None for all), and the random numbers for Dropout; they return logits [n, 10].
"""

import functools
import itertools

import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    """Hidden layers of the given widths, then a dense layer; without hidden ones, linear."""

    def __init__(self, hidden, height, width, rngs):  # noqa: D107
        *_, last = widths = (height * width, *hidden)
        pairs = itertools.pairwise(widths)
        self.hidden = nnx.List([nnx.Linear(m, n, rngs=rngs) for m, n in pairs])
        # This is nnx.Linear(last, 10) with the transposed kernel: twice as fast on a CPU for so
        # few outputs. It starts at 0, which is as good as anything for a convex problem.
        zeros = nnx.initializers.zeros_init()
        self.out = nnx.Einsum("np,kp->nk", (10, last), (10,), kernel_init=zeros, rngs=rngs)

    def __call__(self, images, real=None, rngs=None):
        """Returns logits; no layer depends on `real` or `rngs`."""
        del real, rngs
        x = images.reshape(len(images), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


class CNN(nnx.Module):
    """Two convolutions, each with BatchNorm, then Dropout and a dense layer."""

    def __init__(self, height, width, rngs):  # noqa: D107
        # nnx.Conv(1, 32, (3, 3), strides=2) computes the same as `patches` and this Linear, and
        # is the better choice on an accelerator. On a CPU, XLA takes ten times as long for its
        # gradient inside of a scan: https://github.com/jax-ml/jax/issues/12868
        #
        # BatchNorm takes away what a bias adds: its gradient would be nothing but rounding, of
        # which RMSProp makes whole steps.
        self.conv1 = nnx.Linear(9, 32, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.conv2 = nnx.Linear(9 * 32, 64, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = nnx.Linear(-(-height // 4) * -(-width // 4) * 64, 10, rngs=rngs)

    def __call__(self, images, real=None, rngs=None):
        """Returns logits; only `real` images enter the averages of BatchNorm."""
        mask = None if real is None else real[:, None, None, None]
        x = nnx.relu(self.norm1(self.conv1(patches(images[..., None])), mask=mask))
        x = nnx.relu(self.norm2(self.conv2(patches(x)), mask=mask))
        return self.out(self.dropout(x.reshape(len(x), -1), rngs=rngs))


def patches(x):
    """Gathers 3x3 neighbourhoods at every second pixel: [n, h, w, c] to [n, h/2, w/2, 9 c]."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


MODELS = {
    "linear": functools.partial(MLP, ()),
    "mlp": functools.partial(MLP, (512, 512)),
    "cnn": CNN,
}
