"""What the updates of each RMSProp in a transformation are multiplied by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax import parts
from rmsprop_jax.anatomy import NOT_SCALING, PASSING, Part, mismatch, take_apart
from rmsprop_jax.diagnostics.names import named, plain
from rmsprop_jax.storage import store, unpack
from rmsprop_jax.transform import NumeratorState, RmsState, scale_by_rms


class Rms(NamedTuple):
    """A `scale_by_rms`: its arguments, its averages, and what its updates are multiplied by."""

    arguments: dict[str, Any]
    nu: Any
    mu: Any
    factor: Any = 1.0

    def times(self, factor: Any) -> Rms:
        """The same with updates that are multiplied once more."""
        return self._replace(factor=self.factor * factor)

    def of(self, mask: Callable[[Any], bool], value: bool = True) -> Rms:
        """The same for the parameters for whose paths a mask has a value."""
        choose = lambda path, x: x if mask(path) is value else optax.MaskedNode()
        nu, mu = (jax.tree.map_with_path(choose, tree) for tree in (self.nu, self.mu))
        return self._replace(nu=nu, mu=mu)


def find_rms(tx: Any, opt_state: Any) -> list[Rms]:
    """All RMSProps in tx, with their averages in opt_state; raises if there is none."""
    whole = take_apart(tx, plain(opt_state))
    with jax.numpy_dtype_promotion("standard"):  # between factors
        found = _follow(whole, [])
    if not found:
        leaves = [p.name for p in whole.walk() if not p.children and p.factory != optax.identity]
        raise ValueError(
            f"tx has no RMSProp of rmsprop_jax, only these parts: {', '.join(leaves)}. (For "
            "optax.rmsprop, take rmsprop_jax.dialects.optax; interop.optax.load takes over its "
            "state.)"
        )
    return [rms for rms in found if named(rms.nu)] or found[:1]


def _follow(part: Part, found: list[Rms]) -> list[Rms]:
    """Goes through a part, with the RMSProps found before it, whose updates it may scale."""
    factory, arguments, state = part.factory, part.arguments, part.state
    has_rms = any(p.factory is scale_by_rms for p in part.walk())
    if factory is scale_by_rms:
        state = state.rms if isinstance(state, NumeratorState) else state
        if not isinstance(state, RmsState):
            raise mismatch("an RmsState", state)
        return [*found, Rms(arguments, state.nu, state.mu)]
    if not (has_rms or found) or factory in NOT_SCALING:
        return found
    if factory in _FACTORS:
        factor = _FACTORS[factory](part)
        return [rms.times(factor) for rms in found]
    if factory is store:
        inside = take_apart(arguments["tx"], unpack(state, **arguments["formats"]))
        return _follow(inside, found)
    passing = factory in PASSING and not (found and factory is optax.MultiSteps)
    if part.in_turn or passing:
        for child in part.children.values():
            found = _follow(child, found)
        return found
    if factory is optax.masked:
        return _follow_masked(part.children["inner"], found, arguments["mask"], True)
    if factory is optax.partition:
        for label, child in part.children.items():
            found = _follow_masked(child, found, arguments["param_labels"], label)
        return found
    if factory is optax.conditionally_mask:
        return _follow_conditional(part, found, 0.0)
    if factory is optax.conditionally_transform and not has_rms:
        return _follow_conditional(part, found, 1.0)
    raise ValueError(
        f"What {part.name} does to the updates of an RMSProp can't be told here, so neither can a "
        "learning rate: pass the RMSProp alone, with its own part of the state."
    )


def _follow_masked(part: Part, found: list[Rms], tree: Any, value: Any) -> list[Rms]:
    """The same for a part that acts where a mask, or a tree of labels, has a value."""

    def chosen(rms: Rms) -> Callable[[Any], bool]:
        leaves = jax.tree.leaves(tree)
        is_function = callable(tree) and (not leaves or all(map(callable, leaves)))
        known = jax.tree.leaves_with_path(tree(rms.nu) if is_function else tree)
        return lambda path: any(bool(x == value) for p, x in known if path[: len(p)] == p)

    masks = [chosen(rms) for rms in found]
    inside = [rms.of(mask) for rms, mask in zip(found, masks, strict=True)]
    after = _follow(part, inside)
    if all(x.factor is y.factor for x, y in zip(inside, after, strict=False)):
        return found + after[len(found) :]
    return after + [rms.of(mask, False) for rms, mask in zip(found, masks, strict=True)]


def _follow_conditional(part: Part, found: list[Rms], otherwise: float) -> list[Rms]:
    """The same for a part that acted or not, at the step before the one that the state counts."""
    condition = part.arguments["should_transform_fn"]
    if part.arguments.get("forward_extra_args", True):
        raise ValueError(f"{part.name} depends on more than its state: there is no learning rate.")
    acted = condition(jnp.maximum(part.state.step - 1, 0))
    inner = part.children["inner"]
    if not found:
        return [rms.times(jnp.where(acted, 1.0, otherwise)) for rms in _follow(inner, [])]
    alone = [(rms, _follow(inner, [rms._replace(factor=1.0)])) for rms in found]
    return [
        new._replace(factor=rms.factor * jnp.where(acted, new.factor, otherwise))
        for rms, after in alone
        for new in after
    ]


def _count(part: Part) -> Any:
    """The number of updates that a part had made before its last one."""
    if not hasattr(part.state, "count"):
        raise mismatch(f"the state of {part.name}", part.state)
    return jnp.maximum(part.state.count - 1, 0)


def _learning_rate(part: Part) -> Any:
    rate: Any = part.arguments["learning_rate"]
    now: Any = rate(_count(part)) if callable(rate) else rate
    return -now


# What parts multiply updates by.
_FACTORS: dict[Any, Callable[[Part], Any]] = {
    parts.scale_by_learning_rate: _learning_rate,
    parts.scale: lambda part: part.arguments["step_size"],
    optax.scale: lambda part: part.arguments["step_size"],
    optax.scale_by_schedule: lambda part: part.arguments["step_size_fn"](_count(part)),
    optax.contrib.reduce_on_plateau: lambda part: part.state.scale,
    optax.set_to_zero: lambda part: 0.0,
}
