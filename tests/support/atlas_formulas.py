"""What each RMSProp of the atlas computes, in float64 NumPy, from the fact sheets of their sources.

One loop, in which a source says what stands where. Nothing of `rmsprop_jax` is in it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Formula(NamedTuple):
    """The lines of one source, in the order in which they run."""

    rate: Callable[[int], float]  # of the number of updates made
    rho: float
    root: Callable[[Any], Any]  # the denominator, of the average of squares
    start: float = 0.0  # of that average
    first: bool = False  # whether it starts at the first square
    corrected: bool = False  # whether it is divided by 1 - rho^t
    centered: bool = False
    momentum: float = 0.0
    rate_inside: bool = True  # the rate in what momentum sums up
    lookahead: bool = False
    before: Callable[[Any], Any] = lambda g: g  # the gradient, before it is squared
    after: Callable[[Any], Any] = lambda g: g  # and after
    coupled: float = 0.0
    shrink: Callable[[float], float] = lambda rate: 0.0  # of a parameter at a step
    gradients_summed: float = 0.0  # rate of a sum of gradients, in the place of the gradient

    def run(self, p: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        """The parameters after each of the gradients."""
        v, m, b, total = (np.full_like(p, x) for x in (self.start, 0.0, 0.0, 0.0))
        kept = []
        for t, g in enumerate(gradients):
            rate = self.rate(t)
            g = self.before(g) + self.coupled * p
            v = g**2 if self.first and t == 0 else self.rho * v + (1 - self.rho) * g**2
            m = self.rho * m + (1 - self.rho) * g
            second = v - m**2 if self.centered else v
            second = v / (1 - self.rho ** (t + 1)) if self.corrected else second
            total = self.gradients_summed * total + g
            top = total if self.gradients_summed else self.after(g)
            u = top / self.root(second)
            u = rate * u if self.rate_inside else u
            b = self.momentum * b + u
            step = u + self.momentum * b if self.lookahead else b
            step = step if self.rate_inside else rate * step
            p = p - self.shrink(rate) * p - step
            kept.append(p)
        return np.array(kept)


def outside(eps: float) -> Callable[[Any], Any]:
    return lambda v: np.sqrt(v) + eps


def inside(eps: float) -> Callable[[Any], Any]:
    return lambda v: np.sqrt(v + eps)


def at_least(eps: float) -> Callable[[Any], Any]:
    return lambda v: np.maximum(np.sqrt(v), eps)


def clip(size: float) -> Callable[[Any], Any]:
    return lambda g: np.clip(g, -size, size)


def by_norm(size: float) -> Callable[[Any], Any]:
    return lambda g: g * size / max(size, np.linalg.norm(g))


def constant(rate: float) -> Callable[[int], float]:
    return lambda t: rate


def _torch(**options: Any) -> Formula:
    return Formula(constant(1e-2), 0.99, outside(1e-8), momentum=0.9, rate_inside=False, **options)


_OVER_ROOT = lambda eta: lambda t: eta / np.sqrt(t + 1)
_RECURRENT = Formula(constant(0.01), 0.999, inside(1e-8), after=clip(5.0), shrink=lambda rate: 1e-6)
FORMULAS = {
    "Cleanba and Stoix": Formula(constant(1e-3), 0.99, outside(1e-2), momentum=0.9),
    "flax.optim": Formula(constant(1e-3), 0.9, outside(1e-8)),
    "Trax": Formula(constant(1e-3), 0.9, outside(1e-8), start=1.0),
    "Keras 1": Formula(constant(1e-3), 0.9, outside(1e-8)),
    "Keras 2.0 to 2.3": Formula(lambda t: 1e-3 / (1 + 0.01 * t), 0.9, outside(1e-7)),
    "Lasagne": Formula(constant(1.0), 0.9, inside(1e-6)),
    "PyMC": Formula(constant(1.0), 0.9, inside(1e-6)),
    "Blocks": Formula(constant(1.0), 0.9, at_least(1e-5)),
    "Pylearn2": Formula(constant(0.01), 0.9, at_least(1e-5)),
    "Stan's ADVI": Formula(_OVER_ROOT(0.1), 0.9, outside(1.0), first=True, before=lambda g: -g),
    "SVGD": Formula(constant(1e-3), 0.9, outside(1e-6), first=True, before=lambda g: -g),
    "Jittor": Formula(constant(1e-2), 0.99, outside(1e-8)),
    "OneFlow": Formula(constant(1e-3), 0.99, inside(1e-8)),
    "torch_npu": Formula(constant(1e-2), 0.9, inside(1e-10), start=1.0, momentum=0.9),
    "neon": Formula(constant(2e-3), 0.95, lambda v: np.sqrt(v + 1e-6) + 1e-6, after=by_norm(5.0)),
    "libtorch": _torch(coupled=0.01),
    "TorchSharp": _torch(),
    "torch for R": _torch(),
    "DyNet": Formula(constant(1e-3), 0.9, inside(1e-8)),
    "Flashlight": Formula(constant(1e-3), 0.99, outside(1e-8), shrink=lambda rate: 1e-4),
    "ensmallen": Formula(constant(0.01), 0.99, outside(1e-8)),
    "ROOT TMVA": Formula(constant(1e-3), 0.9, inside(1e-7), momentum=0.5),
    "tiny-dnn": Formula(constant(1e-4), 0.99, inside(1e-8)),
    "Apple MPS": Formula(constant(1e-3), 0.9, outside(1e-8)),
    "tch-rs": _torch(centered=True),
    "candle-optimisers": _torch(),
    "dfdx": Formula(constant(1e-2), 0.9, inside(1e-8), start=1.0, momentum=0.9),
    "GoMLX": Formula(constant(1e-3), 0.999, outside(1e-7), corrected=True),
    "Gorgonia": _RECURRENT._replace(rate=constant(1e-3)),
    "Optimisers.jl": Formula(constant(1e-3), 0.9, outside(1e-8), centered=True),
    "Knet": Formula(constant(0.01), 0.9, inside(1e-6)),
    "Swift for TensorFlow": Formula(lambda t: 1e-3 / (1 + 0.01 * (t + 1)), 0.9, outside(1e-8)),
    "brain.js": _RECURRENT,
    "recurrentjs": _RECURRENT,
    "Hinton's lecture": Formula(constant(1e-3), 0.9, np.sqrt),
    # The dialects, whose own tests hold them to the real ones for 1,000 steps.
    "PyTorch": Formula(constant(1e-2), 0.99, outside(1e-8)),
    "Keras 3": Formula(constant(1e-3), 0.9, inside(1e-7), momentum=0.9),
    "Keras 2": Formula(constant(1e-3), 0.9, outside(1e-7)),
    "TensorFlow 1": Formula(constant(1e-3), 0.9, inside(1e-10), start=1.0, momentum=0.9),
    "Optax": Formula(constant(1e-3), 0.9, inside(1e-8), momentum=0.9),
    "timm": Formula(constant(1e-2), 0.9, inside(1e-10), start=1.0, momentum=0.9),
    "Stable-Baselines3": Formula(constant(7e-4), 0.99, inside(1e-5), start=1.0),
    "Sonnet": Formula(constant(1e-3), 0.9, inside(1e-10), momentum=0.9),
    "Paddle": Formula(constant(1e-3), 0.95, inside(1e-6), momentum=0.9),
    "MLX": Formula(constant(1e-3), 0.99, outside(1e-8)),
    "Burn": Formula(constant(1e-3), 0.99, outside(1e-5), momentum=0.9, rate_inside=False),
    "Chainer's RMSpropGraves": Formula(
        constant(1e-4), 0.95, inside(1e-4), centered=True, momentum=0.9
    ),
    "MXNet": Formula(constant(1e-3), 0.95, inside(1e-8), centered=True, momentum=0.9),
    "jax.example_libraries": Formula(constant(1e-3), 0.9, inside(1e-8), momentum=0.9),
    "TorchOpt": _torch(lookahead=True),
    "MindSpore": Formula(constant(0.1), 0.9, inside(1e-10), start=1.0, momentum=0.9),
    "TensorFlow.js": Formula(constant(1e-3), 0.9, inside(1e-7), momentum=0.9),
    "fastai": Formula(
        *(constant(1e-3), 0.99, outside(1e-8)),
        gradients_summed=0.9,
        shrink=lambda rate: 0.01 * rate,
    ),
}
RECORDED = {  # the key in recorded/atlas.npz
    "NumPyro": "numpyro",
    "autograd": "autograd",
    "PennyLane": "pennylane",
    "River": "river",
    "numpy-ml": "numpy_ml",
    "climin": "climin",
    "Pyro": "pyro",
    "ConvNetJS": "convnetjs",
    "brain.js": "brainjs",
}
DIALECTS = {  # by row the recording of 1,000 steps, or the framework that runs beside it
    "PyTorch": "pytorch",
    "Keras 3": "keras",
    "Keras 2": "tf_keras_legacy",
    "TensorFlow 1": "tensorflow1",
    "Optax": "optax",
    "timm": "timm",
    "Stable-Baselines3": "stable_baselines3",
    "Sonnet": "sonnet",
    "Paddle": "paddle",
    "MLX": "mlx",
    "Burn": "burn",
    "Chainer's RMSpropGraves": "chainer_graves",
    "MXNet": "mxnet",
    "jax.example_libraries": "jax_example_libraries",
    "TorchOpt": "torchopt",
    "MindSpore": "mindspore",
    "TensorFlow.js": "tensorflowjs",
    "fastai": "fastai",
}
