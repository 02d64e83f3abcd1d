"""Files that `torch.save` wrote: of PyTorch, timm, bitsandbytes, Lightning, Stable-Baselines3."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop_jax import dialects
from rmsprop_jax.frameworks import pytorch, state_dicts
from rmsprop_jax.inspect_checkpoint.report import Report, call, need, row, some

_WRITERS = {
    "pytorch": "PyTorch's RMSprop",
    "timm": "timm's RMSpropTF",
    "stable_baselines3": "Stable-Baselines3's RMSpropTFLike, or PyTorch's RMSprop before 1.12",
}


def read(path: Path) -> Report:
    """A file of `torch.save`."""
    saved = need("torch").load(path, map_location="cpu", weights_only=True)
    load = f'torch.load({str(path)!r}, map_location="cpu", weights_only=True)'
    return _report(saved, load, ["import torch"])


def read_zip(path: Path) -> Report:
    """An agent of Stable-Baselines3."""
    torch = need("torch")
    with zipfile.ZipFile(path) as file:
        inside = [n for n in file.namelist() if n.endswith("optimizer.pth")]
        if not inside:
            raise ValueError(f"{path.name} has no optimizer.pth: Stable-Baselines3 didn't save it.")
        content = io.BytesIO(file.read(inside[0]))
    saved = torch.load(content, map_location="cpu", weights_only=True)
    load = f"torch.load(io.BytesIO(file.read({inside[0]!r})), weights_only=True)"
    opened = f"file = zipfile.ZipFile({str(path)!r})"
    return _report(saved, load, ["import io, zipfile", "import torch"], [opened])


def _report(saved: Any, load: str, imports: list[str], opening: Sequence[str] = ()) -> Report:
    way = ""
    if isinstance(saved, dict) and not state_dicts.is_readable(saved):
        inside = [k for k, x in saved.items() if state_dicts.is_readable(x)]
        if not inside:
            raise ValueError(f"There is no state of an optimizer in it, but {some(saved)}.")
        saved, way = saved[inside[0]], f"[{inside[0]!r}]"
    content = state_dicts.read(saved)
    groups = [state_dicts.in_our_words(group) for group in content.groups]
    names = {key: content.names.get(key, f"parameter {key}") for key in content.keys}
    slots = {
        names.get(key, f"parameter {key}"): state_dicts.flat(x) for key, x in content.slots.items()
    }
    members = [[names[key] for key in group["params"]] for group in groups]
    zeros = {n: _like(slots[n]) for n in names.values() if n in slots}
    saved_by, steps = pytorch.accumulators_of(groups, members, slots, zeros)
    told = ""
    try:
        makers = pytorch.dialects_of(groups, members, saved_by["nu"], steps, None)
    except ValueError:  # the file doesn't tell it from PyTorch's before 1.12
        makers = [dialects.stable_baselines3] * len(groups)
        told = ", dialect=dialects.stable_baselines3"
    calls = [
        call(f"dialects.{f.__name__}", pytorch.arguments_of(f, g))
        for f, g in zip(makers, groups, strict=True)
    ]
    rate_of = {n: float(g["lr"]) for g, own in zip(groups, members, strict=True) for n in own}
    rows = [
        row(name, part, x, rate_of.get(name))
        for part, named in saved_by.items()
        for name, x in named.items()
    ]
    untrained = [n for n in names.values() if n not in slots]
    order = ", in_order=True" if len(groups) > 1 and not content.names else ""
    kinds = ", ".join(f"{n!r}: ({list(x.shape)}, {str(x.dtype)!r})" for n, x in zeros.items())
    lines = [
        *imports,
        "import numpy as np",
        "from rmsprop_jax import dialects, interop",
        *opening,
        f"saved = {load}{way}",
        f"kinds = {{{kinds}}}",
        "weights = {name: np.zeros(*kind) for name, kind in kinds.items()}"
        "  # or dict(model.named_parameters())",
        "to_params = lambda named: named  # the function that ports the weights",
        f"tx, opt_state = interop.pytorch.load(saved, weights, to_params{order}{told})",
    ]
    eight = any("betas" in g for g in content.groups)
    return Report(
        "bitsandbytes's RMSprop" if eight else _WRITERS[makers[0].__name__],
        calls,
        [],
        max(steps.values(), default=0),
        rows,
        [f"{n}: no accumulators, it hasn't been trained" for n in untrained],
        lines,
    )


def _like(slots: dict[str, Any]) -> np.ndarray:
    """Zeros like the parameter that has these slots."""
    arrays = [np.asarray(x) for key, x in slots.items() if key != "step"]
    shape = arrays[0].shape if arrays else ()
    return np.zeros(shape, "complex64" if any(map(np.iscomplexobj, arrays)) else "float32")
