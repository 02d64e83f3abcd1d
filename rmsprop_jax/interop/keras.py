"""Optimizer state of Keras, from and to the variables of its RMSprop.

It is read and written for Keras 3 and for `tf_keras.optimizers.legacy.RMSprop`; the variables of
tf_keras from 2.11 on are those of Keras 3 in other words, and can be read in order. The
hyperparameters are in the optimizer's configuration, by the names that the dialect has for them:
`tx = dialects.keras(**optimizer.get_config())`, or with a schedule
`dialects.keras(**{**optimizer.get_config(), "learning_rate": schedule})`. Nothing here imports
Keras or reads a file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from rmsprop_jax import parts
from rmsprop_jax.interop import arrays, states

__all__ = ["dump", "load"]

# In the order of the variables.
_KERAS = {"nu": "velocity", "trace": "momentum", "mu": "average_gradient"}
_LEGACY = {"nu": "rms", "trace": "momentum", "mu": "mg"}


def load(
    tx: optax.GradientTransformation,
    variables: Mapping[str, Any] | Sequence[Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    count: int | None = None,
) -> optax.OptState:
    """Goes on with an optimizer of Keras.

    The function that ports the weights ports the optimizer: it is applied to each accumulator.

    Args:
      tx: made by `dialects.keras` or `tf_keras_legacy` with the optimizer's own settings.
      variables: the optimizer's variables by name, `{v.path: np.asarray(v) for v in
        optimizer.variables}` (`v.name` in tf_keras); or in order, as `optimizer.get_weights()` of
        tf_keras returns them; or by number, as a file has them, `{k: v[()] for k, v in
        h5py.File(path)["optimizer/vars"].items()}`.
      weights: the trainable variables in order, by path: `{v.path: np.asarray(v) for v in
        model.trainable_variables}`, or by `v.name` in tf_keras.
      to_params: your function from a dictionary like weights to a pytree of parameters.
      count: number of updates made, if variables lack it.

    Returns:
      The state. The learning rate among the variables isn't read: tx has one.

    Raises:
      ValueError: naming all variables that are missing, too many or of a wrong shape; if variables
        in order aren't as many as tx needs; for a negative average of squares; and for a schedule
        without a count.

    Example:
      >>> from rmsprop_jax import dialects
      >>> variables = [np.int32(7), np.float32(0.1), np.full((2, 3), 4.0)]
      >>> weights = {"dense/kernel": np.zeros((2, 3))}
      >>> opt_state = load(dialects.keras(0.1), variables, weights, lambda named: named)
      >>> print(opt_state[2].count, opt_state[2].nu["dense/kernel"][0])
      7 [4. 4. 4.]

    References:
      https://keras.io/api/optimizers/rmsprop/
    """
    keys = _keys(tx, weights)
    if isinstance(variables, Mapping) and not all(key.isdecimal() for key in variables):
        saved = {_without_prefix(key): x for key, x in variables.items()}
    else:
        saved = _by_name(variables, [key for part in keys.values() for key in part.values()])
    saved.pop("learning_rate", None)
    steps = saved.pop("iteration", saved.pop("iter", None))
    count = count if steps is None else int(arrays.as_array(steps))
    return states.load(tx, weights, to_params, saved, keys, count)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
) -> dict[str, Any]:
    """Hands an optimizer back to Keras.

    Args:
      tx: made by `dialects.keras` or `tf_keras_legacy`, maybe in a chain with other parts.
      opt_state: its state.
      weights: any dictionary with the names and shapes of the parameters, in the order of
        `model.trainable_variables`.
      from_params: your function from a pytree of parameters to a dictionary like weights.

    Returns:
      The optimizer's variables by name, in its order, so that
      `for variable, x in zip(optimizer.variables, saved.values()): variable.assign(x)` loads them
      into Keras 3, and `optimizer.set_weights(list(saved.values()))` into tf_keras. There is no
      learning rate if tx has a schedule, as in Keras.

    Raises:
      ValueError: if tx isn't one of those above, and if the names or shapes that come out of
        from_params aren't those of weights.

    Example:
      >>> from rmsprop_jax import dialects
      >>> tx, params = dialects.keras(0.1), {"dense/kernel": np.zeros((2, 3), np.float32)}
      >>> print(*dump(tx, tx.init(params), params, lambda tree: tree))
      rmsprop/iteration rmsprop/learning_rate rmsprop/dense_kernel_velocity
    """
    trees, count = states.take(tx, opt_state)
    slots = states.dump(trees, weights, from_params, _keys(tx, weights))
    dialect, arguments = states.made_by(tx)
    prefix, rate = arguments["name"] or "rmsprop", arguments["learning_rate"]
    if dialect == "tf_keras_legacy":
        named = {"iter": np.int64(count), **slots}
        return {f"{prefix}/{key}:0": x for key, x in named.items()}
    head = {} if callable(rate) else {"learning_rate": np.float32(rate)}
    named = {"iteration": np.int32(count), **head, **slots}
    return {f"{prefix}/{key}": x for key, x in named.items()}


def _keys(tx, weights):
    """The names of the variables that tx needs, as `_without_prefix` leaves them."""
    dialect, arguments = states.made_by(tx)
    if dialect not in ("keras", "tf_keras_legacy"):
        raise ValueError(f"dialects.{dialect} isn't Keras: make it by dialects.keras.")
    legacy = dialect == "tf_keras_legacy"
    slots = dict(_LEGACY if legacy else _KERAS)
    if not arguments["centered"]:
        del slots["mu"]
    if not parts.given(arguments["momentum"]):
        del slots["trace"]
    stems = {
        n: f"{n.removesuffix(':0')}/" if legacy else f"{n.replace('/', '_')}_" for n in weights
    }
    if len(set(stems.values())) < len(stems):
        raise ValueError("Keras has the same name for several variables: number them in weights.")
    return {part: {n: stem + slot for n, stem in stems.items()} for part, slot in slots.items()}


def _without_prefix(key):
    """The name of a variable without that of the optimizer."""
    key = key.removesuffix(":0")
    return key.partition("/")[2] or key


def _by_name(variables, keys):
    """The variables by name: the count, maybe the learning rate, then the accumulators."""
    if isinstance(variables, Mapping):
        variables = [variables[number] for number in sorted(variables, key=int)]
    heads = [(), ("iteration",), ("iteration", "learning_rate")]
    extra = len(variables) - len(keys)
    if not 0 <= extra < len(heads) or any(np.ndim(x) for x in variables[:extra]):
        raise ValueError(
            f"Keras has {len(variables)} variables, where tx needs the count of updates, maybe the "
            f"learning rate, and these {len(keys)}: {', '.join(keys)}."
        )
    return dict(zip((*heads[extra], *keys), variables, strict=True))
