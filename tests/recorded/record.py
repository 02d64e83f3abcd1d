# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Record what the real frameworks do with the problem of ``trajectories.py``.

Run in the environment of the framework (see README.md):

    python tests/recorded/record.py tensorflow1 tf_keras_legacy sonnet

Every function below named after a framework takes a configuration and a dtype and returns the
parameters after each of the steps. The learning rate is set before every step, in the way that the
framework offers; hyperparameters are spelled as the framework spells them. What PyTorch, timm and
Keras do is in ``oracles.py``: the tests run it, too, where these are installed.
"""

import argparse
import importlib.metadata
import itertools
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from trajectories import (
    RECORDED_STEPS,
    SIZE,
    STEPS,
    fingerprint,
    gradients,
    initial_params,
    learning_rates,
)

MOMENTUM = 0.75
WEIGHT_DECAY = 2.0**-6
# (decay, eps) by schedule: two of each without doubling the recordings.
DECAY_AND_EPS = {
    "constant": (0.875, 2.0**-10),
    "step": (0.96875, 2.0**-20),
    "warmup_cosine": (0.875, 2.0**-20),
}

Config = dict[str, Any]


def tensorflow1(config: Config, dtype: str) -> np.ndarray:
    import tensorflow as tf

    lr = tf.Variable(tf.constant(0.0, dtype))  # a Python float would be rounded to float32
    opt = tf.compat.v1.train.RMSPropOptimizer(lr, **config["kwargs"])
    param = tf.Variable(tf.constant(initial_params(dtype)))

    def step(grad, value):
        lr.assign(value)
        opt.apply_gradients([(tf.constant(grad), param)])
        return param.numpy()

    return run(step, config["schedule"], dtype)


def tf_keras_legacy(config: Config, dtype: str) -> np.ndarray:
    import tensorflow as tf
    import tf_keras

    opt = tf_keras.optimizers.legacy.RMSprop(**config["kwargs"])
    param = tf.Variable(tf.constant(initial_params(dtype)))

    def step(grad, value):
        opt.learning_rate = value
        opt.apply_gradients([(tf.constant(grad), param)])
        return param.numpy()

    return run(step, config["schedule"], dtype)


def sonnet(config: Config, dtype: str) -> np.ndarray:
    import sonnet as snt
    import tensorflow as tf

    opt = snt.optimizers.RMSProp(0.0, **config["kwargs"])
    param = tf.Variable(tf.constant(initial_params(dtype)))

    def step(grad, value):
        opt.learning_rate = value
        opt.apply([tf.constant(grad)], [param])
        return param.numpy()

    return run(step, config["schedule"], dtype)


def paddle(config: Config, dtype: str) -> np.ndarray:
    import paddle

    paddle.set_device("cpu")
    param = paddle.create_parameter([SIZE], dtype)
    param.set_value(initial_params(dtype))
    opt = paddle.optimizer.RMSProp(1.0, parameters=[param], **config["kwargs"])

    def step(grad, value):
        opt.set_lr(value)
        param.grad = paddle.to_tensor(grad)
        opt.step()
        return param.numpy()

    return run(step, config["schedule"], dtype)


def mlx(config: Config, dtype: str) -> np.ndarray:
    import mlx.core as mx
    from mlx.optimizers import RMSprop

    mx.set_default_device(mx.cpu)
    opt = RMSprop(1.0, **config["kwargs"])
    params = {"w": mx.array(initial_params(dtype), getattr(mx, dtype))}

    def step(grad, value):
        nonlocal params
        opt.learning_rate = value
        params = opt.apply_gradients({"w": mx.array(grad, getattr(mx, dtype))}, params)
        return np.array(params["w"])

    return run(step, config["schedule"], dtype)


def stable_baselines3(config: Config, dtype: str) -> np.ndarray:
    import torch
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    param = torch.nn.Parameter(torch.from_numpy(initial_params(dtype)))
    opt = RMSpropTFLike([param], **config["kwargs"])

    def step(grad, value):
        opt.param_groups[0]["lr"] = value
        param.grad = torch.from_numpy(grad)
        opt.step()
        return param.detach().numpy()

    return run(step, config["schedule"], dtype)


def chainer_graves(config: Config, dtype: str) -> np.ndarray:
    import chainer

    link = chainer.Link()
    with link.init_scope():
        link.w = chainer.Parameter(initial_params(dtype))
    opt = chainer.optimizers.RMSpropGraves(**config["kwargs"]).setup(link)
    if "weight_decay_hook" in config:
        opt.add_hook(chainer.optimizer_hooks.WeightDecay(**config["weight_decay_hook"]))

    def step(grad, value):
        opt.lr = value
        link.w.grad = grad.copy()  # the hook works in place
        opt.update()
        return link.w.array

    return run(step, config["schedule"], dtype)


def mxnet(config: Config, dtype: str) -> np.ndarray:
    import mxnet as mx

    opt = mx.optimizer.RMSProp(**config["kwargs"])
    param = mx.nd.array(initial_params(dtype), dtype=dtype)
    state = opt.create_state(0, param)

    def step(grad, value):
        opt.set_learning_rate(value)
        opt.update(0, param, mx.nd.array(grad, dtype=dtype), state)
        return param.asnumpy()

    return run(step, config["schedule"], dtype)


def jax_example_libraries(config: Config, dtype: str) -> np.ndarray:
    import jax
    import jax.numpy as jnp
    from jax.example_libraries import optimizers

    jax.config.update("jax_enable_x64", True)
    kwargs = dict(config["kwargs"])
    rates = jnp.asarray(learning_rates(config["schedule"]), dtype)
    momentum = kwargs.pop("momentum")
    if momentum:
        init, update, get = optimizers.rmsprop_momentum(
            lambda t: rates[t], momentum=momentum, **kwargs
        )
    else:
        init, update, get = optimizers.rmsprop(lambda t: rates[t], **kwargs)
    state = init(jnp.asarray(initial_params(dtype)))
    update, t = jax.jit(update), iter(range(STEPS))

    def step(grad, value):
        nonlocal state
        state = update(next(t), jnp.asarray(grad), state)
        return np.asarray(get(state))

    return run(step, config["schedule"], dtype)


def torchopt(config: Config, dtype: str) -> np.ndarray:
    import torch
    import torchopt

    rates = learning_rates(config["schedule"]).tolist()
    tx = torchopt.rmsprop(lambda t: rates[int(t)], **config["kwargs"])
    params = {"w": torch.from_numpy(initial_params(dtype))}
    state = tx.init(params)

    def step(grad, value):
        nonlocal params, state
        grads = {"w": torch.from_numpy(grad.copy())}
        updates, state = tx.update(grads, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
        return params["w"].numpy()

    return run(step, config["schedule"], dtype)


def fastai(config: Config, dtype: str) -> np.ndarray:
    import torch
    from fastai.optimizer import RMSProp

    kwargs = dict(config["kwargs"])
    eps = kwargs.pop("eps")
    param = torch.nn.Parameter(torch.from_numpy(initial_params(dtype)))
    opt = RMSProp([param], lr=1.0, **kwargs)
    opt.set_hyper("eps", eps)  # that of the call isn't passed on

    def step(grad, value):
        opt.set_hyper("lr", value)
        param.grad = torch.from_numpy(grad.copy())  # l2_reg works in place
        opt.step()
        return param.detach().numpy()

    return run(step, config["schedule"], dtype)


def mindspore(config: Config, dtype: str) -> np.ndarray:
    import mindspore as ms

    ms.set_device("CPU")
    # Its kernel for CPUs puts epsilon outside of the root in blocks of 8 elements, if not centered.
    # In arrays of 4, it does what is documented.
    split = lambda x: np.split(x.copy(), SIZE // 4)
    starts = enumerate(split(initial_params(dtype)))
    params = [ms.Parameter(ms.Tensor(x), name=f"w{i}") for i, x in starts]
    rates = learning_rates(config["schedule"]).tolist()  # the way that is documented
    opt = ms.nn.RMSProp(params, learning_rate=rates, **config["kwargs"])

    def step(grad, value):
        opt(tuple(map(ms.Tensor, split(grad))))
        return np.concatenate([p.asnumpy() for p in params])

    return run(step, config["schedule"], dtype)


def tensorflowjs(config: Config, dtype: str) -> np.ndarray:
    script = Path(__file__).with_name("tensorflowjs.js")
    problem = {
        "kwargs": config["kwargs"],
        "start": initial_params(dtype).tolist(),
        "gradients": gradients(dtype).tolist(),
        "rates": learning_rates(config["schedule"]).tolist(),
    }
    made = subprocess.run(
        ["node", script], input=json.dumps(problem), stdout=subprocess.PIPE, text=True, check=True
    )
    params = iter(json.loads(made.stdout)["params"])
    return run(lambda grad, value: np.array(next(params), dtype), config["schedule"], dtype)


def run(step: Callable[[np.ndarray, float], np.ndarray], schedule: str, dtype: str) -> np.ndarray:
    rates = learning_rates(schedule).tolist()
    params = np.stack(
        [np.array(step(g, lr)) for g, lr in zip(gradients(dtype), rates, strict=True)]
    )
    assert params.shape == (STEPS, SIZE), params.shape
    assert params.dtype == dtype, params.dtype
    assert np.isfinite(params).all(), "not finite"
    return params


def grid(decay: str, eps: str, **options: tuple) -> list[Config]:
    """Every combination of ``options`` on every schedule.

    ``decay`` and ``eps`` are the framework's names for those two.
    """
    return [
        {
            "kwargs": {decay: rho, eps: epsilon, **dict(zip(options, values, strict=True))},
            "schedule": schedule,
        }
        for schedule, (rho, epsilon) in DECAY_AND_EPS.items()
        for values in itertools.product(*options.values())
    ]


MOMENTA = (0.0, MOMENTUM)
BOTH = (False, True)
FRAMEWORKS = {  # name: (function, configurations, dtypes, distributions whose versions to note)
    "tensorflow1": (
        tensorflow1,
        grid("decay", "epsilon", momentum=MOMENTA, centered=BOTH),
        ("float64", "float32"),
        ("tensorflow-cpu",),
    ),
    "tf_keras_legacy": (
        tf_keras_legacy,
        grid("rho", "epsilon", momentum=MOMENTA, centered=BOTH)
        + [  # silently replaced by 1e-7
            {"kwargs": {"rho": 0.875, "epsilon": 0.0, "momentum": mu}, "schedule": "constant"}
            for mu in MOMENTA
        ],
        ("float64", "float32"),
        ("tf_keras", "tensorflow-cpu"),
    ),
    "sonnet": (
        sonnet,
        grid("decay", "epsilon", momentum=MOMENTA, centered=BOTH),
        ("float64", "float32"),
        ("dm-sonnet", "tensorflow-cpu"),
    ),
    "paddle": (
        paddle,
        grid("rho", "epsilon", momentum=MOMENTA, centered=BOTH, weight_decay=(None, WEIGHT_DECAY)),
        ("float64", "float32"),
        ("paddlepaddle",),
    ),
    "mlx": (mlx, grid("alpha", "eps"), ("float64", "float32"), ("mlx",)),
    "stable_baselines3": (
        stable_baselines3,
        grid("alpha", "eps", momentum=MOMENTA, centered=BOTH, weight_decay=(0.0, WEIGHT_DECAY)),
        ("float64", "float32"),
        ("stable_baselines3", "torch"),
    ),
    "chainer_graves": (
        chainer_graves,
        [
            {**config, **hook}
            for config in grid("alpha", "eps", momentum=MOMENTA)
            for hook in ({}, {"weight_decay_hook": {"rate": WEIGHT_DECAY}})
        ],
        ("float64", "float32"),
        ("chainer",),
    ),
    "mxnet": (
        mxnet,
        grid(
            "gamma1", "epsilon", gamma2=MOMENTA, centered=(True,), wd=(0.0, WEIGHT_DECAY)
        )  # without centering, gamma2 is silently ignored
        + grid("gamma1", "epsilon", gamma2=(MOMENTUM,), centered=(False,), wd=(0.0, WEIGHT_DECAY)),
        ("float32",),  # float64 weights raise
        ("mxnet",),
    ),
    "jax_example_libraries": (
        jax_example_libraries,
        grid("gamma", "eps", momentum=MOMENTA),
        ("float64", "float32"),
        ("jax",),
    ),
    "torchopt": (
        torchopt,
        grid("alpha", "eps", momentum=MOMENTA, centered=BOTH)
        + grid(
            *("alpha", "eps"),
            momentum=(MOMENTUM,),
            centered=BOTH,
            weight_decay=(WEIGHT_DECAY,),
            nesterov=(True,),
            maximize=(True,),
        )
        + grid("alpha", "eps", initial_scale=(0.25,), centered=BOTH),
        ("float64", "float32"),
        ("torchopt", "torch"),
    ),
    "fastai": (
        fastai,
        grid("sqr_mom", "eps", mom=MOMENTA, wd=(0.0,))
        + grid("sqr_mom", "eps", mom=MOMENTA, wd=(WEIGHT_DECAY,), decouple_wd=BOTH),
        ("float64", "float32"),
        ("fastai", "torch"),
    ),
    "mindspore": (
        mindspore,
        grid("decay", "epsilon", momentum=MOMENTA, centered=BOTH)
        + grid(
            *("decay", "epsilon"),
            momentum=(MOMENTUM,),
            centered=BOTH,
            weight_decay=(WEIGHT_DECAY,),
            loss_scale=(4.0,),
        ),
        ("float32",),  # float64 parameters raise
        ("mindspore",),
    ),
    "tensorflowjs": (
        tensorflowjs,
        grid("decay", "epsilon", momentum=MOMENTA, centered=(False,)),
        ("float32",),  # there is no float64
        (),
    ),
}
NPM = {"tensorflowjs": {"@tensorflow/tfjs": "4.22.0"}}  # what `npm install` was asked for


LIVE = {"pytorch": ("torch",), "timm": ("timm", "torch"), "keras": ("keras", "jax")}


def about(distributions: tuple[str, ...], npm: dict[str, str] | None = None) -> str:
    return json.dumps(
        {
            "versions": {
                **{name: importlib.metadata.version(name) for name in distributions},
                **(npm or {}),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "date": date.today().isoformat(),
            "problem": fingerprint(),
        }
    )


def tensorflow1_slots(steps: int = 20) -> None:
    """Everything in a real checkpoint after 20 steps, and the parameters another 20 steps later.

    Keys are ``<case>/<dtype>/<name in the checkpoint>``, and ``<case>/<dtype>/continued``.
    """
    import tensorflow as tf

    cases = {
        "momentum": {"decay": 0.875, "momentum": MOMENTUM, "epsilon": 2.0**-20},
        "centered": {"decay": 0.875, "momentum": MOMENTUM, "epsilon": 2.0**-20, "centered": True},
    }
    arrays: dict[str, Any] = {}
    for (case, kwargs), dtype in itertools.product(cases.items(), ("float64", "float32")):
        rate = learning_rates("constant")[0]
        with tf.Graph().as_default(), tempfile.TemporaryDirectory() as folder:
            param = tf.compat.v1.get_variable("w", initializer=initial_params(dtype))
            grad = tf.compat.v1.placeholder(dtype, [SIZE])
            opt = tf.compat.v1.train.RMSPropOptimizer(tf.constant(rate, dtype), **kwargs)
            update = opt.apply_gradients([(grad, param)])
            saver = tf.compat.v1.train.Saver()
            with tf.compat.v1.Session() as session:
                session.run(tf.compat.v1.global_variables_initializer())
                for g in gradients(dtype)[:steps]:
                    session.run(update, {grad: g})
                checkpoint = tf.train.load_checkpoint(saver.save(session, f"{folder}/model"))
                for name in checkpoint.get_variable_to_shape_map():
                    arrays[f"{case}/{dtype}/{name}"] = checkpoint.get_tensor(name)
                for g in gradients(dtype)[steps : 2 * steps]:
                    session.run(update, {grad: g})
                arrays[f"{case}/{dtype}/continued"] = session.run(param)
    np.savez_compressed(
        Path(__file__).parent / "tensorflow1_slots.npz",
        about=np.array(about(("tensorflow-cpu",))),
        configs=np.array(
            json.dumps({case: {"kwargs": k, "schedule": "constant"} for case, k in cases.items()})
        ),
        **arrays,
    )


def record(framework: str) -> None:
    function, configs, dtypes, distributions = FRAMEWORKS[framework]
    kept = np.array(RECORDED_STEPS) - 1
    params: dict[str, Any] = {
        dtype: np.stack([function(config, dtype)[kept] for config in configs]) for dtype in dtypes
    }
    save(framework, about(distributions, NPM.get(framework)), configs, params)


def record_live(framework: str) -> None:
    import oracles

    configs, _ = oracles.live(framework, "float64", 1)
    params = {dtype: oracles.live(framework, dtype)[1] for dtype in oracles.TOLERANCES}
    save(framework, about(LIVE[framework]), configs, params)


def save(framework: str, about: str, configs: list[Config], params: dict[str, Any]) -> None:
    path = Path(__file__).parent / f"{framework}.npz"
    np.savez_compressed(
        path, about=np.array(about), configs=np.array(json.dumps(configs)), **params
    )
    print(f"{path.name}: {len(configs)} configurations, {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record real frameworks.")
    parser.add_argument("framework", nargs="+", choices=[*FRAMEWORKS, *LIVE, "tensorflow1_slots"])
    for name in parser.parse_args().framework:
        if name == "tensorflow1_slots":
            tensorflow1_slots()
        elif name in LIVE:
            record_live(name)
        else:
            record(name)
