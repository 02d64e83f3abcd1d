"""Types at the public door: what goes in widened comes out as promised, whatever the tree is."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_jax import dialects, rmsprop, scale_by_rms


@jax.tree_util.register_pytree_node_class
class OnlyArrays:
    """A container that checks its leaves, as those of some frameworks do."""

    def __init__(self, *leaves):
        if not all(hasattr(x, "shape") and hasattr(x, "dtype") for x in leaves):
            raise TypeError(f"{leaves} aren't arrays.")
        self.leaves = leaves

    def tree_flatten(self):
        return self.leaves, None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        if all(type(x) is object for x in leaves):  # as JAX itself does to find structures
            return object.__new__(cls)
        return cls(*leaves)


WITH_EVERYTHING = {
    "rmsprop": lambda: rmsprop(0.1, momentum=0.5, weight_decay=0.1),
    "centered": lambda: rmsprop(lambda count: 0.1, centered=True, momentum=0.5),
    "pytorch": lambda: dialects.pytorch(0.1, momentum=0.5, weight_decay=0.1),
    "keras": lambda: dialects.keras(0.1, momentum=0.5, weight_decay=0.1, global_clipnorm=1.0),
    "timm": lambda: dialects.timm(0.1, momentum=0.5, caution=True),
}
every = pytest.mark.parametrize("tx", [f() for f in WITH_EVERYTHING.values()], ids=WITH_EVERYTHING)


@every
@pytest.mark.parametrize("jit", [False, True])
def test_containers_that_check_their_leaves(tx, jit):
    params = OnlyArrays(jnp.ones(2), jnp.ones((2, 2), jnp.bfloat16))
    init, update = (jax.jit(tx.init), jax.jit(tx.update)) if jit else tx
    updates, state = update(params, init(params), params)
    plain, _ = update(params.leaves, init(params.leaves), params.leaves)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    jax.tree.map(np.testing.assert_array_equal, updates.leaves, plain)


@every
def test_keys_and_functions_among_the_parameters(tx):
    """An NNX or Equinox model has them; their gradients are None."""
    params = {"w": jnp.ones(2), "key": jax.random.key(0)}
    grads = {"w": jnp.ones(2), "key": None}
    for init in (tx.init, jax.jit(tx.init)):
        updates, state = tx.update(grads, init(params), params)
        assert updates["key"] is None
        expected = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
        np.testing.assert_array_equal(updates["w"], expected[0]["w"])
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    functions = {"w": jnp.ones(2), "key": jnp.tanh}
    updates, _ = tx.update(grads, tx.init({"w": jnp.ones(2), "key": None}), functions)
    np.testing.assert_array_equal(updates["w"], expected[0]["w"])


@every
def test_a_gradient_of_none_rests(tx):
    """Every accumulator of it stays, and the others go on."""
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    _, state = tx.update(params, tx.init(params), params)
    updates, new = tx.update({"a": jnp.full(2, 2.0), "b": None}, state, params)
    assert updates["b"] is None
    assert jax.tree.structure(new) == jax.tree.structure(state)
    seen = 0
    for (path, old), now in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(new), strict=True
    ):
        if path[-1] == jax.tree_util.DictKey("b"):
            np.testing.assert_array_equal(old, now)
            seen += 1
        elif path[-1] == jax.tree_util.DictKey("a"):
            assert not np.array_equal(old, now)
    assert seen >= 2


def test_a_corrected_average_cannot_rest():
    """One count is kept for all parameters, so that one that rests would get a wrong weight."""
    tx = scale_by_rms(bias_correction=True)
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"\['b'\] is None, and bias_correction"):
        tx.update({"a": jnp.ones(2), "b": None}, tx.init(params))
    filtered = {"a": jnp.ones(2), "b": None}  # what never has one isn't averaged
    assert tx.update(filtered, tx.init(filtered))[0]["b"] is None


@pytest.mark.parametrize("jit", [False, True])
def test_narrow_gradients_are_rounded_once(jit):
    """Decay, root, momentum and learning rate in float32, then one rounding to bfloat16."""
    rng = np.random.RandomState(0)
    grads = jnp.asarray(rng.standard_normal((20, 64)), jnp.bfloat16)
    tx = rmsprop(0.3, 0.9, momentum=0.9, weight_decay=0.01)
    update = jax.jit(tx.update) if jit else tx.update
    params = jnp.ones(64, jnp.bfloat16)
    narrow, wide = tx.init(params), tx.init(params.astype(jnp.float32))
    assert {x.dtype for x in jax.tree.leaves(narrow)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    for g in grads:
        updates, narrow = update(g, narrow, params)
        expected, wide = update(g.astype(jnp.float32), wide, params.astype(jnp.float32))
        np.testing.assert_array_equal(updates, expected.astype(jnp.bfloat16))


trees = st.recursive(
    st.tuples(
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.sampled_from(["float16", "bfloat16", "float32", "complex64"]),
    ).map(lambda spec: jnp.full(spec[0], 0.5, spec[1])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(tree=trees, name=st.sampled_from([k for k in WITH_EVERYTHING if k not in ("keras", "timm")]))
def test_any_tree_outside_of_jit_and_within(tree, name):
    tx = WITH_EVERYTHING[name]()
    state = tx.init(tree)
    updates, new = tx.update(tree, state, tree)
    kinds = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), x.dtype), tree)
    assert kinds(updates) == kinds(tree)
    assert kinds(new) == kinds(state)
    jitted = jax.jit(tx.update)(tree, state, tree)
    close = lambda a, b: np.testing.assert_allclose(
        np.asarray(a, complex), np.asarray(b, complex), rtol=2e-2 if a.dtype.itemsize == 2 else 3e-7
    )
    jax.tree.map(close, (updates, new), jitted)


def test_signature_and_docstring_stay():
    parameters = inspect.signature(rmsprop, eval_str=True).parameters
    assert list(parameters)[:3] == ["learning_rate", "decay", "eps"]
    assert parameters["learning_rate"].annotation == optax.ScalarOrSchedule
    assert str(rmsprop.__doc__).startswith("RMSProp")
    with pytest.raises(TypeError, match="rho"):
        rmsprop(rho=0.9)
