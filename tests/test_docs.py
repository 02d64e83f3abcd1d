"""What the documentation shows runs: every docstring example, every Python block of the README."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import jax
import pytest

import rmsprop_jax

MODULES = sorted(m.name for m in pkgutil.walk_packages(rmsprop_jax.__path__, "rmsprop_jax."))
README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    with jax.numpy_dtype_promotion("standard"):  # as a reader has it
        assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_most_modules_have_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for m in MODULES for t in finder.find(importlib.import_module(m)) if t.examples]
    assert len(found) >= 4


def test_readme_blocks():
    names = {}
    assert BLOCKS
    with jax.numpy_dtype_promotion("standard"):
        for block in BLOCKS:
            exec(compile(block, str(README), "exec"), names)
    assert names["loss"](names["w"]) < 1e-6  # the first one trains
