"""States of this library and of `optax.rmsprop`: arrays by their path in a tree."""

import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmsprop_jax import dialects
from rmsprop_jax.calls import evaluate
from rmsprop_jax.frameworks.accumulators import ACCUMULATORS
from rmsprop_jax.inspect_checkpoint.report import Report, call, function, need, row, some


def read_npz(path: Path) -> Report:
    """A file of `numpy.savez`, with paths for names."""
    with np.load(path, allow_pickle=False) as file:
        return _report(dict(file), f"dict(np.load({str(path)!r}))", [])


def read_safetensors(path: Path) -> Report:
    """A file of safetensors, with paths for names."""
    saved = need("safetensors.numpy").load_file(path)
    load = f"safetensors.numpy.load_file({str(path)!r})"
    return _report(saved, load, ["import safetensors.numpy"])


def read_orbax(path: Path) -> Report:
    """A directory of Orbax's `StandardCheckpointer`."""
    ocp = need("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(path.absolute())
    load = f"ocp.StandardCheckpointer().restore(pathlib.Path({str(path)!r}).absolute())"
    return _report(saved, load, ["import pathlib", "import orbax.checkpoint as ocp"])


def _report(saved: Any, load: str, imports: list[str]) -> Report:
    arrays = _by_path(saved)
    opened = [f"saved = {load}"]
    if root := _root(arrays):
        arrays = {k.removeprefix(root): x for k, x in arrays.items() if k.startswith(root)}
        if any(key.startswith(root) for key in saved):  # the names are paths
            inside = f"for k, x in saved.items() if k.startswith({root!r})"
            opened.append(f"saved = {{k.removeprefix({root!r}): x {inside}}}")
        else:
            opened[0] += "".join(f"[{word!r}]" for word in root[:-1].split("/"))
    places = {key: _split(key) for key in arrays}
    found: dict[str, dict[str, Any]] = {}
    for key, (_, part, name) in places.items():
        if part:
            found.setdefault(name, {})[part] = arrays[key]
    if not any("nu" in own for own in found.values()):
        raise ValueError(f"There is no nu in it, but {some(arrays)}: it has no RMSProp.")
    if codes := [k for k, place in places.items() if place[1] and arrays[k].dtype.kind == "u"]:
        raise ValueError(f"{some(codes)}: storage.store made this, see storage.unpack.")
    counts = [key for key in arrays if key.rpartition("/")[2] == "count" and not arrays[key].shape]
    beside = {f"{head}count" for head, part, _ in places.values() if part == "nu"}
    schedules = [key for key in counts if key not in beside]
    parts = {part for own in found.values() for part in own}
    arguments = {"momentum": 0.9} if "trace" in parts else {}
    arguments |= {"centered": True} if "mu" in parts else {}
    unknown = ["learning_rate", "decay", "eps", *(["momentum"] if "trace" in parts else [])]
    if beside <= set(counts):
        made_by = _made_by(places, found, arguments)
        text, by, load_it = made_by[0], "rmsprop_jax", "interop.restore"
        names = ", ".join(other.partition("(")[0] for other in made_by)
        unknown += [f"the function (one of {names})"] if len(made_by) > 1 else []
        others = "optax.adam" if "mu" in parts else "optax.rmsprop with bias_correction"
        unknown += [f"whether it is of {others}, whose names are the same"]
    else:
        text = call("dialects.optax", {"learning_rate": 0.01, **arguments})
        by, load_it = "optax.rmsprop", "interop.optax.load"
    made = text
    if schedules:
        made = text.replace("=0.01", "=lambda count: 0.01", 1)
        unknown[0] = "learning_rate (a schedule, whose count is here)"
    return Report(
        by,
        [text],
        unknown,
        max((int(arrays[key]) for key in counts), default=None),
        [
            row(name or "the only one", part, own[part], None)
            for name, own in found.items()
            for part in ACCUMULATORS
            if part in own
        ],
        [],
        [
            *imports,
            "import jax",
            "import numpy as np",
            f"from rmsprop_jax import dialects, interop{', rmsprop' * text.startswith('rmsprop')}",
            *opened,
            f"shapes = {_nested({n: own['nu'].shape for n, own in found.items()})}",
            "zeros = lambda shape: np.zeros(shape, 'float32')",
            "params = jax.tree.map(zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))"
            "  # or your parameters",
            f"tx = {made}  # or the optimizer that was saved",
            f"opt_state = {load_it}(tx, saved, params)",
        ],
    )


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    text = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {text(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def _root(arrays: dict[str, Any]) -> str:
    """Where among other things, such as parameters, the state of the optimizer is."""
    states = [key.split("/") for key in arrays if _split(key)[1]]
    root = ""
    for words in zip(*states, strict=False):
        if len(set(words)) > 1 or words[0].isdecimal() or words[0] in ACCUMULATORS:
            break
        root += f"{words[0]}/"
    return "" if all(key.startswith(root) for key in arrays) else root


def _split(key: str) -> tuple[str, str, str]:
    """The place of an accumulator, which one it is, and the name of its parameter."""
    words = key.split("/")
    at = next((i for i, word in enumerate(words) if word in ACCUMULATORS), None)
    if at is None:
        return "", "", key
    return "".join(f"{word}/" for word in words[:at]), words[at], "/".join(words[at + 1 :])


def _nested(named: dict[str, Any]) -> Any:
    """Paths as a tree of dictionaries."""
    tree: dict[str, Any] = {}
    for key, x in named.items():
        if not key:
            return x
        *words, last = key.split("/")
        inner = tree
        for word in words:
            inner = inner.setdefault(word, {})
        inner[last] = x
    return tree


def _made_by(places: Any, found: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    """The calls whose states have their accumulators in these places; `rmsprop` if none has."""
    params = _nested(dict.fromkeys(found, np.zeros((), np.float32)))
    here = {key for key, (_, part, _) in places.items() if part}
    calls: list[str] = []
    for name in ("rmsprop", *(f"dialects.{name}" for name in dialects.__all__)):
        rate = next(iter(inspect.signature(function(name)).parameters))
        text = call(name, {rate: 0.01, **arguments})
        try:
            there = _by_path(evaluate(text).init(params))
        except ValueError:  # it has no such option
            continue
        if here == {key for key in there if _split(key)[1]}:
            calls.append(text)
    return calls or [call("rmsprop", {"learning_rate": 0.01, **arguments})]
