"""Files of Keras: `.keras`, which has the configuration, and `.h5`, which has only the arrays."""

import inspect
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop_jax import dialects
from rmsprop_jax.inspect_checkpoint.report import Report, call, need, row


def read(path: Path) -> Report:
    """A file of Keras."""
    h5py = need("h5py")
    config: dict[str, Any] = {}
    content: Any = path
    opened, imports = f"h5py.File({str(path)!r})", ["import h5py"]
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as file:
            config = _config(path, json.loads(file.read("config.json")))
            content = io.BytesIO(file.read("model.weights.h5"))
        opened = f"h5py.File(io.BytesIO(zipfile.ZipFile({str(path)!r}).read('model.weights.h5')))"
        imports = ["import io, zipfile", "import h5py"]
    found: dict[str, Any] = {}
    with h5py.File(content) as file:
        file.visititems(lambda k, x: found.update({k: x[()]}) if hasattr(x, "shape") else None)
    inner = any("inner_optimizer/vars/" in k for k in found)
    folder = "optimizer/inner_optimizer/vars" if inner else "optimizer/vars"
    numbered = {k.rpartition("/")[2]: x for k, x in found.items() if k.startswith(f"{folder}/")}
    if not numbered:
        raise ValueError(f"{path.name} has no {folder}: it was saved without its optimizer.")
    count, rate, blocks = _blocks([numbered[k] for k in sorted(numbered, key=int)])
    if any((x < 0).any() for x in blocks[0]):
        raise ValueError(f"{path.name} has no RMSprop: in its place are numbers below 0.")
    second = "mu" if config.get("centered") else "trace"
    parts = ["nu", "trace", "mu"] if len(blocks) == 3 else ["nu", second][: len(blocks)]
    known = inspect.signature(dialects.keras).parameters
    beside = ("name", "use_ema", "gradient_accumulation_steps")  # no business of a call to paste
    own = {k: x for k, x in config.items() if k in known and k not in beside}
    if not isinstance(own.get("learning_rate"), int | float):
        own["learning_rate"] = 0.001 if rate is None else rate
    if not config:
        own |= {"momentum": 0.9} if "trace" in parts else {}
        own |= {"centered": True} if "mu" in parts else {}
    text = call("dialects.keras", own)
    return Report(
        "Keras's RMSprop",
        [text],
        [] if config else [k for k in ("rho", "epsilon", "momentum", "weight_decay")],
        count,
        [
            row(f"weight {i}", part, x, float(own["learning_rate"]))
            for part, block in zip(parts, blocks, strict=False)
            for i, x in enumerate(block)
        ],
        [f"{len(blocks)} arrays for each weight: averages or sums are among them"]
        * (len(blocks) > 3),
        [
            *imports,
            "import numpy as np",
            "from rmsprop_jax import dialects, interop",
            f"saved = {{k: v[()] for k, v in {opened}[{folder!r}].items()}}",
            f"shapes = {[list(x.shape) for x in blocks[0]]}",
            "weights = {f'weight {i}': np.zeros(s, 'float32') for i, s in enumerate(shapes)}"
            "  # or {v.path: np.asarray(v) for v in model.trainable_variables}",
            "to_params = lambda named: named  # the function that ports the weights",
            f"tx = {text}",
            "opt_state = interop.keras.load(tx, saved, weights, to_params)",
        ],
    )


def _config(path: Path, model: Any) -> dict[str, Any]:
    """The configuration of the optimizer that a model was compiled with."""
    written = (model.get("compile_config") or {}).get("optimizer") or {}
    written = written.get("config", {}).get("inner_optimizer", written)
    if (kind := written.get("class_name", "RMSprop")) != "RMSprop":
        raise ValueError(
            f"{path.name} is a checkpoint of Keras's {kind}: only those of RMSprop can be read."
        )
    return written.get("config", {})


def _blocks(variables: list[Any]) -> tuple[int, float | None, list[list[Any]]]:
    """The count, the learning rate if there is one, and the accumulators, kind by kind."""
    count, *rest = variables
    rate = float(rest.pop(0)) if rest and not np.shape(rest[0]) else None
    shapes = [np.shape(x) for x in rest]
    periods = (n for n in range(1, len(shapes) + 1) if len(shapes) % n == 0)
    size = next((n for n in periods if shapes == shapes[:n] * (len(shapes) // n)), 1)
    blocks = [rest[i : i + size] for i in range(0, len(rest), size)]
    return int(count), rate, blocks or [[]]
