"""What a structure with given numbers does to a recorded run, step by step, in float64.

Each step starts from what was recorded before it, so that the rounding of one step isn't carried to
the next: the averages depend on the gradients alone, and with weight decay on the parameters that
were recorded. All averages over time are linear filters, which SciPy runs in compiled code.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter

from rmsprop_jax.identification.calls import Structure
from rmsprop_jax.identification.recording import Recording

Numbers = dict[str, Any]


class Steps(NamedTuple):
    """What a structure makes of a recording.

    Attributes:
      moves: predicted changes of the parameters, [elements, steps].
      learning_rate: a number, or one for each step.
      tolerance: how far rounding may take the recorded changes from these.
    """

    moves: np.ndarray
    learning_rate: Any
    tolerance: np.ndarray

    def residuals(self, recording: Recording) -> np.ndarray:
        """Recorded less predicted changes, in units of the tolerance."""
        return (recording.moves - self.moves) / self.tolerance


def simulate(
    structure: Structure,
    numbers: Numbers,
    recording: Recording,
    tolerance: np.ndarray | None = None,
    scheduled: bool = False,
) -> Steps:
    """Runs a structure on a recording.

    Args:
      structure: which update.
      numbers: its hyperparameters; without a learning rate, the one is taken that fits best.
      recording: the run.
      tolerance: if it is known, else it is found.
      scheduled: let the learning rate be another one at each step.

    Returns:
      The steps.
    """
    averages = _divide(structure, numbers, recording)
    quotient = averages.quotient
    weight = 1 / (recording.least_tolerance if tolerance is None else tolerance)
    moves, momentum = recording.moves, _momentum(numbers)
    rate: Any = numbers.get("learning_rate")
    allowed: Any = tolerance
    shrink = 0.0
    if structure.weight_decay == "decoupled":
        shrink = numbers["weight_decay"] * recording.params[:, :-1]
    per_step = scheduled or np.ndim(rate) > 0
    if per_step and rate is None:
        rate = _rates(structure, momentum, quotient, shrink, moves, weight)
    if per_step and structure.rate_inside:
        made = _accumulate(structure, momentum, quotient * rate) + rate * shrink
    else:
        direction = _accumulate(structure, momentum, quotient) + shrink
        if rate is None:
            rate = -_project(direction, moves, weight)
        made = rate * direction
    if allowed is None:
        error = averages.error(recording.eps) * np.abs(quotient) * np.max(np.abs(rate))
        allowed = _accumulate(structure, momentum, error) + 3 * recording.eps * np.abs(made)
        allowed = allowed + recording.rounding * (2 if np.ndim(shrink) else 1)
    return Steps(-made, rate, allowed)


class _Averages(NamedTuple):
    """What the gradients were divided by."""

    quotient: np.ndarray
    nu: np.ndarray
    cancelled: np.ndarray  # what a framework subtracts a squared mean from
    root: np.ndarray
    decay: float
    eps_inside: bool

    def error(self, eps: float) -> np.ndarray:
        """The relative error that rounding makes of the quotient.

        Each step of an average rounds it twice, and the errors of many steps add up like random
        ones. Where a variance all but cancels, so do its digits: infinite is what can't be told.
        """
        steps = self.root.shape[1]
        terms = np.minimum(np.arange(1, steps + 1), 1 / (1 - self.decay))
        below = self.root**2 if self.eps_inside else np.sqrt(self.nu) * self.root
        share = self.cancelled / np.maximum(below, 1e-300)
        return np.where(share > 1e4, np.inf, eps * (3 + (1 + np.sqrt(terms)) * share))


def _divide(structure: Structure, numbers: Numbers, recording: Recording) -> _Averages:
    """Gradients divided by their root."""
    g = recording.grads
    if structure.maximize:
        g = -g
    if structure.clip == "value":
        g = np.clip(g, -numbers["clip"], numbers["clip"])
    elif structure.clip:
        g = g * clip_factor(structure, numbers, recording)
    if structure.weight_decay == "coupled":
        g = g + numbers["weight_decay"] * recording.params[:, :-1]
    if structure.rule == "sgd":
        one = np.ones_like(g)
        return _Averages(g, one, one, one, 0.0, False)
    decay, eps = numbers["decay"], numbers["eps"]
    if structure.centered:
        # The variance by its own recursion, as `scale_by_rms` has it: it doesn't cancel.
        mu = _average(g, decay, 0.0)
        before = np.zeros_like(mu)
        before[:, 1:] = mu[:, :-1]
        nu = _average(decay * (g - before) ** 2, decay, structure.start)
        cancelled = nu + mu**2
        if structure.bias_correction:
            weight = _weights(decay, g.shape[1])
            nu = np.maximum(cancelled / weight - (mu / weight) ** 2, 0.0)
            nu[:, 0], cancelled = 0.0, cancelled / weight
    else:
        nu = _average(g**2, decay, structure.start)
        if structure.bias_correction:
            nu = nu / _weights(decay, g.shape[1])
        cancelled = nu
    inside = structure.eps == "inside"
    root = np.sqrt(nu + eps) if inside else np.sqrt(nu) + eps
    if structure.rule == "adam":
        g = _average(g, numbers["first"], 0.0) / _weights(numbers["first"], g.shape[1])
    elif structure.momentum == "of gradients":
        g = np.asarray(lfilter([1.0], [1.0, -numbers["momentum"]], g, axis=1))
    quotient = g / np.maximum(root, 1e-300)
    return _Averages(quotient, nu, cancelled, root, decay, inside)


def _weights(decay: float, steps: int) -> np.ndarray:
    """What the averages of so many steps have seen of 1."""
    return -np.expm1(np.arange(1, steps + 1) * np.log(decay))


def clip_factor(structure: Structure, numbers: Numbers, recording: Recording) -> Any:
    """What clipping to a norm multiplies the gradients by."""
    limit = numbers["clip"]
    if structure.clip == "torch norm":
        return np.minimum(1.0, limit / (recording.norms["global norm"] + 1e-6))
    return limit / np.maximum(recording.norms[structure.clip], limit)


def _average(x: np.ndarray, decay: float, start: float) -> np.ndarray:
    first = np.full((len(x), 1), decay * start)
    return np.asarray(lfilter([1 - decay], [1.0, -decay], x, axis=1, zi=first)[0])


def _momentum(numbers: Numbers) -> float:
    return numbers.get("momentum", 0.0)


def _accumulate(structure: Structure, momentum: float, x: np.ndarray) -> np.ndarray:
    if structure.momentum in ("", "of gradients"):
        return x
    trace = np.asarray(lfilter([1.0], [1.0, -momentum], x, axis=1))
    return x + momentum * trace if structure.nesterov else trace


def _project(direction: np.ndarray, moves: np.ndarray, weight: np.ndarray, axis: Any = None) -> Any:
    """The multiple of a direction that comes closest to what was recorded."""
    weighted = direction * weight
    square = np.sum(weighted**2, axis=axis)
    product = np.sum(weighted * (moves * weight), axis=axis)
    return product / np.maximum(square, 1e-300)


def _rates(
    structure: Structure,
    momentum: float,
    quotient: np.ndarray,
    shrink: Any,
    moves: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """The learning rate of each step."""
    if not structure.rate_inside:
        direction = _accumulate(structure, momentum, quotient) + shrink
        return -_project(direction, moves, weight, axis=0)
    # In derivatives, any of these may be complex.
    dtype = np.result_type(quotient, momentum, shrink)
    trace, rates = np.zeros(len(quotient), dtype), np.zeros(quotient.shape[1], dtype)
    ahead = momentum if structure.nesterov else 0.0
    for t in range(len(rates)):
        coasting = (momentum**2 if ahead else momentum) * trace
        own = (1 + ahead) * quotient[:, t] + (shrink[:, t] if np.ndim(shrink) else 0.0)
        rates[t] = -_project(own, moves[:, t] + coasting, weight[:, t])
        trace = momentum * trace + rates[t] * quotient[:, t]
    return rates
