"""How far our dialects are from the real frameworks, as the table in the README.

Usage, where the tests' packages are installed (`pip install '.[test]'`):

    python benchmarks/parity.py            # print the table
    python benchmarks/parity.py --write    # and put it into README.md

The problem and the comparison are those of the tests, see `tests/support/trajectories.py`.
"""

import argparse
import importlib.metadata
import platform
import re
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import oracles  # noqa: E402  # pyright: ignore[reportMissingImports]
import trajectories  # noqa: E402  # pyright: ignore[reportMissingImports]

README = ROOT / "README.md"
FRAMEWORKS = {
    "pytorch": "`torch.optim.RMSprop`",
    "timm": "`timm.optim.RMSpropTF`",
    "keras": "`keras.optimizers.RMSprop`",
    "optax": "`optax.rmsprop`",
    "burn": "burn's `RmsPropConfig`, by its equal: torch",
    "tensorflow1": "`tf.compat.v1.train.RMSPropOptimizer`",
    "tf_keras_legacy": "`tf_keras.optimizers.legacy.RMSprop`",
    "sonnet": "`sonnet.optimizers.RMSProp`",
    "paddle": "`paddle.optimizer.RMSProp`",
    "mlx": "`mlx.optimizers.RMSprop`",
    "stable_baselines3": "stable_baselines3's `RMSpropTFLike`",
    "chainer_graves": "`chainer.optimizers.RMSpropGraves`",
    "mxnet": "`mxnet.optimizer.RMSProp`",
}


def rows() -> list[tuple[str, ...]]:
    """Framework, our call, and the largest differences in float64 and float32."""
    table = []
    for name, framework in FRAMEWORKS.items():
        if name == "optax":  # always here: not recorded, but run
            version = importlib.metadata.version(name)
        else:
            about = trajectories.about("pytorch" if name == "burn" else name)
            version = f"{next(iter(about['versions'].values())).partition('+')[0]}, recorded"
        cells = [
            "–"
            if (name, dtype) == ("mxnet", "float64")
            else f"{oracles.compare(name, dtype).max():.1e}"
            for dtype in oracles.TOLERANCES
        ]
        dialect = oracles.RECORDED[name] + ("`, `paddle" if name == "mxnet" else "")
        table.append((f"{framework} {version}", dialect, *cells))
    return table


def markdown() -> str:
    """The table and what was measured where."""
    lines = ["| your framework | our call | float64 | float32 |", "|---|---|---|---|"]
    for framework, dialect, *cells in rows():
        lines.append(f"| {framework} | `dialects.{dialect}` | {' | '.join(cells)} |")
    device = jax.devices()[0].platform.upper()
    return "\n".join(
        [
            *lines,
            "",
            "Largest difference of any parameter in 1,000 steps, in units of the largest "
            "parameter, over all combinations of options and three learning-rate schedules. "
            f"Measured by `benchmarks/parity.py` with jax {jax.__version__} on {device} "
            f"({platform.machine()}); what is recorded is described in `tests/recorded/README.md`.",
        ]
    )


def main() -> None:
    """Prints the table, and writes it on demand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    write = parser.parse_args().write
    table = markdown()
    print(table)
    if write:
        text = README.read_text()
        new, count = re.subn(
            r"(?s)(<!-- parity -->\n).*?(<!-- /parity -->)",
            lambda match: f"{match[1]}{table}\n{match[2]}",
            text,
        )
        if count != 1:
            sys.exit(f"README.md has {count} places for the table, and should have one.")
        README.write_text(new)


if __name__ == "__main__":
    main()
