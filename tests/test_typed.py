"""What a type checker, and an editor that shows signatures, make of a user's code."""

import importlib.util
import inspect
import re
import subprocess
import sys

import pytest
from test_docs import public

import rmsprop_jax

USER = """
import jax
import jax.numpy as jnp
import optax

import rmsprop_jax
from rmsprop_jax import clipping, convert_eps, diagnostics, dialects, explain, recipes, rmsprop
from rmsprop_jax import scale_by_rms, storage, weights

params = {"w": jnp.ones((2, 3))}
schedule: optax.Schedule = optax.cosine_decay_schedule(1e-2, 10)
tx: optax.GradientTransformationExtraArgs = rmsprop(schedule, decay=0.9, momentum=0.5)
tx = optax.chain(clipping.clip_by_global_norm(1.0), dialects.keras(jnp.float32(1e-3), clipnorm=1.0))
tx = dialects.pytorch(lr=0.01, alpha=0.99, weight_decay=1e-4, momentum=0.9)
tx = recipes.dqn_nature(learning_rate=1e-4, eps=0.1)
tx = storage.store(weights.compensate(rmsprop(1e-3)), nu=storage.U8.with_decay(0.99))
direction: optax.GradientTransformationExtraArgs = scale_by_rms(0.9)
state = tx.init(params)
updates, state = tx.update(params, state, params)
text: str = explain(tx)
numbers: dict[str, float] = diagnostics.report(tx, state, params, updates, by=1).scalars()
eps, slowest, fastest = convert_eps(1e-3, into_sqrt=False)
total: float = eps + slowest + fastest
version: str = rmsprop_jax.__version__
"""
WRONG = [
    'rmsprop("fast")',
    'rmsprop(1e-3, decay="slow")',
    "rmsprop(1e-3, momentums=0.9)",
    "rmsprop(1e-3, 0.9, 1e-8, True)",
    "dialects.pytorch(learning_rate=0.1)",
    "dialects.keras(clipnorm=[1.0])",
    'recipes.dqn_nature(eps="small")',
    "recipes.a3c(7e-4)",
    "explain(1.0)",
    "length: int = explain(tx)",
    "storage.store(1.0, nu=storage.U8)",
    "convert_eps(1e-3)",
    "print(rmsprop_jax.rmsprp)",
]
CHECKERS = {
    # Optax has types, and doesn't say so.
    "mypy": ["-m", "mypy", "--strict", "--no-error-summary", "--follow-untyped-imports"],
    "pyright": ["-m", "pyright", "--level", "error", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize(
    "function", dict.fromkeys(public(rmsprop_jax)), ids=lambda f: f"{f.__module__}.{f.__qualname__}"
)
def test_signatures_are_in_words(function):
    """Of names such as `ArrayLike`, not of all that they stand for."""
    if not inspect.isclass(function):
        signature = str(inspect.signature(function))
        reason = "say `from __future__ import annotations` in its module"
        assert not re.search(r"Union\[|_src|jaxlib", signature), reason


def test_dir_is_what_is_public():
    assert dir(rmsprop_jax) == sorted([*rmsprop_jax.__all__, "__version__"])


@pytest.mark.nightly
@pytest.mark.parametrize("checker", CHECKERS)
def test_users_code(tmp_path, checker):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"needs {checker}")
    file = tmp_path / "user.py"
    text = USER.lstrip() + "\n".join(WRONG) + "\n"
    file.write_text(text)
    line = [sys.executable, *CHECKERS[checker], "user.py"]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    found = {int(n) for n in re.findall(r"user\.py:(\d+)(?::\d+ -|:) error", run.stdout)}
    first = text.splitlines().index(WRONG[0]) + 1
    assert found == set(range(first, first + len(WRONG))), run.stdout
