"""The real frameworks on the problem of `trajectories`, and ours beside them.

A function named after a framework takes configurations in that framework's own argument names (the
learning rate isn't among them) and returns what the framework computes: the parameters after every
step for every schedule, [configurations, schedules, steps, elements]. It raises `ImportError` where
the framework isn't installed. What they and heavier ones did is recorded beside the tests.
"""

import functools
import importlib
import importlib.util
import itertools
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as _optax
from trajectories import (
    RECORDED_STEPS,
    SCHEDULES,
    SIZE,
    STEPS,
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

QUICK: dict[str, bool | str] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
"""To compile in half the time, where it matters what is computed, and not how it is rounded."""


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
}
"""Configurations of the frameworks that run here, by the name of the dialect."""

RECORDED = {
    **{name: name for name in ("optax", "pytorch", "timm", "keras")},
    **{name: name for name in dialects.__all__ if name != "graves"},
    "chainer_graves": "graves",
    "mxnet": "graves",
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


def run(
    factories: Sequence[Factory], dtype: str, options: Mapping[str, bool | str] | None = None
) -> np.ndarray:
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

    return _scan([make(factory) for factory in factories], dtype, options)


def _scan(makers, dtype, options=None):
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

        run = jax.jit(jax.vmap(with_rates), compiler_options=options)
        return np.moveaxis(run(rates), 2, 0)


def optax(configs: Sequence[Config], dtype: str, steps: int = STEPS) -> np.ndarray:
    """`optax.rmsprop`."""

    def make(config):
        return lambda learning_rate: _optax.rmsprop(learning_rate, **config)

    return run([make(config) for config in configs], dtype)[:, :, :steps]


def keras(configs: Sequence[Config], dtype: str, steps: int = STEPS) -> np.ndarray:
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

    return _scan([make(config) for config in configs], dtype)[:, :, :steps]


def pytorch(configs: Sequence[Config], dtype: str, steps: int = STEPS) -> np.ndarray:
    """`torch.optim.RMSprop` on the CPU."""
    return _torch(optimizer("pytorch"), configs, dtype, steps)


def timm(configs: Sequence[Config], dtype: str, steps: int = STEPS) -> np.ndarray:
    """`timm.optim.RMSpropTF` on the CPU."""
    return _torch(optimizer("timm"), configs, dtype, steps)


def _torch(optimizer: Any, configs: Sequence[Config], dtype: str, steps: int) -> np.ndarray:
    """One optimizer, with a group of one parameter for each configuration and schedule."""
    torch = importlib.import_module("torch")
    runs = list(itertools.product(configs, SCHEDULES))
    rates = np.stack([learning_rates(kind) for _, kind in runs])
    params = [torch.nn.Parameter(torch.from_numpy(initial_params(dtype))) for _ in runs]
    groups = [{"params": [p], **config} for p, (config, _) in zip(params, runs, strict=True)]
    # The highest learning rate is the one to build with, for corrected_weight_decay.
    opt = optimizer(groups, lr=rates.max(), foreach=False)
    trajectory = []
    for i, g in enumerate(torch.from_numpy(gradients(dtype)[:steps])):
        for param, group, rate in zip(params, opt.param_groups, rates[:, i].tolist(), strict=True):
            param.grad, group["lr"] = g, rate
        opt.step()
        trajectory.append(torch.stack([param.detach() for param in params]).numpy())
    return np.stack(trajectory, 1).reshape(len(configs), len(SCHEDULES), steps, SIZE)


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


def optimizer(framework: str) -> Any:
    """The class of a framework that isn't JAX's."""
    if framework == "keras":
        return import_keras().optimizers.RMSprop
    if framework == "timm":
        return import_timm_rmsprop()
    return importlib.import_module("torch").optim.RMSprop


def live(framework: str, dtype: str, steps: int = STEPS) -> tuple[list[Config], np.ndarray]:
    """What a framework of `LIVE` does today in the first steps, in the form of a recording."""
    configs: list[Config] = [
        {"kwargs": kwargs, "schedule": schedule}
        for kwargs, schedule in itertools.product(LIVE[framework], SCHEDULES)
    ]
    kept = [step - 1 for step in RECORDED_STEPS if step <= steps]
    params = globals()[framework](LIVE[framework], dtype, steps)[:, :, kept]
    return configs, params.reshape(len(configs), len(kept), SIZE)


def dtypes(framework: str) -> list[str]:
    """What a framework was recorded in: some have no float64."""
    there = TOLERANCES if framework == "optax" else recorded(_file(framework))[1]
    return [dtype for dtype in TOLERANCES if dtype in there]


def _file(framework: str) -> str:
    """burn is a library for Rust: its algorithm is PyTorch's, its defaults and names its own."""
    return "pytorch" if framework == "burn" else framework


@functools.cache
def recording(framework: str, dtype: str) -> tuple[list[Config], np.ndarray]:
    """What a framework of `RECORDED` did, by configuration.

    Optax is always here, and runs.
    """
    if framework == "optax":
        return live(framework, dtype)
    configs, params = recorded(_file(framework))
    if framework != "burn":
        return configs, params[dtype]
    rows = [i for i, config in enumerate(configs) if config["kwargs"].get("maximize") is False]
    for i in rows:
        del configs[i]["kwargs"]["maximize"]
    return [configs[i] for i in rows], params[dtype][rows]


def compare(
    framework: str,
    dtype: str,
    make: Callable[..., Any] = call,
    options: Mapping[str, bool | str] | None = None,
) -> np.ndarray:
    """How far our calls are from the real framework, by configuration.

    Args:
      framework: one of `RECORDED`.
      dtype: to compute in.
      make: from a framework, its arguments and a learning rate to a transformation.
      options: of XLA.

    Returns:
      The largest difference of a parameter after any of the recorded steps, in units of the largest
      parameter of the run.
    """
    configs, theirs = recording(framework, dtype)
    arguments = [
        config["kwargs"] | ({"wd": hook["rate"]} if hook else {})
        for config in configs
        for hook in [config.get("weight_decay_hook")]
    ]
    distinct = [x for i, x in enumerate(arguments) if x not in arguments[:i]]
    rows = [distinct.index(x) for x in arguments]
    schedules = [SCHEDULES.index(config["schedule"]) for config in configs]
    factories = [functools.partial(make, framework, x) for x in distinct]
    mine = run(factories, dtype, options)[rows, schedules]
    return distance(mine[:, np.array(RECORDED_STEPS) - 1], theirs)


def distance(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Largest difference over the last two axes, in units of the largest number there."""
    mine, theirs = mine.astype(float), theirs.astype(float)
    return np.abs(mine - theirs).max((-1, -2)) / np.abs(theirs).max((-1, -2))
