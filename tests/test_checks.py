"""Ranges of hyperparameters: what is concrete is checked, in whatever it is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_program import run_all

from rmsprop_jax import dialects, recipes, rmsprop, scale_by_rms

HOLDERS = {
    "Python": lambda x: x,
    "NumPy": np.float64,
    "NumPy single": np.float32,
    "NumPy array": np.array,
    "JAX": jnp.float32,
}
NUMBERS = {  # argument: what is out of its range, at its ends
    "learning_rate": (-0.1, float("nan"), float("inf")),
    "decay": (-0.1, 1.0, 1.5, float("nan")),
    "eps": (-1e-8, float("inf"), float("nan")),
    "initial_scale": (-1.0, float("inf"), float("nan")),
    "momentum": (-0.1, 1.0, float("nan")),
    "weight_decay": (-0.1, float("nan")),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(
    ("argument", "value"), [(name, x) for name, values in NUMBERS.items() for x in values]
)
def test_out_of_range(argument, value, holder):
    with pytest.raises(ValueError, match=rf"^{argument}=.* is out of range: it must be in [\[(]"):
        rmsprop(**{argument: HOLDERS[holder](value)})


@pytest.mark.parametrize("argument", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), jnp.array(True), 0.5j, np.complex64(0.5), jnp.array(0.5j), "0.5", [0.5]],
    ids=repr,
)
def test_no_number(argument, value):
    with pytest.raises(TypeError, match=f"^{argument}=.* is not a real number"):
        rmsprop(**{argument: value})


@pytest.mark.parametrize("argument", NUMBERS)
@pytest.mark.parametrize("value", [np.array([0.5]), jnp.full((2, 2), 0.5)], ids=["NumPy", "JAX"])
def test_no_scalar(argument, value):
    message = rf"^{argument} must be a scalar, and has the shape \("
    with pytest.raises(ValueError, match=message):
        rmsprop(**{argument: value})
    with pytest.raises(ValueError, match=message):  # traced, too
        jax.jit(lambda x: rmsprop(**{argument: x}).init(1.0))(value)


@pytest.mark.parametrize("value", [0, np.int32(0), jnp.array(0), jnp.float32(0), 0.0])
def test_zero_in_any_form_is_a_number(value):
    g = np.float32([[1.0, -2.0]])
    txs = [rmsprop(0.1, **{name: value}) for name in set(NUMBERS) - {"learning_rate"}]
    for updates, _ in run_all(txs, g, g[0]):
        np.testing.assert_allclose(np.abs(updates[0]), np.abs(updates[0, 0]), rtol=1e-6)


def test_what_float32_cannot_hold():
    for argument in ("initial_scale", "eps", "learning_rate"):
        with pytest.raises(ValueError, match=rf"^{argument}=1e\+39 is out of range"):
            rmsprop(**{argument: 1e39})
    for narrow in (np.float16(0.999), jnp.bfloat16(0.999), jnp.float16(0.5)):
        with pytest.raises(
            ValueError, match=r"^decay is held in .*float16, which rounds 0\.999 to 1"
        ):
            scale_by_rms(narrow)


def test_recipes_and_dialects_share_the_words():
    for call, message in (
        (lambda: dialects.keras(jnp.float32(-1.0)), "learning_rate=-1.0"),
        (lambda: dialects.timm(max_lr=0.0), r"max_lr=0.0 .* \(0, "),
        (lambda: dialects.keras(momentum=np.float32(1.5)), r"momentum=1.5 .* \[0, 1\]"),
        (lambda: dialects.optax(np.nan), "learning_rate=nan"),
        (lambda: recipes.hinton2012(np.array(-0.5)), "learning_rate=-0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
