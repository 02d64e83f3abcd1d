"""The real frameworks on the problem of `trajectories`, and ours beside them.

A function named after a framework takes configurations in that framework's own argument names (the
learning rate isn't among them) and returns what the framework computes: the parameters after every
step for every schedule, [configurations, schedules, steps, elements]. It raises `ImportError` where
the framework isn't installed. `recording` replays the frameworks that are too heavy to install.
"""

import functools
import importlib
import importlib.util
import itertools
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as _optax
from trajectories import (
    RECORDED_STEPS,
    SCHEDULES,
    gradients,
    initial_params,
    learning_rates,
    recorded,
)

from rmsprop_jax import dialects

Config = dict[str, Any]
Factory = Callable[[_optax.Schedule], _optax.GradientTransformation]

TOLERANCES = {"float64": 1e-13, "float32": 2e-6}
"""Largest difference allowed over 1,000 steps, in units of the largest parameter."""


def grid(**options: Sequence[Any]) -> list[Config]:
    """Every combination of the options."""
    names = options.keys()
    return [
        dict(zip(names, values, strict=True)) for values in itertools.product(*options.values())
    ]


_COMMON = {"momentum": (0.0, 0.75), "centered": (False, True)}
_TORCH = {"alpha": (0.875,), "eps": (2.0**-10,), "weight_decay": (0.0, 2.0**-6), **_COMMON}
_DECAYS = [
    {},
    {"weight_decay": 2.0**-6},
    {"weight_decay": 2.0**-6, "decoupled_decay": True},
    {"weight_decay": 8.0, "decoupled_decay": True, "corrected_weight_decay": True},
]
_FORMS = [  # of timm's momentum
    {"momentum": 0.0},
    *grid(momentum=(0.75,), lr_in_momentum=(True, False), caution=(False, True)),
]
# What Keras does to gradients and weights besides; the norm of the gradients is about 200.
_AROUND = [
    {"clipnorm": 64.0},
    {"clipvalue": 2.0},
    {"global_clipnorm": 64.0},
    {"loss_scale_factor": 4.0},
]
_OPTAX = {
    "decay": (0.875,),
    "eps": (2.0**-10,),
    "eps_in_sqrt": (False, True),
    "centered": (False, True),
}
_TRACES = [{"momentum": None}, *grid(momentum=(0.75,), nesterov=(False, True))]
# Not both, for Optax's variance of a single gradient is what the rounding of 0 leaves.
_STARTS = [{}, {"initial_scale": 1.0}, {"bias_correction": True}]

LIVE: dict[str, list[Config]] = {
    "pytorch": [{}, *grid(**_TORCH, maximize=(False, True))],
    "timm": [{}]
    + [
        {"alpha": 0.875, "eps": 2.0**-10, "centered": centered, **decay, **form}
        for centered, decay, form in itertools.product((False, True), _DECAYS, _FORMS)
    ],
    "keras": [{}]
    + grid(rho=(0.875,), epsilon=(2.0**-10,), weight_decay=(None, 2.0**-6, 8.0), **_COMMON)
    + [{"rho": 0.875, "momentum": 0.75, "weight_decay": 8.0, **more} for more in _AROUND],
    "optax": [{}]
    + [
        {**common, **trace, **start}
        for common, trace, start in itertools.product(grid(**_OPTAX), _TRACES, _STARTS)
        if not (common["centered"] and "bias_correction" in start)
    ],
    # burn is a library for Rust. Its algorithm is PyTorch's, its defaults and names are its own.
    "burn": grid(**_TORCH),
}
"""Configurations of the frameworks that run here, by the name of the dialect."""

RECORDED = {
    "tensorflow1": "tensorflow1",
    "tf_keras_legacy": "tf_keras_legacy",
    "sonnet": "sonnet",
    "paddle": "paddle",
    "mlx": "mlx",
    "stable_baselines3": "stable_baselines3",
    "chainer_graves": "graves",
    "mxnet": "graves",
    "jax_example_libraries": "jax_example_libraries",
    "torchopt": "torchopt",
    "fastai": "fastai",
    "mindspore": "mindspore",
    "tensorflowjs": "tensorflowjs",
}
"""The dialect that each recording is of."""


def call(
    framework: str, config: Config, learning_rate: Any, calls: Any = dialects
) -> _optax.GradientTransformation:
    """Our call for a framework's own arguments."""
    config = dict(config)
    if framework == "timm" and config.get("corrected_weight_decay"):
        config["max_lr"] = max(learning_rates("constant"))
    if framework == "burn":
        config["epsilon"] = config.pop("eps")
    if framework == "mxnet" and not config["centered"]:
        names = {"gamma1": "rho", "epsilon": "epsilon", "wd": "weight_decay"}
        arguments = {ours: config[theirs] for theirs, ours in names.items()}
        return calls.paddle(learning_rate, **arguments)  # gamma2 is ignored
    if framework == "mxnet":
        names = {"gamma1": "alpha", "gamma2": "momentum", "epsilon": "eps", "wd": "wd"}
        config = {ours: config[theirs] for theirs, ours in names.items()}
    dialect = RECORDED.get(framework, framework)
    weight_decay = config.pop("wd", 0.0) if dialect == "graves" else 0.0
    tx = getattr(calls, dialect)(learning_rate, **config)
    return _optax.chain(_optax.add_decayed_weights(weight_decay), tx) if weight_decay else tx


def ours(framework: str, configs: Sequence[Config], dtype: str) -> np.ndarray:
    """What our calls compute, in the shape that the frameworks' functions have."""
    return run([functools.partial(call, framework, config) for config in configs], dtype)


def run(factories: Sequence[Factory], dtype: str) -> np.ndarray:
    """What transformations compute, each made from a schedule of the learning rate."""

    def make(factory):
        def with_rates(rates):
            tx = factory(lambda count: rates[count])

            def step(carry, g):
                params, state = carry
                updates, state = tx.update(g, state, params)
                return _optax.apply_updates(params, updates), state

            return lambda start: (start, tx.init(start)), step

        return with_rates

    return _scan([make(factory) for factory in factories], dtype)


def _scan(makers, dtype):
    """Runs all in one scan, which compiles several times faster than a scan each.

    A maker takes the learning rates and returns `init(params) -> carry` and `step(carry, gradients)
    -> carry`; the first item of a carry is the parameters.
    """
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        grads, start = jnp.asarray(gradients(dtype)), jnp.asarray(initial_params(dtype))
        rates = jnp.asarray(np.stack([learning_rates(kind) for kind in SCHEDULES]).astype(dtype))

        def with_rates(rates):
            inits, steps = zip(*(make(rates) for make in makers), strict=True)

            def step(carries, g):
                carries = [step(carry, g) for step, carry in zip(steps, carries, strict=True)]
                return carries, jnp.stack([carry[0] for carry in carries])

            return jax.lax.scan(step, [init(start) for init in inits], grads)[1]

        return np.asarray(jnp.moveaxis(jax.jit(jax.vmap(with_rates))(rates), 2, 0))


def optax(configs: Sequence[Config], dtype: str) -> np.ndarray:
    """`optax.rmsprop`."""

    def make(config):
        return lambda learning_rate: _optax.rmsprop(learning_rate, **config)

    return run([make(config) for config in configs], dtype)


def keras(configs: Sequence[Config], dtype: str) -> np.ndarray:
    """`keras.optimizers.RMSprop` on Keras's JAX backend."""
    module = import_keras()

    class Table(module.optimizers.schedules.LearningRateSchedule):
        rates = jnp.ones(1)

        def __call__(self, step):
            return self.rates[jnp.asarray(step)]

    def make(config):
        table = Table()
        with jax.enable_x64(dtype == "float64"):
            optimizer = module.optimizers.RMSprop(table, **config)
            optimizer.build([module.Variable(initial_params(dtype), dtype=dtype)])
            variables = [v.value for v in optimizer.variables]

        def with_rates(rates):
            def step(carry, g):
                table.rates = rates
                (params,), state = optimizer.stateless_apply(carry[1], [g], [carry[0]])
                return params, state

            return lambda start: (start, variables), step

        return with_rates

    return _scan([make(config) for config in configs], dtype)


def pytorch(configs: Sequence[Config], dtype: str) -> np.ndarray:
    """`torch.optim.RMSprop` on the CPU."""
    return _torch(importlib.import_module("torch").optim.RMSprop, configs, dtype)


burn = pytorch


def timm(configs: Sequence[Config], dtype: str) -> np.ndarray:
    """`timm.optim.RMSpropTF` on the CPU."""
    return _torch(import_timm_rmsprop(), configs, dtype)


def _torch(optimizer: Any, configs: Sequence[Config], dtype: str) -> np.ndarray:
    torch = importlib.import_module("torch")
    grads = torch.from_numpy(gradients(dtype))
    result = []
    for config, kind in itertools.product(configs, SCHEDULES):
        param = torch.nn.Parameter(torch.from_numpy(initial_params(dtype)))
        rates = learning_rates(kind).tolist()
        # The highest learning rate is the one to build with, for corrected_weight_decay.
        opt = optimizer([param], lr=max(rates), foreach=False, **config)
        trajectory = []
        for g, rate in zip(grads, rates, strict=True):
            opt.param_groups[0]["lr"] = rate
            param.grad = g
            opt.step()
            trajectory.append(param.detach().numpy().copy())
        result.append(trajectory)
    return np.array(result).reshape(len(configs), len(SCHEDULES), *grads.shape)


def import_keras() -> Any:
    """Keras, on its JAX backend."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    module = importlib.import_module("keras")
    if module.backend.backend() != "jax":
        raise ImportError("Keras was started on another backend than JAX")
    return module


@functools.cache
def import_timm_rmsprop() -> Any:
    """`RMSpropTF`, loaded past the packages around it, which want torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise ImportError("No module named 'timm'")
    importlib.import_module("torch")
    folder = Path(spec.origin).parent / "optim"
    package = types.ModuleType("timm_optim_alone")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.rmsprop_tf").RMSpropTF


@functools.cache
def live(framework: str, dtype: str) -> np.ndarray:
    """What a framework of `LIVE` computes."""
    return globals()[framework](LIVE[framework], dtype)


def compare(framework: str, dtype: str) -> np.ndarray:
    """How far our calls are from the real framework that runs beside them.

    Returns:
      For each configuration and schedule the largest difference of a parameter after any step, in
      units of the largest parameter of the run.
    """
    return distance(ours(framework, LIVE[framework], dtype), live(framework, dtype))


def compare_recorded(framework: str, dtype: str) -> np.ndarray:
    """How far our calls are from what a framework was recorded to do, by configuration."""
    configs, params = recorded(framework)
    arguments = [config["kwargs"] for config in configs]
    for kwargs, config in zip(arguments, configs, strict=True):
        if hook := config.get("weight_decay_hook"):
            kwargs["wd"] = hook["rate"]
    schedules = [SCHEDULES.index(config["schedule"]) for config in configs]
    mine = ours(framework, arguments, dtype)[np.arange(len(configs)), schedules]
    return distance(mine[:, np.array(RECORDED_STEPS) - 1], params[dtype])


def distance(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Largest difference over the last two axes, in units of the largest number there."""
    mine, theirs = mine.astype(float), theirs.astype(float)
    return np.abs(mine - theirs).max((-1, -2)) / np.abs(theirs).max((-1, -2))
