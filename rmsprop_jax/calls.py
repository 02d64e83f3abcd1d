"""Optimizers written as text, such as `dialects.pytorch(1e-2, momentum=0.9)`, without `eval`."""

import ast
import inspect
from types import ModuleType
from typing import Any

import optax

import rmsprop_jax
from rmsprop_jax.cli import did_you_mean


def evaluate(text: str) -> optax.GradientTransformation:
    """Makes the optimizer that a text calls.

    Nothing but public functions of this library and of Optax is called, with numbers, strings,
    names of such functions and further calls as arguments.

    Args:
      text: a call such as `dialects.keras(1e-3, clipnorm=1.0)` or
        `optax.chain(optax.clip_by_global_norm(1.0), rmsprop(1e-3))`; the module may be left out
        where the name is that of a dialect or recipe, and the brackets where no argument is needed.

    Raises:
      ValueError: for a text that is something else, and for arguments that the function refuses.

    Example:
      >>> from rmsprop_jax import explain
      >>> print(explain(evaluate("hinton2012(0.001)")))
      # before the first update
      nu = 0
      # every update
      u = g
      nu = 0.9 * nu + (1 - 0.9) * abs(u)**2
      u = u / (sqrt(nu) + 0)
      u = -0.001 * u
      p = p + u
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no call: {error.msg}.") from None
    value = _value(tree)
    if not isinstance(value, optax.GradientTransformation) and callable(value):
        value = _called(value, [], {}, text)
    if not isinstance(value, optax.GradientTransformation):
        raise ValueError(f"{text!r} is not an optimizer, but {type(value).__name__}.")
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name | ast.Attribute):
        return _function(ast.unparse(node))
    if isinstance(node, ast.Call):
        arguments = [_value(x) for x in node.args]
        keywords = {k.arg: _value(k.value) for k in node.keywords if k.arg}
        if len(keywords) == len(node.keywords):
            return _called(_value(node.func), arguments, keywords, ast.unparse(node))
    try:
        return ast.literal_eval(node)
    except ValueError:
        reason = "only numbers, strings, and functions of rmsprop_jax and optax are understood."
        raise ValueError(f"{ast.unparse(node)!r}: {reason}") from None


def _called(function: Any, arguments: Any, keywords: Any, text: str) -> Any:
    try:
        return function(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from None


def _function(path: str) -> Any:
    """A public function by its name, with or without its module."""
    first, *rest = path.split(".")
    if first in ("optax", "rmsprop_jax") and rest:
        value: Any = {"optax": optax, "rmsprop_jax": rmsprop_jax}[first]
    else:
        homes = [rmsprop_jax, rmsprop_jax.dialects, rmsprop_jax.recipes]
        value = next((home for home in homes if first in home.__all__), None)
        if value is None:
            known = [name for home in homes for name in home.__all__]
            raise ValueError(f"{path!r} is not known.{did_you_mean(first, known)}")
        rest = [first, *rest]
    for name in rest:
        public = _public(value)
        if name not in public:
            raise ValueError(f"{path!r} is not known.{did_you_mean(name, public)}")
        value = getattr(value, name)
    return value


def _public(module: Any) -> list[str]:
    """What a module offers; Optax has more names than those that are its own."""
    if module is not optax and module is not optax.contrib:
        return list(getattr(module, "__all__", []))
    own = lambda x: (
        getattr(x, "__name__", "") == "optax.contrib"
        or (not isinstance(x, ModuleType) and str(inspect.getmodule(x)).find("optax") >= 0)
    )
    return [name for name in dir(module) if name[0] != "_" and own(getattr(module, name))]
