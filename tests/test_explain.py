"""The lines of `explain` are run as NumPy programs beside the transformation they are about."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmsprop_jax import convert_eps, dialects, explain, recipes, rmsprop, scale_by_rms
from rmsprop_jax.explanation import dialect_table, take_apart

NUMPY = {name: getattr(np, name) for name in ("sqrt", "clip", "maximum", "minimum", "mean")}


def halving(t):
    return 0.5 * 0.5**t


OPTIMIZERS = {
    "rmsprop": lambda: rmsprop(0.5),
    "rmsprop all": lambda: rmsprop(
        halving, 0.75, 1e-3, centered=True, momentum=0.5, nesterov=True, weight_decay=0.25
    ),
    "scale_by_rms corrected": lambda: scale_by_rms(0.75, 0.5, bias_correction=True),
    "pytorch": lambda: dialects.pytorch(0.5, weight_decay=0.1, momentum=0.9, maximize=True),
    "timm": lambda: dialects.timm(0.5, weight_decay=0.1, decoupled_decay=True),
    "timm cautious": lambda: dialects.timm(0.5, momentum=0.9, caution=True),
    "timm corrected": lambda: dialects.timm(
        halving, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True, max_lr=0.5
    ),
    "stable_baselines3": lambda: dialects.stable_baselines3(0.5, momentum=0.5),
    "keras": lambda: dialects.keras(0.5, weight_decay=0.1, momentum=0.5, loss_scale_factor=4.0),
    "keras clipnorm": lambda: dialects.keras(halving, clipnorm=1.0, weight_decay=0.1),
    "keras clipvalue": lambda: dialects.keras(0.5, clipvalue=0.5),
    "tf_keras_legacy": lambda: dialects.tf_keras_legacy(0.5),
    "tf_keras_legacy momentum": lambda: dialects.tf_keras_legacy(0.5, momentum=0.5, epsilon=0),
    "tensorflow1": lambda: dialects.tensorflow1(0.5, momentum=0.5, centered=True),
    "sonnet": lambda: dialects.sonnet(0.5),
    "optax": lambda: dialects.optax(0.5, eps_in_sqrt=False, momentum=0.5, initial_scale=2.0),
    "optax nesterov": lambda: dialects.optax(halving, momentum=0.5, nesterov=True),
    "paddle": lambda: dialects.paddle(0.5, weight_decay=0.1, momentum=0.5),
    "mlx": lambda: dialects.mlx(0.5),
    "burn": lambda: dialects.burn(0.5),
    "graves": lambda: dialects.graves(0.5),
    "recipe": lambda: recipes.pymarl(),
    "in a chain": lambda: optax.chain(optax.clip(0.5), dialects.graves(0.5), optax.scale(0.25)),
    "masked": lambda: optax.masked(rmsprop(0.5), True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_lines_are_the_update(name):
    with jax.enable_x64():
        tx = OPTIMIZERS[name]()
        before, _, every = explain(tx).partition("# every update\n")
        names = NUMPY | {"norm": np.linalg.norm, "abs": np.abs}
        for part in take_apart(tx):  # schedules are called by the names that the text gives them
            for key, value in part.numbers.items():
                if callable(value):
                    names |= {key: value, value.__name__: value, "learning_rate": halving}
        exec(before, names)
        names["p"] = np.array([1.0, -2.0, 3.0])
        params = jnp.asarray(names["p"])
        state = tx.init(params)
        stream = np.random.default_rng(0)
        for t in range(6):
            g = stream.normal(size=3)
            names |= {"g": g, "t": t}
            exec(every, names)
            updates, state = tx.update(jnp.asarray(g), state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params, names["p"], rtol=1e-11)


def test_unknown_parts_appear_by_name():
    text = explain(optax.chain(optax.scale_by_adam(0.8), optax.sgd(0.5)))
    assert "u = scale_by_adam(u, b1=0.8, b2=0.999" in text
    assert text.endswith("u = -0.5 * u\np = p + u")


def test_wrappers_show_what_they_wrap():
    steps = optax.MultiSteps(rmsprop(0.5), 4).gradient_transformation()
    assert "u = u / (sqrt(nu) + 1e-08)" in explain(steps)
    assert "MultiSteps" in explain(steps)


def test_numbers_known_only_under_jit_appear_by_name():
    texts = []

    def trace(decay):
        texts.append(explain(scale_by_rms(decay)))
        return decay

    jax.jit(trace)(0.75)
    assert "nu = decay * nu + (1 - decay) * abs(u)**2" in texts[0]
    assert "nu = 0.75 * nu" in explain(scale_by_rms(jnp.float32(0.75)))


