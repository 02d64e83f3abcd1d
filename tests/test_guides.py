"""The README and the guides run as they stand, block after block, each in one namespace."""

import importlib.util
import re
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from real_checkpoints import FOLDER, family
from test_docs import ROOT

import rmsprop_jax
from rmsprop_jax import explain, interop, recipes

DOCS = ROOT / "docs"
GUIDES = [
    ROOT / "README.md",
    DOCS / "index.md",
    DOCS / "which_rmsprop.md",
    *sorted((DOCS / "guides").glob("*.md")),
]
GUIDES = [page for page in GUIDES if "```python\n" in page.read_text()]
# What they need besides, of which some machines have nothing.
NEEDS = {"pytorch": ["torch"], "keras": ["keras"], "stable_baselines3": ["torch"]}
pytestmark = pytest.mark.usefixtures("module_compiled_quickly")


def replayed_reader(path):
    """What TensorFlow's own reader returned of a checkpoint of TensorFlow 1, without TensorFlow."""
    assert path == "model.ckpt"
    tensors = family("tensorflow")["saver_momentum"]["checkpoint"]
    shapes = {name: list(np.shape(x)) for name, x in tensors.items()}
    return SimpleNamespace(
        get_variable_to_shape_map=lambda: shapes, get_tensor=lambda name: tensors[name]
    )


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_guide_runs(page, tmp_path, monkeypatch):
    if missing := [p for p in NEEDS.get(page.stem, []) if importlib.util.find_spec(p) is None]:
        pytest.skip(f"{missing[0]} isn't installed")
    tensorflow = SimpleNamespace(train=SimpleNamespace(load_checkpoint=replayed_reader))
    shutil.copy(FOLDER / "files" / "stable_baselines3.zip", tmp_path / "a2c.zip")
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names = {"__name__": page.stem}
    with jax.numpy_dtype_promotion("standard"):  # as a reader has it
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
            lines = "\n" * text[: block.start(1)].count("\n")  # errors name the line of the page
            with monkeypatch.context() as patch:
                if "import tensorflow" in block[1]:  # no longer than that: JAX looks for it, too
                    patch.setitem(sys.modules, "tensorflow", tensorflow)
                exec(compile(lines + block[1], page, "exec"), names)


def numbers(text):
    found = re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text.replace("_", ""))
    return {float(x) for x in found}


def test_the_table_of_agents_has_the_numbers_of_the_recipes():
    page = (DOCS / "guides" / "reinforcement_learning.md").read_text()
    rows = re.findall(
        r"^\| .* \| `(recipes\..*?)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", page, re.M
    )
    assert len(rows) == 6
    for call, eps, start, rate, norm in rows:
        update = explain(eval(call, {"recipes": recipes}))
        schedule = "schedule" in update
        wanted = numbers(f"{eps} {norm}") | (set() if schedule else numbers(rate))
        assert wanted <= numbers(update), call
        assert f"nu = {start}\n" in update
        assert ("centered" in eps) == ("\nmu = " in update)
        assert ("outside" in eps) == ("sqrt(nu) + " in update)


def test_the_reference_has_every_public_name():
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    entries = re.findall(r"auto(?:module|function|class):: (?:rmsprop_jax\.)?(\S+)", pages)
    assert set(rmsprop_jax.__all__) <= set(entries)
    for name in set(interop.__all__) - {"restore"}:
        for function in getattr(interop, name).__all__:
            if function in ("load", "dump"):
                assert f"interop.{name}.{function}" in entries
