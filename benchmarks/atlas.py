"""Prints `MEASURED` of `rmsprop_jax/frameworks/atlas.py`, to be pasted there."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from test_atlas import measured  # noqa: E402  # pyright: ignore[reportMissingImports]

print("MEASURED: dict[str, tuple[str, float]] = {")
for name, (against, largest) in measured().items():
    print(f'    "{name}": ("{against}", {largest:.1e}),')
print("}")
