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
    pytest.param("contrib/_common_test.py", marks=pytest.mark.nightly),
    "_src/sharding_test.py",
    "_src/float64_test.py",
]
REPLACEMENTS = {
    "rmsprop": "rmsprop_jax:rmsprop",
    "dialects.optax": "rmsprop_jax.dialects:optax",
}


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


@pytest.mark.parametrize("file", FILES)
def test_optax_tests_pass(file, tmp_path):
    path = pathlib.Path(optax.__file__).parent / file
    if not path.exists():
        pytest.skip(f"this Optax, {optax.__version__}, is installed without {file}")
    here = pathlib.Path(__file__)
    options = ["-p", here.stem, "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    processes = {
        name: subprocess.Popen(  # side by side, for they take a while
            [sys.executable, "-m", "pytest", *options, "-c", os.devnull, str(path)],
            env=os.environ | {"PYTHONPATH": str(here.parent), "REPLACE_OPTAX_RMSPROP": function},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, function in REPLACEMENTS.items()
    }
    outputs = {name: process.communicate()[0] for name, process in processes.items()}
    for name, process in processes.items():
        assert process.returncode == 0, f"{name}: {outputs[name]}"
        assert re.search(r"\b[1-9]\d* passed", outputs[name]), f"{name}: {outputs[name]}"
