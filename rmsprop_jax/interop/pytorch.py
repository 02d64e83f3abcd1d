"""Optimizer state of PyTorch, from and to what `optimizer.state_dict()` returns.

It is read and written for `torch.optim.RMSprop`, timm's `RMSpropTF`, Stable-Baselines3's
`RMSpropTFLike` and the 32-bit `RMSprop` of bitsandbytes. Nothing here imports PyTorch or reads a
file; read files with `torch.load(path, weights_only=True)`, which executes nothing.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from rmsprop_jax import dialects, parts
from rmsprop_jax.anatomy import take_apart
from rmsprop_jax.interop import arrays, states

__all__ = ["dump", "load"]

_SLOTS = {"nu": "square_avg", "mu": "grad_avg", "trace": "momentum_buffer"}
_NUMBERS = ("lr", "alpha", "eps", "weight_decay")  # without which a group is no RMSProp's
_BITSANDBYTES = "__bnb_optimizer_quant_state__"


def load(
    state_dict: Mapping[str, Any],
    weights: arrays.Named,
    to_params: Callable[[dict[str, Any]], Any],
    *,
    lr: optax.ScalarOrSchedule | Sequence[optax.ScalarOrSchedule] | None = None,
    dialect: Callable[..., optax.GradientTransformationExtraArgs] | None = None,
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """Goes on with an optimizer of PyTorch.

    The function that ports the weights ports the optimizer: it is applied to each accumulator,
    which has the shape of its parameter, so that transposes go along.

    Args:
      state_dict: of the optimizer.
      weights: the parameters by name, in the order in which the optimizer got them. For one made
        with `model.parameters()` that is `dict(model.named_parameters())`, or `model.state_dict()`
        less the buffers. Of an optimizer with several groups it is the order of the groups; if it
        was made with `model.named_parameters()`, the order doesn't matter. NumPy arrays or tensors.
      to_params: your function from a dictionary like weights, but of NumPy arrays, to a pytree of
        parameters. It may rename, transpose, reshape and stack.
      lr: a learning rate instead of the saved one, such as the schedule, which a state_dict doesn't
        have; or a list with one for each group.
      dialect: `dialects.stable_baselines3` or `dialects.pytorch`, for a checkpoint of either
        Stable-Baselines3 or PyTorch before 1.12: these look the same.

    Returns:
      The call of `dialects.pytorch`, `timm` or `stable_baselines3` with the hyperparameters of the
      checkpoint (in `optax.partition` if there are several groups), and its state. The count of
      updates is restored, so that a schedule goes on.

    Raises:
      ValueError: naming all parameters that have no accumulator, one too many, or one of a wrong
        shape; for a negative average of squares; and if several optimizers may have written this.
      TypeError: for what is no state_dict, such as the path of a file.

    Example:
      >>> group = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0, "maximize": False}
      >>> slots = {"step": 7, "square_avg": np.ones((3, 2))}
      >>> saved = {"state": {0: slots}, "param_groups": [{**group, "params": [0]}]}
      >>> to_params = lambda named: {"dense": {"kernel": named["fc.weight"].T}}
      >>> tx, opt_state = load(saved, {"fc.weight": np.zeros((3, 2))}, to_params)
      >>> print(opt_state[2].count, opt_state[2].nu["dense"]["kernel"].shape)
      7 (2, 3)

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html

      https://docs.pytorch.org/docs/stable/generated/torch.load.html
    """
    is_state_dict = (
        isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()
    )
    if not is_state_dict or not isinstance(state_dict["state"], Mapping):
        raise TypeError(
            "state_dict must be what optimizer.state_dict() returned, a dictionary with 'state' "
            "and 'param_groups'. Read files with torch.load(path, weights_only=True)."
        )
    slots = state_dict["state"]
    groups = [_in_our_words(group, slots) for group in state_dict["param_groups"]]
    indices = [i for group in groups for i in group.get("params", ())]
    names = [n for group in groups for n in group.get("param_names", ())] or list(weights)
    if len(names) != len(indices) or not set(names) <= weights.keys():
        raise ValueError(
            f"The optimizer has {len(indices)} parameters, weights has {len(weights)}: pass those "
            "that the optimizer got, and no buffers."
        )
    name_of = dict(zip(indices, names, strict=True))
    members = [[name_of[i] for i in group["params"]] for group in groups]
    weights = {name: arrays.as_array(weights[name]) for name in names}
    saved = {
        f"{name_of.get(i, f'parameter {i}')}.{slot}": arrays.as_array(x)
        for i, per_parameter in slots.items()
        for slot, x in _flat(per_parameter).items()
    }
    steps = {key: np.float64(saved.pop(key)) for key in list(saved) if key.endswith(".step")}
    keys = _keys(zip(groups, members, strict=True))
    numbers = {(k, key) for k, group in enumerate(groups) for key in group if key in _NUMBERS}
    needed = {(k, key) for k in range(len(groups)) for key in _NUMBERS}
    label = lambda pairs: {f"param_groups[{k}].{key}": np.float32(0) for k, key in sorted(pairs)}
    wanted = {key: weights[n] for part in keys.values() for n, key in part.items()}
    arrays.check(
        {**label(numbers), **steps, **saved},
        {**label(needed), **{f"{name}.step": np.float64(0) for name in names}, **wanted},
    )
    rates = list(lr) if isinstance(lr, Sequence) else [lr] * len(groups)
    if len(rates) != len(groups):
        raise ValueError(f"lr has {len(rates)} learning rates for {len(groups)} groups.")
    txs: dict[Any, Any] = {
        str(k): _call(group, rate, dialect)
        for k, (group, rate) in enumerate(zip(groups, rates, strict=True))
    }
    several = len(txs) > 1
    tx = optax.partition(txs, _labels(members, weights, to_params)) if several else txs["0"]
    count = int(max(steps.values()))
    return tx, states.load(tx, weights, to_params, saved, keys, count)


def dump(
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    weights: arrays.Named,
    from_params: Callable[[Any], arrays.Named],
    *,
    bitsandbytes: bool = False,
) -> dict[str, Any]:
    """Hands an optimizer back to PyTorch.

    Args:
      tx: made by `load`, by `dialects.pytorch`, `timm` or `stable_baselines3`, or by
        `optax.partition` of those. What stands beside the dialect in a chain, such as clipping, is
        no part of an optimizer in PyTorch, and is left out.
      opt_state: its state.
      weights: any dictionary with the names and shapes of the parameters, in the order in which the
        optimizer in PyTorch has them, such as the one given to `load`.
      from_params: your function from a pytree of parameters to a dictionary like weights, the
        inverse of to_params. It gets NumPy arrays.
      bitsandbytes: write what its 32-bit RMSprop reads.

    Returns:
      What `optimizer.load_state_dict` takes, with arrays as from_params made them; so let it make
      tensors, as for the weights. The learning rate is that of the next update. The schedulers of
      PyTorch have a state_dict of their own.

    Raises:
      ValueError: if tx isn't one of those above, for what bitsandbytes can't do, and if the names
        or shapes that come out of from_params aren't those of weights.

    Example:
      >>> tx = dialects.pytorch(lr=0.1, momentum=0.5)
      >>> params = {"dense": {"kernel": np.zeros((2, 3), np.float32)}}
      >>> from_params = lambda tree: {"fc.weight": tree["dense"]["kernel"].T}
      >>> saved = dump(tx, tx.init(params), from_params(params), from_params)
      >>> print({name: np.shape(x) for name, x in saved["state"][0].items()})
      {'step': (), 'square_avg': (3, 2), 'momentum_buffer': (3, 2)}
    """
    is_complex = any("complex" in str(x.dtype) for x in weights.values())
    trees, count = states.take(tx, opt_state, join=is_complex)
    groups = _groups(tx, trees["nu"], weights, from_params)
    keys = _keys((arguments, members) for _, arguments, members in groups)
    saved = states.dump(trees, weights, from_params, keys)
    index = {name: i for i, name in enumerate(weights)}
    slots = {}
    for name, i in index.items():
        mine = {slot: saved.get(f"{name}.{slot}") for slot in _SLOTS.values()}
        mine = {slot: x for slot, x in mine.items() if x is not None}
        if bitsandbytes:
            mine = {_BITSANDBYTES: {"state1": mine["square_avg"]}}
        slots[i] = {"step": count, **mine}
    param_groups = []
    for name, arguments, members in groups:
        group = {k: v.item() if hasattr(v, "item") else v for k, v in arguments.items()}
        group["lr"] = states.rate_at(arguments["lr"], count)
        if name == "timm":
            max_lr = group.pop("max_lr")
            group["max_lr_snapshot"] = group["lr"] if max_lr is None else max_lr
        if bitsandbytes:
            group = _as_bitsandbytes(name, group)
        param_groups.append({**group, "params": [index[n] for n in members]})
    return {"state": slots, "param_groups": param_groups}


def _in_our_words(group, slots):
    """A parameter group as PyTorch has it; bitsandbytes and timm have other words."""
    group = {k: x.item() if hasattr(x, "item") else x for k, x in group.items()}
    if any(_BITSANDBYTES in x or "state1" in x for x in slots.values()):
        # The second beta is a momentum, accepted and ignored.
        group |= {"alpha": group["betas"][0], "maximize": False}
    if "max_lr_snapshot" in group:
        group["max_lr"] = group["max_lr_snapshot"]
    return group


def _call(group, rate, dialect):
    """The call of a dialect with the numbers of a parameter group."""
    if dialect is None and ("lr_in_momentum" in group or "decoupled_decay" in group):
        dialect = dialects.timm
    elif dialect is None and ("maximize" in group or "foreach" in group):
        dialect = dialects.pytorch
    elif dialect is None:
        raise ValueError(
            "Stable-Baselines3 and PyTorch before 1.12 write the same keys: pass dialect=dialects."
            "stable_baselines3 (eps under the root) or dialects.pytorch (eps outside)."
        )
    known = inspect.signature(dialect).parameters
    numbers = {k: x for k, x in group.items() if k in known}
    return dialect(**{**numbers, **({} if rate is None else {"lr": rate})})


def _flat(slots):
    """The slots of a parameter; bitsandbytes nests its own, and calls them otherwise."""
    slots = {**slots, **slots.get(_BITSANDBYTES, {})}
    slots.pop(_BITSANDBYTES, None)
    return {"square_avg" if slot == "state1" else slot: x for slot, x in slots.items()}


def _keys(groups):
    """For each accumulator the parameters that have it, with their keys."""
    groups = list(groups)

    def has(accumulator, arguments):
        if accumulator == "mu":
            return arguments.get("centered", False)
        return accumulator == "nu" or parts.given(arguments.get("momentum"))

    return {
        accumulator: {
            name: f"{name}.{slot}"
            for arguments, members in groups
            for name in members
            if has(accumulator, arguments)
        }
        for accumulator, slot in _SLOTS.items()
    }


def _labels(members, weights, to_params):
    """For each leaf of the parameters the number of its group, as text."""
    group_of = {name: k for k, names in enumerate(members) for name in names}
    numbered = {n: np.full(tuple(x.shape), group_of[n], np.float32) for n, x in weights.items()}

    def label(x):
        numbers = np.unique(x)
        if len(numbers) > 1:
            raise ValueError("to_params puts parameters of several groups into one array.")
        return str(int(numbers[0])) if len(numbers) else "0"

    return jax.tree.map(label, to_params(numbered))


def _groups(tx, nu, weights, from_params):
    """For each group its dialect, arguments and the names of its parameters."""
    whole = take_apart(tx)
    partition = next((part for part in whole.walk() if part.factory is optax.partition), None)
    if partition is None:
        return [(*_made_by(whole), list(weights))]
    states.check_end(whole, partition)
    labels = partition.arguments["param_labels"]
    labels = labels(nu) if callable(labels) else labels
    place = list(partition.children).index
    number = lambda label, part: jax.tree.map(lambda x: np.full(x.shape, place(label)), part)
    numbered = from_params(jax.tree.map(number, labels, nu))
    numbers = {name: arrays.as_array(x).max(initial=0) for name, x in numbered.items()}
    return [
        (*_made_by(group), [name for name in weights if numbers[name] == k])
        for k, group in enumerate(partition.children.values())
    ]


def _made_by(tx):
    name, arguments = states.made_by(tx)
    if name not in ("pytorch", "timm", "stable_baselines3"):
        raise ValueError(f"dialects.{name} isn't PyTorch: make it by dialects.pytorch.")
    return name, arguments


def _as_bitsandbytes(name, group):
    if name != "pytorch" or group["centered"] or group["maximize"] or group["momentum"]:
        raise ValueError("bitsandbytes has dialects.pytorch only, without momentum and centering.")
    plain = {k: group[k] for k in ("lr", "eps", "weight_decay")}
    return {**plain, "betas": (group["alpha"], 0)}
