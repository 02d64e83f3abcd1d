"""Checkpoints of TensorFlow: of TensorFlow 1's Saver, and of objects."""

from pathlib import Path
from typing import Any

import numpy as np

from rmsprop_jax.inspect_checkpoint.report import Report, call, need, row, some

_VALUE, _SLOT = "/.ATTRIBUTES/VARIABLE_VALUE", "/.OPTIMIZER_SLOT/"


def read(path: Path) -> Report:
    """A checkpoint, by its prefix."""
    reader = need("tensorflow").train.load_checkpoint(str(path))
    tensors = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
    objects = any(_SLOT in key for key in tensors)
    slots = _slots_of_objects(tensors) if objects else _slots_of_saver(tensors)
    if not slots:
        raise ValueError(f"There is no slot of an RMSProp in it, but {some(tensors)}.")
    arguments: dict[str, Any] = {"learning_rate": 0.01}
    if any(key.endswith(f"/rho{_VALUE}") for key in tensors):
        dialect, by, unknown = "tf_keras_legacy", "tf_keras's legacy RMSprop", ["epsilon"]
        scalars = {k: x for k, x in tensors.items() if k.endswith(_VALUE) and np.ndim(x) == 0}
        numbers = {k.split("/")[-3]: x for k, x in scalars.items()}
        given = ("learning_rate", "rho", "momentum", "decay")
        arguments |= {k: float(numbers[k]) for k in given if k in numbers}
    else:
        dialect, by = "tensorflow1", "TensorFlow 1's RMSPropOptimizer"
        unknown = ["learning_rate", "decay", "epsilon", "momentum"]
        arguments["momentum"] = 0.9
    if any("mu" in own for own in slots.values()):
        arguments["centered"] = True
    text = call(f"dialects.{dialect}", arguments)
    is_count = lambda key: "global_step" in key or key.endswith(f"/iter{_VALUE}")
    steps = [int(np.max(x)) for key, x in tensors.items() if is_count(key)]
    return Report(
        by,
        [text],
        unknown,
        max(steps, default=None),
        [
            row(name, part, x, arguments["learning_rate"])
            for name, own in slots.items()
            for part, x in own.items()
        ],
        [],
        [
            "import tensorflow as tf",
            "from rmsprop_jax import dialects, interop",
            f"reader = tf.train.load_checkpoint({str(path)!r})",
            "saved = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}",
            f"names = {list(slots)}",
            f"weights = {{n: reader.get_tensor(n + {_VALUE if objects else ''!r}) for n in names}}",
            "to_params = lambda named: named  # the function that ports the weights",
            f"tx = {text}",
            "opt_state = interop.tensorflow.load(tx, saved, weights, to_params"
            + ("" if steps else ", count=0")
            + ")",
        ],
    )


def _slots_of_objects(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The accumulators by name of the variable, as `tf.train.Checkpoint` writes them."""
    slots: dict[str, dict[str, Any]] = {}
    for part, word in {"nu": "rms", "mu": "mg", "trace": "momentum"}.items():
        for key, x in sorted(tensors.items()):
            name, _, rest = key.partition(_SLOT)
            if rest.endswith(f"/{word}{_VALUE}"):
                slots.setdefault(name, {})[part] = x
    return slots


def _slots_of_saver(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same as `tf.compat.v1.train.Saver` writes them, behind a scope or not."""
    slots: dict[str, dict[str, Any]] = {}
    for root in sorted(k.removesuffix("/RMSProp") for k in tensors if k.endswith("/RMSProp")):
        first, *rest = (tensors.get(f"{root}/RMSProp{end}") for end in ("", "_1", "_2"))
        mu, trace = rest if rest[1] is not None else (None, rest[0])
        ends = [n for n in tensors if root == n or root.endswith(f"/{n}")]
        own = {"nu": first, "mu": mu, "trace": trace}
        slots[max(ends, key=len, default=root)] = {k: x for k, x in own.items() if x is not None}
    return slots
