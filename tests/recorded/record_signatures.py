# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Records what the arguments of real optimizers are called, and their defaults.

`python tests/recorded/record_signatures.py` adds what the environment has to signatures.json.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
FILE = Path(__file__).with_name("signatures.json")
OPTIMIZERS = {  # package, and where in it
    "fastai": ("fastai", "fastai.optimizer", "RMSProp"),
    "graves": ("chainer", "chainer.optimizers.rmsprop_graves", "RMSpropGraves"),
    "jax_example_libraries": ("jax", "jax.example_libraries.optimizers", "rmsprop"),
    "keras": ("keras", "keras.optimizers", "RMSprop"),
    "mindspore": ("mindspore", "mindspore.nn", "RMSProp"),
    "mlx": ("mlx", "mlx.optimizers", "RMSprop"),
    "optax": ("optax", "optax", "rmsprop"),
    "paddle": ("paddlepaddle", "paddle.optimizer", "RMSProp"),
    "pytorch": ("torch", "torch.optim", "RMSprop"),
    "sonnet": ("dm-sonnet", "sonnet.optimizers", "RMSProp"),
    "stable_baselines3": (
        "stable-baselines3",
        "stable_baselines3/common/sb2_compat/rmsprop_tf_like",
        "RMSpropTFLike",
    ),
    "tensorflow1": ("tensorflow-cpu", "tensorflow.compat.v1.train", "RMSPropOptimizer"),
    "tf_keras_legacy": ("tf_keras", "tf_keras.optimizers.legacy", "RMSprop"),
    "timm": ("timm", "timm/optim/rmsprop_tf", "RMSpropTF"),
    "torchopt": ("torchopt", "torchopt", "rmsprop"),
}
NOT_OURS = ("self", "params", "parameters", "kwargs")  # what has no place in a transformation


def room(module):
    package, *folders = module.split("/")
    if folders:  # alone, without what the whole package needs
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(package)
        *folders, file = folders
        alone = types.ModuleType(f"{package}_alone")
        alone.__path__ = [str(Path(spec.origin).parent.joinpath(*folders))]
        sys.modules[alone.__name__] = alone
        module = f"{alone.__name__}.{file}"
    *parents, last = module.split(".")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        if not parents:
            raise
        # TensorFlow's modules are made when they are asked for.
        return getattr(importlib.import_module(".".join(parents)), last)


def signature(name):
    """Each argument and its default; those without one have none here either."""
    _, module, attribute = OPTIMIZERS[name]
    call = getattr(room(module), attribute)
    call = call.__init__ if inspect.isclass(call) else call
    if name == "mindspore":  # its decorator doesn't show what it is around
        call = call.__closure__[0].cell_contents
    arguments = inspect.signature(call).parameters.values()
    return [
        [p.name] if p.default is p.empty else [p.name, p.default]
        for p in arguments
        if p.name not in NOT_OURS
    ]


def main():
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, (package, *_) in OPTIMIZERS.items():
        with contextlib.suppress(ImportError, importlib.metadata.PackageNotFoundError):
            version = f"{package} {importlib.metadata.version(package)}"
            found[name] = {"version": version, "arguments": signature(name)}
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
