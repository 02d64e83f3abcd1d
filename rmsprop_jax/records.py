"""What a transformation was made with: a record of the call, kept where it is made.

Optax's transformations are pairs of functions that don't tell what they are. Those of this library
carry a `Record`, as an attribute of `update`: it lives as long as that function does, and stays
with it in chains and wrappers. `anatomy` reads it.
"""

import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import optax

_P = ParamSpec("_P")
_ATTRIBUTE = "_rmsprop_jax_record"


class Record(NamedTuple):
    """The call that made a transformation.

    Attributes:
      factory: the function that was called, such as `rmsprop_jax.rmsprop` or `optax.trace`.
      arguments: all of its arguments by name, defaults included.
      made: what stands inside: for a dialect its chain, for a chain its parts, for what can't be
        taken apart nothing.
    """

    factory: Callable[..., Any]
    arguments: dict[str, Any]
    made: tuple[optax.GradientTransformation, ...]


def record_of(tx: Any) -> Record | None:
    """The record that a transformation carries, if it does."""
    update = getattr(tx, "update", None)
    if not isinstance(update, types.FunctionType):
        return None
    # A user's wrapper that says functools.wraps(update) has the attribute too, and isn't the owner.
    owner, record = getattr(update, _ATTRIBUTE, (lambda: None, None))
    return record if owner() is update else None


def attach(
    tx: optax.GradientTransformationExtraArgs, record: Record
) -> optax.GradientTransformationExtraArgs:
    """Gives a transformation its record. `update` must be its own, not shared with others."""
    setattr(tx.update, _ATTRIBUTE, (weakref.ref(tx.update), record))
    return tx


def recorded(
    factory: Callable[_P, optax.GradientTransformation],
) -> Callable[_P, optax.GradientTransformationExtraArgs]:
    """Makes what a factory makes carry a record; for factories of Optax too."""
    return recorder(factory, lambda tx: tx)


def recorder(
    factory: Callable[_P, optax.GradientTransformation],
    around: Callable[
        [optax.GradientTransformationExtraArgs], optax.GradientTransformationExtraArgs
    ],
) -> Callable[_P, optax.GradientTransformationExtraArgs]:
    """A function with the signature of a factory, which attaches a record to what that makes.

    Args:
      factory: the factory.
      around: what goes around the transformation after that.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> optax.GradientTransformationExtraArgs:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tx = factory(*args, **kwargs)
        inner = optax.with_extra_args_support(tx)

        def update(updates, state, params=None, **extra_args):
            return inner.update(updates, state, params, **extra_args)

        new = optax.GradientTransformationExtraArgs(tx.init, update)
        made = () if record_of(tx) is None else (tx,)
        return around(attach(new, Record(make, dict(bound.arguments), made)))

    return make
