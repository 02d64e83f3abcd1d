"""Optimizer state of `optax.rmsprop`, in all of its forms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# `optax` alone would be this module for its readers.
import optax as _optax

from rmsprop_jax import checkpoints
from rmsprop_jax.interop import arrays, states
from rmsprop_jax.transform import RmsState

__all__ = ["dump", "load"]

_RMS_STATES = "ScaleByR(ms|StdDev)(WithCount)?State"


def load(
    tx: _optax.GradientTransformation,
    saved: Any,
    params: _optax.Params,
    *,
    count: int | None = None,
) -> _optax.OptState:
    """Goes on with `optax.rmsprop`.

    Args:
      tx: made by `dialects.optax` with the arguments that `optax.rmsprop` had.
      saved: the state of `optax.rmsprop`, or how it came back from Orbax, `flax.serialization` or
        an npz file, see `interop.restore`. Out of a chain, pass the element that is its own.
      params: the parameters; only shapes, dtypes and shardings count.
      count: number of updates made; Optax has it only with a schedule or with bias_correction.

    Returns:
      The state of tx. Accumulators that Optax keeps in bfloat16 become float32.

    Raises:
      ValueError: naming all arrays that are missing, too many or of a wrong shape; and for another
        optimizer's state.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> params = jnp.zeros(2)
      >>> saved = _optax.rmsprop(0.1, initial_scale=3.0).init(params)
      >>> opt_state = load(dialects.optax(0.1, initial_scale=3.0), saved, params, count=7)
      >>> print(opt_state[0].count, opt_state[0].nu)
      7 [3. 3.]

    References:
      https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.rmsprop
    """
    theirs, weight_at = _theirs(tx, params)
    rms, rate, trace = checkpoints.match(theirs, saved, _RMS_STATES)
    counts = [x.count for x in (rms, rate) if "count" in getattr(x, "_fields", ())]
    count = int(max(counts)) if counts else count or 0
    weight = weight_at(count)
    mu = getattr(rms, "mu", None)
    mu = jax.tree.map(lambda m: np.asarray(m) / weight, mu)
    nu = jax.tree.map(lambda n: np.asarray(n, np.float64) / weight, rms.nu)
    nu = nu if mu is None else jax.tree.map(states.variance, nu, mu)
    new = (RmsState(jnp.int32(count), nu, mu), rate, trace)
    return jax.tree.map(arrays.cast_like, tx.init(params), new)


def dump(
    tx: _optax.GradientTransformation, opt_state: _optax.OptState, params: _optax.Params
) -> _optax.OptState:
    """Goes back to `optax.rmsprop`.

    Args:
      tx: made by `dialects.optax`.
      opt_state: its state.
      params: the parameters; only shapes, dtypes and shardings count.

    Returns:
      The state that `optax.rmsprop` has with the arguments of tx, in the dtypes that it has.

    Raises:
      ValueError: if tx isn't made by `dialects.optax`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.optax(0.1, centered=True)
      >>> print(type(dump(tx, tx.init(jnp.zeros(2)), jnp.zeros(2))[0]).__name__)
      ScaleByRStdDevState
    """
    theirs, weight_at = _theirs(tx, params)
    rms, rate, trace = checkpoints.match(tx.init(params), opt_state, "RmsState")
    weight = weight_at(int(rms.count))
    wide = jax.tree.map(lambda n: np.asarray(n, np.float64), rms.nu)
    nu = wide if rms.mu is None else jax.tree.map(states.second_moment, wide, rms.mu)
    new = {"nu": jax.tree.map(lambda n: n * weight, nu), "count": rms.count}
    if rms.mu is not None:
        new["mu"] = jax.tree.map(lambda m: np.asarray(m) * weight, rms.mu)
    new_rms = theirs[0]._replace(**{field: new[field] for field in theirs[0]._fields})
    return jax.tree.map(arrays.cast_like, theirs, (new_rms, rate, trace))


def _theirs(tx: Any, params: Any) -> tuple[Any, Callable[[int], float]]:
    """What `optax.rmsprop` starts with, and the weight of the averages that it has by a count."""
    dialect, arguments = states.made_by(tx)
    if dialect != "optax":
        raise ValueError(f"dialects.{dialect} isn't Optax: make it by dialects.optax.")
    decay = float(arguments["decay"])
    # Optax corrects a copy of its averages at each step; here, the averages are kept corrected.
    corrected = arguments["bias_correction"]
    weight_at = lambda count: 1 - decay**count if corrected and count else 1.0
    return _optax.rmsprop(**arguments).init(params), weight_at
