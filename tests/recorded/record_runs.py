# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Records runs of real frameworks with drawn settings, for `identify`.

In the environment of the framework (see README.md): `python tests/recorded/record_runs.py paddle`
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from drawn_runs import Run, draw, problem, stack

COUNT = 12


def tensorflow1(arguments: dict[str, Any]) -> Any:
    import tensorflow as tf

    return _tensorflow(tf.compat.v1.train.RMSPropOptimizer(**arguments))


def tf_keras_legacy(arguments: dict[str, Any]) -> Any:
    import tf_keras

    return _tensorflow(tf_keras.optimizers.legacy.RMSprop(**arguments))


def _tensorflow(optimizer: Any, apply: Any = None) -> Any:
    import tensorflow as tf

    def start(params: dict[str, np.ndarray]) -> Any:
        variables = {k: tf.Variable(x) for k, x in params.items()}

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            pairs = [(tf.constant(grads[k]), v) for k, v in variables.items()]
            if apply is None:
                optimizer.apply_gradients(pairs)
            else:
                apply(*zip(*pairs, strict=True))
            return {k: v.numpy() for k, v in variables.items()}

        return step

    return start


def sonnet(arguments: dict[str, Any]) -> Any:
    import sonnet as snt

    optimizer = snt.optimizers.RMSProp(**arguments)
    return _tensorflow(optimizer, optimizer.apply)


def paddle(arguments: dict[str, Any]) -> Any:
    import paddle

    paddle.set_device("cpu")

    def start(params: dict[str, np.ndarray]) -> Any:
        variables = {
            k: paddle.create_parameter(list(x.shape), str(x.dtype)) for k, x in params.items()
        }
        for k, x in params.items():
            variables[k].set_value(x)
        optimizer = paddle.optimizer.RMSProp(parameters=list(variables.values()), **arguments)

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            for k, v in variables.items():
                v.grad = paddle.to_tensor(grads[k])
            optimizer.step()
            return {k: v.numpy() for k, v in variables.items()}

        return step

    return start


def mlx(arguments: dict[str, Any]) -> Any:
    import mlx.core as mx
    from mlx.optimizers import RMSprop

    mx.set_default_device(mx.cpu)
    optimizer = RMSprop(**arguments)

    def start(params: dict[str, np.ndarray]) -> Any:
        to_mlx = lambda tree: {k: mx.array(x, getattr(mx, str(x.dtype))) for k, x in tree.items()}
        now = to_mlx(params)

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal now
            now = optimizer.apply_gradients(to_mlx(grads), now)
            return {k: np.array(x) for k, x in now.items()}

        return step

    return start


def stable_baselines3(arguments: dict[str, Any]) -> Any:
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    return _torch(lambda variables: RMSpropTFLike(variables, **arguments))


def _torch(make: Any) -> Any:
    import torch

    def start(params: dict[str, np.ndarray]) -> Any:
        variables = {k: torch.nn.Parameter(torch.from_numpy(x.copy())) for k, x in params.items()}
        optimizer = make(list(variables.values()))

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            for k, v in variables.items():
                v.grad = torch.from_numpy(grads[k].copy())
            optimizer.step()
            return {k: v.detach().numpy().copy() for k, v in variables.items()}

        return step

    return start


def chainer_graves(arguments: dict[str, Any]) -> Any:
    import chainer

    def start(params: dict[str, np.ndarray]) -> Any:
        link = chainer.Link()
        with link.init_scope():
            for k, x in params.items():
                setattr(link, k, chainer.Parameter(x.copy()))
        optimizer = chainer.optimizers.RMSpropGraves(**arguments).setup(link)

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            for k, g in grads.items():
                getattr(link, k).grad = g.copy()
            optimizer.update()
            return {k: getattr(link, k).array.copy() for k in grads}

        return step

    return start


def mxnet(arguments: dict[str, Any]) -> Any:
    import mxnet as mx

    def start(params: dict[str, np.ndarray]) -> Any:
        optimizer = mx.optimizer.RMSProp(**arguments)
        variables = {k: mx.nd.array(x, dtype=x.dtype) for k, x in params.items()}
        states = {k: optimizer.create_state(i, v) for i, (k, v) in enumerate(variables.items())}

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            for i, (k, v) in enumerate(variables.items()):
                optimizer.update(i, v, mx.nd.array(grads[k], dtype=grads[k].dtype), states[k])
            return {k: v.asnumpy() for k, v in variables.items()}

        return step

    return start


def numpyro(arguments: dict[str, Any]) -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from numpyro import optim

    name = "RMSPropMomentum" if "momentum" in arguments else "RMSProp"
    optimizer = getattr(optim, name)(**arguments)
    to_jax = lambda tree: {k: jnp.asarray(x) for k, x in tree.items()}

    def start(params: dict[str, np.ndarray]) -> Any:
        state = optimizer.init(to_jax(params))

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal state
            state = optimizer.update(to_jax(grads), state)
            return {k: np.array(x) for k, x in optimizer.get_params(state).items()}

        return step

    return start


def torchopt(arguments: dict[str, Any]) -> Any:
    import torch
    import torchopt

    optimizer = torchopt.rmsprop(**arguments)
    to_torch = lambda tree: {k: torch.from_numpy(x.copy()) for k, x in tree.items()}

    def start(params: dict[str, np.ndarray]) -> Any:
        now = to_torch(params)
        state = optimizer.init(now)

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal now, state
            updates, state = optimizer.update(to_torch(grads), state, params=now, inplace=False)
            now = torchopt.apply_updates(now, updates, inplace=False)
            return {k: x.numpy() for k, x in now.items()}

        return step

    return start


def fastai(arguments: dict[str, Any]) -> Any:
    from fastai.optimizer import RMSProp

    def make(variables: Any) -> Any:
        optimizer = RMSProp(variables, **arguments)
        optimizer.set_hyper("eps", arguments["eps"])  # that of the call isn't passed on
        return optimizer

    return _torch(make)


def mindspore(arguments: dict[str, Any]) -> Any:
    import mindspore as ms

    ms.set_device("CPU")
    rows = lambda x: [row.copy() for row in x.reshape(-1, 4)]  # why: see record.py

    def start(params: dict[str, np.ndarray]) -> Any:
        variables = {
            k: [ms.Parameter(ms.Tensor(row), name=f"{k}{i}") for i, row in enumerate(rows(x))]
            for k, x in params.items()
        }
        optimizer = ms.nn.RMSProp([v for of in variables.values() for v in of], **arguments)

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            optimizer(tuple(ms.Tensor(row) for k in variables for row in rows(grads[k])))
            return {
                k: np.stack([v.asnumpy() for v in of]).reshape(params[k].shape)
                for k, of in variables.items()
            }

        return step

    return start


def tensorflowjs(arguments: dict[str, Any]) -> Any:
    script = Path(__file__).with_name("tensorflowjs.js")
    kwargs = dict(arguments)
    rate = kwargs.pop("learning_rate")
    flat = lambda tree: np.concatenate([x.reshape(-1) for x in tree.values()]).tolist()

    def start(params: dict[str, np.ndarray]) -> Any:
        seen: list[list[float]] = []

        def step(grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            seen.append(flat(grads))  # each process starts over
            problem = {"kwargs": kwargs, "start": flat(params), "gradients": seen}
            problem["rates"] = [rate] * len(seen)
            made = subprocess.run(
                ["node", script], input=json.dumps(problem), stdout=subprocess.PIPE, text=True
            )
            now = np.array(json.loads(made.stdout)["params"][-1], np.float32)
            parts = np.split(now, np.cumsum([x.size for x in params.values()])[:-1])
            return {k: p.reshape(params[k].shape) for k, p in zip(params, parts, strict=True)}

        return step

    return start


PACKAGES = {  # whose versions to note
    "tensorflow1": "tensorflow-cpu",
    "tf_keras_legacy": "tf_keras",
    "sonnet": "dm-sonnet",
    "paddle": "paddlepaddle",
    "mlx": "mlx",
    "stable_baselines3": "stable_baselines3",
    "chainer_graves": "chainer",
    "mxnet": "mxnet",
    "numpyro": "numpyro",
    "torchopt": "torchopt",
    "fastai": "fastai",
    "mindspore": "mindspore",
    "tensorflowjs": "@tensorflow/tfjs",
}


def record(framework: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    runs: list[Run] = []
    for number in range(COUNT):
        run = draw(framework, number)
        params, grads = problem(run)
        step = globals()[framework](run.arguments)(params)
        states = [params]
        for t in range(len(next(iter(grads.values())))):
            states.append(step({k: g[t] for k, g in grads.items()}))
        made = stack(states)
        if not all(np.isfinite(x).all() for x in made.values()):
            print(f"{framework} {number}: not finite, left out: {run.arguments}")
            continue
        assert all(x.dtype == run.dtype for x in made.values())
        runs.append(run)
        arrays |= {f"{number}/{k}": x for k, x in made.items()}
    package = PACKAGES[framework]
    if package.startswith("@"):  # of npm
        version = json.loads(Path("node_modules", package, "package.json").read_text())["version"]
    else:
        version = importlib.metadata.version(package)
    about = {package: version, "numpy": np.__version__}
    about["python"] = platform.python_version()
    folder = Path(__file__).parent / "runs"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(
        folder / f"{framework}.npz",
        runs=json.dumps([run._asdict() for run in runs]),
        about=json.dumps(about),
        **arrays,
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(name)
