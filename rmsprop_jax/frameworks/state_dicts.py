"""The forms in which state_dicts of PyTorch's optimizers come, and whose they are."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from rmsprop_jax.frameworks import arrays, pairing

BITSANDBYTES = "__bnb_optimizer_quant_state__"
"""The key under which bitsandbytes keeps its slots."""

_OTHERS = {  # what only their states or groups have
    "Lookahead, which goes around another optimizer": {"lookahead_slow_buff", "lookahead_k"},
    "Adam or one of its kind": {"exp_avg", "exp_avg_sq", "exp_inf", "amsgrad"},
    "Adagrad": {"sum", "lr_decay"},
    "Adadelta": {"acc_delta", "rho"},
    "Rprop": {"prev", "etas"},
    "SGD": {"dampening", "nesterov"},
    "LBFGS": {"history_size"},
}


class Content(NamedTuple):
    """What a state_dict says.

    Attributes:
      groups: the parameter groups, their params being keys.
      slots: by key.
      names: by key, if there are any.
    """

    groups: list[dict[str, Any]]
    slots: dict[Any, Mapping[str, Any]]
    names: dict[Any, str]

    @property
    def keys(self) -> list[Any]:
        """The keys of all parameters, in the order of the groups."""
        return [key for group in self.groups for key in group["params"]]


def read(state_dict: Any) -> Content:
    """Reads a state_dict of any form.

    Raises:
      TypeError: for what is none.
      ValueError: for another optimizer's, and for one whose parts don't belong together.
    """
    state_dict = _nested(_optimizer_in(state_dict))
    groups = state_dict["param_groups"]
    if not isinstance(groups, list | tuple) or not all(isinstance(g, Mapping) for g in groups):
        raise TypeError("param_groups must be a list of dictionaries.")
    if not all(isinstance(x, Mapping) for x in state_dict["state"].values()):
        raise TypeError("state must have a dictionary for each parameter.")
    groups = [{k: _plain(x) for k, x in group.items()} for group in groups]
    slots = dict(state_dict["state"])
    there = {str(key) for x in (*groups, *slots.values()) for key in x}
    for optimizer, keys in _OTHERS.items():
        if found := sorted(keys & there):
            raise ValueError(
                f"This is a checkpoint of {optimizer}, for it has {' and '.join(found)}. Only "
                "those of RMSprop can be read."
            )
    if not groups:
        raise ValueError("param_groups is empty: this optimizer has no parameters.")
    for k, group in enumerate(groups):
        params = group.get("params")
        if not isinstance(params, list | tuple) or not params:
            raise ValueError(f"param_groups[{k}] has no params, so that it has 0 parameters.")
        named = group.get("param_names")
        if named is not None and len(named) != len(params):
            raise ValueError(
                f"param_groups[{k}] has {len(named)} param_names for {len(params)} params."
            )
    content = Content(groups, slots, {})
    if len(set(map(str, content.keys))) != len(content.keys):
        raise ValueError("A parameter is in several groups, or several times in one.")
    by_name = all(isinstance(key, str) for key in content.keys)
    if by_name and not all(key.isdecimal() for key in content.keys):
        return content._replace(names={key: key for key in content.keys})
    # As JSON has them, the keys of state are text, and those of groups are not.
    for group in groups:
        group["params"] = [int(key) for key in group["params"]]
    number = lambda key: int(key) if str(key).isdecimal() else key
    content = content._replace(slots={number(key): x for key, x in slots.items()})
    if all("param_names" in group for group in groups):
        names = [n for group in groups for n in group["param_names"]]
        return content._replace(names=dict(zip(content.keys, names, strict=True)))
    return content


def _optimizer_in(saved: Any) -> Mapping[str, Any]:
    """The state_dict of the optimizer in a whole checkpoint."""
    if isinstance(saved, Mapping) and "optimizer_states" in saved:  # Lightning's
        states = saved["optimizer_states"]
        if len(states) != 1:
            raise ValueError(
                f"The checkpoint has {len(states)} optimizers: pass one of its optimizer_states."
            )
        saved = states[0]
    if _is_state_dict(saved):
        return saved
    inside = (
        [k for k, x in saved.items() if _is_state_dict(x)] if isinstance(saved, Mapping) else []
    )
    hint = f" There is one in it: pass it by its key, {inside[0]!r}." if inside else ""
    raise TypeError(
        "state_dict must be what optimizer.state_dict() returned, a dictionary with 'state' and "
        f"'param_groups'. Read files with torch.load(path, weights_only=True).{hint}"
    )


def _is_state_dict(x: Any) -> bool:
    if not isinstance(x, Mapping):
        return False
    nested = {"state", "param_groups"} <= x.keys() and isinstance(x["state"], Mapping)
    return nested or _is_flat(x)


def is_readable(x: Any) -> bool:
    """Whether something is a state_dict, or a whole checkpoint that has one in a known place."""
    return _is_state_dict(x) or (isinstance(x, Mapping) and "optimizer_states" in x)


def _is_flat(x: Mapping[str, Any]) -> bool:
    starts = [str(key).partition(".")[0] for key in x]
    return (
        set(starts) <= {"state", "param_groups"} and all("." in str(key) for key in x) and bool(x)
    )


def _nested(x: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `torch.distributed.checkpoint` has flattened, as it was before."""
    if not _is_flat(x):
        return x
    state: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for key, value in x.items():
        head, _, rest = key.partition(".")
        name, _, field = rest.rpartition(".")
        (state if head == "state" else settings).setdefault(name, {})[field] = value
    groups: list[dict[str, Any]] = []
    for name, numbers in settings.items():
        alike = (g for g in groups if {k: v for k, v in g.items() if k != "params"} == numbers)
        group = next(alike, None)
        if group is None:
            groups.append({**numbers, "params": [name]})
        else:
            group["params"].append(name)
    return {"state": state, "param_groups": groups}


def _plain(x: Any) -> Any:
    """A number for an array of one."""
    return x.item() if getattr(x, "shape", None) == () and hasattr(x, "item") else x


def names_of(
    content: Content, weights: arrays.Named, frozen: Collection[str] | None, in_order: bool
) -> list[str]:
    """The names of all parameters of an optimizer, in the order of its groups."""
    keys = content.keys
    if content.names:
        partner = pairing.match_names(list(content.names.values()), weights)
        return [partner[content.names[key]] for key in keys]
    names = list(weights)
    if len(names) != len(keys) and frozen is not None:
        names = [name for name in names if name not in frozen]
    if len(names) != len(keys):
        raise ValueError(_wrong_number(len(keys), names))
    own = {name: weights[name] for name in names}
    shapes = []
    for key in keys:
        first = next(iter(flat(content.slots.get(key, {}), shapes_only=True).values()), None)
        shapes.append(None if first is None else tuple(np.shape(arrays.as_array(first))))
    groups = [k for k, group in enumerate(content.groups) for _ in group["params"]]
    pairing.check_order(own, shapes, groups, in_order)
    return names


def _wrong_number(number: int, names: list[str]) -> str:
    text = (
        f"The optimizer has {number} parameters, weights has {len(names)}: pass those that the "
        "optimizer got, in its order"
    )
    called = ("running_mean", "running_var", "num_batches_tracked", "position_ids")
    if buffers := [n for n in names if n.endswith(called)]:
        return f"{text}, and no buffers, which are {', '.join(buffers)}."
    return f"{text}; or name as frozen those that it never got."


def in_our_words(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group as PyTorch has it; bitsandbytes has other words."""
    if "betas" not in group or "alpha" in group:
        return group
    # The second beta is a momentum, accepted and ignored.
    return {**group, "alpha": group["betas"][0], "maximize": False}


def as_bitsandbytes(name: str, group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group of PyTorch in the words of bitsandbytes."""
    if name != "pytorch" or group["centered"] or group["maximize"] or group["momentum"]:
        raise ValueError("bitsandbytes has dialects.pytorch only, without momentum and centering.")
    plain = {k: group[k] for k in ("lr", "eps", "weight_decay")}
    return {**plain, "betas": (group["alpha"], 0)}


def flat(slots: Mapping[str, Any], shapes_only: bool = False) -> dict[str, Any]:
    """The slots of a parameter; bitsandbytes nests its own, calls them otherwise, and has 8 bits.

    An average in 8 bits is kept as the places of its numbers in a table, in blocks that each have
    a largest number.
    """
    slots = {**slots, **slots.get(BITSANDBYTES, {})}
    slots.pop(BITSANDBYTES, None)
    if shapes_only:
        names = ("square_avg", "state1", "momentum_buffer", "grad_avg")
        return {name: slots[name] for name in names if name in slots}
    if "state1" not in slots:
        return slots
    codes = arrays.as_array(slots.pop("state1"))
    if codes.dtype == np.uint8:
        if "qmap1" not in slots or "absmax1" not in slots:
            raise ValueError("A state1 of bytes needs its qmap1 and absmax1, and here is none.")
        table, largest = (arrays.as_array(slots.pop(k)) for k in ("qmap1", "absmax1"))
        if table.shape != (256,) or not 0 < largest.size <= max(codes.size, 1):
            raise ValueError(
                f"A qmap1 of shape {table.shape} and an absmax1 of {largest.shape} aren't those of "
                f"a state1 of {codes.shape}."
            )
        numbers = table[codes.reshape(-1)]
        size = -(-numbers.size // max(largest.size, 1))
        block = next((b for b in (256, 2048, 4096) if -(-numbers.size // b) == largest.size), size)
        numbers = numbers * np.repeat(largest, block)[: numbers.size]
        codes = numbers.reshape(codes.shape).astype(np.float32)
    return {**slots, "square_avg": codes}


def write_like(
    like: Any,
    weights: arrays.Named,
    slots: dict[str, dict[str, Any]],
    groups: list[dict[str, Any]],
    group_of: dict[str, int],
) -> dict[str, Any]:
    """A state_dict that has been read, with what changed since then."""
    content, given = read(like), _optimizer_in(like)
    still = [name for name, k in group_of.items() if k < 0]
    names = names_of(content, weights, still, in_order=True)
    name_of = dict(zip(content.keys, names, strict=True))
    if missing := [n for n in slots if n not in name_of.values()]:
        raise ValueError(f"like has no {', '.join(missing)}: it isn't of this optimizer.")
    made = {key: int(arrays.as_array(x.get("step", 0))) for key, x in content.slots.items()}
    before = max(made.values(), default=0)
    new_slots = {}
    for key in (*content.slots, *(k for k in content.keys if k not in content.slots)):
        if (name := name_of[key]) not in slots:
            if key in content.slots:
                new_slots[key] = content.slots[key]
            continue
        old, step = content.slots.get(key, {}), slots[name]["step"]
        if key in made:
            step = max(step - before, 0) + made[key]
        wide = getattr(old.get("step"), "dtype", None)
        if wide is not None and "torch" not in str(type(old["step"])):
            step = np.asarray(step, wide)
        new_slots[key] = {**slots[name], "step": step}
    new_groups = []
    for old in content.groups:
        own = {group_of[name_of[key]] for key in old["params"]} - {-1}
        if len(own) > 1:
            raise ValueError("like has other groups than tx.")
        changed = groups[own.pop()] if own else {}
        new_groups.append({k: changed.get(k, x) if k != "params" else x for k, x in old.items()})
    state_dict = {"state": new_slots, "param_groups": new_groups}
    return _flattened(state_dict) if _is_flat(given) else state_dict


def _flattened(state_dict: dict[str, Any]) -> dict[str, Any]:
    flat = {f"state.{n}.{k}": x for n, own in state_dict["state"].items() for k, x in own.items()}
    for group in state_dict["param_groups"]:
        numbers = {k: x for k, x in group.items() if k != "params"}
        flat |= {f"param_groups.{n}.{k}": x for n in group["params"] for k, x in numbers.items()}
    return flat
