"""Hostile gradients behind what stands in front of the average: clipping, weight decay, schedules.

The specification is a loop in float64 NumPy over clamped gradients. `run` makes the updates of any
transformation, `verdict` judges them, as in `hostile`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmsprop_jax
from rmsprop_jax import clipping, dialects

RATES: dict[str, Callable[[Any], Any]] = {
    "constant": lambda count: 0.01 + 0 * count,
    "warm-up from 0": lambda count: 0.01 * count / 50,
    "cut at half": lambda count: 0.01 * 0.1 ** (count // 125),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Gradients [steps, elements], what stands in front, and from when on steps must be right."""

    name: str
    gradients: np.ndarray
    clip: tuple[str, float] | None = None  # by "value", by the "norm" of all
    weight_decay: float = 0.0
    rate: str = "constant"
    matches_from: int = 0
    decay: float = 0.5
    nan_from: int | None = None


def _noise(steps: int = 250, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, size))


def _once(*sizes: float, size: int = 8, at: int = 3) -> np.ndarray:
    gradients = _noise(size=size)
    gradients[at, : len(sizes)] = sizes
    return gradients


_INF, _NORM, _VALUE = math.inf, ("norm", 1.0), ("value", 0.5)
CASES = [
    Case("noise, clipped to a norm", _noise(), _NORM),
    Case("noise, clipped by value", _noise(), _VALUE),
    Case("noise, weight decay, warm-up", _noise(), None, 0.1, "warm-up from 0"),
    Case("infinity once, clipped to a norm", _once(_INF), _NORM),
    Case("-infinity once, clipped to a norm", _once(-_INF), _NORM),
    Case("two infinities once, clipped to a norm", _once(_INF, -_INF), _NORM),
    Case("infinity everywhere once, clipped to a norm", _once(*[_INF] * 8), _NORM),
    Case("1,000 infinities once, clipped to a norm", _once(*[_INF] * 1000, size=1000), _NORM),
    Case("infinity at the first step, clipped to a norm", _once(_INF, at=0), _NORM),
    Case("infinity twice, clipped to a norm", _once(_INF) + _once(_INF, at=99) * 0.5, _NORM),
    Case("infinity once, clipped by value", _once(_INF, -_INF), _VALUE),
    Case("1e20 once, clipped to a norm", _once(1e20, -1e20), _NORM),
    Case("1e30 once, clipped to a norm", _once(1e30), _NORM),
    Case("3e38 everywhere once, clipped to a norm", _once(*[3e38] * 8), _NORM),
    Case("1e19 in 1,000 elements once, clipped to a norm", _once(*[1e19] * 1000, size=1000), _NORM),
    Case("1e30 once, clipped by value", _once(1e30, -1e30), _VALUE),
    Case("zero, clipped to a norm", np.zeros((250, 8)), _NORM),
    Case(
        "zero but for one step, clipped to a norm",
        _once(3.0, 4.0) * 0 + _once() * (np.arange(250) == 9)[:, None],
        _NORM,
    ),
    Case("1e-25, clipped to a norm", 1e-25 * _noise(), _NORM, matches_from=250),
    Case("infinity once, clipped, weight decay", _once(_INF), _NORM, 0.1),
    Case(
        "infinity once, clipped, weight decay, warm-up", _once(_INF), _NORM, 0.1, "warm-up from 0"
    ),
    Case("infinity once, weight decay", _once(_INF), None, 0.1, matches_from=245),
    Case("infinity once, weight decay, cut at half", _once(-_INF), None, 0.1, "cut at half", 245),
    Case("1e20 once, weight decay, warm-up", _once(1e20), None, 0.1, "warm-up from 0", 245),
    Case(
        "infinity at the first step, warm-up", _once(_INF, at=0), None, 0.0, "warm-up from 0", 245
    ),
    Case("infinity once, clipped, cut at half", _once(_INF), _NORM, 0.0, "cut at half"),
    Case("NaN once, clipped to a norm", _once(math.nan), _NORM, nan_from=3),
    Case("NaN once, clipped by value", _once(*[math.nan] * 8), _VALUE, nan_from=3),
]

FORMS: dict[str, tuple[Callable[[Case, Any], optax.GradientTransformation], bool]] = {
    # How to make it, and whether eps stands under the root.
    "rmsprop": (
        lambda case, rate: optax.chain(
            _front(case),
            rmsprop_jax.rmsprop(rate, case.decay, weight_decay=case.weight_decay or None),
        ),
        False,
    ),
    "keras": (
        lambda case, rate: optax.chain(
            _front(case) if case.weight_decay else optax.identity(),
            optax.add_decayed_weights(case.weight_decay),
            dialects.keras(
                rate,
                case.decay,
                epsilon=1e-8,
                **{} if case.weight_decay else _keras_clipping(case),
            ),
        ),
        True,
    ),
}


def _front(case: Case) -> optax.GradientTransformation:
    if case.clip is None:
        return optax.identity()
    kind, limit = case.clip
    return clipping.clip_by_global_norm(limit) if kind == "norm" else optax.clip(limit)


def _keras_clipping(case: Case) -> dict[str, float]:
    names = {"norm": "global_clipnorm", "value": "clipvalue"}
    return {} if case.clip is None else {names[case.clip[0]]: case.clip[1]}


def run(tx: optax.GradientTransformation, case: Case) -> np.ndarray:
    """The parameters after each step [steps, elements], from 1 on."""
    return run_all([tx], [case])[0]


def run_all(txs: Sequence[optax.GradientTransformation], cases: Sequence[Case]) -> list[np.ndarray]:
    """The same of many cases, with a transformation for each, in one program.

    Cases of one transformation and one size are lanes of a `vmap`.
    """
    groups: dict[Any, list[int]] = {}
    for i, (tx, case) in enumerate(zip(txs, cases, strict=True)):
        groups.setdefault((tx, case.gradients.shape), []).append(i)
    with np.errstate(over="ignore"):
        stacks = [
            np.stack([cases[i].gradients.astype(np.float32) for i in rows])
            for rows in groups.values()
        ]

    @jax.jit
    def train(stacks):
        pairs = zip(groups, stacks, strict=True)
        return [jax.vmap(functools.partial(_train, tx))(stack) for (tx, _), stack in pairs]

    found: list[Any] = [None] * len(cases)
    for rows, parameters in zip(groups.values(), train(stacks), strict=True):
        for i, row in zip(rows, np.asarray(parameters), strict=True):
            found[i] = row
    return found


def _train(tx, gradients):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jnp.ones_like(gradients[0])
    return jax.lax.scan(step, (params, tx.init(params)), gradients)[1]


def steps_of(parameters: np.ndarray) -> np.ndarray:
    """What each step changed."""
    before = np.vstack([np.ones_like(parameters[:1]), parameters[:-1]])
    with np.errstate(invalid="ignore"):
        return parameters - before


def specification(case: Case, eps_in_sqrt: bool) -> np.ndarray:
    """The parameters after each step, in float64."""
    p, nu, rows = np.ones(case.gradients.shape[1]), 0.0, []
    for t, g in enumerate(case.gradients):
        g = np.clip(g, -(2.0**62), 2.0**62)
        if case.clip is not None:
            kind, limit = case.clip
            g = (
                g * min(1, limit / max(np.linalg.norm(g), 1e-300))
                if kind == "norm"
                else np.clip(g, -limit, limit)
            )
        g = g + case.weight_decay * p
        nu = case.decay * nu + (1 - case.decay) * g**2
        root = np.sqrt(nu + 1e-8) if eps_in_sqrt else np.sqrt(nu) + 1e-8
        p = p - RATES[case.rate](t) * g / root
        rows.append(p)
    return np.array(rows)


def verdict(case: Case, parameters: np.ndarray, eps_in_sqrt: bool, rtol: float) -> str:
    """What happened; nothing if all is well."""
    if case.nan_from is not None:
        bad = np.isnan(parameters).any(axis=1)
        return "" if bad[case.nan_from :].all() and not bad[: case.nan_from].any() else "NaN hidden"
    if np.isnan(parameters).any():
        return "NaN"
    if not np.isfinite(parameters).all():
        return "inf"
    got = steps_of(parameters)[case.matches_from :]
    want = steps_of(specification(case, eps_in_sqrt))[case.matches_from :]
    # Parameters are near 1, in float32; a weight decay makes steps depend on them.
    error = np.abs(got - want) - 3e-7
    if (error > rtol * np.abs(want) + 1e-4 * np.abs(case.weight_decay)).any():
        worst = np.unravel_index(np.argmax(error), error.shape)
        return f"{got[worst]:.1g} for a step of {want[worst]:.1g}"
    return ""
