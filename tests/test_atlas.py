"""The atlas: each call is run against its check, and names that people type find their row."""

import functools
import importlib.util
import json
import pathlib
import re

import atlas_formulas
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from atlas_problem import KEPT, gradients, start

from rmsprop_jax import dialects, recipes, rmsprop, scale_by_rms
from rmsprop_jax.commands import dialects as main
from rmsprop_jax.frameworks.atlas import MEASURED, ROWS

NAMES = {
    "torch for R": "r torch",
    "candle-optimisers": "candle",
    "Keras 1": "keras 1.2",
    "Keras 2.0 to 2.3": "keras 2.2.5",
    "Keras 3": "keras, tf.keras, tf2",
    "TensorFlow 1": "tf1",
    "PyTorch": "torch.optim.RMSprop, pytroch",
    "MindSpore": "mindspor",
    "TensorFlow.js": "tfjs, TF.js",
    "fastai": "fast.ai",
    "jax.example_libraries": "example_libraries, jax.example_libraries.optimizers",
    "PyMC": "pymc3",
    "numpy-ml": "numpy_ml",
    "Stan's ADVI": "stan, advi",
    "Cleanba and Stoix": "cleanba, stoix, rmsprop_pytorch_style",
    "ROOT TMVA": "tmva",
    "ensmallen": "mlpack",
    "Optimisers.jl": "flux.jl, Optimisers.jl RMSProp",
    "tiny-dnn": "tinydnn",
    "Swift for TensorFlow": "s4tf",
    "MXNet": "gluon",
    "Chainer's RMSpropGraves": "chainer, nnabla, graves",
    "Paddle": "paddlepaddle",
    "Stable-Baselines3": "sb3",
    "timm": "rmsproptf",
    "Optax": "optax.rmsprop",
    "Hinton's lecture": "hinton",
}
"""Rows, and what people type who should see them first, besides the name in any case."""


def test_what_people_type_finds_its_row():
    for row in ROWS:
        typed = [row.name, row.name.lower(), *NAMES.get(row.name, row.name).split(", ")]
        assert [dialects.find(words)[0].name for words in typed] == [row.name] * len(typed)
    assert NAMES.keys() <= {row.name for row in ROWS}


def test_what_is_not_known_is_refused_with_the_closest(capsys):
    with pytest.raises(ValueError, match="Did you mean"):
        dialects.find("completely other")
    main(["r", "torch"])
    shown = capsys.readouterr().out
    assert "dialects.pytorch(" in shown
    assert "largest difference from its formula" in shown
    main(["cntk"])
    assert "There is no call." in capsys.readouterr().out


def made_by(row):
    """The transformation that the call of a row makes, as a reader would run it."""
    names = ["dialects", "recipes", "rmsprop", "scale_by_rms", "optax", "jnp"]
    everything = [dialects, recipes, rmsprop, scale_by_rms, optax, jnp]
    return eval(row.call, dict(zip(names, everything, strict=True)))


def in_other_tests(name):
    """What a dialect is also held to, for 1,000 steps."""
    framework = atlas_formulas.DIALECTS.get(name)
    if framework is None or framework == "burn":  # in Rust
        return "" if framework is None else ", and the numbers in its own tests"
    file = pathlib.Path(__file__).parent / "recorded" / f"{framework}.npz"
    if not file.exists():
        return ", and the real one beside it in the tests"
    with np.load(file) as recording:
        versions = json.loads(recording["about"].item())["versions"]
    package, version = next(iter(versions.items()))
    return f", and {package} {version} in the tests"


@functools.cache
def measured():
    """For each call what it was held against, and the largest difference over the scale."""
    called = [row for row in ROWS if row.call]
    grads = gradients()
    with jax.enable_x64(True):
        transformations = {row.name: made_by(row) for row in called}

        @jax.jit
        def run(grads, first):
            def step(carry, g):
                new = {}
                for name, tx in transformations.items():
                    params, state = carry[name]
                    updates, state = tx.update(g, state, params)
                    new[name] = optax.apply_updates(params, updates), state
                return new, {name: params for name, (params, _) in new.items()}

            inits = {name: (first, tx.init(first)) for name, tx in transformations.items()}
            return jax.lax.scan(step, inits, grads)[1]

        with jax.numpy_dtype_promotion("standard"):  # of the schedules
            mine = jax.tree.map(np.asarray, run(jnp.asarray(grads), jnp.asarray(start())))
    file = pathlib.Path(__file__).parent / "recorded" / "atlas.npz"
    found = {}
    with np.load(file) as recording:
        about = json.loads(recording["about"].item())
        for row in called:
            if key := atlas_formulas.RECORDED.get(row.name):
                real, kept = recording[key], mine[row.name][np.array(KEPT) - 1]
                against = f"{row.name} {about[key]['version']}, recorded"
            else:
                real = atlas_formulas.FORMULAS[row.name].run(start(), grads)
                kept = mine[row.name]
                against = "its formula" + in_other_tests(row.name)
            found[row.name] = against, np.abs(kept - real).max() / np.abs(real).max()
    return found


def test_there_are_fifty_and_each_has_its_check():
    assert len(ROWS) >= 50
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.name for row in ROWS if row.call} == MEASURED.keys()
    assert all(row.differs and row.checked in str(row) for row in ROWS if row.call)


@pytest.mark.parametrize("row", [row for row in ROWS if row.call], ids=lambda row: row.name)
def test_each_call_makes_the_numbers_of_its_source(row):
    against, largest = measured()[row.name]
    assert largest <= 1e-13
    said, said_largest = MEASURED[row.name]
    assert said == against
    assert largest <= max(4 * said_largest, 1e-15)


def test_every_dialect_is_in_the_atlas():
    calls = " ".join(row.call for row in ROWS)
    assert all(f"dialects.{name}(" in calls for name in dialects.__all__)


@pytest.mark.parametrize("name", atlas_formulas.FORMULAS)
def test_the_problem_tells_formulas_apart(name):
    """What would hold for two formulas at once would check neither."""
    right = atlas_formulas.FORMULAS[name]
    wrong = [
        right._replace(start=1.0 - right.start, first=False),
        right._replace(rho=right.rho * (1 - 1e-6)),
        right._replace(centered=not right.centered, corrected=False),
        right._replace(coupled=right.coupled + 1e-4),
        right._replace(shrink=lambda rate: right.shrink(rate) + 1e-6),
        right._replace(root=lambda v: right.root(v + 1e-10)),
        right._replace(rate=lambda t: right.rate(t + 1) * (1 + 1e-6)),
    ]
    plain = atlas_formulas.Formula._field_defaults["after"]
    wrong += [right._replace(after=plain)] if right.after is not plain else []
    wrong += [right._replace(root=np.sqrt)] if right.root is not np.sqrt else []
    expected = right.run(start(), gradients())
    for formula in wrong:
        with np.errstate(all="ignore"):  # a variance by difference can be negative
            other = formula.run(start(), gradients())
        distance = np.abs(other - expected).max() / np.abs(expected).max()
        assert not distance <= 1e-12  # ten times what a call may be off


def test_the_page_is_written_from_the_data():
    script = pathlib.Path(__file__).parents[1] / "docs" / "write_atlas.py"
    spec = importlib.util.spec_from_file_location("write_atlas", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run docs/write_atlas.py"
    scope = {}
    for block in re.findall(r"^```python\n(.*?)^```", module.page(), re.M | re.S):
        exec(block, scope)
    assert isinstance(scope["tx"], optax.GradientTransformation)
