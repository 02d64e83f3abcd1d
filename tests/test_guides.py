"""The guides run as they stand, block after block, each in one namespace."""

import re
from pathlib import Path

import jax
import pytest
from test_docs import ROOT

GUIDES = [*(ROOT / "docs" / "guides").glob("*.md"), ROOT / "docs" / "which_rmsprop.md"]
"""What they need besides, of which some machines have nothing."""
NEEDS = {"pytorch": ["torch"], "keras": ["keras"]}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guide_runs(page, tmp_path, monkeypatch):
    for package in NEEDS.get(page.stem, []):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names = {"__name__": page.stem}
    with jax.numpy_dtype_promotion("standard"):  # as a reader has it
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
            lines = "\n" * text[: block.start(1)].count("\n")  # errors name the line of the page
            exec(compile(lines + block[1], page, "exec"), names)
