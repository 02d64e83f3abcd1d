"""Arguments of the dialects: the names and the defaults of the real ones."""

import importlib
import inspect
import json
from pathlib import Path

import pytest

from rmsprop_jax import dialects

RECORDED = Path(__file__).parent / "recorded"
KNOWN = json.loads((RECORDED / "signatures.json").read_text())
MORE = {  # than its signature has
    "jax_example_libraries": ["momentum"],  # of its `rmsprop_momentum`
    "keras": ["jit_compile", "is_legacy_optimizer"],  # of tf_keras
    "tf_keras_legacy": ["clipnorm", "clipvalue", "global_clipnorm", "lr", "decay"],  # its kwargs
    "timm": ["max_lr"],  # of its groups
}


@pytest.mark.parametrize("name", KNOWN)
def test_arguments_are_those_of_the_framework(name):
    arguments = inspect.signature(getattr(dialects, name)).parameters.values()
    known = [
        [p.name] if p.default is p.empty else [p.name, p.default]
        for p in arguments
        if p.name not in MORE.get(name, [])
    ]
    assert known == KNOWN[name]["arguments"]


def test_every_dialect_is_known():
    """But burn, which is Rust, and TensorFlow.js: neither tells the defaults that it has."""
    assert {*dialects.__all__} == {*KNOWN, "burn", "tensorflowjs"}


@pytest.mark.parametrize("name", KNOWN)
def test_recorded_arguments_are_those_of_today(name, monkeypatch):
    monkeypatch.syspath_prepend(RECORDED)
    recorder = importlib.import_module("record_signatures")
    try:
        today = recorder.signature(name)
    except ImportError as missing:
        pytest.skip(str(missing))
    assert today == KNOWN[name]["arguments"]
