# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Records runs of real frameworks with drawn settings, for `identify`.

In the environment of the framework (see README.md): `python tests/recorded/record_runs.py paddle`
"""

import importlib.metadata
import json
import platform
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
    import torch
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    def start(params: dict[str, np.ndarray]) -> Any:
        variables = {k: torch.nn.Parameter(torch.from_numpy(x.copy())) for k, x in params.items()}
        optimizer = RMSpropTFLike(variables.values(), **arguments)

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


PACKAGES = {  # whose versions to note
    "tensorflow1": "tensorflow-cpu",
    "tf_keras_legacy": "tf_keras",
    "sonnet": "dm-sonnet",
    "paddle": "paddlepaddle",
    "mlx": "mlx",
    "stable_baselines3": "stable_baselines3",
    "chainer_graves": "chainer",
    "mxnet": "mxnet",
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
    version = importlib.metadata.version(PACKAGES[framework])
    about = {PACKAGES[framework]: version, "numpy": np.__version__}
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
