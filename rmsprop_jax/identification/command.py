"""The command `rmsprop-jax identify`."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop_jax.identification.answer import identify
from rmsprop_jax.identification.comparison import compare_runs
from rmsprop_jax.identification.recording import read_file
from rmsprop_jax.identification.report import Identification


def main(args: Sequence[str]) -> None:
    """The command `rmsprop-jax identify`."""
    parser = argparse.ArgumentParser(
        "rmsprop-jax identify", description="Tells which RMSProp made a recorded run."
    )
    parser.add_argument(
        "file", help="an .npz with params and grads (or params/NAME, grads/NAME), or a torch file"
    )
    parser.add_argument(
        "--known",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a hyperparameter that is known, such as eps=1e-8; may be repeated",
    )
    parser.add_argument("--compare", metavar="FILE", help="compare with another recording instead")
    parser.add_argument("--plot", metavar="PNG", help="draw the distance of the best candidates")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)
    params, grads = read_file(options.file)
    if options.compare:
        found: Any = compare_runs((params, grads), read_file(options.compare))
    else:
        known = dict(_known(text) for text in options.known)
        found = identify(params, grads, known=known, progress=not options.json)
        if options.plot:
            plot(found, options.plot)
    print(json.dumps(dataclasses.asdict(found), default=_plain) if options.json else found)


def plot(found: Identification, path: str) -> None:
    """Draws how far the candidates are from the recording at each step.

    Args:
      found: by `identify`.
      path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 6), layout="constrained")
    for i, (values, label) in enumerate(zip(*found.recorded, strict=True)):
        above.plot(values, color=f"C{i}", label=label)
    above.set_ylabel("recorded parameters")
    above.legend(fontsize="small")
    for c in found.candidates:
        name = ", ".join(c.dialects[:3]) + (", ..." if len(c.dialects) > 3 else "")
        below.semilogy(np.maximum(c.distances, 1e-3), label=f"{name}: {c.distance:.3g}")
    below.axhline(1, color="gray", linestyle=":")
    below.set(xlabel="step", ylabel="distance (1 is rounding)")
    below.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def _known(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--known {text}: write NAME=VALUE, such as eps=1e-8.")
    words = {"true": True, "false": False}
    try:
        return name, words[value.lower()] if value.lower() in words else float(value)
    except ValueError:
        return name, value


def _plain(x: Any) -> Any:
    return x.tolist()
