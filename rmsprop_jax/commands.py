"""The commands that look things up: `rmsprop-jax dialects`, `recipes` and `explain`."""

import inspect
from collections.abc import Sequence

from rmsprop_jax import dialects as _dialects
from rmsprop_jax import recipes as _recipes
from rmsprop_jax.calls import evaluate
from rmsprop_jax.cli import Parser, did_you_mean
from rmsprop_jax.explanation import explain as _explain
from rmsprop_jax.table import dialect_table


def dialects(args: Sequence[str]) -> None:
    """The command `rmsprop-jax dialects`."""
    description = (
        "Sets the RMSProps of all frameworks beside each other; or, of one, tells the call that "
        "makes its numbers."
    )
    parser = Parser("rmsprop-jax dialects", description=description)
    parser.add_argument(
        "name", nargs="*", help="of a framework or package, as you would type it: jittor, r torch"
    )
    words = parser.parse_args(args).name
    print(_dialects.find(" ".join(words)) if words else dialect_table())


def recipes(args: Sequence[str]) -> None:
    """The command `rmsprop-jax recipes`."""
    parser = Parser("rmsprop-jax recipes", description="Settings of RMSProp, with their sources.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="print all about one recipe")
    name = parser.parse_args(args).name
    known = {recipe: getattr(_recipes, recipe) for recipe in _recipes.__all__}
    if name is None:
        width = max(map(len, known))
        for recipe, function in known.items():
            first = (inspect.getdoc(function) or "").partition("\n")[0]
            print(f"{recipe:{width}}  {first}")
    elif name in known:
        print(f"recipes.{name}{inspect.signature(known[name])}\n")
        print(inspect.getdoc(known[name]))
    else:
        raise ValueError(f"there is no recipe {name}.{did_you_mean(name, known)}")


def explain(args: Sequence[str]) -> None:
    """The command `rmsprop-jax explain`."""
    parser = Parser("rmsprop-jax explain", description="Prints the update that an optimizer makes.")
    example = '"dialects.pytorch(1e-2, momentum=0.9)"'
    parser.add_argument("call", help=f"what makes it, in quotes: {example}, or just the name")
    print(_explain(evaluate(parser.parse_args(args).call)))
