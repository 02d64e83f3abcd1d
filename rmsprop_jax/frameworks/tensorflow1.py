"""RMSProp of TensorFlow 1, `tf.compat.v1.train.RMSPropOptimizer`, and TensorFlow's checkpoints.

A checkpoint doesn't say with which hyperparameters it was made: you make
`tx = dialects.tensorflow1(...)` as the program did. Where TensorFlow is installed,
`reader = tf.train.load_checkpoint(path)` and
`{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}` read the tensors.
Nothing here imports TensorFlow or reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_nonnegative, check_optional, check_rate
from rmsprop_jax.frameworks import accumulators, arrays, pairing
from rmsprop_jax.frameworks import keras as keras_variables
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms

__all__ = ["dump", "load", "tensorflow1"]


@public
def tensorflow1(
    learning_rate: optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    name: str = "RMSProp",
) -> optax.GradientTransformation:
    """RMSProp of TensorFlow 1, `tf.compat.v1.train.RMSPropOptimizer`.

    The update of a variable p with gradient g:

        ms <- decay ms + (1 - decay) g^2                 starting at 1
        u <- g / sqrt(ms + epsilon)                      ms - E[g]^2 for ms if centered
        mom <- momentum mom + learning_rate u;  p <- p - mom

    It differs from `rmsprop` as follows:

    1. ms starts at 1: gradients much smaller than 1 make much shorter steps at first.
    2. epsilon is inside the root.
    3. The learning rate is inside the momentum.
    4. learning_rate has no default, and that of epsilon is 1e-10.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      use_locking: without effect here; it concerns concurrent updates.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tensorflow1(0.1, decay=0.5)
      >>> g = jnp.array([1.0, 7.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # where rmsprop makes two equal steps
      [-0.1  -0.14]

    References:
      https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/RMSPropOptimizer
    """
    del use_locking, name
    check_rate(learning_rate=learning_rate)
    check_nonnegative(epsilon=epsilon)
    check_optional(momentum=momentum)
    return chain(
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        parts.scale_by_learning_rate(learning_rate),
        parts.momentum_trace(momentum),
    )


_SLOTS = {"nu": "rms", "mu": "mg", "trace": "momentum"}
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_COUNT = re.compile(rf"(?:.*/)?(?:global_step|iter|iterations|_iterations)(?:{re.escape(_VALUE)})?")
_NUMBER = re.compile(rf"(.*)/_variables/(\d+){re.escape(_VALUE)}")


def load(
    tx: optax.GradientTransformation,
    variables: Mapping[str, Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    count: int | None = None,
    in_order: bool = False,
) -> optax.OptState:
    """Goes on with an optimizer of TensorFlow.

    What load and dump of all frameworks have in common is said in `interop`.

    Args:
      tx: made by `dialects.tensorflow1`; for an object checkpoint of tf_keras by `tf_keras_legacy`
        or `keras`. It also says what a slot is: the one called `w/RMSProp_1` has the mean of the
        gradients if tx is centered (then `w/RMSProp_2` is the momentum), and else the momentum.
      variables: the tensors of the checkpoint by name, both forms: `w/RMSProp` as
        `tf.compat.v1.train.Saver` writes it (behind the scope in which the optimizer was built, if
        there was one), `w/.OPTIMIZER_SLOT/optimizer/rms/.ATTRIBUTES/VARIABLE_VALUE` as
        `tf.train.Checkpoint` does. What is no slot is not looked at. Of several optimizers, pass
        the tensors of one.
      weights: the trained variables, by their names in the checkpoint, with or without
        `/.ATTRIBUTES/VARIABLE_VALUE`; for `keras`, whose variables only have numbers there, in the
        order of `model.trainable_variables`.
      to_params: from a dictionary like weights to your parameters.
      count: number of updates made, if the checkpoint has no `global_step` or `iter`.
      in_order: say that weights are in order, for `keras`.

    Returns:
      The state.

    Raises:
      ValueError: also if a name fits several slots.

    Example:
      >>> tx = tensorflow1(0.1, momentum=0.9)
      >>> slots = {"w/RMSProp": np.ones(2), "w/RMSProp_1": np.array([0.5, -0.5])}
      >>> opt_state = load(tx, slots, {"w": np.zeros(2)}, lambda named: named["w"])
      >>> print(opt_state[2].trace)  # in this chain the trace is what is added
      [-0.5  0.5]
    """
    weights = arrays.as_named(weights)
    port = pairing.probe(to_params, weights, ())
    template = accumulators.start(tx, weights, to_params)
    groups = accumulators.groups_of(tx, template)
    if count is None and (steps := [x for key, x in variables.items() if _COUNT.fullmatch(key)]):
        count = max(arrays.as_count(np.max(x), "the number of updates") for x in steps)
    if all(group.name == "keras" for group in groups):
        numbered = _numbered(variables)
        return keras_variables.load(
            tx, numbered, weights, to_params, count=count, in_order=in_order
        )
    keys = _keys(variables, groups, accumulators.members_of(groups, port), None)
    used = {key for part in keys.values() for key in part.values()}
    saved = {
        k: arrays.as_array(x) for k, x in variables.items() if k in used or _is_slot(k, groups)
    }
    wanted = {key: weights[n] for part in keys.values() for n, key in part.items()}
    named = accumulators.by_name(saved, wanted, keys)
    return accumulators.load(tx, template, port, named, count)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
    *,
    optimizer: str | None = None,
    like: Mapping[str, Any] | None = None,
    params: optax.Params | None = None,
) -> dict[str, Any]:
    """Hands an optimizer back to TensorFlow.

    Args:
      tx: made by `dialects.tensorflow1` or `tf_keras_legacy`.
      opt_state: its state.
      weights: the parameters by name.
      from_params: the inverse of to_params.
      optimizer: for the names of an object checkpoint, what the optimizer is called in it.
      like: the tensors that were loaded, whose names are kept, also those of numbered variables
        (then tx may be made by `keras`).
      params: needed if some are frozen.

    Returns:
      The slots by their names in a checkpoint, and with like or optimizer the count of updates.
      TensorFlow 1 has a momentum always, 0 if tx has none.

      To load them, write a checkpoint like the one that was read (`variables`), with the weights,
      too: `new = {**variables, **saved, **weights}`, `tf.raw_ops.SaveV2(prefix=path,
      tensor_names=list(new), shape_and_slices=[""] * len(new), tensors=list(new.values()))`.
      `tf.compat.v1.train.Saver` restores it, or `tf.train.Checkpoint`. Without one, assign each to
      its slot variable: `session.run([v.assign(saved[v.op.name]) for v in optimizer.variables()])`
      in a graph; `optimizer.get_slot(v, "rms").assign(...)` for objects, after a first step has
      made them; `optimizer.iterations.assign(...)` for the count.

    Example:
      >>> tx, params = tensorflow1(0.1, centered=True), {"w": np.zeros(2, np.float32)}
      >>> print(*dump(tx, tx.init(params), params, lambda tree: tree))
      w/RMSProp w/RMSProp_1 w/RMSProp_2
    """
    groups = accumulators.groups_of(tx, opt_state, writes=True)
    count = max(int(group.rms.count) for group in groups)
    counts = {
        k: np.asarray(count, np.asarray(x).dtype)
        for k, x in (like or {}).items()
        if _COUNT.fullmatch(k)
    }
    if all(group.name == "keras" for group in groups) and like is not None:
        numbered = _numbered(like)
        new = keras_variables.dump(
            tx, opt_state, weights, from_params, like=numbered, params=params
        )
        of_key = {m[2]: key for key in like if (m := _NUMBER.fullmatch(key))}
        return {of_key[number]: x for number, x in new.items()} | counts
    named, group_of = accumulators.dump(groups, weights, from_params, params)
    members = {name: k for name, k in group_of.items() if k >= 0}
    keys = _keys(like or {}, groups, members, optimizer)
    if optimizer is not None and like is None:
        counts = {f"{optimizer}/iter{_VALUE}": np.int64(count)}
    slots = {key: named[part][n] for part, own in keys.items() for n, key in own.items()}
    if like is not None:
        arrays.check(
            {k: like[k] for k in slots if k in like}, {k: like.get(k, x) for k, x in slots.items()}
        )
    return slots | counts


def _keys(variables, groups, members, optimizer):
    """The names of the slots: those that there are, else those that TensorFlow would give them."""
    keys: dict[str, dict[str, str]] = {part: {} for part in _SLOTS}
    owners = {m[1] for key in variables if (m := re.search(r"/\.OPTIMIZER_SLOT/(.*)/\w+/", key))}
    owner = optimizer or (next(iter(owners)) if len(owners) == 1 else "optimizer")
    for name, k in members.items():
        group = groups[k]
        if group.name not in ("tensorflow1", "tf_keras_legacy"):
            raise ValueError(
                f"dialects.{group.name} has no slots: make tx by dialects.tensorflow1."
            )
        own = accumulators.wanted(group)
        if group.name == "tensorflow1" and "trace" not in own:
            own = [*own, "trace"]
        bare = name.removesuffix(_VALUE).removesuffix(":0")
        for number, part in enumerate(own):
            stem = f"{bare}/{group.arguments['name']}" + (f"_{number}" if number else "")
            slot = f"{_SLOTS[part]}{_VALUE}"
            start = f"{bare}/.OPTIMIZER_SLOT/"
            found = [key for key in variables if key.startswith(start) and key.endswith(f"/{slot}")]
            if len(found) > 1:
                raise ValueError(f"Several optimizers have slots of {bare}: {', '.join(found)}.")
            in_object = optimizer is not None or bool(owners)
            if group.name == "tf_keras_legacy" and not in_object:
                raise ValueError(
                    "dialects.tf_keras_legacy has slots in an object checkpoint only: pass "
                    "optimizer, what it is called there. Its variables are interop.keras's."
                )
            made = f"{start}{owner}/{slot}" if in_object else stem
            keys[part][name] = (found or [pairing.find(variables, stem) or made])[0]
    return keys


def _is_slot(key, groups):
    """Whether a name is that of a slot of one of the optimizers."""
    names = "|".join({re.escape(group.arguments["name"]) for group in groups})
    return ".OPTIMIZER_SLOT" in key or re.fullmatch(rf".*/({names})(_\d+)?", key) is not None


def _numbered(variables):
    """The variables of an optimizer of tf_keras from 2.11 on, by number."""
    found = [(m[1], m[2], x) for key, x in variables.items() if (m := _NUMBER.fullmatch(key))]
    owners = {owner for owner, _, _ in found}
    if len(owners) != 1:
        raise ValueError(
            f"The checkpoint has the numbered variables of {len(owners)} optimizers, and should "
            "have those of one: optimizer/_variables/1/.ATTRIBUTES/VARIABLE_VALUE and so on."
        )
    return {number: x for _, number, x in sorted(found, key=lambda y: int(y[1]))}
