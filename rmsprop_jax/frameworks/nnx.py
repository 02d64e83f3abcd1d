"""A state in Flax's `nnx.Optimizer`, which keeps its arrays in variables of its own."""

from __future__ import annotations

from typing import Any

import jax
import optax

from rmsprop_jax.frameworks import arrays

__all__ = ["dump", "load"]


def load(optimizer: Any, opt_state: optax.OptState) -> None:
    """Goes on with a state in an `nnx.Optimizer`, which has made one of its own.

    The state is what `interop.restore` or the `load` of another framework returns, or that of the
    same transformation outside of Flax. The parameters in it may be any pytree whose paths are
    those of the model: `{"dense": {"kernel": ...}}` for `model.dense.kernel`.

    Args:
      optimizer: made by `nnx.Optimizer(model, tx, wrt=nnx.Param)`, with the tx of the state. Its
        variables are changed in place, and keep their dtypes and shardings. Its `step` becomes the
        largest `count` in the state, if there is one.
      opt_state: the state.

    Raises:
      ValueError: naming all arrays that are missing, too many, or of a wrong shape or kind of
        number, and for a state of another transformation. Then nothing is changed.
      TypeError: for what is no `nnx.Optimizer`.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> from rmsprop_jax import interop, rmsprop
      >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, rmsprop(0.1), wrt=nnx.Param)
      >>> nu = {"kernel": np.ones((2, 3)), "bias": np.arange(3.0)}
      >>> saved = {"0": {"count": 200, "nu": nu}}
      >>> interop.nnx.load(optimizer, interop.restore(optimizer.tx, saved, nnx.state(model)))
      >>> int(optimizer.step[...]), optimizer.opt_state[0].nu["bias"][...].tolist()
      (200, [0.0, 1.0, 2.0])

    References:
      https://flax.readthedocs.io/en/stable/api_reference/flax.nnx/training/optimizer.html
    """
    from flax import nnx

    _check_optimizer(optimizer)
    mine, theirs = _parts(optimizer.opt_state), _parts(opt_state)
    if mine != theirs:
        raise ValueError(
            "opt_state isn't a state of optimizer.tx: it has the parts "
            f"{', '.join(theirs) or 'of no transformation'}, and should have {', '.join(mine)}."
        )
    variables, numbers = _named(_bare(optimizer.opt_state)), _named(_bare(opt_state))
    arrays.check({key: arrays.as_array(x) for key, x in numbers.items()}, variables)
    new = [arrays.cast_like(x, numbers[key]) for key, x in variables.items()]
    treedef = jax.tree.structure(optimizer.opt_state)
    nnx.update(optimizer.opt_state, nnx.state(treedef.unflatten(new)))
    counts = [int(x) for key, x in numbers.items() if key.split("/")[-1] == "count"]
    if counts:
        optimizer.step[...] = max(counts)


def dump(optimizer: Any) -> optax.OptState:
    """Takes the state out of an `nnx.Optimizer`, as the `dump` of the frameworks wants it.

    Args:
      optimizer: the `nnx.Optimizer`.

    Returns:
      Its state as Optax has it, of arrays in place of Flax's variables.

    Raises:
      TypeError: for what is no `nnx.Optimizer`.

    Example:
      >>> from flax import nnx
      >>> from rmsprop_jax import interop, rmsprop
      >>> model = nnx.Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, rmsprop(0.1), wrt=nnx.Param)
      >>> print(interop.nnx.dump(optimizer)[0].nu["kernel"])
      [[0. 0. 0.]
       [0. 0. 0.]]
    """
    _check_optimizer(optimizer)
    return _bare(optimizer.opt_state)


def _check_optimizer(optimizer: Any) -> None:
    from flax import nnx

    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}, and should be an nnx.Optimizer."
        )


def _bare(tree: Any) -> Any:
    """A tree without Flax's variables, in which an array may be, or what stands for one."""
    from flax import nnx

    is_variable = lambda x: isinstance(x, nnx.Variable)
    value = lambda x: x.get_value() if is_variable(x) else x
    return jax.tree.map(value, tree, is_leaf=is_variable)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths."""
    text = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {text(path): x for path, x in jax.tree.leaves_with_path(tree)}


def _parts(tree: Any) -> list[str]:
    """The names of all named tuples, by which states of one shape can be told apart."""
    parts: list[str] = []

    def note(node: Any) -> bool:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            parts.append(type(node).__name__)
        return False

    jax.tree.leaves(tree, is_leaf=note)
    return parts
