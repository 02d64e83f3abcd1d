"""What `rmsprop` does with Optax's tools and JAX's control flow; the wrappers are in test_matrix.

With constant hyperparameters, and eps in the same place, it is the algorithm of `optax.rmsprop`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import rmsprop

ours = functools.partial(rmsprop, 0.01, 0.9, 1e-3)
theirs = functools.partial(optax.rmsprop, 0.01, 0.9, 1e-3, eps_in_sqrt=False)


def loss(params):
    return jnp.sum((params["w"] - 3.0) ** 2) + jnp.sum(jnp.abs(params["b"]) ** 2)


def start(dtype=jnp.float32):
    return {"w": jnp.arange(4.0).astype(dtype), "b": jnp.ones(2, dtype)}


def train(tx, params, steps=12):
    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):  # that Optax's own code was written for
        state = tx.init(params)
        for _ in range(steps):
            params, state = step(params, state)
    return params


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}], ids=["plain", "momentum"])
def test_with_noise_like_optax(options):
    expected, params = (
        train(optax.chain(optax.add_noise(0.01, 0.5, key=0), opt(**options)), start())
        for opt in (theirs, ours)
    )
    assert np.max(np.abs(expected["w"] - start()["w"])) > 1e-3
    for k in params:
        np.testing.assert_allclose(params[k], expected[k], rtol=2e-6)


def test_extra_arguments_are_accepted():
    tx = ours()
    updates, _ = tx.update(start(), tx.init(start()), start(), value=1.0, value_fn=loss, other=None)
    assert updates["w"].shape == (4,)


def test_apply_if_finite_keeps_the_state_on_a_skipped_step():
    tx = optax.apply_if_finite(ours(momentum=0.5), 3)
    state = tx.init(start())
    _, state = tx.update(start(), state)
    updates, skipped = tx.update(jax.tree.map(lambda x: x * jnp.nan, start()), state)
    np.testing.assert_array_equal(updates["w"], 0.0)
    for old, new in zip(
        jax.tree.leaves(state.inner_state), jax.tree.leaves(skipped.inner_state), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_inject_hyperparams_with_bfloat16_parameters():
    """The documented way keeps decay = 0.999; the default way would make it 1, and is refused."""
    params = start(jnp.bfloat16)
    injected = optax.inject_hyperparams(rmsprop, hyperparam_dtype=jnp.float32)(0.01, decay=0.999)
    state = injected.init(params)
    assert state.hyperparams["decay"] == np.float32(0.999)
    with jax.numpy_dtype_promotion("standard"):
        _, state = injected.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_allclose(state.inner_state[0].nu["w"], 1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="hyperparam_dtype"):
        optax.inject_hyperparams(rmsprop)(0.01, decay=0.999).init(params)


def test_map_params_reaches_every_accumulator():
    tx = ours(momentum=0.5, centered=True)
    specs = optax.tree.map_params(
        tx, lambda _: "spec", tx.init(start()), transform_non_params=lambda _: "other"
    )
    assert specs[0].nu == specs[0].mu == specs[1].trace == {"w": "spec", "b": "spec"}
    assert specs[0].count == "other"


def test_tree_get_finds_the_accumulators():
    state = optax.chain(optax.clip(1.0), ours()).init(start())
    np.testing.assert_array_equal(optax.tree.get(state, "nu")["w"], 0.0)
    assert optax.tree.get(state, "count") == 0


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.float32])
def test_split_real_and_imaginary_is_two_real_problems(dtype):
    tx = optax.contrib.split_real_and_imaginary(ours())
    g = jnp.array([3.0, -4.0]).astype(dtype)
    if dtype == jnp.complex64:
        g = jax.lax.complex(g.real, jnp.array([1.0, 2.0]))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(g, tx.init(g))
    plain = ours()
    for part in (jnp.real, jnp.imag) if dtype == jnp.complex64 else (jnp.real,):
        expected, _ = plain.update(part(g), plain.init(part(g)))
        np.testing.assert_array_equal(part(updates), expected)


def test_control_flow():
    tx = ours(momentum=0.5)
    params = start()
    state = tx.init(params)

    def body(carry):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    looped, _ = jax.lax.while_loop(lambda c: c[1][0].count < 10, body, (params, state))
    scanned, _ = jax.lax.scan(lambda c, _: (body(c), None), (params, state), None, length=10)[0]
    kept, _ = jax.lax.cond(True, body, lambda c: c, (params, state))
    single = params
    for _ in range(10):
        params, state = body((params, state))
    np.testing.assert_allclose(looped["w"], params["w"], rtol=1e-6)
    np.testing.assert_array_equal(looped["w"], scanned["w"])
    assert np.all(kept["w"][:3] != single["w"][:3])  # the fourth is at its minimum
    many = jax.vmap(lambda p: body((p, tx.init(p)))[0])(
        {"w": jnp.ones((3, 4)), "b": jnp.ones((3, 2))}
    )
    assert many["w"].shape == (3, 4)
