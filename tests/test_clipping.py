"""Clipping, alone and in front of the average."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import clipping, dialects, recipes, rmsprop

NORMS = {
    "leaf": clipping.clip_by_leaf_norm,
    "global": clipping.clip_by_global_norm,
    "torch": clipping.clip_by_torch_norm,
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, 3e38, 1e30, complex(np.inf, -np.inf)], ids=repr)
def test_clipping_to_a_norm_makes_no_nan_of_infinity(name, bad):
    g = {"a": jnp.array([1.0, bad, 2.0]), "b": jnp.ones(3)}
    with jax.numpy_dtype_promotion("standard"):  # as inside of a dialect
        updates, _ = NORMS[name](1.0).update(g, optax.EmptyState())
    assert jax.tree.all(jax.tree.map(lambda u: bool(jnp.all(jnp.isfinite(u))), updates))
    assert optax.tree.norm(updates) <= 2.0
    many = jnp.full(1000, jnp.inf)  # whose sum of squares overflows even when clamped
    assert jnp.all(jnp.isfinite(NORMS[name](1.0).update(many, optax.EmptyState())[0]))


@pytest.mark.parametrize("name", NORMS)
def test_clipping_to_a_norm(name):
    """By hand: the norms are 5 and 12, and 13 together."""
    g = {"a": jnp.array([[3.0], [4.0]]), "b": jnp.array([0.0, 12.0])}
    norms = {"leaf": (5, 12), "global": (13, 13), "torch": (13 + 1e-6, 13 + 1e-6)}[name]
    updates, _ = NORMS[name](10.0).update(g, optax.EmptyState())
    for u, x, norm in zip(updates.values(), g.values(), norms, strict=True):
        np.testing.assert_allclose(u, x * min(1, 10 / norm), rtol=1e-6)
    nan, _ = NORMS[name](10.0).update({"a": jnp.array([jnp.nan, 1.0])}, optax.EmptyState())
    assert jnp.isnan(nan["a"][0])


RECOVERING = {
    "keras clipnorm": lambda: dialects.keras(0.1, rho=0.5, clipnorm=1.0),
    "keras global_clipnorm": lambda: dialects.keras(0.1, rho=0.5, global_clipnorm=1.0),
    "keras clipvalue": lambda: dialects.keras(0.1, rho=0.5, clipvalue=1.0),
    "keras scaled": lambda: dialects.keras(0.1, rho=0.5, loss_scale_factor=8.0, clipnorm=1.0),
    "keras decay": lambda: dialects.keras(lambda c: 0.1, rho=0.5, weight_decay=0.1, clipnorm=1.0),
    "legacy": lambda: dialects.tf_keras_legacy(
        0.1, rho=0.5, clipvalue=1e30, clipnorm=2.0, global_clipnorm=None, momentum=0.5
    ),
    "legacy global": lambda: dialects.tf_keras_legacy(0.1, rho=0.5, global_clipnorm=1.0),
    "pytorch decay": lambda: dialects.pytorch(0.1, alpha=0.5, weight_decay=0.1),
    "pymarl": recipes.pymarl,
    "dpo": recipes.dpo,
    "a3c": lambda: recipes.a3c(1e-3, 1000, 5),
    "a2c": lambda: recipes.a2c_stable_baselines(1e-3),
}


@pytest.mark.parametrize("name", RECOVERING)
def test_one_infinite_gradient_is_forgotten(name):
    tx = RECOVERING[name]()
    params = {"w": jnp.ones(4), "b": jnp.ones(2)}
    state = tx.init(params)
    spike = {"w": jnp.array([1.0, jnp.inf, -1.0, 0.5]), "b": jnp.array([-jnp.inf, 1.0])}
    for grads in (params, spike, *[params] * 3):
        updates, state = tx.update(grads, state, params)
        for x in jax.tree.leaves((updates, state)):
            assert jnp.all(jnp.isfinite(x))


@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_keras_clips_arrays_of_any_sharding(clipping):
    mesh = jax.make_mesh((4, 2), ("x", "y"), (jax.sharding.AxisType.Explicit,) * 2)
    tx = dialects.keras(0.1, **{clipping: 1.0})
    with jax.set_mesh(mesh):
        w = jax.device_put(jnp.arange(32.0).reshape(8, 4), jax.P("x", "y"))
        updates, _ = jax.jit(tx.update)(w, tx.init(w))
        assert jax.typeof(updates).sharding == jax.typeof(w).sharding
    plain = jnp.arange(32.0).reshape(8, 4)
    np.testing.assert_allclose(updates, tx.update(plain, tx.init(plain))[0], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.97])
def test_how_long_a_spike_holds_a_parameter(decay):
    """The README's 86 / (1 - decay) steps, and that clipping spares them."""
    tx = rmsprop(1.0, decay)
    g = jnp.ones(1)

    def after(tx, steps):
        _, state = tx.update(jnp.full(1, jnp.inf), tx.init(g))
        state = jax.lax.fori_loop(0, steps, lambda _, state: tx.update(g, state)[1], state)
        return float(-tx.update(g, state)[0][0])

    held = math.ceil(86 / (1 - decay))
    assert after(tx, held) > 0.5
    assert after(tx, held // 2) < 1e-5
    clipped = optax.chain(clipping.clip_by_global_norm(1.0), tx)
    assert after(clipped, math.ceil(5 / (1 - decay))) > 0.5
