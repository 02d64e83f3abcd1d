"""What the documentation shows runs: every docstring example, every Python block of its pages."""

import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import jax
import pytest

import rmsprop_jax

MODULES = sorted(m.name for m in pkgutil.walk_packages(rmsprop_jax.__path__, "rmsprop_jax."))
ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = {
    page.stem: blocks
    for page in [ROOT / "README.md", ROOT / "docs" / "guides" / "large_scale.md"]
    if (blocks := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
}
pytestmark = pytest.mark.usefixtures("module_compiled_quickly")


def public(module):
    """The functions and classes that a module and the modules in it offer."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public(value)
        elif callable(value):
            yield value


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    with jax.numpy_dtype_promotion("standard"):  # as a reader has it
        assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_every_public_name_has_an_example():
    names = set(public(rmsprop_jax))
    assert len(names) > 30
    assert not [name for name in names if ">>> " not in (name.__doc__ or "")]


@pytest.mark.nightly
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("devices", [1, 8])
def test_pages_run(page, devices):
    """As a reader runs them, in a process of its own; test_guides runs them every day."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-W", "error", "-c", "\n".join(PAGES[page])]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_readme_is_one_page_whose_links_work_anywhere():
    """Absolute links, since package indexes show it too; those into the repository name a file."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    here = PROJECT["urls"]["Repository"]
    raw = here.replace("github.com", "raw.githubusercontent.com")
    for link in re.findall(r"\]\((.*?)\)", text):
        assert link.startswith("https://")
        path = re.match(rf"{here}/(?:blob|tree)/main/(.*)|{raw}/main/(.*)", link)
        assert path is None or (ROOT / (path[1] or path[2])).exists(), link


def test_readme_has_the_figures_of_the_table():
    table = (ROOT / "docs/parity.md").read_text()
    cells = re.findall(r"^\| .* \| `dialects\..*` \| (.*) \| (.*) \|$", table, re.M)
    worst = [max((row[i] for row in cells if row[i] != "–"), key=float) for i in (0, 1)]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"{len(cells)} frameworks, all within rounding" in text
    assert f"more than {worst[0]} of the largest one in float64, and {worst[1]} in float32" in text


def test_there_is_one_version():
    """In pyproject.toml; the rest has it from there, or is compared with it here."""
    version = PROJECT["version"]
    assert rmsprop_jax.__version__ == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {version} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M)
