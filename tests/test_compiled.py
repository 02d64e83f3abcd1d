"""`compiled`: one program outside jit, none of its own inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import rmsprop
from rmsprop_jax.compiled import compiled


@pytest.fixture
def builds():
    """A factory that counts how often its update is traced."""
    count = []

    @compiled
    def counted(learning_rate, rate_of_decay=0.5, mask=None):
        scale = optax.scale_by_learning_rate(learning_rate)

        def update(updates, state, params=None):
            count.append(1)
            updates, state = scale.update(updates, state, params)
            if mask is not None:
                updates = jax.tree.map(lambda u, m: u if m else rate_of_decay * u, updates, mask)
            return updates, state

        return optax.GradientTransformation(scale.init, update)

    return counted, count


@dataclasses.dataclass
class Halving:
    """A schedule that can't be hashed."""

    start: float

    def __call__(self, count):
        return self.start / 2**count


@pytest.mark.parametrize(
    "make_rate",
    [
        lambda: 0.1,
        lambda: np.float32(0.1),
        lambda: jnp.float32(0.1),
        lambda: optax.linear_schedule(0.1, 0.2, 3),
        lambda: Halving(0.1),
    ],
)
def test_eager_calls_are_traced_once(builds, make_rate):
    factory, count = builds
    tx = factory(make_rate())
    params = [jnp.ones(3), jnp.ones((2, 2))]
    updates, state = tx.update(params, tx.init(params))
    for _ in range(4):
        updates, state = tx.update(params, state)
    assert len(count) == 1
    expected, _ = jax.jit(tx.update)(params, tx.init(params))
    if not callable(make_rate()):
        np.testing.assert_array_equal(updates[0], expected[0])


def test_equal_settings_share_a_program_and_different_ones_do_not(builds):
    factory, count = builds
    g = jnp.ones(2)
    results = []
    for rate, mask in [(0.1, True), (0.1, True), (0.2, True), (0.1, False)]:
        tx = factory(rate, mask=mask)
        results.append(float(tx.update(g, tx.init(g))[0][0]))
    np.testing.assert_allclose(results, [-0.1, -0.1, -0.2, -0.05])
    assert len(count) == 3


def test_inject_hyperparams_called_from_python_compiles_once(builds):
    factory, count = builds
    tx = optax.inject_hyperparams(factory)(optax.linear_schedule(0.0, 1.0, 10), mask=True)
    g = jnp.ones(2)
    state = tx.init(g)
    for i in range(5):
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(updates, -0.1 * i, rtol=1e-6)
    assert len(count) == 1


def test_leaves_of_a_shape_are_traced_once():
    """In someone else's program: a call for each leaf, a function for each shape."""
    tx = rmsprop(0.1, momentum=0.5)
    g = {i: jnp.ones(2 + i % 3) for i in range(9)}
    lowered = jax.jit(tx.update).lower(g, tx.init(g)).as_text()
    assert lowered.count("call @update_leaf") == 9
    assert lowered.count("func.func private @update_leaf") == 3


def test_params_that_are_no_numbers_are_passed_over():
    """An Equinox model is full of functions, and people pass it whole."""
    params = {"w": jnp.ones(2), "activation": jnp.tanh}
    grads = {"w": jnp.ones(2), "activation": None}
    tx = rmsprop(0.1, weight_decay=0.5)
    updates, _ = tx.update(grads, tx.init(grads), params)
    assert updates["activation"] is None
    np.testing.assert_allclose(updates["w"], -0.1 / np.sqrt(0.1), rtol=1e-6)


def test_gradient_of_none_keeps_momentum():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    tx = rmsprop(0.1, momentum=0.5, weight_decay=0.1)
    _, state = tx.update(params, tx.init(params), params)
    updates, new = tx.update({"a": jnp.ones(2), "b": None}, state, params)
    assert updates["b"] is None
    for old_leaf, new_leaf in zip(
        jax.tree.leaves((state[1].nu["b"], state[2].trace["b"])),
        jax.tree.leaves((new[1].nu["b"], new[2].trace["b"])),
        strict=True,
    ):
        np.testing.assert_array_equal(old_leaf, new_leaf)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_narrow_gradients_are_rounded_once():
    """Decay, root, momentum and learning rate in float32, then one rounding to bfloat16."""
    rng = np.random.RandomState(0)
    grads = jnp.asarray(rng.standard_normal((20, 64)), jnp.bfloat16)
    tx = rmsprop(0.3, 0.9, momentum=0.9, weight_decay=0.01)
    params = jnp.ones(64, jnp.bfloat16)
    narrow, wide = tx.init(params), tx.init(params.astype(jnp.float32))
    for g in grads:
        updates, narrow = tx.update(g, narrow, params)
        expected, wide = tx.update(g.astype(jnp.float32), wide, params.astype(jnp.float32))
        np.testing.assert_array_equal(updates, expected.astype(jnp.bfloat16))


def test_signature_and_docstring_stay():
    import inspect

    parameters = inspect.signature(rmsprop).parameters
    assert list(parameters)[:3] == ["learning_rate", "decay", "eps"]
    assert parameters["learning_rate"].annotation == optax.ScalarOrSchedule
    assert str(rmsprop.__doc__).startswith("RMSProp")
    with pytest.raises(TypeError, match="rho"):
        rmsprop(rho=0.9)
