"""How far our dialects are from the real frameworks, as the table in the README.

Usage, where the frameworks are installed (`pip install torch timm keras`):

    python benchmarks/parity.py            # print the table
    python benchmarks/parity.py --write    # and put it into README.md

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

from rmsprop_jax import dialects  # noqa: E402

README = ROOT / "README.md"
PACKAGES = {"pytorch": "torch", "burn": "torch"}
"""What a live framework is installed by, where its name is another one; burn's equal stands in."""


def real_name(framework: str) -> str:
    """What a dialect stands for, as the first line of its docstring says it."""
    dialect = getattr(dialects, oracles.RECORDED.get(framework, framework))
    names = re.findall("`[^`]+`", str(dialect.__doc__).splitlines()[0])
    own = [name for name in names if framework.startswith(name[1:].partition(".")[0])]
    return (own or names)[0]


def rows() -> list[tuple[str, ...]]:
    """Framework, our call, and the largest differences in float64 and float32."""
    table = []
    for name in oracles.LIVE:
        package = PACKAGES.get(str(name), str(name))
        of = f"{package} {importlib.metadata.version(package)}"
        cells = [f"{oracles.compare(name, dtype).max():.1e}" for dtype in oracles.TOLERANCES]
        table.append((f"{real_name(name)} ({of}{', its equal' * (name == 'burn')})", name, *cells))
    for name, dialect in oracles.RECORDED.items():
        with np.load(ROOT / "tests" / "recorded" / f"{name}.npz") as archive:
            package, version = next(iter(json.loads(archive["about"].item())["versions"].items()))
            dtypes = [dtype for dtype in oracles.TOLERANCES if dtype in archive]
        cells = [
            f"{oracles.compare_recorded(name, dtype).max():.1e}" if dtype in dtypes else "–"
            for dtype in oracles.TOLERANCES
        ]
        calls = dialect + "`, `paddle" * (name == "mxnet")
        table.append((f"{real_name(name)} ({package} {version}, recorded)", calls, *cells))
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
            "Largest difference of any parameter after any of 1,000 steps, in units of the largest "
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
