"""Finding the numbers of a structure that come closest to a recording: least squares.

The learning rate is linear in the steps, so it is solved for and never searched. The others are
searched over their logarithms (rates of averages over that of rho / (1 - rho)), from the best
points of a coarse grid, by the method of Levenberg and Marquardt.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from rmsprop_jax.identification.calls import Structure
from rmsprop_jax.identification.recording import Recording
from rmsprop_jax.identification.simulation import Numbers, Steps, simulate

FITS = 1.0
WORST = 8.0
"""A run fits if the root mean square of its residuals is at most `FITS` and the largest `WORST`.

Both in units of what rounding may do. Those of the right structure have a root mean square of 0.1
to 0.6, for the tolerances are meant for the worst case.
"""
THOROUGH = (150, 1e-6)
BRIEF = (25, 1e-2)
"""Iterations at most, and the relative gain at which they end."""
LEAST_TOLD = 0.7
"""The share of steps in which rounding may not drown all."""


class Fit(NamedTuple):
    """A structure with the numbers that come closest.

    Attributes:
      structure: the update.
      numbers: its hyperparameters.
      steps: what it makes of the recording.
      distance: root mean square of the residuals, in units of rounding.
      worst: the largest residual.
      residuals: [elements, steps], in units of rounding.
      scheduled: the learning rate is another one at each step.
    """

    structure: Structure
    numbers: Numbers
    steps: Steps
    distance: float
    worst: float
    residuals: np.ndarray
    scheduled: bool

    @property
    def fits(self) -> bool:
        """Whether what is left is rounding."""
        return self.distance <= FITS and self.worst <= WORST


def evaluate(
    structure: Structure, numbers: Numbers, recording: Recording, scheduled: bool = False
) -> Fit:
    """How far a structure with these numbers is from a recording."""
    with np.errstate(all="ignore"):
        steps = simulate(structure, numbers, recording, scheduled=scheduled)
        steps = simulate(structure, numbers, recording, steps.tolerance, scheduled)
        residuals = np.nan_to_num(steps.residuals(recording), nan=1e40, posinf=1e40, neginf=1e40)
    found = {**numbers, "learning_rate": steps.learning_rate}
    told = np.isfinite(steps.tolerance)
    distance = float(np.sqrt(np.sum(residuals**2) / max(np.sum(told), 1)))
    if np.mean(told) < LEAST_TOLD:
        distance = np.inf
    return Fit(
        structure, found, steps, distance, float(np.max(np.abs(residuals))), residuals, scheduled
    )


def screen(
    structure: Structure,
    recording: Recording,
    known: Numbers,
    scheduled: bool = False,
    near: Iterable[Numbers] = (),
) -> Fit:
    """The best numbers on few elements, from a grid of starts.

    Args:
      structure: which update.
      recording: the run.
      known: numbers that are held.
      scheduled: the learning rate is another one at each step.
      near: numbers of structures with less parts. Where given, only what they lack is gone through.

    Returns:
      The fit.
    """
    few = recording.sample(24)
    free = [k for k in structure.numbers if k not in known]
    points = []
    for numbers in near or ({},):
        lacking = [k for k in free if k not in numbers]
        grids = [_grid(k, structure, few) for k in lacking]
        for values in itertools.product(*grids):
            point = {**numbers, **dict(zip(lacking, values, strict=True)), **known}
            r = _residuals(structure, point, few, few.least_tolerance, scheduled)
            points.append((float(r @ r), point))
    points.sort(key=lambda point: point[0])
    lines = {k: _line(k, structure, few) for k in free}
    starts = [points[0][1]]
    for _, numbers in points[1:]:  # the next one elsewhere
        far = lambda k, y: abs(lines[k].to(y[k]) - lines[k].to(starts[0][k])) > 2.5
        if any(far(k, numbers) for k in free):
            starts.append(numbers)
            break
    return min(
        (polish(structure, start, few, known, scheduled, BRIEF) for start in starts),
        key=lambda fit: fit.distance,
    )


def polish(
    structure: Structure,
    start: Numbers,
    recording: Recording,
    known: Numbers,
    scheduled: bool = False,
    effort: tuple[int, float] = THOROUGH,
) -> Fit:
    """The best numbers near a start. Tolerances depend on them, so it goes round again."""
    numbers = {k: known.get(k, start[k]) for k in structure.numbers}
    tolerance = recording.least_tolerance
    for _ in range(2 if effort is THOROUGH else 1):
        numbers, _ = refine(structure, numbers, recording, known, tolerance, scheduled, effort)
        with np.errstate(all="ignore"):
            tolerance = simulate(structure, numbers, recording, scheduled=scheduled).tolerance
    return evaluate(structure, numbers, recording, scheduled)


def refine(
    structure: Structure,
    start: Numbers,
    recording: Recording,
    known: Numbers,
    tolerance: np.ndarray,
    scheduled: bool = False,
    effort: tuple[int, float] = THOROUGH,
) -> tuple[Numbers, float]:
    """The best numbers near a start, and their sum of squares, for given tolerances."""
    free = [k for k in structure.numbers if k not in known]
    numbers = {k: start[k] for k in free} | {
        k: x for k, x in known.items() if k in (*structure.numbers, "learning_rate")
    }
    lines = [_line(k, structure, recording) for k in free]
    bounds = np.array([(line.low, line.high) for line in lines]).reshape(-1, 2)

    def at(x: np.ndarray) -> Numbers:
        found = {k: line.back(y) for k, line, y in zip(free, lines, x, strict=True)}
        return {**numbers, **found}

    def residuals(x: np.ndarray) -> np.ndarray:
        return _residuals(structure, at(x), recording, tolerance, scheduled)

    x = np.array([line.to(numbers[k]) for k, line in zip(free, lines, strict=True)])
    x = least_squares(residuals, np.clip(x, bounds[:, 0], bounds[:, 1]), bounds, effort)
    best = residuals(x)
    return {k: y if np.ndim(y) else float(y) for k, y in at(x).items()}, float(best @ best)


def least_squares(
    residuals: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    bounds: np.ndarray,
    effort: tuple[int, float] = THOROUGH,
) -> np.ndarray:
    """A minimum of the sum of squares, by Levenberg and Marquardt.

    Here a number often makes no difference at first, or hardly any, and residuals fall by ten
    orders of magnitude. Each of SciPy's three methods stopped too early for some of the 28 runs of
    timm in `benchmarks/identify.py`.
    """
    r = residuals(x)
    cost, damping = float(r @ r), 1e-3
    if not len(x):
        return x
    for _ in range(effort[0]):
        jacobian = _jacobian(residuals, x)
        scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-30)
        jacobian = jacobian / scale
        square, slope = jacobian.T @ jacobian, jacobian.T @ r
        before = cost
        for _ in range(10):
            step = np.linalg.solve(square + damping * np.eye(len(x)), -slope) / scale
            new = np.clip(x + np.clip(step, -2, 2), bounds[:, 0], bounds[:, 1])
            r_new = residuals(new)
            if float(r_new @ r_new) < cost:
                x, r, cost = new, r_new, float(r_new @ r_new)
                damping = max(damping / 10, 1e-14)
                break
            damping *= 10
        if before - cost <= effort[1] * before:
            break
    return x


def _jacobian(residuals: Any, x: np.ndarray) -> np.ndarray:
    """By imaginary steps, which have no rounding: numbers that make up for each other need that."""
    columns = [residuals(x + 1e-30j * unit).imag / 1e-30 for unit in np.eye(len(x))]
    return np.stack(columns, axis=1)


def _residuals(
    structure: Structure, numbers: Numbers, recording: Recording, tolerance: Any, scheduled: bool
) -> np.ndarray:
    with np.errstate(all="ignore"):
        r = simulate(structure, numbers, recording, tolerance, scheduled).residuals(recording)
    return np.where(np.abs(np.real(r)) < 1e40, r, 1e40).ravel()  # not NaN either


FRACTIONS = ("decay", "momentum", "first")


class Line(NamedTuple):
    """The line on which a number is searched.

    The logarithm of rho / (1 - rho) for rates of averages. For the others that of 1 + x / unit: it
    is straight where x is so small that its effect is proportional to it, and has a 0.
    """

    unit: float
    low: float
    high: float

    def to(self, x: float) -> float:
        """A number's place."""
        if self.unit:
            return float(np.log1p(x / self.unit))
        x = min(max(x, 1e-9), 1 - 1e-9)
        return float(np.log(x / (1 - x)))

    def back(self, y: Any) -> Any:
        """The number at a place, which may be complex."""
        return np.expm1(y) * self.unit if self.unit else 1 / (1 + np.exp(-y))


def _line(quantity: str, structure: Structure, recording: Recording) -> Line:
    if quantity in FRACTIONS:
        return Line(0.0, -9.0, 12.0)
    sizes = _sizes(recording)
    if quantity == "eps":
        small, large = 1e-3 * sizes[0], 1e5 * max(sizes[-1], structure.start)
        unit, most = (small**2, large**2) if structure.eps == "inside" else (small, large)
        return Line(unit, 0.0, float(np.log1p(most / unit)))
    unit = 1e-3 * list(_grid(quantity, structure, recording))[1]
    return Line(unit, 0.0, 30.0)


def _sizes(recording: Recording) -> np.ndarray:
    """Root mean squares of the gradients of elements that have any, in order."""
    sizes = np.sort(np.sqrt(np.mean(recording.grads**2, axis=1)))
    return sizes[sizes > 0] if np.any(sizes > 0) else np.ones(1)


def _grid(quantity: str, structure: Structure, recording: Recording) -> Iterable[float]:
    if quantity == "decay":
        return 0.5, 0.8, 0.9, 0.95, 0.99, 0.999
    if quantity in ("momentum", "first"):
        return 0.3, 0.8, 0.95
    sizes = _sizes(recording)
    low, middle, high = sizes[len(sizes) // 10], sizes[len(sizes) // 2], sizes[-1]
    if quantity == "eps":
        roots = np.array([1e-5 * low, 1e-2 * low, 0.1 * middle, high, 30 * high])
        return roots**2 if structure.eps == "inside" else roots
    if quantity == "weight_decay":
        size = np.sqrt(np.mean(recording.params**2)) or 1.0
        middle = 1.0 if structure.weight_decay == "decoupled" else middle
        return np.array([1e-3, 0.03, 1.0]) * middle / size
    if structure.clip == "value":
        return np.quantile(np.abs(recording.grads), (0.5, 0.8, 0.95))
    norms = recording.norms["leaf norm" if structure.clip == "leaf norm" else "global norm"]
    return np.quantile(norms, (0.1, 0.5, 0.9))
