"""RMSProp of PyTorch, `torch.optim.RMSprop`, and the state_dict of its optimizers.

`load` and `dump` are also for timm's `RMSpropTF`, Stable-Baselines3's `RMSpropTFLike` and the
`RMSprop` of bitsandbytes, whose optimizers are PyTorch's too. Nothing here imports PyTorch or reads
a file; read files with `torch.load(path, weights_only=True)`, which executes nothing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.checks import check_fraction, check_nonnegative, check_optional, check_rate, given
from rmsprop_jax.frameworks import accumulators, arrays, pairing, state_dicts
from rmsprop_jax.frameworks.stable_baselines3 import stable_baselines3
from rmsprop_jax.frameworks.timm import timm
from rmsprop_jax.precision import chain, public
from rmsprop_jax.transform import scale_by_rms

__all__ = ["dump", "load", "pytorch"]


@public
def pytorch(
    lr: optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> optax.GradientTransformation:
    """RMSProp of PyTorch, `torch.optim.RMSprop`.

    The update of a parameter p with gradient g:

        g <- -g                                          if maximize
        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 0
        u <- g / (sqrt(v) + eps)                         v - E[g]^2 for v if centered
        buffer <- momentum buffer + u;  u <- buffer
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. The defaults are lr = 1e-2 and alpha = 0.99.
    2. maximize negates the gradient, not the update: the weights still decay towards 0.
    3. The real and imaginary parts of a complex parameter are averaged and divided as two real
       parameters. PyTorch's gradient of a complex parameter is the conjugate of `jax.grad`'s.

    Args:
      lr: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.
      capturable: without effect here; it concerns CUDA graphs.
      foreach: without effect here; it chooses an implementation.
      maximize: ascend the gradients given.
      differentiable: without effect here; every update in JAX is differentiable.

    Returns:
      A transformation; for a complex leaf, the accumulators are pairs of real arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.pytorch(lr=0.01, alpha=0.75)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(params))
      >>> print(updates)
      [-0.02  0.02]

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """
    del capturable, foreach, differentiable
    check_fraction(alpha=alpha)
    check_rate(lr=lr)
    check_nonnegative(eps=eps)
    check_optional(weight_decay=weight_decay, momentum=momentum)
    return parts.by_component(
        chain(
            parts.scale(-1.0) if maximize else optax.identity(),
            parts.coupled_decay(weight_decay),
            scale_by_rms(alpha, eps, centered=centered),
            parts.momentum_trace(momentum),
            parts.scale_by_learning_rate(lr),
        )
    )


_SLOTS = {"nu": "square_avg", "mu": "grad_avg", "trace": "momentum_buffer"}
_FROZEN = "frozen"
_DIALECTS = ("pytorch", "timm", "stable_baselines3")


def load(
    state_dict: Mapping[str, Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    lr: optax.ScalarOrSchedule | Sequence[optax.ScalarOrSchedule] | None = None,
    dialect: Callable[..., optax.GradientTransformationExtraArgs] | None = None,
    frozen: Collection[str] | None = None,
    in_order: bool = False,
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """Goes on with an optimizer of PyTorch.

    What load and dump of all frameworks have in common is said in `interop`.

    Args:
      state_dict: of the optimizer; also as `get_optimizer_state_dict` of
        `torch.distributed.checkpoint` writes it, or the whole checkpoint of Lightning.
      weights: the parameters by name, `dict(model.named_parameters())`. If the checkpoint has
        names, the order doesn't matter, and what wrappers put into names (`module.`, `_orig_mod.`)
        may be there or not. If it hasn't, weights are in the order in which the optimizer got them,
        group by group.
      to_params: from a dictionary like weights to your parameters.
      lr: a learning rate instead of the saved one, such as the schedule, which a state_dict doesn't
        have; or a list with one for each group. A group's `lr_scale` multiplies a single one.
      dialect: `dialects.stable_baselines3` or `dialects.pytorch`, for a checkpoint of either
        Stable-Baselines3 or PyTorch before 1.12: these look the same.
      frozen: names of the parameters that stay still, as they do in PyTorch without a gradient: no
        step, no weight decay. `None` means those that the optimizer never got (if the checkpoint
        has names) and those without accumulators, unless none has any. A layer that is to be
        trained from now on is left out, and starts as in a new optimizer.
      in_order: say that weights without names are in the right order.

    Returns:
      The call of `dialects.pytorch`, `timm` or `stable_baselines3` with the hyperparameters of the
      checkpoint (in `optax.partition` if there are several groups, or frozen parameters), and its
      state. The count of updates is restored, so that a schedule goes on. The bytes of bitsandbytes
      become float32; `storage.pack(opt_state, nu=storage.U8)`, for `storage.store(tx,
      nu=storage.U8)`, makes bytes of them again.

    Raises:
      ValueError: also for a momentum that a scheduler cycles, and if several optimizers may have
        written this.
      TypeError: for what is no state_dict, such as the path of a file.

    Example:
      >>> group = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0, "maximize": False}
      >>> slots = {"step": 7, "square_avg": np.ones((3, 2))}
      >>> saved = {"state": {0: slots}, "param_groups": [{**group, "params": [0]}]}
      >>> to_params = lambda named: {"dense": {"kernel": named["fc.weight"].T}}
      >>> tx, opt_state = load(saved, {"fc.weight": np.zeros((3, 2))}, to_params)
      >>> print(opt_state[2].count, opt_state[2].nu["dense"]["kernel"].shape)
      7 (2, 3)
    """
    content = state_dicts.read(state_dict)
    weights = arrays.as_named(weights)
    groups = [state_dicts.in_our_words(g) for g in content.groups]
    for k, group in enumerate(groups):
        _check_group(k, group)
    names = state_dicts.names_of(content, weights, frozen, in_order)
    name_of = dict(zip(content.keys, names, strict=True))
    slots = {
        name_of.get(key, f"parameter {key}"): state_dicts.flat(x)
        for key, x in content.slots.items()
    }
    members = [[name_of[key] for key in group["params"]] for group in groups]
    still = [name for name in weights if name not in name_of.values()]
    if frozen is None:
        still += [n for n in names if n not in slots] if slots else []
    else:
        arrays.refuse(f"frozen: weights has no {name}" for name in frozen if name not in weights)
        still = list(frozen)
    saved, steps = accumulators_of(groups, members, slots, weights)
    makers = dialects_of(groups, members, saved["nu"], steps, dialect)
    rates = _rates(groups, lr)
    txs: dict[Any, Any] = {
        str(k): maker(**{**arguments_of(maker, group), **({} if rate is None else {"lr": rate})})
        for k, (maker, group, rate) in enumerate(zip(makers, groups, rates, strict=True))
    }
    if any(np.iscomplexobj(x) for x in saved["nu"].values()) and set(makers) != {pytorch}:
        raise ValueError(
            "The accumulators are complex, and these can be carried over for dialects.pytorch "
            "only, which documents what it does with them."
        )
    port = pairing.probe(to_params, weights, names)
    label_of = {n: str(k) for k, part in enumerate(members) for n in part} | dict.fromkeys(
        still, _FROZEN
    )
    used = [label for label in (*txs, _FROZEN) if label in label_of.values()]
    if used == ["0"]:
        tx = txs["0"]
    else:
        txs |= {_FROZEN: optax.set_to_zero()} if still else {}
        tx = optax.partition(txs, _labels(port, label_of))
    template = accumulators.start(tx, weights, to_params)
    return tx, accumulators.load(tx, template, port, saved, max(steps.values(), default=0))


def _check_group(k: int, group: dict[str, Any]) -> None:
    """Raises for a group that no RMSprop has, or of which a part would be lost."""
    needed = ("lr", "alpha", "eps", "weight_decay", "params")
    arrays.refuse(f"missing: param_groups[{k}].{key}" for key in needed if key not in group)
    if "max_momentum" in group and given(group.get("momentum")):
        raise ValueError(
            f"A scheduler cycles the momentum of param_groups[{k}], between base_momentum="
            f"{group.get('base_momentum')!r} and max_momentum={group['max_momentum']!r}: it would "
            f"stay at {group['momentum']!r} here. To go on with that, delete 'max_momentum' from "
            "the group; to cycle it, do so too, and give the call that comes back to "
            "optax.inject_hyperparams with a schedule as momentum."
        )


def accumulators_of(groups, members, slots, weights):
    """The accumulators by name of the parameter, and the numbers of steps, all checked."""
    has = lambda part, group: {
        "nu": True,
        "mu": bool(group.get("centered")),
        "trace": given(group.get("momentum")),
    }[part]
    saved: dict[str, dict[str, Any]] = {part: {} for part in _SLOTS}
    lines, steps, squares = [], {}, {}
    for group, names in zip(groups, members, strict=True):
        for name in names:
            mine = dict(slots.get(name, {}))
            if name in slots:
                steps[name] = arrays.as_count(mine.pop("step", np.nan), f"the step of {name}")
            for part, slot in _SLOTS.items():
                if slot not in mine:
                    late = name not in slots or part == "trace"  # is made when it is first used
                    if has(part, group) and not late:
                        lines += arrays.differences({}, {f"{name}.{slot}": weights[name]})
                    continue
                x, key = arrays.as_array(mine.pop(slot)), f"{name}.{slot}"
                x = x.astype(np.float32) if x.dtype.kind == "f" and x.dtype.itemsize < 4 else x
                want = {key: weights[name]} if has(part, group) else {}
                lines += arrays.differences({key: x}, want)
                saved[part][name], squares[key] = x, x
            lines += arrays.differences(
                {f"{name}.{s}": arrays.as_array(x) for s, x in mine.items()}, {}
            )
    for name in slots.keys() - {n for names in members for n in names}:
        lines.append(f"extra: {name}, which no group has")
    arrays.refuse(lines)
    key = lambda part, name: f"{name}.{_SLOTS[part]}"
    nus = [key("nu", n) for n in saved["nu"]]
    arrays.check_numbers(squares, nus, {key("nu", n): key("mu", n) for n in saved["mu"]})
    return saved, steps


def dialects_of(groups, members, nus, steps, dialect):
    """The dialect of each group."""
    if dialect is not None and dialect not in (pytorch, stable_baselines3, timm):
        raise ValueError(
            f"dialect={getattr(dialect, '__name__', dialect)!s} can't have written a state_dict of "
            "PyTorch: it is dialects.pytorch, stable_baselines3 or timm."
        )
    started_at_0 = [
        name
        for group, names in zip(groups, members, strict=True)
        for name in names
        if name in nus and (nus[name].real < 0.99 * group["alpha"] ** steps[name]).any()
    ]
    makers = []
    for group in groups:
        if "lr_in_momentum" in group or "decoupled_decay" in group:
            maker = timm
        elif "maximize" in group or "foreach" in group:
            maker = pytorch
        elif started_at_0:
            maker = pytorch
            if dialect is stable_baselines3:
                raise ValueError(
                    f"Stable-Baselines3's square_avg starts at 1, and that of {started_at_0[0]} is "
                    f"less than what is left of that after {steps[started_at_0[0]]} steps: this is "
                    "of PyTorch's RMSprop, dialect=dialects.pytorch."
                )
        else:
            maker = dialect
        if maker is None:
            raise ValueError(
                "Stable-Baselines3 and PyTorch before 1.12 write the same keys: pass dialect="
                "dialects.stable_baselines3 (eps under the root) or dialects.pytorch (eps outside)."
                + " No square_avg is less than alpha^step, as if it had started at 1, which "
                "Stable-Baselines3's does." * bool(nus)
            )
        if dialect not in (None, maker):
            raise ValueError(
                f"dialect=dialects.{dialect.__name__}, but the keys of the groups are those of "
                f"dialects.{maker.__name__}."
            )
        makers.append(maker)
    return makers


def _rates(groups, lr):
    """The learning rate of each group, `None` for the saved one."""
    if isinstance(lr, Sequence):
        if len(lr) != len(groups):
            raise ValueError(f"lr has {len(lr)} learning rates for {len(groups)} groups.")
        return list(lr)
    if lr is None:
        return [None] * len(groups)
    scales = [float(group.get("lr_scale", 1.0)) for group in groups]
    bases = {
        float(np.float32(group["lr"] / s)) for group, s in zip(groups, scales, strict=True) if s
    }
    if len(bases) > 1:
        raise ValueError(
            f"The groups have different learning rates, {[group['lr'] for group in groups]}: pass "
            "a list of one lr for each group."
        )
    times = lambda s: (lambda count: s * lr(count)) if callable(lr) else s * lr
    return [lr if s == 1 else times(s) for s in scales]


def arguments_of(maker, group):
    """The arguments of a dialect that a parameter group has."""
    known = inspect.signature(maker).parameters
    group = {
        **group,
        **({"max_lr": group["max_lr_snapshot"]} if "max_lr_snapshot" in group else {}),
    }
    if maker is not timm:  # max_lr is a scheduler's, elsewhere
        group.pop("max_lr", None)
    return {k: x for k, x in group.items() if k in known}


def _labels(port, label_of):
    """For each leaf of the parameters the number of its group, as text."""

    def label(index):
        labels = {label_of[name] for name in port.owners(index)}
        if len(labels) > 1:
            raise ValueError("to_params puts parameters of several groups into one array.")
        return labels.pop() if labels else next(iter(label_of.values()))

    return jax.tree.map(label, port.tree)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
    *,
    like: Mapping[str, Any] | None = None,
    params: optax.Params | None = None,
    bitsandbytes: bool = False,
) -> dict[str, Any]:
    """Hands an optimizer back to PyTorch.

    Args:
      tx: made by `load`, by `dialects.pytorch`, `timm` or `stable_baselines3`, or by
        `optax.partition` of those.
      opt_state: its state.
      weights: in the order in which the optimizer in PyTorch has them, as for `load`.
      from_params: the inverse of to_params. It gets NumPy arrays.
      like: the state_dict that was loaded, or one of the optimizer that this is for. What it has
        besides stays: names, `initial_lr`, `lr_scale` and whatever else a scheduler keeps in a
        group, the order, and how many steps each parameter is behind.
      params: needed if some are frozen.
      bitsandbytes: write what its 32-bit RMSprop reads.

    Returns:
      What `optimizer.load_state_dict` takes, with arrays as from_params made them; so let it make
      tensors, as for the weights. The learning rate is that of the next update. The schedulers of
      PyTorch have a state_dict of their own.

    Raises:
      ValueError: also for what bitsandbytes can't do.

    Example:
      >>> tx = pytorch(lr=0.1, momentum=0.5)
      >>> params = {"dense": {"kernel": np.zeros((2, 3), np.float32)}}
      >>> from_params = lambda tree: {"fc.weight": tree["dense"]["kernel"].T}
      >>> saved = dump(tx, tx.init(params), from_params(params), from_params)
      >>> print({name: np.shape(x) for name, x in saved["state"][0].items()})
      {'step': (), 'square_avg': (3, 2), 'momentum_buffer': (3, 2)}
    """
    groups = accumulators.groups_of(tx, opt_state, writes=True)
    for group in groups:
        if group.name not in _DIALECTS:
            raise ValueError(f"dialects.{group.name} isn't PyTorch: make it by dialects.pytorch.")
    is_complex = any("complex" in str(x.dtype) for x in weights.values())
    saved, group_of = accumulators.dump(groups, weights, from_params, params, is_complex)
    count = max(int(group.rms.count) for group in groups)
    slots = {
        name: {
            "step": count,
            **{_SLOTS[part]: saved[part][name] for part in accumulators.wanted(groups[k])},
        }
        for name, k in group_of.items()
        if k >= 0
    }
    written = [_write(group, count, bitsandbytes) for group in groups]
    if bitsandbytes:
        wrap = lambda x: {"step": count, state_dicts.BITSANDBYTES: {"state1": x["square_avg"]}}
        slots = {name: wrap(x) for name, x in slots.items()}
    if like is not None:
        return state_dicts.write_like(copy.deepcopy(like), weights, slots, written, group_of)
    if -1 in group_of.values():
        if len(groups) > 1:
            raise ValueError("The frozen parameters may be in any group: pass like.")
        group_of = dict.fromkeys(group_of, 0)
    index = {name: i for i, name in enumerate(weights)}
    return {
        "state": {i: slots[name] for name, i in index.items() if name in slots},
        "param_groups": [
            {**group, "params": [index[n] for n in weights if group_of[n] == k]}
            for k, group in enumerate(written)
        ],
    }


def _write(group, count, as_bitsandbytes):
    """A parameter group as PyTorch has it, without its parameters."""
    numbers = {k: v.item() if hasattr(v, "item") else v for k, v in group.arguments.items()}
    numbers["lr"] = accumulators.rate_at(group.arguments["lr"], count)
    if group.name == "timm":
        max_lr = numbers.pop("max_lr")
        numbers["max_lr_snapshot"] = numbers["lr"] if max_lr is None else max_lr
    return state_dicts.as_bitsandbytes(group.name, numbers) if as_bitsandbytes else numbers
