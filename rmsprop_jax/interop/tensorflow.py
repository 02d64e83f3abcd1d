"""Optimizer state of TensorFlow 1, from and to the slot variables of its RMSPropOptimizer.

A checkpoint doesn't say with which hyperparameters it was made: you make
`tx = dialects.tensorflow1(...)` as the program did. Where TensorFlow is installed,
`reader = tf.train.load_checkpoint(path)` and
`{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}` read the tensors.
Nothing here imports TensorFlow or reads a file.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

from rmsprop_jax import parts
from rmsprop_jax.interop import arrays, states

__all__ = ["dump", "load"]

_SLOTS = {"nu": "rms", "mu": "mg", "trace": "momentum"}
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_COUNT = re.compile(rf"(?:.*/)?(?:global_step|iter|iterations)(?:{re.escape(_VALUE)})?")


def load(
    tx: optax.GradientTransformation,
    variables: Mapping[str, Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    count: int | None = None,
) -> optax.OptState:
    """Goes on with an optimizer of TensorFlow.

    The function that ports the weights ports the optimizer: it is applied to each accumulator.

    Args:
      tx: made by `dialects.tensorflow1`, or by `tf_keras_legacy` for an object checkpoint. It also
        says what a slot is: the one called `w/RMSProp_1` has the mean of the gradients if tx is
        centered (then `w/RMSProp_2` is the momentum), and else the momentum.
      variables: the tensors of the checkpoint by name, both forms: `w/RMSProp` as
        `tf.compat.v1.train.Saver` writes it, `w/.OPTIMIZER_SLOT/optimizer/rms/...` as
        `tf.train.Checkpoint` does. What is no slot is not looked at. Of several optimizers, pass
        the tensors of one.
      weights: the trained variables, by their names in the checkpoint.
      to_params: your function from a dictionary like weights to a pytree of parameters.
      count: number of updates made, if the checkpoint has no `global_step` or `iter`.

    Returns:
      The state.

    Raises:
      ValueError: naming all slots that are missing, too many or of a wrong shape, such as a second
        one if tx isn't centered; for a negative average of squares; and for a schedule without a
        count.

    Example:
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tensorflow1(0.1, momentum=0.9)
      >>> slots = {"w/RMSProp": np.ones(2), "w/RMSProp_1": np.array([0.5, -0.5])}
      >>> opt_state = load(tx, slots, {"w": np.zeros(2)}, lambda named: named["w"])
      >>> print(opt_state[2].trace)  # in this chain the trace is what is added
      [-0.5  0.5]

    References:
      https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/RMSPropOptimizer
    """
    if count is None:
        steps = [x for key, x in variables.items() if _COUNT.fullmatch(key)]
        count = int(max(np.max(x) for x in steps)) if steps else None
    owners = {m[1] for key in variables if (m := re.search(r"/\.OPTIMIZER_SLOT/(.*)/\w+/", key))}
    keys = _keys(tx, weights, owners.pop() if len(owners) == 1 else None)
    stem = rf".*/{states.made_by(tx)[1]['name']}(_\d+)?"
    is_slot = lambda key: ".OPTIMIZER_SLOT" in key or re.fullmatch(stem, key)
    saved = {key: x for key, x in variables.items() if is_slot(key)}
    return states.load(tx, weights, to_params, saved, keys, count)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
    *,
    optimizer: str | None = None,
) -> dict[str, Any]:
    """Hands an optimizer back to TensorFlow.

    Args:
      tx: made by `dialects.tensorflow1` or `tf_keras_legacy`, maybe in a chain with other parts.
      opt_state: its state.
      weights: any dictionary with the names and shapes of the parameters.
      from_params: your function from a pytree of parameters to a dictionary like weights.
      optimizer: for the names of an object checkpoint, what the optimizer is called in it.

    Returns:
      The slots by their names in a checkpoint. TensorFlow 1 has a momentum always, 0 if tx has
      none.

    Raises:
      ValueError: if tx isn't one of those above, and if the names or shapes that come out of
        from_params aren't those of weights.

    Example:
      >>> from rmsprop_jax import dialects
      >>> tx, params = dialects.tensorflow1(0.1, centered=True), {"w": np.zeros(2, np.float32)}
      >>> print(*dump(tx, tx.init(params), params, lambda tree: tree))
      w/RMSProp w/RMSProp_1 w/RMSProp_2
    """
    trees, _ = states.take(tx, opt_state)
    return states.dump(trees, weights, from_params, _keys(tx, weights, optimizer))


def _keys(tx, weights, optimizer):
    """The names of the slots, in an object checkpoint if there is the name of an optimizer."""
    dialect, arguments = states.made_by(tx)
    if dialect != "tensorflow1" and not (dialect == "tf_keras_legacy" and optimizer):
        raise ValueError(f"dialects.{dialect} has no slots: make tx by dialects.tensorflow1.")
    slots = dict(_SLOTS)
    if not arguments["centered"]:
        del slots["mu"]
    if dialect == "tf_keras_legacy" and not parts.given(arguments["momentum"]):
        del slots["trace"]

    def key(name, number, slot):
        if optimizer is not None:
            return f"{name}/.OPTIMIZER_SLOT/{optimizer}/{slot}{_VALUE}"
        return f"{name}/{arguments['name']}" + (f"_{number}" if number else "")

    return {
        accumulator: {name: key(name, number, slot) for name in weights}
        for number, (accumulator, slot) in enumerate(slots.items())
    }
