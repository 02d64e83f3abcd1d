"""A recording of a run: parameters before and after each step, and the gradients."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

ALONE = "params"  # the name of an array that is in no dictionary
MOST_STEPS = 200
MOST_ELEMENTS = 192


@dataclasses.dataclass(frozen=True)
class Recording:
    """A run, in float64, an element a row.

    Attributes:
      params: [elements, steps + 1].
      grads: [elements, steps].
      eps: the distance from 1 to the next number, in the dtype of the recording.
      dtype: name of that dtype.
      names: of the arrays.
      array: for each element the number of its array.
      place: for each element its index in its array.
      norms: of the gradients, for each kind of clipping; [steps], or [elements, steps].
      sizes: the number of elements of each array, before any were left out.
    """

    params: np.ndarray
    grads: np.ndarray
    eps: float
    dtype: str
    names: list[str]
    array: np.ndarray
    place: np.ndarray
    norms: dict[str, np.ndarray]
    sizes: list[int]

    @property
    def steps(self) -> int:
        """How many."""
        return self.grads.shape[1]

    @functools.cached_property
    def moves(self) -> np.ndarray:
        """What each step added to the parameters."""
        return np.diff(self.params)

    @functools.cached_property
    def rounding(self) -> np.ndarray:
        """Half the distance between neighbours, where each step ended."""
        ends = np.maximum(np.abs(self.params[:, 1:]), np.abs(self.params[:, :-1]))
        return 0.5 * self.eps * 2.0 ** np.floor(np.log2(np.maximum(ends, 1e-300)))

    @functools.cached_property
    def least_tolerance(self) -> np.ndarray:
        """What rounding may do to any step: to where it ends, and to its own size."""
        return self.rounding + 4 * self.eps * np.abs(self.moves)

    def of(self, elements: Any) -> "Recording":
        """The same of some elements."""
        leaf = self.norms["leaf norm"]
        return dataclasses.replace(
            self,
            params=self.params[elements],
            grads=self.grads[elements],
            array=self.array[elements],
            place=self.place[elements],
            norms={**self.norms, "leaf norm": leaf[elements]},
        )

    def until(self, step: int | None) -> "Recording":
        """The same of the first steps, or of all."""
        step = self.steps if step is None else step
        return dataclasses.replace(
            self,
            params=self.params[:, : step + 1],
            grads=self.grads[:, :step],
            norms={k: x[..., :step] for k, x in self.norms.items()},
        )

    def sample(self, most: int) -> "Recording":
        """At most so many elements, of all arrays and all sizes of gradients.

        eps shows where gradients are small, and weight decay where there is none: the smallest are
        kept, and one in which nothing happens.
        """
        if len(self.array) <= most:
            return self
        size = np.sqrt(np.mean(self.grads**2, axis=1))
        moves = np.any(self.moves != 0, axis=1)
        chosen: list[np.ndarray] = []
        share = max(2, most // len(self.names))
        for k in range(len(self.names)):
            own = np.flatnonzero((self.array == k) & moves & (size > 0))
            own = own[np.argsort(size[own], kind="stable")]
            still = np.flatnonzero((self.array == k) & (size == 0))[:2]
            ranks = np.unique(np.linspace(0, len(own) - 1, min(share, len(own))).astype(int))
            chosen += [still, own[ranks]]
        kept = np.concatenate(chosen)
        if len(kept) > most:  # more arrays than elements to choose
            kept = kept[np.linspace(0, len(kept) - 1, most).astype(int)]
        return self.of(np.sort(kept)) if len(kept) else self.of(slice(most))


def read_recording(params: Any, grads: Any) -> Recording:
    """Checks a recording and brings it into one form.

    Args:
      params: an array [steps + 1, ...] or a dictionary of such.
      grads: the same [steps, ...].

    Returns:
      All of its elements.

    Raises:
      ValueError: for arrays that don't belong together, and for numbers that aren't finite.
      TypeError: for arrays of other than real numbers.
    """
    ps, gs = _named("params", params), _named("grads", grads)
    if ps.keys() != gs.keys():
        raise ValueError(
            f"params has the arrays {sorted(ps)}, and grads {sorted(gs)}: they must be the same."
        )
    for name, p in ps.items():
        _check(name, p, gs[name], len(next(iter(gs.values()))))
    dtype, eps = _precision(list(ps.values()))
    wide_p = {k: _rows(x) for k, x in ps.items()}
    wide_g = {k: _rows(x) for k, x in gs.items()}
    squares = {k: np.sum(g**2, axis=0) for k, g in wide_g.items()}
    sizes = [len(g) for g in wide_g.values()]
    leaf = np.concatenate(
        [np.broadcast_to(np.sqrt(x), wide_g[k].shape) for k, x in squares.items()]
    )
    return Recording(
        params=np.concatenate(list(wide_p.values())),
        grads=np.concatenate(list(wide_g.values())),
        eps=eps,
        dtype=dtype,
        names=list(ps),
        array=np.repeat(np.arange(len(sizes)), sizes),
        place=np.concatenate([np.arange(n) for n in sizes]),
        norms={"leaf norm": leaf, "global norm": np.sqrt(sum(squares.values()))},
        sizes=sizes,
    )


def read_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads params and grads from a file.

    Args:
      path: an `.npz` with the arrays `params` and `grads`, or with `params/NAME` and `grads/NAME`
        for each; or a file of `torch.save({"params": ..., "grads": ...})`, in which both are
        tensors, dictionaries of tensors, or lists of either, one entry a step.

    Returns:
      What `identify` takes.

    Raises:
      ValueError: for a file that has other things in it.
      ModuleNotFoundError: if it is PyTorch's, and PyTorch isn't installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"There is no {path}.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            content = {k: file[k] for k in file.files}
        parts = {
            kind: {
                k.partition("/")[2] or ALONE: x
                for k, x in content.items()
                if k.partition("/")[0] == kind
            }
            for kind in ("params", "grads")
        }
    elif path.suffix in (".pt", ".pth", ".bin"):
        parts = _read_torch(path)
    else:
        raise ValueError(f"{path.name}: only .npz, .pt, .pth and .bin can be read.")
    missing = [kind for kind in ("params", "grads") if not len(parts.get(kind) or ())]
    if missing:
        raise ValueError(f"{path.name} has no {' and no '.join(missing)}; see docs/identify.md.")
    return parts["params"], parts["grads"]


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "This file is read by torch, which isn't installed: pip install torch", name=error.name
        ) from None
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict):
        raise ValueError(f'{path.name} holds no dictionary with "params" and "grads".')
    plain = lambda x: (x.float() if x.dtype == torch.bfloat16 else x).numpy()

    def stack(x: Any) -> dict[str, Any]:
        if isinstance(x, torch.Tensor):
            return {ALONE: plain(x)}
        if isinstance(x, dict):
            return {k: v for name, y in x.items() for k, v in _prefix(name, stack(y)).items()}
        steps = [stack(y) for y in x or ()]
        return {k: np.stack([step[k] for step in steps]) for k in (steps[0] if steps else ())}

    return {kind: stack(saved.get(kind)) for kind in ("params", "grads")}


def _prefix(name: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    return {str(name) if k == ALONE else f"{name}/{k}": x for k, x in arrays.items()}


def _named(argument: str, arrays: Any) -> dict[str, np.ndarray]:
    if not isinstance(arrays, Mapping):
        arrays = {ALONE: arrays}
    if not arrays:
        raise ValueError(f"{argument} is empty.")
    named: dict[str, np.ndarray] = {}
    for name, x in arrays.items():
        if isinstance(x, Mapping):
            raise TypeError(f"{argument}[{name!r}] is a dictionary: pass one level of names.")
        named[str(name)] = np.asarray(x)
    return named


def _check(name: str, p: np.ndarray, g: np.ndarray, steps: int) -> None:
    for argument, x in (("params", p), ("grads", g)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{argument}[{name!r}] must hold real numbers, and is {x.dtype}.")
    if not g.ndim or g.shape[1:] != p.shape[1:] or len(p) != len(g) + 1 or len(g) != steps:
        raise ValueError(
            f"params[{name!r}] is {p.shape} and grads[{name!r}] {g.shape}: with {steps} steps, "
            f"they must be [{steps + 1}, ...] and [{steps}, ...], the parameters before the first "
            "step and after each."
        )
    for argument, x in (("params", p), ("grads", g)):
        bad = np.argwhere(~np.isfinite(x.astype(np.float64)))
        if len(bad):
            raise ValueError(
                f"{argument}[{name!r}] isn't finite at step {bad[0][0]}: pass the steps before it."
            )


def _precision(arrays: list[np.ndarray]) -> tuple[str, float]:
    """The narrowest dtype that all parameters fit in: what was float32 may come as float64."""
    for dtype in (jnp.bfloat16, np.float16, np.float32):
        with np.errstate(over="ignore"):
            if all(np.array_equal(x.astype(dtype).astype(x.dtype), x) for x in arrays):
                # A few numbers may be round by chance, and 0 is in every dtype.
                widest = max(jnp.finfo(x.dtype).bits for x in arrays)
                distinct = sum(len(np.unique(x)) for x in arrays)
                if jnp.finfo(dtype).bits == widest or distinct > 8:
                    return np.dtype(dtype).name, float(jnp.finfo(dtype).eps)
    return "float64", float(np.finfo(np.float64).eps)


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.astype(np.float64).reshape(len(x), -1).T)
