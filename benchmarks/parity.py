"""How far our dialects are from the real frameworks, as the table in docs/parity.md.

Usage, where the frameworks are installed (`pip install torch timm keras`):

    python benchmarks/parity.py            # print the table
    python benchmarks/parity.py --write    # and put it into docs/parity.md and README.md

The problem and the comparison are those of the tests, see `tests/trajectories.py`.
"""

import argparse
import importlib.metadata
import json
import platform
import re
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import oracles  # noqa: E402  # pyright: ignore[reportMissingImports]

README, TABLE = ROOT / "README.md", ROOT / "docs" / "parity.md"
LIVE = {  # name of the framework: its call, the distribution to ask for the version
    "pytorch": ("`torch.optim.RMSprop`", "torch"),
    "timm": ("`timm.optim.RMSpropTF`", "timm"),
    "keras": ("`keras.optimizers.RMSprop`", "keras"),
    "optax": ("`optax.rmsprop`", "optax"),
    "burn": ("burn's `RmsPropConfig`, by its equal: torch", "torch"),
}
RECORDED = {
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
    for name, (framework, distribution) in LIVE.items():
        version = importlib.metadata.version(distribution)
        cells = [f"{oracles.compare(name, dtype).max():.1e}" for dtype in oracles.TOLERANCES]
        table.append((f"{framework} {version}", name, *cells))
    for name, framework in RECORDED.items():
        path = ROOT / "tests" / "recorded" / f"{name}.npz"
        with np.load(path) as archive:
            versions = json.loads(archive["about"].item())["versions"]
            dtypes = [dtype for dtype in oracles.TOLERANCES if dtype in archive]
        version = next(iter(versions.values()))
        cells = [
            f"{oracles.compare_recorded(name, dtype).max():.1e}" if dtype in dtypes else "–"
            for dtype in oracles.TOLERANCES
        ]
        dialect = oracles.RECORDED[name] + ("`, `paddle" if name == "mxnet" else "")
        table.append((f"{framework} {version}, recorded", dialect, *cells))
    return table


def markdown(table: list[tuple[str, ...]]) -> str:
    """The table and what was measured where."""
    lines = ["| your framework | our call | float64 | float32 |", "|---|---|---|---|"]
    for framework, dialect, *cells in table:
        lines.append(f"| {framework} | `dialects.{dialect}` | {' | '.join(cells)} |")
    device = jax.devices()[0].platform.upper()
    return "\n".join(
        [
            *lines,
            "",
            "Largest difference of any parameter after any of 1,000 steps, in units of the largest "
            "parameter, over all combinations of options and three learning-rate schedules. "
            f"Measured by `benchmarks/parity.py` with jax {jax.__version__} on {device} "
            f"({platform.machine()}); what is recorded is described in `tests/recorded/README.md`.",
        ]
    )


def summary(table: list[tuple[str, ...]]) -> str:
    """The table in two sentences."""
    double, single = (max((row[i] for row in table if row[i] != "–"), key=float) for i in (2, 3))
    return (
        f"{len(table)} frameworks, all within rounding: after 1,000 steps, no parameter differs\n"
        f"by more than {double} of the largest one in float64, and {single} in float32, over all\n"
        "combinations of options and three learning-rate schedules."
    )


def replace(path: Path, mark: str, text: str) -> None:
    """Puts a text between two marks on a page."""
    new, count = re.subn(
        rf"(?s)(<!-- {mark} -->\n).*?(<!-- /{mark} -->)",
        lambda match: f"{match[1]}{text}\n{match[2]}",
        path.read_text(),
    )
    if count != 1:
        sys.exit(f"{path.name} has {count} places for the text, and should have one.")
    path.write_text(new)


def main() -> None:
    """Prints the table, and writes it on demand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the table and the summary")
    write = parser.parse_args().write
    table = rows()
    print(markdown(table))
    if write:
        replace(TABLE, "parity", markdown(table))
        replace(README, "parity summary", summary(table))


if __name__ == "__main__":
    main()
