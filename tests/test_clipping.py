"""Clipping, alone and in front of the average."""

import math

import jax
import numpy as np
import optax
import pytest
from one_program import run_all

from rmsprop_jax import clipping, dialects, recipes, rmsprop

NORMS = {
    "leaf": clipping.clip_by_leaf_norm,
    "global": clipping.clip_by_global_norm,
    "torch": clipping.clip_by_torch_norm,
}


@jax.jit
def clipped(g, max_norm):
    """By each of them."""
    with jax.numpy_dtype_promotion("standard"):  # as inside of a dialect
        return [make(max_norm).update(g, optax.EmptyState())[0] for make in NORMS.values()]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 3e38, 1e30, complex(np.inf, -np.inf)], ids=repr)
def test_clipping_to_a_norm_makes_no_nan_of_infinity(bad):
    dtype = np.complex64 if np.iscomplexobj(bad) else np.float32
    g = {"a": np.array([1.0, bad, 2.0], dtype), "b": np.ones(3, np.float32)}
    for updates in jax.tree.map(np.asarray, clipped(g, 1.0)):
        leaves = np.concatenate(list(updates.values()))
        assert np.all(np.isfinite(leaves))
        assert np.linalg.norm(leaves) <= 1.415  # that of two arrays of norm 1


def test_many_infinities_share_the_norm():
    """Their sum of squares overflows even when each is clamped to where its own doesn't."""
    for updates in clipped(np.full(1000, np.inf, np.float32), 1.0):
        np.testing.assert_allclose(updates, 1000**-0.5, rtol=1e-5)


def test_clipping_to_a_norm():
    """By hand: the norms are 5 and 12, and 13 together."""
    g = {"a": np.float32([[3.0], [4.0]]), "b": np.float32([0.0, 12.0])}
    norms = [(5, 12), (13, 13), (13 + 1e-6, 13 + 1e-6)]
    for updates, pair in zip(clipped(g, 10.0), norms, strict=True):
        for u, x, norm in zip(updates.values(), g.values(), pair, strict=True):
            np.testing.assert_allclose(u, x * min(1, 10 / norm), rtol=1e-6)
    for updates in clipped(g | {"a": np.float32([[np.nan], [1.0]])}, 10.0):
        assert np.isnan(updates["a"][0])


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


def test_one_infinite_gradient_is_forgotten():
    ones = {"w": np.ones(4, np.float32), "b": np.ones(2, np.float32)}
    gradients = {k: np.tile(x, (5, 1)) for k, x in ones.items()}
    gradients["w"][1], gradients["b"][1] = [1.0, np.inf, -1.0, 0.5], [-np.inf, 1.0]
    results = run_all([make() for make in RECOVERING.values()], gradients, ones)
    for name, result in zip(RECOVERING, results, strict=True):
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(result)), name


@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_keras_clips_arrays_of_any_sharding(clipping):
    mesh = jax.make_mesh((4, 2), ("x", "y"), (jax.sharding.AxisType.Explicit,) * 2)
    tx = dialects.keras(0.1, **{clipping: 1.0})
    plain = np.arange(32, dtype=np.float32).reshape(8, 4)
    update = jax.jit(lambda g: tx.update(g, tx.init(g))[0])
    with jax.set_mesh(mesh):
        w = jax.device_put(plain, jax.P("x", "y"))
        updates = update(w)
        assert jax.typeof(updates).sharding == jax.typeof(w).sharding
    np.testing.assert_allclose(updates, update(plain), rtol=1e-6)


def test_how_long_a_spike_holds_a_parameter():
    """The README's 86 / (1 - decay) steps, and that clipping spares them."""
    decays = (0.5, 0.9, 0.97)
    held = [math.ceil(86 / (1 - decay)) for decay in decays]
    gradients = np.ones((max(held) + 2, 1), np.float32)
    gradients[0] = np.inf
    plain = [rmsprop(1.0, decay) for decay in decays]
    spared = [optax.chain(clipping.clip_by_global_norm(1.0), tx) for tx in plain]
    steps = [-updates[1:, 0] for updates, _ in run_all(plain + spared, gradients)]
    for decay, n, holds, spares in zip(decays, held, steps[:3], steps[3:], strict=True):
        assert holds[n] > 0.5
        assert holds[n // 2] < 1e-5
        assert spares[math.ceil(5 / (1 - decay))] > 0.5
