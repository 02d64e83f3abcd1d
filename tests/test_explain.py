"""The lines of `explain` are run as NumPy programs beside the transformation they are about."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

from rmsprop_jax import dialects, explain, rmsprop, scale_by_rms, storage
from rmsprop_jax.anatomy import take_apart

WORDS = ("abs", "all", "clip", "isfinite", "maximum", "mean", "minimum", "sqrt", "zeros_like")
NUMPY = {name: getattr(np, name) for name in WORDS}
# What the calls of parts that aren't known here do, in the zoo.
CALLS = {
    **{f"called {part}": {part: lambda u, **_: 0.5 * u} for part in zoo.NAMES},
    "user's scale": {"scale": lambda u, factor: factor * u},
    "a partial of a function": {"halve": lambda u, factor: factor * u},
    "an object": {"Callable": lambda u: 0.5 * u},
    "a lambda": {"stateless": lambda u: 0.5 * u},
    "around itself": {"around_itself": lambda u: 0.5 * u},
    "wraps optax.scale": {"wrapped_by_hand": lambda u: 0.25 * u},
}


def functions_in(tx):
    """The user's schedules and the like, by the names that the text gives them."""
    names = {"halving": zoo.halving, "learning_rate": zoo.halving}
    for part in take_apart(tx).walk():
        for key, value in part.arguments.items():
            value = getattr(value, "learning_rate", value)
            if callable(value):
                names |= {key: value, getattr(value, "__name__", key): value}
    return names


@pytest.mark.parametrize("name", [*zoo.KNOWN, *zoo.FOREIGN, "conditionally around", *CALLS])
def test_the_lines_are_the_update(name):
    with jax.enable_x64(), jax.numpy_dtype_promotion("standard"), jax.disable_jit():
        tx = zoo.OPTIMIZERS[name]()
        before, _, every = explain(tx).partition("# every update\n")
        params = {"a": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5, 0.25, -1.0])}
        state = tx.init(params)
        programs = {}
        for key, p in params.items():
            scope = NUMPY | functions_in(tx) | CALLS.get(name, {})
            scope |= {"norm": lambda u: norm, "p": np.array(p)}
            scope |= {"mask": lambda p, key=key: zoo.IN_A[key]}
            scope |= {"label": lambda p, key=key: zoo.LABELS[key]}
            exec(before, scope)
            programs[key] = scope
        stream = np.random.default_rng(0)
        for t in range(4):
            grads = {key: stream.normal(size=p.shape) for key, p in params.items()}
            norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
            updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = optax.apply_updates(params, updates)
            for key, scope in programs.items():
                scope |= {"g": grads[key], "t": t}
                exec(every, scope)
                np.testing.assert_allclose(params[key], scope["p"], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", sorted(zoo.OPAQUE.keys() - {"conditionally around"}))
def test_what_a_part_does_with_another_is_not_made_up(name):
    """Outside of comments, a program that can be read: of what isn't known, only a call."""
    tx = zoo.OPTIMIZERS[name]()
    text = explain(tx)
    compile(text, name, "exec")
    unknown = [part for part in take_apart(tx).walk() if part.factory is None]
    for part in unknown:
        called = part.name if part.name.isidentifier() else "unnamed"
        assert f"u = {called}(u" in text or f"#     u = {called}(u" in text
    if take_apart(tx).children and not take_apart(tx).in_turn:
        update = text.partition("# every update\n")[2].splitlines()
        lines = [line for line in update if not line.startswith("#")]
        assert lines[0] == "u = g"
        assert lines[1].startswith("u = ")
        assert "(u" in lines[1]
        assert lines[2:] == ["p = p + u"]
        assert "nu = 0.9 * nu" in text


def test_two_inner_optimizers_are_both_shown():
    text = explain(optax.contrib.sam(rmsprop(0.1), optax.sgd(0.5)))
    assert "#   optimizer:" in text
    assert "#     u = -0.1 * u" in text
    assert "#   adv_optimizer:" in text
    assert "#     u = -0.5 * u" in text


def test_unknown_parts_appear_by_name():
    text = explain(optax.chain(optax.scale_by_adam(0.8), optax.sgd(0.5)))
    assert "u = scale_by_adam(u, b1=0.8, b2=0.999" in text
    assert text.endswith("u = -0.5 * u\np = p + u")


def test_a_second_variable_has_a_second_name():
    text = explain(optax.chain(rmsprop(0.1), optax.trace(0.5), rmsprop(0.1, momentum=0.9)))
    assert "nu2 = 0.9 * nu2" in text
    assert "trace2 = u + 0.9 * trace2" in text


def test_schedules_of_one_name_are_told_apart():
    def make(rate):
        def schedule(t):
            return rate

        return schedule

    text = explain(optax.chain(optax.scale_by_schedule(make(1.0)), rmsprop(make(2.0))))
    assert "u = schedule(t) * u" in text
    assert "u = -schedule2(t) * u" in text
    once = make(1.0)
    text = explain(optax.chain(optax.scale_by_schedule(once), rmsprop(once)))
    assert "schedule2" not in text


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Mask:
    """A tree of booleans that can be called, as a module of Equinox is."""

    weight: Any
    bias: Any

    def __call__(self, x):
        raise AssertionError("it is a tree")


def test_masks_that_are_modules():
    tx = optax.masked(optax.scale(0.5), Mask(True, False))
    assert "if mask(p):\n    u = 0.5 * u" in explain(optax.chain(rmsprop(0.1), tx))
    assert "if mask(p):" in explain(rmsprop(0.1, weight_decay=0.1, mask=Mask(True, False)))


def test_what_a_dialect_adds():
    assert "u = -0.1 / (1 + 0.5 * t) * u" in explain(dialects.tf_keras_legacy(0.1, decay=0.5))
    assert "component" not in explain(dialects.pytorch(0.1))


def test_wrappers_show_what_they_wrap():
    stored = explain(storage.store(rmsprop(0.5), nu=storage.U8))
    assert "# between updates: nu is uint8" in stored
    assert "u = u / (sqrt(nu) + 1e-08)" in stored
    steps = explain(optax.MultiSteps(rmsprop(0.5), 4))
    assert "if n == 4:" in steps
    assert "    u = u / (sqrt(nu) + 1e-08)" in steps


def test_accumulated_steps_run_as_they_stand():
    tx = optax.MultiSteps(rmsprop(zoo.halving), 3)
    before, _, every = explain(tx).partition("# every update\n")
    scope: dict[str, Any] = {**NUMPY, "halving": zoo.halving, "p": 1.0}
    exec(before, scope)
    params, state = jnp.float32(1.0), tx.init(jnp.float32(1.0))
    for g in np.random.default_rng(0).normal(size=9).astype("float32"):
        exec(every, scope | {"g": g}, scope)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jnp.float32(g), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, scope["p"], 1e-5)


def test_numbers_known_only_under_jit_appear_by_name():
    texts = []

    def trace(decay):
        texts.append(explain(scale_by_rms(decay)))
        return decay

    jax.jit(trace)(0.75)
    assert "nu = decay * nu + (1 - decay) * abs(u)**2" in texts[0]
    assert "nu = 0.75 * nu" in explain(scale_by_rms(jnp.float32(0.75)))


def test_hyperparameters_that_are_scheduled():
    """A factory that takes no schedule for a number is made with one that isn't known yet."""
    tx = optax.inject_hyperparams(rmsprop)(0.1, eps=zoo.halving)
    assert "u = u / (sqrt(nu) + eps)" in explain(tx)
    assert "u = -0.1 * u" in explain(tx)
    tx = optax.inject_hyperparams(rmsprop)(0.1, decay=zoo.halving)
    assert "nu = halving(t) * nu + (1 - halving(t)) * abs(u)**2" in explain(tx)
    rate = functools.partial(zoo.power, base=0.5)
    assert "u = -learning_rate(t) * u" in explain(optax.inject_hyperparams(rmsprop)(rate))
