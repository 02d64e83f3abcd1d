"""RMSProp of Optax, in the place of `optax.rmsprop`, and the states of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Under another name, since the function `optax` below would hide the module.
import optax as _optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import LARGEST, check_optional, check_range
from rmsprop_jax.frameworks import accumulators, arrays
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import RmsState, scale_by_rms

__all__ = ["dump", "load", "optax"]


@public
def optax(
    learning_rate: _optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> _optax.GradientTransformation:
    """RMSProp of Optax, in the place of `optax.rmsprop`.

    The update of a parameter p with gradient g:

        nu <- decay nu + (1 - decay) |g|^2               starting at initial_scale
        u <- g / sqrt(nu + eps)                          g / (sqrt(nu) + eps) if not eps_in_sqrt;
                                                         nu - |E g|^2 for nu if centered
        trace <- momentum trace + learning_rate u;  u <- trace, if momentum is given
        u <- momentum trace + learning_rate u            with nesterov, in addition
        p <- p - u

    It differs from `rmsprop` as follows:

    1. eps is inside the root by default, and decay, eps and others may be given by position.
    2. The learning rate is inside the momentum.
    3. learning_rate has no default. It may be negative, to ascend.
    4. nesterov without momentum has no effect, as in Optax.

    It differs from `optax.rmsprop` in its state, in what the module says of all dialects, and in
    that initial_scale and bias_correction can't be combined (the averages are kept corrected, so a
    start would be forgotten). With centered and bias_correction, the first variance is 0, where
    Optax has what the rounding of 0 leaves.

    With eps_in_sqrt=False it is the `rmsprop_pytorch_style` that Cleanba, Stoix and others wrote.
    With momentum and a schedule, that isn't PyTorch's: the learning rate is inside.

    Args:
      learning_rate: a number or a schedule.
      decay: rate of the average of squares, in [0, 1).
      eps: added to the denominator, 0 or more.
      initial_scale: value at which nu starts, 0 or more; 0 with bias_correction.
      eps_in_sqrt: add eps under the root, not outside.
      centered: divide by the standard deviation of the gradients.
      momentum: rate of the trace, 0 or more; `None` for none. (0 here makes a trace, as in Optax.)
      nesterov: look ahead by one step of momentum.
      bias_correction: free the averages of the value they start at.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.optax(0.1, bias_correction=True)
      >>> g = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print([f"{u:.3f}" for u in updates])
      ['-0.100', '0.100']

    References:
      https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.rmsprop
    """
    if not callable(learning_rate):
        check_range("learning_rate", learning_rate, lower=-LARGEST)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(
            decay,
            eps,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
        ),
        parts.scale_by_learning_rate(learning_rate),
        _optax.identity() if momentum is None else parts.trace(momentum, nesterov),
    )


def load(
    tx: _optax.GradientTransformation,
    saved: Any,
    params: _optax.Params,
    *,
    count: int | None = None,
) -> _optax.OptState:
    """Goes on with `optax.rmsprop`, also in what Optax wraps around it.

    Args:
      tx: made by `dialects.optax` with the arguments that `optax.rmsprop` had, in the same
        wrappers: chains, `inject_hyperparams`, `MultiSteps`, `masked`, `partition`,
        `apply_if_finite` and whatever else.
      saved: the whole state, or how it came back from Orbax, `flax.serialization` or an npz file
        with paths for names, in whatever containers.
      params: the parameters; only shapes, dtypes and shardings count.
      count: number of updates made; Optax has it only with a schedule or with bias_correction.

    Returns:
      The state of tx. Accumulators that Optax keeps in bfloat16 become float32.

    Example:
      >>> params = jnp.zeros(2)
      >>> saved = _optax.rmsprop(0.1, initial_scale=3.0).init(params)
      >>> opt_state = load(optax(0.1, initial_scale=3.0), saved, params, count=7)
      >>> print(opt_state[0].count, opt_state[0].nu)
      7 [3. 3.]
    """
    template = tx.init(params)
    replace = {}
    for group in _groups(tx, template):
        theirs, weight_at = _theirs(group, params)
        replace[id(group.state)] = theirs, _reader(group, weight_at, count)
    return arrays.into(template, saved, replace)


def _reader(
    group: accumulators.Group, weight_at: Callable[[int], float], count: int | None
) -> Callable[[Any], Any]:
    """Makes a state of the dialect of one that `optax.rmsprop` had."""

    def read(saved: Any) -> Any:
        rms, rate, trace = saved
        counts = [x.count for x in (rms, rate) if "count" in getattr(x, "_fields", ())]
        made = int(max(counts)) if counts else arrays.as_count(count or 0, "count")
        weight, mu = weight_at(made), getattr(rms, "mu", None)
        named = {
            jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(rms.nu)
        }
        arrays.check_numbers(named, named)
        mu = jax.tree.map(lambda m: np.asarray(m) / weight, mu)
        nu = jax.tree.map(lambda n: np.asarray(n, np.float64) / weight, rms.nu)
        nu = nu if mu is None else jax.tree.map(accumulators.variance, nu, mu)
        new = (RmsState(jnp.int32(made), nu, mu), rate, trace)
        return jax.tree.map(arrays.cast_like, group.state, new)

    return read


def dump(
    tx: _optax.GradientTransformation, opt_state: _optax.OptState, params: _optax.Params
) -> _optax.OptState:
    """Goes back to `optax.rmsprop`, in the same wrappers.

    Args:
      tx: made by `dialects.optax`, also in what Optax wraps around it.
      opt_state: its state.
      params: the parameters; only shapes, dtypes and shardings count.

    Returns:
      The state that `optax.rmsprop` has with the arguments of tx, in the dtypes that it has.

    Example:
      >>> tx = optax(0.1, centered=True)
      >>> print(type(dump(tx, tx.init(jnp.zeros(2)), jnp.zeros(2))[0]).__name__)
      ScaleByRStdDevState
    """
    opt_state = arrays.into(tx.init(params), opt_state, {})
    new = {}
    for group in _groups(tx, opt_state):
        theirs, weight_at = _theirs(group, params)
        rms, rate, trace = group.state
        weight = weight_at(int(rms.count))
        wide = jax.tree.map(lambda n: np.asarray(n, np.float64), rms.nu)
        nu = wide if rms.mu is None else jax.tree.map(accumulators.second_moment, wide, rms.mu)
        fields = {"nu": jax.tree.map(lambda n, w=weight: n * w, nu), "count": rms.count}
        if rms.mu is not None:
            fields["mu"] = jax.tree.map(lambda m, w=weight: np.asarray(m) * w, rms.mu)
        new_rms = theirs[0]._replace(**{field: fields[field] for field in theirs[0]._fields})
        new[id(group.state)] = jax.tree.map(arrays.cast_like, theirs, (new_rms, rate, trace))
    return jax.tree.map(lambda x: new.get(id(x), x), opt_state, is_leaf=lambda x: id(x) in new)


def _groups(tx: Any, state: Any) -> list[accumulators.Group]:
    groups = accumulators.groups_of(tx, state)
    for group in groups:
        if group.name != "optax":
            raise ValueError(f"dialects.{group.name} isn't Optax: make it by dialects.optax.")
    return groups


def _theirs(group: accumulators.Group, params: Any) -> tuple[Any, Callable[[int], float]]:
    """What `optax.rmsprop` starts with, and the weight of the averages that it has by a count."""
    decay = float(group.arguments["decay"])
    # Optax corrects a copy of its averages at each step; here, the averages are kept corrected.
    corrected = group.arguments["bias_correction"]
    weight_at = lambda count: 1 - decay**count if corrected and count else 1.0
    masked = accumulators.is_masked
    own = jax.tree.map(lambda n, p: n if masked(n) else p, group.rms.nu, params, is_leaf=masked)
    return _optax.rmsprop(**group.arguments).init(own), weight_at
