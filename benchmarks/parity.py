"""How far our dialects are from the real frameworks, as the table in docs/parity.md.

Usage, where the tests' packages are installed (`pip install '.[test]'`):

    python benchmarks/parity.py            # print the table
    python benchmarks/parity.py --write    # and put it into docs/parity.md and README.md

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

from rmsprop_jax import dialects  # noqa: E402

README, TABLE = ROOT / "README.md", ROOT / "docs" / "parity.md"


def real_name(framework: str) -> str:
    """What a dialect stands for, as the first line of its docstring says it."""
    dialect = getattr(dialects, oracles.RECORDED[framework])
    names = re.findall("`[^`]+`", str(dialect.__doc__).splitlines()[0])
    own = [name for name in names if framework.startswith(name[1:].partition(".")[0])]
    return (own or names)[0]


def rows() -> list[tuple[str, ...]]:
    """Framework, our call, and the largest differences in float64 and float32."""
    table = []
    for name, dialect in oracles.RECORDED.items():
        if name == "optax":  # always here: not recorded, but run
            of = f"optax {importlib.metadata.version(name)}"
        else:
            about = trajectories.about("pytorch" if name == "burn" else name)
            package, version = next(iter(about["versions"].items()))
            of = f"{package} {version.partition('+')[0]}, recorded"
        of += ", its equal" * (name == "burn")
        cells = [
            f"{oracles.compare(name, dtype).max():.1e}" if dtype in oracles.dtypes(name) else "–"
            for dtype in oracles.TOLERANCES
        ]
        calls = dialect + "`, `paddle" * (name == "mxnet")
        table.append((f"{real_name(name)} ({of})", calls, *cells))
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
            "Largest difference of any parameter in 1,000 steps, in units of the largest "
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
