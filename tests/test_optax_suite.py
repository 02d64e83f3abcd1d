"""Optax's own tests for its optimizers, run with ours in the place of `optax.rmsprop`.

The test files are shipped in Optax's wheel. Each is run in a process of its own, by pytest with
this very file as a plugin, which swaps the function and keeps the tests that are about it.
"""

import os
import pathlib
import re
import subprocess
import sys

import optax
import pytest

FILES = [
    "_src/alias_test.py",
    "contrib/_common_test.py",
    "_src/sharding_test.py",
    "_src/float64_test.py",
]
REPLACEMENTS = ["rmsprop_jax:rmsprop", "rmsprop_jax.dialects:optax"]
CASES = [(file, replacement) for file in FILES for replacement in REPLACEMENTS]


def pytest_configure(config):
    """As a plugin: puts the replacement where Optax's tests will look for `rmsprop`."""
    if replacement := os.environ.get("REPLACE_OPTAX_RMSPROP"):
        import importlib

        from optax._src import alias

        module, name = replacement.split(":")
        alias.rmsprop = optax.rmsprop = getattr(importlib.import_module(module), name)


def pytest_collection_modifyitems(config, items):
    """As a plugin: keeps the test cases that are about rmsprop."""
    if "REPLACE_OPTAX_RMSPROP" in os.environ:
        about = [i for i in items if "rmsprop" in i.name + getattr(i.obj, "__x_params_repr__", "")]
        config.hook.pytest_deselected(items=[i for i in items if i not in about])
        items[:] = about


@pytest.mark.parametrize(
    ("file", "replacement"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.nightly) for case in CASES[1:])],
)
def test_optax_tests_pass(file, replacement, tmp_path):
    path = pathlib.Path(optax.__file__).parent / file
    if not path.exists():
        pytest.skip(f"this Optax, {optax.__version__}, is installed without {file}")
    here = pathlib.Path(__file__)
    options = ["-p", here.stem, "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, str(path)],
        env=os.environ | {"PYTHONPATH": str(here.parent), "REPLACE_OPTAX_RMSPROP": replacement},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    assert re.search(r"\b[1-9]\d* passed", run.stdout), run.stdout
