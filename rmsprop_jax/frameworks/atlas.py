"""Every RMSProp that is known, and the call that makes its numbers: data, and a way to find it.

A call has the numbers of its source, mostly its defaults, by their names here. It runs after

    import jax.numpy as jnp, optax
    from rmsprop_jax import dialects, recipes, rmsprop, scale_by_rms

What each was held against, and how close it came, is in `MEASURED`.
"""

import difflib
import re
import textwrap
from typing import NamedTuple


class Row(NamedTuple):
    """One RMSProp.

    Attributes:
      name: what it is called.
      also: other names that people look for.
      call: the call that makes its numbers, as text that runs; empty if there is none.
      differs: what to know of it, or why there is no call.

    Example:
      >>> from rmsprop_jax.frameworks.atlas import ROWS
      >>> [row.call for row in ROWS if row.name == "Trax"]
      ['rmsprop(1e-3, 0.9, 1e-8, initial_scale=1.0)']
    """

    name: str
    also: tuple[str, ...]
    call: str
    differs: str

    @property
    def checked(self) -> str:
        """What the call was held against, and the largest difference in units of the scale."""
        if not self.call:
            return "not here"
        against, largest = MEASURED[self.name]
        return f"{against}: {largest:.1e}"

    def __str__(self) -> str:
        """The row, as it is read in a terminal."""
        title = f"{self.name} ({', '.join(self.also)})" if self.also else self.name
        text = textwrap.wrap(self.differs, 92, break_long_words=False)
        lines = [self.call, *text] if self.call else ["There is no call.", *text]
        if self.call:
            lines.append(f"largest difference from {self.checked}")
        return "\n".join([title, *(f"    {line}" for line in lines)])


class Rows(tuple[Row, ...]):
    """Rows that print as a text."""

    __slots__ = ()

    def __repr__(self) -> str:
        """All rows, one below the other."""
        return "\n\n".join(map(str, self))


_ADAGRAD = "decay=lambda t: jnp.where(t == 0, 0.0, 0.9)"
ROWS = Rows(
    Row(*row)
    for row in [
        # Dialects of this library.
        (
            "PyTorch",
            ("torch.optim.RMSprop", "torch"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8)",
            "The average starts at 0, eps outside of the root, lr outside of the momentum, coupled "
            "weight decay.",
        ),
        (
            "Keras 3",
            ("keras.optimizers.RMSprop", "tf.keras", "TensorFlow 2", "tf2"),
            "dialects.keras(1e-3, rho=0.9, momentum=0.9, epsilon=1e-7)",
            "Also Keras 2 from TensorFlow 2.11 on. The average starts at 0, epsilon inside of the "
            "root, the learning rate inside of the momentum, decoupled weight decay.",
        ),
        (
            "Keras 2",
            ("tf.keras before 2.11", "tf_keras.optimizers.legacy.RMSprop", "Keras 2.4 to 2.10"),
            "dialects.tf_keras_legacy(1e-3, rho=0.9, epsilon=1e-7)",
            "Inside of TensorFlow before 2.11: epsilon inside of the root with momentum, outside "
            "without.",
        ),
        (
            "TensorFlow 1",
            ("tf.compat.v1.train.RMSPropOptimizer", "tf.train.RMSPropOptimizer", "tf1", "Dopamine"),
            "dialects.tensorflow1(1e-3, decay=0.9, momentum=0.9, epsilon=1e-10)",
            "The average starts at 1, epsilon inside of the root, the learning rate inside of the "
            "momentum.",
        ),
        (
            "Optax",
            ("optax.rmsprop",),
            "dialects.optax(1e-3, decay=0.9, eps=1e-8, momentum=0.9)",
            "eps inside of the root by default, the learning rate inside of the momentum.",
        ),
        (
            "timm",
            ("timm.optim.RMSpropTF", "rmsproptf", "EfficientNet in PyTorch"),
            "dialects.timm(1e-2, alpha=0.9, eps=1e-10, momentum=0.9)",
            "TensorFlow 1's in PyTorch: the average starts at 1, eps inside of the root.",
        ),
        (
            "Stable-Baselines3",
            ("RMSpropTFLike", "sb3", "stable baselines"),
            "dialects.stable_baselines3(7e-4, alpha=0.99, eps=1e-5)",
            "The average starts at 1, eps inside of the root, lr outside of the momentum.",
        ),
        (
            "Sonnet",
            ("snt.optimizers.RMSProp", "dm-sonnet"),
            "dialects.sonnet(1e-3, decay=0.9, momentum=0.9, epsilon=1e-10)",
            "The average starts at 0, epsilon inside of the root, the learning rate inside of the "
            "momentum.",
        ),
        (
            "Paddle",
            ("paddle.optimizer.RMSProp", "PaddlePaddle"),
            "dialects.paddle(1e-3, rho=0.95, epsilon=1e-6, momentum=0.9)",
            "The average starts at 0, epsilon inside of the root, the learning rate inside of the "
            "momentum, coupled weight decay.",
        ),
        (
            "MLX",
            ("mlx.optimizers.RMSprop", "Apple MLX"),
            "dialects.mlx(1e-3, alpha=0.99, eps=1e-8)",
            "The average starts at 0, eps outside of the root, nothing else.",
        ),
        (
            "Burn",
            ("burn.optim.RmsProp", "burn rust"),
            "dialects.burn(1e-3, alpha=0.99, epsilon=1e-5, momentum=0.9)",
            "PyTorch's algorithm with defaults of its own.",
        ),
        (
            "Chainer's RMSpropGraves",
            ("Graves 2013", "chainer.optimizers.RMSpropGraves", "nnabla RMSpropGraves"),
            "dialects.graves(1e-4, alpha=0.95, momentum=0.9, eps=1e-4)",
            "Always centered, eps inside of the root, lr inside of the momentum. nnabla's "
            "RMSpropGraves has the same lines.",
        ),
        (
            "MXNet",
            ("mxnet.optimizer.RMSProp", "Gluon", "MXNet centered"),
            "dialects.graves(1e-3, alpha=0.95, momentum=0.9, eps=1e-8)",
            "With centered=True it is Graves's: gamma1 is alpha, gamma2 is momentum. With "
            "centered=False it ignores gamma2, and is dialects.paddle(lr, rho=gamma1, epsilon).",
        ),
        (
            "jax.example_libraries",
            (
                "jax.example_libraries.optimizers.rmsprop",
                "rmsprop_momentum",
                "jax.experimental.optimizers",
                "stax",
            ),
            "dialects.jax_example_libraries(1e-3, gamma=0.9, eps=1e-8, momentum=0.9)",
            "eps inside of the root, step_size inside of the momentum. Before October 2019, eps "
            "was outside: rmsprop(step_size, gamma, eps).",
        ),
        (
            "NumPyro",
            ("numpyro.optim.RMSProp", "numpyro.optim.RMSPropMomentum"),
            "dialects.jax_example_libraries(1e-2, gamma=0.9, eps=1e-8, momentum=0.9)",
            "It wraps jax.example_libraries; RMSProp is without momentum.",
        ),
        (
            "TorchOpt",
            ("torchopt.rmsprop", "torchopt.RMSprop"),
            "dialects.torchopt(1e-2, alpha=0.99, eps=1e-8, momentum=0.9, nesterov=True)",
            "PyTorch's with nesterov and initial_scale.",
        ),
        (
            "MindSpore",
            ("mindspore.nn.RMSProp", "mindspore", "Ascend"),
            "dialects.mindspore(0.1, decay=0.9, momentum=0.9, epsilon=1e-10)",
            "As documented: the average starts at 1, epsilon inside of the root, the learning rate "
            "inside of the momentum, coupled weight decay.",
        ),
        (
            "MindSpore on CPUs",
            ("mindspore cpu",),
            "",
            "A bug of its kernel in 2.10.0: not centered, it puts epsilon outside of the root for "
            "whole blocks of 8 elements, and inside for the rest of the array. dialects.mindspore "
            "follows the documentation. For arrays of whole blocks, dialects.optax(lr, decay, "
            "epsilon, 1.0, eps_in_sqrt=False, momentum=momentum) does what that kernel does.",
        ),
        (
            "TensorFlow.js",
            ("TF.js", "tfjs", "tf.train.rmsprop"),
            "dialects.tensorflowjs(1e-3, decay=0.9, momentum=0.9, epsilon=1e-7)",
            "The average starts at 0, epsilon inside of the root, the learning rate inside of the "
            "momentum.",
        ),
        (
            "TensorFlow.js centered",
            ("tfjs centered",),
            "",
            "A bug in 4.22.0: it subtracts epsilon from the variance, and gives NaN for elements "
            "whose gradients are small. Take dialects.keras(..., centered=True): with a tiny "
            "epsilon, it makes the same numbers where TensorFlow.js makes no NaN.",
        ),
        (
            "fastai",
            ("fastai.optimizer.RMSProp", "fast.ai"),
            "dialects.fastai(1e-3, mom=0.9, sqr_mom=0.99, eps=1e-8, wd=0.01)",
            "Momentum adds up gradients, and their sum is divided by the root. Decoupled weight "
            "decay. eps of its call isn't passed on: it is 1e-8 unless set_hyper changed it.",
        ),
        # Others that are JAX.
        (
            "Cleanba and Stoix",
            ("rmsprop_pytorch_style", "cleanba", "stoix", "cleanrl jax impala"),
            "dialects.optax(1e-3, decay=0.99, eps=1e-2, eps_in_sqrt=False, momentum=0.9)",
            "Their own function, written since optax.rmsprop had eps inside of the root only. The "
            "learning rate is inside of the momentum: with a schedule it isn't PyTorch's.",
        ),
        (
            "flax.optim",
            ("flax.optim.RMSProp", "Flax before 0.6"),
            "rmsprop(1e-3, 0.9, 1e-8)",
            "beta2 is decay; eps outside of the root, no momentum; centered is centered.",
        ),
        (
            "Trax",
            ("trax.optimizers.RMSProp",),
            "rmsprop(1e-3, 0.9, 1e-8, initial_scale=1.0)",
            "The average starts at 1, eps outside of the root. It clips by norm in front.",
        ),
        # Keras's past, and what descends from Theano.
        (
            "Keras 1",
            ("Keras 1.2", "keras 0.3", "standalone Keras 1.x"),
            "rmsprop(1e-3, 0.9, 1e-8)",
            "epsilon outside of the root. Its decay is a schedule: lambda t: lr / (1 + decay * t), "
            "or dialects.tf_keras_legacy(lr, rho, epsilon=1e-8, decay=decay).",
        ),
        (
            "Keras 2.0 to 2.3",
            ("standalone Keras 2", "Keras 2.2.5", "keras 2.3.1", "keras with Theano backend"),
            "dialects.tf_keras_legacy(1e-3, rho=0.9, epsilon=1e-7, decay=0.01)",
            "epsilon outside of the root, no momentum, decay: the rate is lr / (1 + decay t).",
        ),
        (
            "Lasagne",
            ("lasagne.updates.rmsprop", "Theano"),
            "dialects.keras(1.0, rho=0.9, epsilon=1e-6)",
            "epsilon inside of the root, no momentum; the learning rate is 1 by default.",
        ),
        (
            "PyMC",
            ("pymc.variational.updates.rmsprop", "pymc3", "PyTensor"),
            "dialects.keras(1.0, rho=0.9, epsilon=1e-6)",
            "Lasagne's: epsilon inside of the root, no momentum.",
        ),
        (
            "PyMC's adagrad_window",
            ("adagrad_window", "pymc advi default"),
            "",
            "It divides by the root of the sum of the last n_win squares, which needs all of them "
            "in memory. It isn't called RMSProp.",
        ),
        (
            "Blocks",
            ("blocks.algorithms.RMSProp",),
            "optax.chain(scale_by_rms(0.9, 0.0, least_root=1e-5), optax.scale(-1.0))",
            "The root is at least 1 / max_scaling, in the place of an eps.",
        ),
        (
            "Pylearn2",
            ("pylearn2.training_algorithms.learning_rule.RMSProp",),
            "optax.chain(scale_by_rms(0.9, 0.0, least_root=1e-5), optax.scale(-0.01))",
            "The root is at least 1 / max_scaling, in the place of an eps.",
        ),
        # For Bayesian inference.
        (
            "Pyro",
            ("pyro.optim.AdagradRMSProp",),
            f"rmsprop(lambda t: 1.0 / jnp.sqrt(t + 1.0), {_ADAGRAD}, eps=1.0)",
            "The average starts at the first square, eps is 1, and the rate falls with the root "
            "of the step.",
        ),
        (
            "Stan's ADVI",
            ("Stan", "advi", "cmdstan variational"),
            "optax.chain(optax.scale(-1.0), rmsprop("
            f"lambda t: 0.1 / jnp.sqrt(t + 1.0), {_ADAGRAD}, eps=1.0))",
            "Pyro's, and it ascends.",
        ),
        (
            "SVGD",
            ("Stein variational gradient descent", "adagrad with momentum"),
            f"optax.chain(optax.scale(-1.0), rmsprop(1e-3, {_ADAGRAD}, eps=1e-6))",
            "The average starts at the first square; it ascends.",
        ),
        # Other Python.
        (
            "autograd",
            ("HIPS autograd", "autograd.misc.optimizers.rmsprop"),
            "rmsprop(0.1, 0.9, 1e-8, initial_scale=1.0)",
            "The average starts at 1, eps outside of the root.",
        ),
        (
            "PennyLane",
            ("qml.RMSPropOptimizer", "pennylane.RMSPropOptimizer"),
            "dialects.keras(0.01, rho=0.9, epsilon=1e-8)",
            "eps inside of the root; no momentum.",
        ),
        (
            "River",
            ("river.optim.RMSProp", "creme"),
            "dialects.keras(0.1, rho=0.9, epsilon=1e-8)",
            "eps inside of the root; no momentum.",
        ),
        (
            "numpy-ml",
            ("numpy_ml.neural_nets.optimizers.RMSProp",),
            "optax.chain(optax.clip_by_global_norm(1.0), rmsprop(1e-3, 0.9, 1e-7))",
            "eps outside of the root. It clips the norm of each array alone, which this does "
            "where there is one; without clip_norm, it is the rmsprop.",
        ),
        (
            "climin",
            ("climin.RmsProp",),
            "dialects.optax(0.01, 0.9, 1e-8, 1.0)",
            "The average starts at 1, eps inside of the root. Its momentum is momentum=..., "
            "nesterov=True, if the parameters kept are the points looked ahead at.",
        ),
        (
            "climin with step_adapt",
            ("step_adapt",),
            "",
            "Each element has a step rate of its own, which grows and shrinks by the signs of its "
            "steps, as in Rprop. No running average does that.",
        ),
        (
            "Jittor",
            ("jittor.optim.RMSprop", "jt.optim.RMSprop"),
            "rmsprop(1e-2, 0.99, 1e-8)",
            "eps outside of the root; no momentum. The order of its arguments is lr, eps, alpha.",
        ),
        (
            "OneFlow",
            ("oneflow.optim.RMSprop",),
            "dialects.paddle(1e-3, rho=0.99, epsilon=1e-8)",
            "eps inside of the root; centered and weight_decay as there; no momentum.",
        ),
        (
            "torch_npu",
            ("NpuFusedRMSpropTF", "Ascend PyTorch"),
            "dialects.timm(1e-2, alpha=0.9, eps=1e-10, momentum=0.9)",
            "timm's arguments, by its documentation.",
        ),
        (
            "neon",
            ("Nervana neon", "neon.optimizers.RMSProp"),
            "optax.chain(scale_by_rms(0.95, 1e-6, eps_root=1e-6, "
            "numerator=optax.clip_by_global_norm(5.0)), optax.scale(-2e-3))",
            "epsilon in two places, and clipping by the norm after the squares were taken. "
            "Its clipping by value is optax.clip in front.",
        ),
        (
            "CNTK",
            ("cntk.learners.rmsprop",),
            "",
            "Each element has a step that grows by 1.2 and shrinks by 0.75 with the signs of its "
            "gradients, divided by the mean of these, as in Rprop. No running average does that.",
        ),
        (
            "tinygrad",
            (),
            "",
            "It has no RMSProp (0.14.0), but SGD, Adam, AdamW, LAMB, LARS and Muon.",
        ),
        # C++ and its relatives.
        (
            "libtorch",
            ("torch::optim::RMSprop", "PyTorch C++"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9, weight_decay=0.01)",
            "PyTorch's, without maximize.",
        ),
        (
            "TorchSharp",
            ("C#", "torch.optim.RMSProp in .NET", "dotnet"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9)",
            "PyTorch's. The class has a default of 1e-3 for the rate, its factory 1e-2.",
        ),
        (
            "torch for R",
            ("R torch", "optim_rmsprop", "mlverse torch"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9)",
            "PyTorch's.",
        ),
        (
            "DyNet",
            ("dynet.RMSPropTrainer",),
            "dialects.keras(1e-3, rho=0.9, epsilon=1e-8)",
            "eps inside of the root; no momentum. These are Python's defaults: C++ has 0.1, "
            "0.95 and 1e-20.",
        ),
        (
            "Flashlight",
            ("fl::RMSPropOptimizer", "wav2letter"),
            "optax.chain(rmsprop(1e-3, 0.99, 1e-8), optax.add_decayed_weights(-1e-4))",
            "eps outside of the root; use_first is centered. The weight decay isn't multiplied by "
            "the learning rate.",
        ),
        (
            "ensmallen",
            ("mlpack", "ens::RMSProp"),
            "rmsprop(0.01, 0.99, 1e-8)",
            "eps outside of the root; no momentum.",
        ),
        (
            "ROOT TMVA",
            ("TRMSProp", "CERN ROOT"),
            "dialects.keras(1e-3, rho=0.9, momentum=0.5, epsilon=1e-7)",
            "epsilon inside of the root, the learning rate inside of the momentum.",
        ),
        (
            "tiny-dnn",
            ("tiny_dnn::RMSprop",),
            "dialects.keras(1e-4, rho=0.99, epsilon=1e-8)",
            "Its alpha is the learning rate and its mu the decay; eps inside of the root.",
        ),
        (
            "Apple MPS",
            ("MPSNNOptimizerRMSProp", "Metal Performance Shaders"),
            "rmsprop(1e-3, 0.9, 1e-8)",
            "epsilon outside of the root; no momentum.",
        ),
        # Rust, Go, Julia, Swift, JavaScript.
        (
            "tch-rs",
            ("tch", "tch rust", "nn::RmsProp"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9, centered=True)",
            "It calls libtorch.",
        ),
        (
            "candle-optimisers",
            ("candle", "candle rust", "candle_optimisers::rmsprop"),
            "dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9)",
            "PyTorch's.",
        ),
        (
            "dfdx",
            ("dfdx rust", "dfdx::optim::RMSprop"),
            "dialects.timm(1e-2, alpha=0.9, eps=1e-8, momentum=0.9)",
            "timm's with an eps of 1e-8: the average starts at 1. Its weight decay is coupled or "
            "decoupled, as there.",
        ),
        (
            "GoMLX",
            ("gomlx optimizers.RMSProp",),
            "rmsprop(1e-3, 0.999, 1e-7, bias_correction=True)",
            "Its average is bias-corrected, and the decay of it 0.999; eps outside of the root. "
            "Decoupled weight decay is optax.add_decayed_weights(-wd * lr) behind.",
        ),
        (
            "Gorgonia",
            ("gorgonia.RMSPropSolver", "go gorgonia"),
            "optax.chain(scale_by_rms(0.999, 1e-8, eps_in_sqrt=True, numerator=optax.clip(5.0)), "
            "optax.scale(-1e-3), optax.add_decayed_weights(-1e-6))",
            "It clips after the square was taken, and its decay of weights isn't multiplied by the "
            "learning rate.",
        ),
        (
            "Optimisers.jl",
            ("Flux", "Flux.jl RMSProp", "julia"),
            "rmsprop(1e-3, 0.9, 1e-8, centered=True)",
            "epsilon outside of the root; centred is centered, and false by default.",
        ),
        (
            "Knet",
            ("Knet.jl", "julia knet"),
            "dialects.keras(0.01, rho=0.9, epsilon=1e-6)",
            "eps inside of the root; gclip clips by norm in front.",
        ),
        (
            "Swift for TensorFlow",
            ("S4TF", "swift-apis"),
            "rmsprop(lambda t: 1e-3 / (1 + 0.01 * (t + 1)), 0.9, 1e-8)",
            "epsilon outside of the root. Its decay counts from 1, where Keras's counts from 0.",
        ),
        (
            "ConvNetJS",
            ("convnetjs windowgrad", "windowgrad"),
            "dialects.paddle(0.01, rho=0.95, epsilon=1e-6, weight_decay=0.001)",
            "The method windowgrad: eps inside of the root, coupled l2_decay.",
        ),
        (
            "brain.js",
            ("brain.js recurrent", "brainjs"),
            "optax.chain(scale_by_rms(0.999, 1e-8, eps_in_sqrt=True, numerator=optax.clip(5.0)), "
            "optax.scale(-0.01), optax.add_decayed_weights(-1e-6))",
            "Its recurrent networks clip after the square was taken, and shrink weights by regc, "
            "which isn't multiplied by the learning rate.",
        ),
        (
            "recurrentjs",
            ("recurrent.js", "karpathy recurrentjs"),
            "optax.chain(scale_by_rms(0.999, 1e-8, eps_in_sqrt=True, numerator=optax.clip(5.0)), "
            "optax.scale(-0.01), optax.add_decayed_weights(-1e-6))",
            "Where brain.js has its rule from.",
        ),
        (
            "Hinton's lecture",
            ("Hinton 2012", "lecture 6e", "coursera"),
            "recipes.hinton2012(1e-3)",
            "There is no eps, and it says nothing of a start: here 0.",
        ),
    ]
)

MEASURED: dict[str, tuple[str, float]] = {
    "PyTorch": ("its formula, and torch 2.13.0+cpu in the tests", 2.4e-16),
    "Keras 3": ("its formula, and keras 3.15.1 in the tests", 2.2e-16),
    "Keras 2": ("its formula, and tf_keras 2.21.0 in the tests", 1.8e-16),
    "TensorFlow 1": ("its formula, and tensorflow-cpu 2.21.0 in the tests", 1.5e-16),
    "Optax": ("its formula, and the real one beside it in the tests", 1.5e-16),
    "timm": ("its formula, and timm 1.0.31 in the tests", 2.6e-16),
    "Stable-Baselines3": ("its formula, and stable_baselines3 2.9.2 in the tests", 1.8e-16),
    "Sonnet": ("its formula, and dm-sonnet 2.0.2 in the tests", 2.2e-16),
    "Paddle": ("its formula, and paddlepaddle 3.3.1 in the tests", 1.4e-16),
    "MLX": ("its formula, and mlx 0.32.4 in the tests", 8.9e-17),
    "Burn": ("its formula, and the numbers in its own tests", 1.5e-16),
    "Chainer's RMSpropGraves": ("its formula, and chainer 7.8.1 in the tests", 5.6e-18),
    "MXNet": ("its formula, and mxnet 1.9.1 in the tests", 6.9e-17),
    "jax.example_libraries": ("its formula, and jax 0.10.2 in the tests", 1.5e-16),
    "NumPyro": ("NumPyro 0.22.0, recorded", 2.4e-16),
    "TorchOpt": ("its formula, and torchopt 0.7.3 in the tests", 3.1e-16),
    "MindSpore": ("its formula, and mindspore 2.10.0 in the tests", 4.8e-16),
    "TensorFlow.js": ("its formula, and @tensorflow/tfjs 4.22.0 in the tests", 2.2e-16),
    "fastai": ("its formula, and fastai 2.8.12 in the tests", 7.8e-15),
    "Cleanba and Stoix": ("its formula", 2.5e-16),
    "flax.optim": ("its formula", 9.1e-17),
    "Trax": ("its formula", 1.8e-16),
    "Keras 1": ("its formula", 9.1e-17),
    "Keras 2.0 to 2.3": ("its formula", 9.2e-17),
    "Lasagne": ("its formula", 2.4e-16),
    "PyMC": ("its formula", 2.4e-16),
    "Blocks": ("its formula", 2.4e-16),
    "Pylearn2": ("its formula", 1.4e-16),
    "Pyro": ("Pyro 1.9.2, recorded", 4.5e-16),
    "Stan's ADVI": ("its formula", 3.7e-16),
    "SVGD": ("its formula", 4.5e-17),
    "autograd": ("autograd 1.9.1, recorded", 2.5e-16),
    "PennyLane": ("PennyLane 0.45.1, recorded", 1.4e-16),
    "River": ("River 0.26.1, recorded", 2.3e-16),
    "numpy-ml": ("numpy-ml 0.1.2, recorded", 9.1e-17),
    "climin": ("climin 0.1a1, recorded", 1.4e-16),
    "Jittor": ("its formula", 2.4e-16),
    "OneFlow": ("its formula", 8.9e-17),
    "torch_npu": ("its formula", 2.6e-16),
    "neon": ("its formula", 1.8e-16),
    "libtorch": ("its formula", 1.9e-16),
    "TorchSharp": ("its formula", 3.1e-16),
    "torch for R": ("its formula", 3.1e-16),
    "DyNet": ("its formula", 9.1e-17),
    "Flashlight": ("its formula", 1.4e-15),
    "ensmallen": ("its formula", 2.4e-16),
    "ROOT TMVA": ("its formula", 8.8e-17),
    "tiny-dnn": ("its formula", 2.3e-17),
    "Apple MPS": ("its formula", 9.1e-17),
    "tch-rs": ("its formula", 3.7e-16),
    "candle-optimisers": ("its formula", 3.1e-16),
    "dfdx": ("its formula", 1.3e-16),
    "GoMLX": ("its formula", 1.8e-16),
    "Gorgonia": ("its formula", 2.3e-15),
    "Optimisers.jl": ("its formula", 1.8e-16),
    "Knet": ("its formula", 1.4e-16),
    "Swift for TensorFlow": ("its formula", 9.2e-17),
    "ConvNetJS": ("ConvNetJS 0.3.0, recorded", 4.1e-16),
    "brain.js": ("brain.js 1.6.1, recorded", 1.6e-15),
    "recurrentjs": ("its formula", 2.1e-15),
    "Hinton's lecture": ("its formula", 9.1e-17),
}


def find(name: str) -> Rows:
    """Finds which RMSProp somebody means, and the call that makes its numbers.

    Args:
      name: of a framework, a package, a class or a paper, as one would type it.

    Returns:
      The rows that fit best, a tuple that prints as a text; each has a name, other names (`also`),
      the call as text, what it differs in, and what it was checked against.

    Raises:
      ValueError: if nothing is like that name, with names that are closest.

    Example:
      >>> from rmsprop_jax.dialects import find
      >>> print(find("r torch")[0].call)
      dialects.pytorch(1e-2, alpha=0.99, eps=1e-8, momentum=0.9)
    """
    scores = {row: max(_likeness(name, known) for known in (row.name, *row.also)) for row in ROWS}
    best = max(scores.values())
    if best < 0.75:
        names = [known for row in ROWS for known in (row.name, *row.also)]
        closest = sorted(names, key=lambda known: -_likeness(name, known))[:3]
        raise ValueError(
            f"No RMSProp is known here as {name!r}. Did you mean {', '.join(closest)}? "
            "`rmsprop-jax identify` tells from a recording which one it is."
        )
    return Rows(
        sorted((row for row in ROWS if scores[row] > best - 0.05), key=lambda r: -scores[r])
    )


def _likeness(query: str, name: str) -> float:
    """From 0 to 1: the same words, then some of the words, then like letters."""
    asked, known = (re.findall(r"[a-z]+|\d+", text.lower()) for text in (query, name))
    asked = [word for word in asked if word not in _NOISE] or asked
    rest = [word for word in known if word not in _NOISE] or known
    if asked == rest or "".join(asked) == "".join(known):
        return 1.0
    if asked and set(asked) <= set(known):
        return 0.9 + 0.05 * len(set(asked)) / len(set(known))
    if rest and set(rest) <= set(asked):
        return 0.8 + 0.1 * len(set(rest)) / len(set(asked))
    letters = difflib.SequenceMatcher(None, "".join(asked), "".join(rest)).ratio()
    return (0.9 if len("".join(asked)) > 4 else 0.7) * letters


_NOISE = {"rmsprop", "optimizer", "optimizers", "optim", "rms", "prop", "s", "js", "jl", "py"}
