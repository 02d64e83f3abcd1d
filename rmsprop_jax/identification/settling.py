"""Numbers as somebody may have typed them, and which of them the data don't determine."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rmsprop_jax.identification.fitting import FRACTIONS, Fit, evaluate, refine
from rmsprop_jax.identification.recording import Recording
from rmsprop_jax.identification.simulation import Numbers, simulate

PRECISION = 1e-3
"""A number counts as determined if this relative change of it would be seen."""
_SEEN = 16.0  # rise of the sum of squares, in units of their mean: four standard deviations


class Settled(NamedTuple):
    """A fit with plausible numbers.

    Attributes:
      fit: with these numbers.
      undetermined: for each number that the data don't determine the range that fits as well.
    """

    fit: Fit
    undetermined: dict[str, tuple[float, float]]


def settle(
    fit: Fit, recording: Recording, held: Numbers, defaults: dict[str, list[float]]
) -> Settled:
    """Rounds the numbers of a fit.

    Args:
      fit: of a structure that fits.
      recording: what it was fitted to.
      held: numbers that were known.
      defaults: for each quantity those of the dialects, which stand for what isn't determined.

    Returns:
      The fit with other numbers, as close to the recording.
    """
    trial = _Trial(fit, recording, held)
    free = [k for k in ("learning_rate", *fit.structure.numbers) if k not in held]
    if fit.scheduled:
        free.remove("learning_rate")
    # Only once: with some numbers held at round ones, others would seem to be determined. But a
    # number that nobody typed may be near a round one, too.
    trial.round([k for k in free if k not in trial.held and trial.determines(k)])
    ranges = {k: trial.range(k) for k in free if k not in trial.held}
    for k in ranges:
        trial.choose(k, defaults.get(k, []))
    numbers = {k: x for k, x in trial.best.items() if k != "learning_rate"} | trial.held
    rounded = evaluate(fit.structure, numbers, recording, fit.scheduled)
    if not rounded.fits:
        return Settled(fit, ranges)
    return Settled(rounded._replace(numbers={**rounded.numbers, **trial.typed}), ranges)


class _Trial:
    """Holds some numbers of a fit, and looks whether the others can make up for it."""

    def __init__(self, fit: Fit, recording: Recording, held: Numbers) -> None:
        self.fit, self.recording = fit, recording
        self.held: Numbers = dict(held)
        self.typed: Numbers = {}
        self.best: Numbers = dict(fit.numbers)
        self.tolerance = fit.steps.tolerance
        self.cost = self.least = self.try_with({})
        self.count = max(int(np.sum(np.isfinite(self.tolerance))), 1)
        self.unit = max(self.cost / self.count, 0.05)

    def try_with(self, more: Numbers, keep: bool = False) -> float:
        """The sum of squares with some more numbers held."""
        start = {**self.best, **more}
        numbers, cost = refine(
            self.fit.structure,
            start,
            self.recording,
            {**self.held, **more},
            self.tolerance,
            self.fit.scheduled,
        )
        if keep:
            at = simulate(
                self.fit.structure, numbers, self.recording, self.tolerance, self.fit.scheduled
            )
            self.best = {**self.best, **numbers, "learning_rate": at.learning_rate}
        return cost

    def is_as_good(self, more: Numbers) -> bool:
        """Whether it fits as well with some more numbers held."""
        return self.try_with(more) - self.cost <= _SEEN * self.unit

    def determines(self, k: str) -> bool:
        """Whether a small change either way would be seen."""
        x, step = float(self.best[k]), self.allowed(k)
        rises = [self.try_with({k: x + s}) - self.cost for s in (step, -step)]
        return min(rises) >= _SEEN * self.unit

    def round(self, names: list[str]) -> None:
        """Holds the numbers with the fewest digits that fit as well, and are close."""
        for digits in range(1, 13):
            for k in names:
                if k not in self.held:
                    self._try_digits(k, digits)
        for k in names:
            if k not in self.held:
                self.held[k] = self.typed[k] = float(f"{self.best[k]:.12g}")

    def _try_digits(self, k: str, digits: int) -> None:
        x = float(self.best[k])
        typed = float(f"{x:.{digits}g}")
        if k in FRACTIONS and x > 0.9:
            typed = float(f"{1 - float(f'{1 - x:.{digits}g}'):.15g}")
        # The fit has an error of its own, so a number with many digits may take only half.
        if abs(typed - x) > self.allowed(k) / (1 if digits <= 2 else 2):
            return
        for used in (typed, float(np.float32(typed))):
            # How a framework rounds may look like another number: what counts is that it fits.
            cost = self.try_with({k: used})
            if cost <= 1.3 * self.least + 0.02 * self.count:
                self.held[k], self.typed[k] = used, typed
                self.try_with({}, keep=True)
                self.cost = max(self.cost, cost)
                return

    def allowed(self, k: str) -> float:
        """The change of a number that must be seen, for it to be determined."""
        x = float(self.best[k])
        return min(PRECISION * x, 0.01 * (1 - x)) if k in FRACTIONS else PRECISION * x

    def range(self, k: str) -> tuple[float, float]:
        """From where to where a number fits as well."""
        x = max(float(self.best[k]), 1e-24)
        # Of rates of averages rho / (1 - rho).
        to = lambda y: y / (1 - y) if k in FRACTIONS else y
        back = lambda y: y / (1 + y) if k in FRACTIONS else y
        return back(self._end(k, to(x), 1e-3, back)), back(self._end(k, to(x), 1e3, back))

    def _end(self, k: str, good: float, factor: float, back: Callable[[float], float]) -> float:
        for _ in range(10):
            bad = good * factor
            if not self.is_as_good({k: back(bad)}):
                break
            good = bad
        else:
            return 0.0 if factor < 1 else good
        for _ in range(14):
            middle = np.sqrt(good * bad)
            good, bad = (middle, bad) if self.is_as_good({k: back(middle)}) else (good, middle)
        return float(good)

    def choose(self, k: str, defaults: list[float]) -> None:
        """Holds a default, if one fits as well, or a number with one digit."""
        x = float(self.best[k])
        for typed in (*defaults, *(float(f"{x:.{digits}g}") for digits in range(1, 6))):
            if self.is_as_good({k: typed}):
                self.held[k] = self.typed[k] = typed
                self.try_with({}, keep=True)
                return
        self.held[k] = self.typed[k] = x
