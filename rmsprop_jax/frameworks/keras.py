"""RMSProp of Keras 3, `keras.optimizers.RMSprop`, and the variables of Keras's optimizers.

`load` and `dump` are for Keras 3 and for both RMSprops of tf_keras. The hyperparameters are in the
optimizer's configuration, by the names that the dialect has for them:
`tx = dialects.keras(**optimizer.get_config())`, or with a schedule
`dialects.keras(**{**optimizer.get_config(), "learning_rate": schedule})`. Nothing here imports
Keras or reads a file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_one_of,
    check_optional,
    check_positive,
    check_range,
    check_rate,
)
from rmsprop_jax.frameworks import accumulators, arrays, pairing
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms

__all__ = ["dump", "keras", "load"]


@public
def keras(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    rho: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-7,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    use_ema: bool = False,
    ema_momentum: ArrayLike = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: ArrayLike | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    *,
    jit_compile: bool = True,
    is_legacy_optimizer: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of Keras 3, `keras.optimizers.RMSprop`; and of Keras 2 from TensorFlow 2.11 on.

    The update of a variable p with gradient g:

        g <- g / loss_scale_factor
        g <- g clipnorm / max(|g|, clipnorm)             |g| over the elements of the variable
        g <- g global_clipnorm / max(|g|, ...)           |g| over all variables
        g <- clip(g, -clipvalue, clipvalue)
        p <- p - learning_rate weight_decay p
        v <- rho v + (1 - rho) g^2                       starting at 0
        u <- g / sqrt(v + epsilon)                       v - E[g]^2 for v if centered
        m <- momentum m + learning_rate u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root: epsilon = 1e-7 here does what 3e-4 does outside.
    2. The learning rate is inside the momentum.
    3. The weight decay is decoupled: it doesn't enter v.
    4. It clips gradients and takes back the scaling of a loss.
    5. The default of epsilon is 1e-7.

    What Keras leaves out by `exclude_from_weight_decay` is here a second `keras` without weight
    decay in `optax.partition`.

    Args:
      learning_rate: 0 or more; or a schedule, which unlike a callable of Keras is given the number
        of updates made.
      rho: rate of the average of squares, in [0, 1).
      momentum: in [0, 1].
      epsilon: added under the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: decoupled, 0 or more; if given, `update` needs `params`.
      clipnorm: largest norm of the gradient of a variable, more than 0.
      clipvalue: largest absolute value of an element, more than 0.
      global_clipnorm: largest norm of all gradients together, more than 0. At most one of the
        three.
      use_ema: must be false.
      ema_momentum: without effect, since use_ema is.
      ema_overwrite_frequency: without effect, since use_ema is.
      loss_scale_factor: divides the gradients, more than 0; multiplying the loss is up to you.
      gradient_accumulation_steps: must be `None`.
      name: without effect here.
      jit_compile: without effect here, as the next; both are in tf_keras's configuration.
      is_legacy_optimizer: must be false; the legacy one is `tf_keras_legacy`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.keras(learning_rate=0.1)
      >>> var1 = jnp.array(10.0)
      >>> updates, state = tx.update(var1, tx.init(var1))
      >>> print(f"{var1 + updates:.6f}")  # the example of Keras's own documentation
      9.683772

    References:
      https://keras.io/api/optimizers/rmsprop/
    """
    del name, ema_momentum, ema_overwrite_frequency, jit_compile
    if is_legacy_optimizer:
        raise ValueError("is_legacy_optimizer: make it by dialects.tf_keras_legacy.")
    check_fraction(rho=rho)
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(weight_decay=weight_decay)
    check_range("momentum", momentum, upper=1.0)
    check_positive(loss_scale_factor=loss_scale_factor)
    check_one_of(clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm)
    if use_ema:
        raise ValueError(
            "use_ema: keep the average beside the parameters, after each update by average = "
            "optax.incremental_update(params, average, 1 - ema_momentum), or by optax.ema."
        )
    if gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps: wrap the optimizer in optax.MultiSteps(keras(...), "
            "every_k_schedule=steps). Its schedules count updates, where Keras's count batches."
        )
    return chain(
        parts.unscale(loss_scale_factor),
        parts.clip(clipvalue, clipnorm, global_clipnorm),
        scale_by_rms(rho, epsilon, eps_in_sqrt=True, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
        parts.decoupled_decay(learning_rate, weight_decay, as_factor=False),
    )


# For each accumulator what Keras 3 and tf_keras call it, and what the legacy optimizer does, in the
# order of the variables.
_SLOTS = {
    "nu": ("velocity", "rms"),
    "trace": ("momentum", "momentum"),
    "mu": ("average_gradient", "mg"),
}
_HEADS = ("iteration", "iter", "learning_rate", "step_counter", "dynamic_scale")
_BESIDE = {
    "average": "averages of the weights, of use_ema",
    "gradient_accumulator": "sums of gradients, of gradient_accumulation_steps",
}


def load(
    tx: optax.GradientTransformation,
    variables: Mapping[str, Any] | Sequence[Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    count: int | None = None,
    in_order: bool = False,
) -> optax.OptState:
    """Goes on with an optimizer of Keras.

    What load and dump of all frameworks have in common is said in `interop`.

    Args:
      tx: made by `dialects.keras` or `tf_keras_legacy` with the optimizer's own settings; in
        `optax.partition` beside `optax.set_to_zero` if layers are frozen.
      variables: the optimizer's variables by name, `{v.path: np.asarray(v) for v in
        optimizer.variables}` (`v.name` in tf_keras); or by number, as a file has them, `{k: v[()]
        for k, v in h5py.File(path)["optimizer/vars"].items()}`, or all arrays of that file by path;
        or in order, as `optimizer.get_weights()` of tf_keras returns them. Those of a
        LossScaleOptimizer are understood.
      weights: the trainable variables in order, by path: `{v.path: np.asarray(v) for v in
        model.trainable_variables}`, or by `v.name` in tf_keras. The order only matters for
        variables without names. It isn't that of a file, which is sorted.
      to_params: from a dictionary like weights to your parameters.
      count: number of updates made, if variables lack it.
      in_order: say that weights are in the order of `model.trainable_variables`.

    Returns:
      The state. The learning rate among the variables isn't read: tx has one. Averages of the
      weights have no place in it: a warning names them.

    Raises:
      ValueError: also for a sum of gradients that isn't complete.

    Example:
      >>> variables = [np.int32(7), np.float32(0.1), np.full((2, 3), 4.0)]
      >>> weights = {"dense/kernel": np.zeros((2, 3))}
      >>> opt_state = load(keras(0.1), variables, weights, lambda named: named)
      >>> print(opt_state[2].count, opt_state[2].nu["dense/kernel"][0])
      7 [4. 4. 4.]
    """
    weights = arrays.as_named(weights)
    port = pairing.probe(to_params, weights, ())
    template = accumulators.start(tx, weights, to_params)
    groups = accumulators.groups_of(tx, template)
    _check_dialects(groups)
    members = accumulators.members_of(groups, port)
    keys, saved = _pair(variables, groups, members, weights, in_order)
    heads = {k: saved.pop(k) for k in list(saved) if _last(k) in _HEADS}
    if (step := _count_key(heads)) is not None:
        count = arrays.as_count(heads[step], step)
    found = {k: arrays.as_array(x) for k, x in saved.items()}
    wanted = {key: weights[n] for part in keys.values() for n, key in part.items()}
    _check_beside(found, wanted)
    named = accumulators.by_name(found, wanted, keys)
    return accumulators.load(tx, template, port, named, count)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
    *,
    like: Mapping[str, Any] | None = None,
    params: optax.Params | None = None,
) -> dict[str, Any]:
    """Hands an optimizer back to Keras.

    Args:
      tx: made by `dialects.keras` or `tf_keras_legacy`.
      opt_state: its state.
      weights: in the order of `model.trainable_variables`.
      from_params: the inverse of to_params.
      like: the variables of the optimizer by name or by number, such as those that were loaded.
      params: needed if some are frozen.

    Returns:
      The optimizer's variables by name, or as in like, in its order, so that
      `for variable, x in zip(optimizer.variables, saved.values()): variable.assign(x)` loads them
      into Keras 3, and `optimizer.set_weights(list(saved.values()))` into tf_keras. There is no
      learning rate if tx has a schedule, as in Keras.

    Example:
      >>> tx, params = keras(0.1), {"dense/kernel": np.zeros((2, 3), np.float32)}
      >>> print(*dump(tx, tx.init(params), params, lambda tree: tree))
      rmsprop/iteration rmsprop/learning_rate rmsprop/dense_kernel_velocity
    """
    groups = accumulators.groups_of(tx, opt_state, writes=True)
    legacy = _check_dialects(groups)
    named, group_of = accumulators.dump(groups, weights, from_params, params)
    members = {name: k for name, k in group_of.items() if k >= 0}
    count = max(int(group.rms.count) for group in groups)
    arguments = groups[0].arguments
    rate = arguments["learning_rate"]
    if like is not None:
        keys, saved = _pair(like, groups, members, weights, True)
        changed = {k: named[part][n] for part, own in keys.items() for n, k in own.items()}
        step = _count_key({k: x for k, x in saved.items() if _last(k) in _HEADS})
        changed |= {} if step is None else {step: np.asarray(count, np.asarray(saved[step]).dtype)}
        if not callable(rate):
            changed |= {k: np.float32(rate) for k in saved if _last(k) == "learning_rate"}
        if _numbered(like):  # those in front are of a LossScaleOptimizer
            numbers = list(_in_file_order(like))[-len(saved) :]
            number_of = dict(zip(saved, numbers, strict=True))
            changed = {number_of[k]: x for k, x in changed.items()}
        return {key: changed.get(key, x) for key, x in like.items()}
    prefix = arguments["name"] or "rmsprop"
    slots = {
        _stems(name, part)[legacy]: named[part][name]
        for part in _SLOTS
        for name, k in members.items()
        if part in accumulators.wanted(groups[k])
    }
    if legacy:
        return {f"{prefix}/{key}:0": x for key, x in {"iter": np.int64(count), **slots}.items()}
    head = {} if callable(rate) else {"learning_rate": np.float32(rate)}
    return {f"{prefix}/{k}": x for k, x in {"iteration": np.int32(count), **head, **slots}.items()}


def _check_dialects(groups):
    """Raises for other dialects than Keras's; returns whether it is the legacy one."""
    for group in groups:
        if group.name not in ("keras", "tf_keras_legacy"):
            raise ValueError(f"dialects.{group.name} isn't Keras: make it by dialects.keras.")
    return groups[0].name == "tf_keras_legacy"


def _stems(name, part):
    """What a variable is called, behind the optimizer's name, in Keras 3 and both of tf_keras."""
    new, old = _SLOTS[part]
    bare = name.removesuffix(":0")
    return f"{bare.replace('/', '_')}_{new}", f"{bare}/{old}", f"{new}/{bare}"


def _last(key):
    return key.removesuffix(":0").rpartition("/")[2]


def _count_key(heads):
    return next((key for key in heads if _last(key) in ("iteration", "iter")), None)


def _pair(variables, groups, members, weights, in_order):
    """The key of each accumulator, and the variables by key without those of a loss scale."""
    parts = {name: accumulators.wanted(groups[k]) for name, k in members.items()}
    blocks = {part: [n for n in members if part in parts[n]] for part in _SLOTS}
    blocks = {part: names for part, names in blocks.items() if names}
    if not isinstance(variables, Mapping):
        variables = {str(i): x for i, x in enumerate(variables)}
    if _numbered(variables):
        found = list(_in_file_order(variables).values())
        keys = {part: {n: _stems(n, part)[1] for n in own} for part, own in blocks.items()}
        total = sum(map(len, blocks.values()))
        saved = _by_number(found, [k for own in keys.values() for k in own.values()], len(members))
        shapes: list[Any] = [
            tuple(np.shape(x)) for x in list(saved.values())[-total:][: len(blocks["nu"])]
        ]
        own = {name: weights[name] for name in blocks["nu"]}
        pairing.check_order(own, shapes, [0] * len(own), in_order)
        return keys, saved
    stems = {name: _stems(name, "nu")[0] for name in members}
    bare = {key.removesuffix(":0"): key for key in variables}
    if len(set(stems.values())) < len(stems) and not any("/" in k.partition("/")[2] for k in bare):
        raise ValueError("Keras has the same name for several variables: number them in weights.")
    keys = {}
    for part, names in blocks.items():
        keys[part] = {}
        for name in names:
            key = pairing.find(bare, *_stems(name, part))
            keys[part][name] = _stems(name, part)[0] if key is None else bare[key]
    wrapper = {k.rpartition("/")[0] for k in variables if _last(k) == "dynamic_scale"}
    return keys, {k: x for k, x in variables.items() if k.rpartition("/")[0] not in wrapper}


def _numbered(variables):
    return all(key.isdecimal() for key in variables) or any("/vars/" in key for key in variables)


def _in_file_order(variables):
    """The variables that are numbered, in order, alone or among all that is in a file."""
    number = lambda key: int(key.rpartition("/")[2])
    for folder in ("optimizer/inner_optimizer/vars/", "optimizer/vars/"):
        if inside := [key for key in variables if folder in key]:
            return {key: variables[key] for key in sorted(inside, key=number)}
    if not all(key.isdecimal() for key in variables):
        raise ValueError('The file has no "optimizer/vars": it was saved without its optimizer.')
    return {key: variables[key] for key in sorted(variables, key=number)}


def _by_number(variables, keys, members):
    """Variables in order by key: the count, maybe the learning rate, then the accumulators."""
    heads = {0: (), 1: ("iteration",), 2: ("iteration", "learning_rate")}
    extra = len(variables) - len(keys)
    # In front of them a LossScaleOptimizer has two such of its own, a counter and the scale.
    if extra in (5, 6) and not any(np.ndim(x) for x in variables[:extra]):
        variables, extra = variables[4:], extra - 4
    if extra not in heads or any(np.ndim(x) for x in variables[:extra]):
        hint = (
            " Those too many may be averages of the weights (use_ema) or sums of gradients "
            "(gradient_accumulation_steps), which stand in front of the others: leave them out."
        )
        raise ValueError(
            f"Keras has {len(variables)} variables, where tx needs the count of updates, maybe the "
            f"learning rate, and these {len(keys)}: {', '.join(keys)}."
            + hint
            * (extra > members > 0)
        )
    return dict(zip((*heads[extra], *keys), variables, strict=True))


def _check_beside(found, wanted):
    """Takes out what Keras keeps beside the accumulators, if nothing is lost by that."""
    for ending, text in _BESIDE.items():
        beside = [key for key in found if key not in wanted and key.endswith(f"_{ending}")]
        numbers = {key: found.pop(key) for key in beside}
        if ending == "average" and beside:
            warnings.warn(
                f"The checkpoint also holds {text}, which this state has no place for: "
                f"{', '.join(beside)}.",
                stacklevel=3,
            )
        elif full := [key for key, x in numbers.items() if x.any()]:
            raise ValueError(
                f"The checkpoint is from the middle of an accumulation, and its {text}, would be "
                f"lost: {', '.join(full)}."
            )
