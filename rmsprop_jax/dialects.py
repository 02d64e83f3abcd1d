"""Every framework's RMSProp: its own argument names, order and defaults, and its own numbers.

Each function is one `optax.chain`, and reading the chain is reading the algorithm. What the real
frameworks compute is followed to the rounding error, with four exceptions that all dialects share:

1. Where a framework subtracts the squared mean from the mean square to center (a difference that
   cancels, goes negative and becomes NaN), a dialect has the exact variance, see `scale_by_rms`.
2. For float16 and bfloat16 parameters, accumulators are float32 and all is computed in float32;
   frameworks round to the dtype of the parameters, and stop following small changes.
3. 0/0, which can happen if eps = 0, is 0, and an infinite gradient doesn't poison the accumulators.
4. Complex gradients are scaled by their modulus. The exception is `pytorch`, which documents what
   it does with them; the others square them as complex numbers or refuse them.

In all of them, a learning rate may be a schedule, a function of the number of updates made. A
momentum or weight decay given as the Python number 0, or as `None`, leaves its part out, and the
buffer with it; one given as an array is always built, as it may be traced. A parameter group of
another framework is one branch of `optax.partition`.

Yours isn't here by its name? `find("r torch")` knows many more, and the call for each.

What a dialect returns is an `optax.GradientTransformationExtraArgs`, whose updates have the shapes
and dtypes of the gradients. It raises ValueError for a number out of its range and for an array
that is not a scalar, for arguments that exclude each other, and for one that "must be" something
else: what that does is a part of its own in Optax, which the error names. It raises TypeError for
what is not a number.
"""

from rmsprop_jax.frameworks.atlas import find as find
from rmsprop_jax.frameworks.burn import burn
from rmsprop_jax.frameworks.fastai import fastai
from rmsprop_jax.frameworks.graves import graves
from rmsprop_jax.frameworks.jax_example_libraries import jax_example_libraries
from rmsprop_jax.frameworks.keras import keras
from rmsprop_jax.frameworks.mindspore import mindspore
from rmsprop_jax.frameworks.mlx import mlx
from rmsprop_jax.frameworks.optax import optax
from rmsprop_jax.frameworks.paddle import paddle
from rmsprop_jax.frameworks.pytorch import pytorch
from rmsprop_jax.frameworks.sonnet import sonnet
from rmsprop_jax.frameworks.stable_baselines3 import stable_baselines3
from rmsprop_jax.frameworks.tensorflow1 import tensorflow1
from rmsprop_jax.frameworks.tensorflowjs import tensorflowjs
from rmsprop_jax.frameworks.tf_keras_legacy import tf_keras_legacy
from rmsprop_jax.frameworks.timm import timm
from rmsprop_jax.frameworks.torchopt import torchopt

__all__ = [
    "burn",
    "fastai",
    "graves",
    "jax_example_libraries",
    "keras",
    "mindspore",
    "mlx",
    "optax",
    "paddle",
    "pytorch",
    "sonnet",
    "stable_baselines3",
    "tensorflow1",
    "tensorflowjs",
    "tf_keras_legacy",
    "timm",
    "torchopt",
]
