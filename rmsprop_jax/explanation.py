"""What an optimizer does, in words: its update as lines of Python."""

from __future__ import annotations

import collections
import functools
import re
import string
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax import clipping, parts, storage, weights
from rmsprop_jax.anatomy import Part, take_apart
from rmsprop_jax.checks import given, is_traced
from rmsprop_jax.closures import is_function_of, memory_of
from rmsprop_jax.transform import scale_by_rms


def explain(tx: optax.GradientTransformation) -> str:
    """Writes down the update that a transformation makes.

    The lines are Python, and run as they stand with NumPy's functions, for one real parameter p
    with gradient g. They are read off the transformation itself, not off its documentation: wrapped
    in your own `optax.chain`, they tell what you wrapped it in. A part that isn't known here
    appears by its name, as a call, and what stands inside of it as a comment, since only that part
    knows what it does with it.

    Args:
      tx: a transformation of this library, or any of Optax or your own.

    Returns:
      The text. `t` is the number of updates made before this one, u the update so far. Numbers that
      are only known under `jax.jit` have names, and so have schedules, which are calls.

    Example:
      >>> from rmsprop_jax import dialects, explain
      >>> print(explain(dialects.tensorflow1(0.01, momentum=0.9)))
      # before the first update
      nu = 1
      trace = 0
      # every update
      u = g
      nu = 0.9 * nu + (1 - 0.9) * abs(u)**2
      u = u / sqrt(nu + 1e-10)
      u = -0.01 * u
      trace = u + 0.9 * trace
      u = trace
      p = p + u
    """
    text = _Text()
    update = text.lines(take_apart(tx), "t")
    before = ["# before the first update", *text.start] if text.start else []
    return "\n".join([*before, "# every update", "u = g", *update, "p = p + u"])


_TAKEN = re.findall(
    r"\w+", "t p g u rho against abs all clip isfinite maximum mean minimum norm sqrt zeros_like"
)


class _Text:
    """Lines as they are written, and the names in them."""

    def __init__(self) -> None:
        self.start: list[str] = []  # what variables are before the first update
        self.uses: collections.Counter[str] = collections.Counter(_TAKEN)
        self.functions: dict[str, Any] = {}

    def name(self, stem: str) -> str:
        """A name for a variable: the second nu is nu2."""
        self.uses[stem] += 1
        return stem if self.uses[stem] == 1 else f"{stem}{self.uses[stem]}"

    def variable(self, stem: str, value: Any) -> str:
        """A variable that lives from update to update."""
        name = self.name(stem)
        self.start.append(f"{name} = {value}")
        return name

    def function(self, name: str, value: Any) -> str:
        """A function of the user's by its own name, or else by that of the argument."""
        kinds = types.FunctionType | types.MethodType | types.BuiltinFunctionType
        own = value.__name__ if isinstance(value, kinds) else ""
        stem = own if own.isidentifier() else name
        known = (n for n, f in self.functions.items() if f is value)
        name = next(known, None) or self.name(stem)
        self.functions[name] = value
        return name

    def number(self, name: str, value: Any, t: str) -> str:
        """A number as text, a schedule as a call; by its name what is known only under jit."""
        if isinstance(value, parts.InverseTimeDecay):
            rate = self.number(name, value.learning_rate, t)
            return f"{rate} / (1 + {self.number('decay', value.decay, t)} * {t})"
        if is_function_of(value, optax.scale_by_learning_rate):  # which turns the sign of another
            memory = memory_of(value)
            rate = memory.pop("learning_rate", None)
            if rate is not None and list(memory.values()) in ([1], [-1]):
                sign = "-" if list(memory.values()) == [-1] else ""
                return sign + self.number("learning_rate", rate, t)
        if callable(value):
            return f"{self.function(name, value)}({t})"
        is_scalar = isinstance(value, int | float | jax.Array | np.generic | np.ndarray)
        if not is_scalar or is_traced(value) or np.ndim(value):
            return name
        return f"{float(value):.12g}"

    def lines(self, part: Part, t: str) -> list[str]:
        """The lines of a part; t is what counts the updates that it has made."""
        if part.factory in _LEAVES:
            try:
                return _LEAVES[part.factory](self, part.arguments, t)
            except KeyError:  # an argument isn't there in this version of Optax
                return self.call(part, t)
        if part.in_turn:
            return self.inside(part, t)
        if part.factory in _WRAPPERS and part.children:
            return _WRAPPERS[part.factory](self, part, t)
        return self.call(part, t)

    def inside(self, part: Part, t: str) -> list[str]:
        """The lines of all children, one after the other."""
        return [line for child in part.children.values() for line in self.lines(child, t)]

    def call(self, part: Part, t: str) -> list[str]:
        """A part that isn't known here."""
        name = part.name if part.name.isidentifier() else "unnamed"
        plain = {k: x for k, x in part.arguments.items() if isinstance(x, int | float | str)}
        arguments = "".join(f", {k}={x!r}" for k, x in plain.items() if k.isidentifier())
        lines = [f"# {name} makes something of:"] if part.children else []
        for key, child in part.children.items():
            apart = _Text()
            update = apart.lines(child, t)
            lines += [f"#   {key}:", *(f"#     {line}" for line in [*apart.start, *update])]
        return [*lines, f"u = {name}(u{arguments})"]

    def counted(self, part: Part, last: Sequence[str] = ()) -> list[str]:
        """The lines of children that don't act at every update, and so count for themselves."""
        t = self.name("t")
        lines = self.inside(part, t)
        if any(re.search(rf"\b{t}\b", line) for line in lines):
            self.start.append(f"{t} = 0")
            lines.append(f"{t} = {t} + 1")
        return [*lines, *last]


def _block(head: str, lines: Sequence[str]) -> list[str]:
    return [head, *(f"    {line}" for line in lines or ["pass"])]


_ZERO = "u = zeros_like(u)"


def _rms(text: _Text, a: Any, t: str) -> list[str]:
    rho = text.number("decay", a["decay"], t)
    nu = text.variable("nu", text.number("initial_scale", a["initial_scale"], t))
    lines = []
    if a["bias_correction"]:
        lines.append(f"rho = {rho} * (1 - {rho}**{t}) / (1 - {rho}**({t} + 1))")
        rho = "rho"
    if a["centered"]:
        mu = text.variable("mu", 0)
        lines.append(f"{nu} = {rho} * ({nu} + (1 - {rho}) * abs(u - {mu})**2)")
        lines.append(f"{mu} = {mu} + (1 - {rho}) * (u - {mu})")
    else:
        lines.append(f"{nu} = {rho} * {nu} + (1 - {rho}) * abs(u)**2")
    if a["numerator"] is not None:
        lines += text.lines(take_apart(a["numerator"]), t)
    places = ("eps", "eps_root", "least_root")
    eps, eps_root, least = (text.number(name, a[name], t) for name in places)
    if not (given(a["eps_root"]) or given(a["least_root"])):
        return [*lines, _divided(nu, eps, a["eps_in_sqrt"])]
    inside = [eps_root] if given(a["eps_root"]) else [eps] if a["eps_in_sqrt"] else []
    root = f"sqrt({' + '.join([nu, *inside])})"
    root = f"maximum({root}, {least})" if given(a["least_root"]) else root
    outer = given(a["eps"]) and not a["eps_in_sqrt"]
    return [*lines, f"u = u / ({root} + {eps})" if outer else f"u = u / {root}"]


def _optax_rms(text: _Text, a: Any, t: str, centered: bool = False) -> list[str]:
    rho, eps = (text.number(name, a[name], t) for name in ("decay", "eps"))
    nu = text.variable("nu", text.number("initial_scale", a["initial_scale"], t))
    lines = [f"{nu} = {rho} * {nu} + (1 - {rho}) * abs(u)**2"]
    share = f" / (1 - {rho}**({t} + 1))" if a["bias_correction"] else ""
    second = nu + share
    if centered:
        mu = text.variable("mu", 0)
        lines.append(f"{mu} = {rho} * {mu} + (1 - {rho}) * u")
        second += f" - abs({mu}{share})**2"
    return [*lines, _divided(second, eps, a["eps_in_sqrt"])]


def _divided(square: str, eps: str, inside: bool) -> str:
    return "u = u / " + (f"sqrt({square} + {eps})" if inside else f"(sqrt({square}) + {eps})")


def _trace(text: _Text, a: Any, t: str) -> list[str]:
    decay, trace = text.number("decay", a["decay"], t), text.variable("trace", 0)
    decayed = f"u + {decay} * {trace}"
    return [f"{trace} = {decayed}", f"u = {decayed}" if a["nesterov"] else f"u = {trace}"]


def _learning_rate(text: _Text, a: Any, t: str) -> list[str]:
    rate: Any = a["learning_rate"]
    if callable(rate) or is_traced(rate):
        return [f"u = -{text.number('learning_rate', rate, t)} * u"]
    return [f"u = {text.number('learning_rate', -rate, t)} * u"]


def _coupled_decay(text: _Text, a: Any, t: str) -> list[str]:
    decay = [f"u = u + {text.number('weight_decay', a['weight_decay'], t)} * p"]
    return decay if a.get("mask") is None else _where(text, a["mask"], decay)


def _decoupled_decay(text: _Text, a: Any, t: str) -> list[str]:
    if not given(a["weight_decay"]):
        return []
    names = ("learning_rate", "weight_decay", "max_lr")
    rate, decay, most = (text.number(name, a[name], t) for name in names)
    return [f"u = u - {rate if a['max_lr'] is None else f'{rate}**2 / {most}'} * {decay} * p"]


def _where(text: _Text, mask: Any, lines: list[str]) -> list[str]:
    """Lines for the parameters in a mask, which may be a tree too."""
    if mask is True or not lines:
        return lines
    return _block(f"if {text.function('mask', mask)}(p):", lines)


def _masked(text: _Text, part: Part, t: str) -> list[str]:
    return _where(text, part.arguments.get("mask"), text.inside(part, t))


def _partition(text: _Text, part: Part, t: str) -> list[str]:
    label = text.function("label", part.arguments.get("param_labels"))
    lines, word = [], "if"
    for key, child in part.children.items():
        lines += _block(f"{word} {label}(p) == {key!r}:", text.lines(child, t))
        word = "elif"
    return lines


def _conditionally(text: _Text, part: Part, t: str) -> list[str]:
    condition = text.function("should_transform_fn", part.arguments.get("should_transform_fn"))
    lines = _block(f"if {condition}({t}):", text.counted(part))
    is_mask = part.factory is optax.conditionally_mask
    return [*lines, *_block("else:", [_ZERO])] if is_mask else lines


def _if_finite(text: _Text, part: Part, t: str) -> list[str]:
    bad = text.variable("bad", 0)
    most = text.number("max_consecutive_errors", part.arguments.get("max_consecutive_errors"), t)
    return [
        f"{bad} = 0 if all(isfinite(u)) else {bad} + 1  # of all parameters",
        *_block(f"if {bad} == 0 or {bad} > {most}:", text.counted(part)),
        *_block("else:", [_ZERO]),
    ]


def _multi_steps(text: _Text, part: Part, t: str) -> list[str]:
    a, n, t = part.arguments, text.variable("n", 0), text.variable("t", 0)
    every = a.get("every_k_schedule")
    if is_function_of(every, optax.MultiSteps):  # which makes one of a number
        every = memory_of(every).get("every_k_schedule", every)
    mean = text.variable("average" if a.get("use_grad_mean") else "total", 0)
    step = f"(u - {mean}) / {n}" if a.get("use_grad_mean") else "u"
    inner = [f"u = {mean}", *text.inside(part, t), f"{mean} = {n} = 0", f"{t} = {t} + 1"]
    lines = [
        f"{n} = {n} + 1",
        f"{mean} = {mean} + {step}",
        *_block(f"if {n} == {text.number('every_k_schedule', every, t)}:", inner),
        *_block("else:", [_ZERO]),
    ]
    skip = a.get("should_skip_update_fn")
    if skip is None or is_function_of(skip, optax.MultiSteps):
        return lines
    skips = f"{text.function('should_skip_update_fn', skip)}(u, {t}, p)[0]"
    return [*_block(f"if {skips}:", [_ZERO]), *_block("else:", lines)]


def _cautious(text: _Text, part: Part, t: str) -> list[str]:
    before = text.name("before")
    return [
        f"{before} = u",
        *text.inside(part, t),
        f"against = u * {before} < 0",
        "u = u * against / maximum(mean(against), 0.001)",
    ]


def _store(text: _Text, part: Part, t: str) -> list[str]:
    formats = part.arguments["formats"].items()
    kept = (f"{name} is {jnp.dtype(getattr(form, 'dtype', form))}" for name, form in formats)
    return [f"# between updates: {', '.join(kept)}", *text.inside(part, t)]


def _remark(remark: str) -> Callable[[_Text, Part, str], list[str]]:
    return lambda text, part, t: [*([remark] if remark else []), *text.inside(part, t)]


def _line(template: str) -> Callable[[_Text, Any, str], list[str]]:
    def write(text: _Text, a: Any, t: str) -> list[str]:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        numbers = {name: text.number(name, a[name], t) for name in names}
        return [template.format(**numbers)]

    return write


_OVER_ALL = "  # the norm of all parameters"
_BY_GLOBAL_NORM = _line(f"u = u * {{max_norm}} / maximum(norm(u), {{max_norm}}){_OVER_ALL}")
_LEAVES: dict[Any, Callable[[_Text, Any, str], list[str]]] = {
    scale_by_rms: _rms,
    optax.scale_by_rms: _optax_rms,
    optax.scale_by_stddev: functools.partial(_optax_rms, centered=True),
    parts.trace: _trace,
    optax.trace: _trace,
    parts.scale_by_learning_rate: _learning_rate,
    parts.scale: _line("u = {step_size} * u"),
    optax.scale: _line("u = {step_size} * u"),
    optax.scale_by_schedule: _line("u = {step_size_fn} * u"),
    optax.add_decayed_weights: _coupled_decay,
    parts.add_decayed_weights: _coupled_decay,
    parts.decoupled_decay: _decoupled_decay,
    optax.clip: _line("u = clip(u, -{max_delta}, {max_delta})"),
    optax.clip_by_block_rms: _line("u = u / maximum(1, sqrt(mean(abs(u)**2)) / {threshold})"),
    optax.clip_by_global_norm: _BY_GLOBAL_NORM,
    clipping.clip_by_global_norm: _BY_GLOBAL_NORM,
    clipping.clip_by_leaf_norm: _line("u = u * {max_norm} / maximum(norm(u), {max_norm})"),
    clipping.clip_by_torch_norm: _line(
        f"u = u * minimum(1, {{max_norm}} / (norm(u) + 1e-06)){_OVER_ALL}"
    ),
    optax.identity: lambda text, a, t: [],
    optax.set_to_zero: lambda text, a, t: [_ZERO],
}
_WRAPPERS: dict[Any, Callable[[_Text, Part, str], list[str]]] = {
    optax.masked: _masked,
    optax.partition: _partition,
    optax.conditionally_transform: _conditionally,
    optax.conditionally_mask: _conditionally,
    optax.apply_if_finite: _if_finite,
    optax.MultiSteps: _multi_steps,
    parts.cautious: _cautious,
    storage.store: _store,
    weights.compensate: _remark("# p has the digits that rounding took from it"),
    optax.flatten: _remark("# all parameters as one vector"),
    optax.inject_hyperparams: _remark("# numbers as they were given; the state has those in force"),
    # Both of them for complex parameters only.
    parts.by_component: _remark(""),
    optax.contrib.split_real_and_imaginary: _remark(""),
}
