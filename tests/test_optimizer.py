"""`rmsprop`: the order of its parts, against PyTorch and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import reference

from rmsprop_jax import RmsState, dialects, recipes, rmsprop


def train(tx, params, gradients):
    """Parameters after each step, with gradients [steps, n] that don't depend on them."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), gradients)[1]


def test_defaults_are_the_textbook():
    g = np.random.RandomState(0).standard_normal((50, 4)).astype(np.float32)
    params = train(rmsprop(), jnp.zeros(4), jnp.asarray(g))
    np.testing.assert_allclose(
        params, -1e-3 * np.cumsum(reference.scale_by_rms(g), axis=0), rtol=1e-5, atol=1e-9
    )


def test_order_of_operations_is_that_of_pytorch():
    """As it was recorded, on all configurations but those with `maximize`, which are burn's."""

    def by_rmsprop(framework, config, learning_rate):
        options = {k: x for k, x in config.items() if k != "alpha"}
        return rmsprop(learning_rate, config["alpha"], **options)

    distances = oracles.compare("burn", "float64", by_rmsprop)
    assert len(distances) == 24
    assert distances.max() <= oracles.TOLERANCES["float64"]


def test_weight_decay_may_be_a_schedule():
    params, g = jnp.array([2.0, -4.0]), jnp.array([1.0, 1.0])
    tx = rmsprop(0.5, weight_decay=lambda count: 0.25 * count)
    first, state = tx.update(g, tx.init(params), params)
    second, _ = tx.update(g, state, params)
    plain = rmsprop(0.5)
    expected, state = plain.update(g, plain.init(params))
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_allclose(second, plain.update(g + 0.25 * params, state)[0], rtol=1e-6)


@pytest.mark.parametrize("maker", [jnp.float32, float])
def test_what_is_none_is_not_there(maker):
    """A number builds a part even if it is 0; None leaves it out, buffer and all."""
    params = jnp.ones(1000)
    (rms, _) = rmsprop().init(params)
    assert isinstance(rms, RmsState)
    assert rms.mu is None
    assert sum(x.size for x in jax.tree.leaves(rmsprop().init(params))) == 1001
    with_momentum = rmsprop(momentum=maker(0.0)).init(params)
    assert sum(x.size for x in jax.tree.leaves(with_momentum)) == 2001
    with pytest.raises(ValueError, match="params"):
        rmsprop(weight_decay=maker(0.0)).update(params, rmsprop(weight_decay=0.0).init(params))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"learning_rate": None}, TypeError, ["learning_rate=None"]),
        ({"nesterov": True}, ValueError, ["nesterov", "momentum"]),
        ({"mask": True}, ValueError, ["mask", "weight_decay"]),
    ],
)
def test_bad_arguments_are_refused(kwargs, error, words):
    with pytest.raises(error) as raised:
        rmsprop(**kwargs)
    for word in words:
        assert word in str(raised.value)


def test_vmap_over_hyperparameters_equals_the_loop_in_one_compilation():
    """In float64, since a matrix product that is vmapped sums in another order."""
    rng = np.random.RandomState(0)
    x, y = rng.standard_normal((2, 64, 8))
    traces = []

    def final_params(learning_rate, decay, eps, momentum):
        traces.append(1)
        tx = rmsprop(learning_rate, decay, eps, momentum=momentum)
        params = {"w": jnp.ones((8, 8)), "b": jnp.zeros(8)}

        def step(carry, _):
            params, state = carry
            loss = lambda p: jnp.mean((jnp.tanh(x @ p["w"] + p["b"]) - y) ** 2)
            updates, state = tx.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=100)[0][0]

    ranges = [(1e-4, 1e-2), (0.8, 0.999), (1e-8, 1e-3), (0.0, 0.9)]
    settings = [rng.uniform(low, high, 12) for low, high in ranges]
    with jax.enable_x64(True):
        together = jax.jit(jax.vmap(final_params))(*settings)
        assert len(traces) == 1
        single = jax.jit(final_params)
        for i in range(12):
            alone = single(*(s[i] for s in settings))
            for k in alone:
                np.testing.assert_allclose(together[k][i], alone[k], rtol=0, atol=1e-10)
    assert len(traces) == 2


@pytest.mark.parametrize("make", [rmsprop, dialects.keras, recipes.pymarl])
def test_profiles_show_it_by_name(make):
    tx = make()
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    lowered = jax.jit(tx.update).lower(params, tx.init(params), params)
    assert 'op_name="jit(update)/rmsprop/' in lowered.compile().as_text()
    assert lowered.as_text().count("func.func private @_average_squares") == 1  # still shared
