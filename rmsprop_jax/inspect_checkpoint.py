"""The command `rmsprop-jax inspect`: what is in a checkpoint, and the lines that load it."""

import inspect
import io
import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rmsprop_jax import dialects
from rmsprop_jax.calls import evaluate
from rmsprop_jax.cli import Parser
from rmsprop_jax.explanation import explain
from rmsprop_jax.frameworks import arrays, state_dicts
from rmsprop_jax.frameworks import pytorch as torch_files


class Report(NamedTuple):
    """What is in a checkpoint.

    Attributes:
      written_by: framework and optimizer.
      calls: for each group the call of a dialect.
      unknown: hyperparameters that aren't in the file.
      count: number of updates made, if the file says so.
      accumulators: for each array what it is, of which parameter, its shape and its numbers.
      missing: what isn't there, or is there besides.
      lines: code that loads the file.
    """

    written_by: str
    calls: list[str]
    unknown: list[str]
    count: int | None  # pyright: ignore[reportIncompatibleMethodOverride]
    accumulators: list[dict[str, Any]]
    missing: list[str]
    lines: list[str]


def read(path: str | Path) -> Report:
    """Reads a checkpoint, and executes nothing that is in it.

    Args:
      path: a file of PyTorch (`.pt`, `.pth`, `.bin`, `.ckpt`), of Stable-Baselines3 (`.zip`), of
        Keras (`.keras`, `.h5`), an `.npz` or `.safetensors` file of arrays by path, a checkpoint of
        TensorFlow (its prefix or its `.index` file) or a directory of Orbax.

    Returns:
      What is in it.

    Raises:
      ValueError: for a file of another kind, and for a checkpoint without an RMSProp.
      ModuleNotFoundError: if what reads the file isn't installed.

    Example:
      >>> import os, tempfile
      >>> path = os.path.join(tempfile.mkdtemp(), "state.npz")
      >>> np.savez(path, **{"0/count": 7, "0/nu/w": np.ones(2)})
      >>> report = read(path)
      >>> print(report.written_by, report.count)
      rmsprop_jax 7
    """
    path = Path(path)
    if path.suffix == ".index":
        path = path.with_suffix("")
    if path.is_dir():
        return _of_paths(path, _read_orbax(path), "ocp.StandardCheckpointer().restore({path!r})")
    if path.with_name(f"{path.name}.index").exists():
        return _tensorflow(path)
    if not path.exists():
        raise ValueError(f"There is no {path}.")
    readers: dict[str, Callable[[Path], Report]] = {
        **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".tar"), _torch),
        ".zip": _stable_baselines3,
        **dict.fromkeys((".keras", ".h5", ".hdf5"), _keras),
        ".npz": lambda path: _of_paths(path, _read_npz(path), "dict(np.load({path!r}))"),
        ".safetensors": lambda path: _of_paths(
            path, _read_safetensors(path), "safetensors.numpy.load_file({path!r})"
        ),
    }
    if path.suffix not in readers:
        raise ValueError(
            f"{path.name}: only {', '.join(readers)}, checkpoints of TensorFlow "
            "and directories of Orbax can be read."
        )
    return readers[path.suffix](path)


def _need(package: str, extra: str) -> Any:
    """A module that reads files, or what to install."""
    try:
        return __import__(package, fromlist=["_"])
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This file is read by {package.partition('.')[0]}, which isn't installed: pip install "
            f"{extra}",
            name=error.name,
        ) from None


# PyTorch


def _torch(path: Path) -> Report:
    torch = _need("torch", "torch")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return _state_dict(
        saved, f'torch.load({str(path)!r}, map_location="cpu", weights_only=True)', ["import torch"]
    )


def _stable_baselines3(path: Path) -> Report:
    torch = _need("torch", "torch")
    with zipfile.ZipFile(path) as file:
        inside = [n for n in file.namelist() if n.endswith("optimizer.pth")]
        if not inside:
            raise ValueError(f"{path.name} has no optimizer.pth: Stable-Baselines3 didn't save it.")
        content = io.BytesIO(file.read(inside[0]))
    saved = torch.load(content, map_location="cpu", weights_only=True)
    load = f"torch.load(io.BytesIO(file.read({inside[0]!r})), weights_only=True)"
    return _state_dict(
        saved,
        load,
        ["import io, zipfile", "import torch", f"file = zipfile.ZipFile({str(path)!r})"],
    )


def _state_dict(saved: Any, load: str, imports: list[str]) -> Report:
    way = ""
    if isinstance(saved, dict) and not state_dicts.is_readable(saved):
        inside = [k for k, x in saved.items() if state_dicts.is_readable(x)]
        if not inside:
            raise ValueError(f"There is no state of an optimizer in it, but {_keys(saved)}.")
        saved, way = saved[inside[0]], f"[{inside[0]!r}]"
    content = state_dicts.read(saved)
    groups = [state_dicts.in_our_words(group) for group in content.groups]
    names = {key: content.names.get(key, f"parameter {key}") for key in content.keys}
    slots = {
        names.get(key, f"parameter {key}"): state_dicts.flat(x) for key, x in content.slots.items()
    }
    members = [[names[key] for key in group["params"]] for group in groups]
    kind = lambda x: "complex64" if any(np.iscomplexobj(y) for y in x.values()) else "float32"
    zeros = {n: np.zeros(_shape(slots[n]), kind(slots[n])) for n in names.values() if n in slots}
    saved_by, steps = torch_files.accumulators_of(groups, members, slots, zeros)
    told = ""
    try:
        makers = torch_files.dialects_of(groups, members, saved_by["nu"], steps, None)
    except ValueError:
        makers = [dialects.stable_baselines3] * len(groups)
        told = ", dialect=dialects.stable_baselines3"
    calls = [
        _call(f.__name__, torch_files.arguments_of(f, g))
        for f, g in zip(makers, groups, strict=True)
    ]
    rate_of = {n: float(g["lr"]) for g, own in zip(groups, members, strict=True) for n in own}
    rows = [
        _row(name, part, x, rate_of.get(name), calls[0])
        for part, named in saved_by.items()
        for name, x in named.items()
    ]
    missing = [
        f"{n}: no accumulators, it hasn't been trained" for n in names.values() if n not in slots
    ]
    order = ", in_order=True" if len(groups) > 1 and not content.names else ""
    comment = "  # or dict(model.named_parameters())"
    stored = [f"{n!r}: ({list(x.shape)}, {str(x.dtype)!r})" for n, x in zeros.items()]
    lines = [
        *imports,
        "import numpy as np",
        "from rmsprop_jax import dialects, interop",
        f"saved = {load}{way}",
        f"kinds = {{{', '.join(stored)}}}",
        f"weights = {{name: np.zeros(*kind) for name, kind in kinds.items()}}{comment}",
        "to_params = lambda named: named  # the function that ports the weights",
        f"tx, opt_state = interop.pytorch.load(saved, weights, to_params{order}{told})",
    ]
    who = {
        "pytorch": "PyTorch's RMSprop",
        "timm": "timm's RMSpropTF",
        "stable_baselines3": "Stable-Baselines3's RMSpropTFLike, or PyTorch's RMSprop before 1.12",
    }
    eight = any("betas" in g for g in content.groups)
    by = "bitsandbytes's RMSprop" if eight else who[makers[0].__name__]
    return Report(by, calls, [], max(steps.values(), default=0), rows, missing, lines)


def _shape(slots: dict[str, Any]) -> tuple[int, ...]:
    return next((tuple(np.shape(x)) for k, x in slots.items() if k != "step"), ())


# Keras and TensorFlow


def _keras(path: Path) -> Report:
    h5py = _need("h5py", "h5py")
    config: dict[str, Any] = {}
    opened = f"h5py.File({str(path)!r})"
    imports = ["import h5py"]
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as file:
            text = json.loads(file.read("config.json"))
            content: Any = io.BytesIO(file.read("model.weights.h5"))
        written = (text.get("compile_config") or {}).get("optimizer") or {}
        written = written.get("config", {}).get("inner_optimizer", written)
        if (kind := written.get("class_name", "RMSprop")) != "RMSprop":
            raise ValueError(
                f"{path.name} is a checkpoint of Keras's {kind}: only those of RMSprop can be read."
            )
        config = written.get("config", {})
        opened = f"h5py.File(io.BytesIO(zipfile.ZipFile({str(path)!r}).read('model.weights.h5')))"
        imports = ["import io, zipfile", "import h5py"]
    else:
        content = path
    found: dict[str, Any] = {}
    with h5py.File(content) as file:
        file.visititems(lambda k, x: found.update({k: x[()]}) if hasattr(x, "shape") else None)
    inner = any("inner_optimizer/vars/" in k for k in found)
    folder = "optimizer/inner_optimizer/vars" if inner else "optimizer/vars"
    numbered = {k.rpartition("/")[2]: x for k, x in found.items() if k.startswith(f"{folder}/")}
    if not numbered:
        raise ValueError(f"{path.name} has no {folder}: it was saved without its optimizer.")
    ordered = [numbered[k] for k in sorted(numbered, key=int)]
    head = 1 + (len(ordered) > 1 and not np.shape(ordered[1]))
    shapes = [np.shape(x) for x in ordered[head:]]
    periods = [n for n in range(1, len(shapes) + 1) if len(shapes) % n == 0]
    size = next(n for n in periods if shapes == shapes[:n] * (len(shapes) // n))
    blocks, known = len(shapes) // size, bool(config)
    if any((x < 0).any() for x in ordered[head : head + size]):
        raise ValueError(f"{path.name} has no RMSprop: in its place are numbers below 0.")
    parts = {
        1: ["nu"],
        2: ["nu", "mu" if config.get("centered") else "trace"],
        3: ["nu", "trace", "mu"],
    }
    names = parts.get(blocks, ["nu"])
    rate = config.get("learning_rate")
    rate = rate if isinstance(rate, int | float) else (float(ordered[1]) if head == 2 else 0.001)
    switches = {"momentum": 0.9} if "trace" in names else {}
    switches |= {"centered": True} if "mu" in names else {}
    parameters = inspect.signature(dialects.keras).parameters
    own = {k: v for k, v in config.items() if k in parameters and not isinstance(v, dict)}
    arguments = {**(own or switches), "learning_rate": float(rate)}
    arguments = {
        k: x
        for k, x in arguments.items()
        if k not in ("name", "use_ema", "gradient_accumulation_steps")
    }
    call = _call("keras", arguments)
    rows = [
        _row(f"weight {i}", part, ordered[head + k * size + i], float(rate), call)
        for k, part in enumerate(names)
        for i in range(size)
    ]
    lines = [
        *imports,
        "import numpy as np",
        "from rmsprop_jax import dialects, interop",
        f"saved = {{k: v[()] for k, v in {opened}[{folder!r}].items()}}",
        f"shapes = {[list(s) for s in shapes[:size]]}",
        "weights = {f'weight {i}': np.zeros(s, 'float32') for i, s in enumerate(shapes)}"
        "  # or {v.path: np.asarray(v) for v in model.trainable_variables}",
        "to_params = lambda named: named  # the function that ports the weights",
        f"tx = {call}",
        "opt_state = interop.keras.load(tx, saved, weights, to_params)",
    ]
    unknown = (
        [] if known else [k for k in ("rho", "epsilon", "momentum", "weight_decay") if k not in own]
    )
    missing = (
        [] if blocks <= 3 else [f"{blocks} arrays for each weight: averages or sums are among them"]
    )
    return Report("Keras's RMSprop", [call], unknown, int(ordered[0]), rows, missing, lines)


def _tensorflow(path: Path) -> Report:
    reader = _need("tensorflow", "tensorflow").train.load_checkpoint(str(path))
    tensors = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
    value, slot = "/.ATTRIBUTES/VARIABLE_VALUE", "/.OPTIMIZER_SLOT/"
    rows, names = [], {}
    objects = [k for k in tensors if slot in k]
    if objects:
        legacy = any(k.endswith(f"/rho{value}") for k in tensors)
        by_word = {"rms": "nu", "mg": "mu", "momentum": "trace"}
        for key in objects:
            name, _, rest = key.partition(slot)
            names.setdefault(name, {})[by_word.get(rest.split("/")[-3], "?")] = tensors[key]
        numbers = {
            k.split("/")[-3]: float(x)
            for k, x in tensors.items()
            if k.endswith(value) and np.shape(x) == () and slot not in k
        }
        given = ("learning_rate", "rho", "momentum", "decay")
        arguments = (
            {k: numbers[k] for k in given if k in numbers} if legacy else {"learning_rate": 0.01}
        )
        dialect, by = (
            ("tf_keras_legacy", "tf_keras's legacy RMSprop")
            if legacy
            else ("tensorflow1", "TensorFlow 1's RMSPropOptimizer")
        )
        unknown = ["epsilon"] if legacy else ["learning_rate", "decay", "epsilon"]
    else:
        dialect, by = "tensorflow1", "TensorFlow 1's RMSPropOptimizer"
        arguments, unknown = {"learning_rate": 0.01}, ["learning_rate", "decay", "epsilon"]
        roots = [k.removesuffix("/RMSProp") for k in tensors if k.endswith("/RMSProp")]
        for root in roots:
            third = tensors.get(f"{root}/RMSProp_2")
            second = tensors.get(f"{root}/RMSProp_1")
            own = {
                "nu": tensors[f"{root}/RMSProp"],
                "mu": second if third is not None else None,
                "trace": third if third is not None else second,
            }
            ends = [n for n in tensors if root == n or root.endswith(f"/{n}")]
            name = max(ends, key=len, default=root)
            names[name] = {k: x for k, x in own.items() if x is not None}
    if not names:
        raise ValueError(f"There is no slot of an RMSProp in it, but {_keys(tensors)}.")
    if any("mu" in own for own in names.values()):
        arguments["centered"] = True
    if dialect == "tensorflow1":
        arguments["momentum"] = 0.9
        unknown.append("momentum")
    call = _call(dialect, arguments)
    for name, own in names.items():
        rows += [_row(name, part, x, arguments["learning_rate"], call) for part, x in own.items()]
    steps = [
        int(np.max(x))
        for k, x in tensors.items()
        if "global_step" in k or k.endswith(f"/iter{value}")
    ]
    lines = [
        "import tensorflow as tf",
        "from rmsprop_jax import dialects, interop",
        f"reader = tf.train.load_checkpoint({str(path)!r})",
        "saved = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}",
        f"names = {list(names)}",
        f"weights = {{n: reader.get_tensor(n + {value if objects else ''!r}) for n in names}}",
        "to_params = lambda named: named  # the function that ports the weights",
        f"tx = {call}",
        "opt_state = interop.tensorflow.load(tx, saved, weights, to_params"
        + ("" if steps else ", count=0")
        + ")",
    ]
    return Report(by, [call], unknown, max(steps) if steps else None, rows, [], lines)


# States of this library and of Optax


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_safetensors(path: Path) -> dict[str, Any]:
    return _need("safetensors.numpy", "safetensors").load_file(path)


def _read_orbax(path: Path) -> Any:
    ocp = _need("orbax.checkpoint", "orbax-checkpoint")
    return ocp.StandardCheckpointer().restore(path.absolute())


def _of_paths(path: Path, saved: Any, load: str) -> Report:
    leaves = jax.tree.leaves_with_path(saved)
    words = {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}
    found: dict[str, dict[str, Any]] = {}
    counts: list[int] = []
    ours = False
    for key, x in words.items():
        parts = key.split("/")
        part = next((w for w in parts if w in ("nu", "mu", "trace")), None)
        if part is not None:
            at = parts.index(part)
            found.setdefault("/".join(parts[at + 1 :]) or "the only array", {})[part] = x
            ours |= "/".join([*parts[:at], "count"]) in words
        elif parts[-1] == "count" and not x.shape:
            counts.append(int(x))
    if not any("nu" in own for own in found.values()):
        raise ValueError(f"There is no nu in it, but {_keys(words)}: it has no RMSProp.")
    switches: dict[str, Any] = (
        {"momentum": 0.9} if any("trace" in own for own in found.values()) else {}
    )
    switches |= {"centered": True} if any("mu" in own for own in found.values()) else {}
    call = _call("optax", {"learning_rate": 0.01, **switches})
    rows = [_row(n, part, x, None, call) for n, own in found.items() for part, x in own.items()]
    module = {".safetensors": "import safetensors.numpy", ".npz": "import numpy as np"}
    line = module.get(path.suffix, "import orbax.checkpoint as ocp")
    place = load.format(path=str(path.absolute()))
    lines = [
        line,
        "from rmsprop_jax import dialects, interop",
        f"saved = {place}",
        f"tx = {call}  # or the optimizer that was saved",
        "# with params, your parameters:",
        "# opt_state = "
        + (
            "interop.restore(tx, saved, params)"
            if ours
            else "interop.optax.load(tx, saved, params)"
        ),
    ]
    by = "rmsprop_jax" if ours else "optax.rmsprop"
    unknown = ["learning_rate", "decay", "eps", *switches.keys() & {"momentum"}]
    return Report(by, [call], unknown, max(counts, default=None), rows, [], lines)


# The report


def _call(dialect: str, arguments: dict[str, Any]) -> str:
    """The call of a dialect, without what is its default."""
    parameters = inspect.signature(getattr(dialects, dialect)).parameters
    given = {k: v.item() if hasattr(v, "item") else v for k, v in arguments.items()}
    text = [
        f"{k}={v!r}" for k, v in given.items() if k in parameters and parameters[k].default != v
    ]
    return f"dialects.{dialect}({', '.join(text)})"


def _row(name: str, part: str, x: Any, rate: float | None, call: str) -> dict[str, Any]:
    """The numbers of an accumulator; for nu those of its root, and what it makes of a step."""
    x = arrays.as_array(x)
    wide = np.abs(x.astype(np.complex128 if np.iscomplexobj(x) else np.float64))
    row: dict[str, Any] = {"parameter": name, "accumulator": part, "shape": list(x.shape)}
    finite = wide[np.isfinite(wide)]
    root = np.sqrt(finite) if part == "nu" else finite
    quantiles = np.quantile(root, [0, 0.5, 1]).tolist() if root.size else [math.nan] * 3
    row |= dict(zip(("lowest", "median", "highest"), quantiles, strict=True))
    row["effective_lr"] = None
    if part == "nu" and rate is not None and quantiles[1] > 0:
        row["effective_lr"] = rate / quantiles[1]
    row |= {
        "zeros": int((x == 0).sum()),
        "nan": int(np.isnan(x).sum()),
        "inf": int(np.isinf(x).sum()),
    }
    return row


def _keys(tree: Any) -> str:
    keys = list(map(str, tree))
    return ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")


def as_text(report: Report) -> str:
    """A report for people."""
    lines = [f"written by    {report.written_by}"]
    lines.append(f"updates made  {'not in the file' if report.count is None else report.count}")
    for call in report.calls:
        lines += ["", call, *(f"  {line}" for line in explain(evaluate(call)).splitlines())]
    if report.unknown:
        lines += ["", f"not in the file, so put in your own: {', '.join(report.unknown)}"]
    head = ("", "shape", "lowest", "median", "highest", "lr/median", "zeros", "NaN", "inf")
    table: list[tuple[str, ...]] = [head]
    for row in report.accumulators:
        label = {"nu": "√nu", "mu": "|mu|", "trace": "|trace|"}[row["accumulator"]]
        number = lambda x: "" if x is None else f"{x:.2g}"
        table.append(
            (
                f"{row['parameter']} {label}",
                "×".join(map(str, row["shape"])) or "()",
                *(number(row[k]) for k in ("lowest", "median", "highest", "effective_lr")),
                *(str(row[k]) for k in ("zeros", "nan", "inf")),
            )
        )
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    text = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    lines += ["", *(line.rstrip() for line in text)]
    if report.missing:
        lines += ["", "missing", *(f"  {line}" for line in report.missing)]
    return "\n".join([*lines, "", "to load it", *(f"    {line}" for line in report.lines)])


def main(arguments: list[str]) -> None:
    """Prints what is in the checkpoint that the command line names."""
    parser = Parser(
        prog="rmsprop-jax inspect",
        description=read.__doc__.splitlines()[0] if read.__doc__ else None,
    )
    parser.add_argument("file", help="a checkpoint, of any framework that is known here")
    parser.add_argument("--json", action="store_true", help="print it for programs")
    options = parser.parse_args(arguments)
    try:
        report = read(options.file)
    except (
        ValueError,
        TypeError,
        ModuleNotFoundError,
        OSError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        sys.exit(f"rmsprop-jax inspect {options.file}: {error}")
    except Exception as error:  # from torch, of a file that holds more than data
        sys.exit(f"rmsprop-jax inspect {options.file}: it can't be read: {str(error)[:300]}")
    print(json.dumps(report._asdict(), indent=1) if options.json else as_text(report))
