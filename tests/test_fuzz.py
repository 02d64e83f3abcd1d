"""`rmsprop` of any tree, dtypes, options and order of calls, against its definition in float64.

100 examples; 10,000 with HYPOTHESIS_PROFILE=nightly.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, note
from hypothesis import strategies as st
from reference import scale_by_rms

from rmsprop_jax import rmsprop

SHAPES = [(), (3,), (0,), (2, 1, 2)]
DTYPES = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 4e-6}  # and the error of an update
HOW = ["call", "jit", "scan", "reload"]

leaves = st.tuples(st.sampled_from(SHAPES), st.sampled_from(list(DTYPES)))
trees = st.recursive(
    leaves | st.none(),
    lambda branch: st.lists(branch, max_size=3) | st.dictionaries(st.sampled_from("abc"), branch),
    max_leaves=4,
).filter(lambda tree: tree is not None)  # which would be no parameters at all
options = st.fixed_dictionaries(
    {"decay": st.sampled_from([0.0, 0.5, 0.9, 0.99]), "eps": st.sampled_from([1e-8, 1e-3, 1.0])},
    optional={
        "eps_in_sqrt": st.just(True),
        "centered": st.just(True),
        "initial_scale": st.sampled_from([0.25, 1.0]),
        "momentum": st.sampled_from([0.0, 0.5]),
        "nesterov": st.just(True),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    },
)


def is_leaf(x):
    return x is None or (isinstance(x, tuple) and len(x) == 2)


def expected(gradients, momentum=None, nesterov=False, weight_decay=0.0, **numbers):
    """The updates that belong to the gradients [steps, ...] at parameters of 1."""
    updates = scale_by_rms(gradients + weight_decay, **numbers)
    trace = np.zeros_like(updates)
    if momentum is None:
        return -0.1 * updates
    for t, u in enumerate(updates):
        trace[t] = u + (momentum * trace[t - 1] if t else 0)
    return -0.1 * (updates + momentum * trace if nesterov else trace)


@given(trees, options, st.lists(st.sampled_from(HOW), min_size=1, max_size=4), st.data())
def test_any_tree_any_options_any_calls(tree, arguments, calls, data):
    if "momentum" not in arguments:
        arguments.pop("nesterov", None)
    if arguments.get("centered"):
        arguments["eps"] = 1.0  # elsewhere a variance near 0 multiplies every rounding
    tx = rmsprop(0.1, **arguments)
    params = jax.tree.map(lambda x: x and jnp.ones(*x), tree, is_leaf=is_leaf)
    state = tx.init(params)
    promised = jax.tree.map(jax.typeof, state)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    gradients, actual = [], []
    for how in calls:
        # Of one size, so that no update is much less than the rounding of a trace before it.
        draw = lambda p: jnp.asarray(rng.choice([-1.5, -1, 1, 2], p.shape), p.dtype)
        g = jax.tree.map(draw, params)
        if how == "scan":
            step = lambda s, _, g=g: tx.update(g, s, params)[::-1]
            state, updates = jax.lax.scan(step, state, None, length=1)
            updates = jax.tree.map(lambda u: u[0], updates)
        else:
            update = jax.jit(tx.update) if how == "jit" else tx.update
            updates, state = update(g, state, params)
        if how == "reload":
            flat, treedef = jax.tree.flatten(jax.device_get(state))
            state = jax.tree.unflatten(treedef, map(jnp.asarray, flat))
        assert jax.tree.map(jax.typeof, state) == promised
        assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, g)
        gradients.append(jax.tree.leaves(g))
        actual.append(jax.tree.leaves(updates))
    note(f"{tree} {arguments} {calls}")
    for g, u in zip(zip(*gradients, strict=True), zip(*actual, strict=True), strict=True):
        exact = expected(np.stack([np.float64(x) for x in g]), **arguments)
        error = np.abs(np.stack([np.float64(x) for x in u]) - exact)
        assert np.all(error <= DTYPES[str(g[0].dtype)] * np.maximum(np.abs(exact), 0.01)), error


def test_the_reference_tells_options_apart():
    """A fuzzer whose oracle ignored an option would pass anything."""
    g = np.array([[1.0], [-2.0], [1.5]])
    base = {"decay": 0.9, "eps": 1e-3}
    changes = [
        {"eps_in_sqrt": True},
        {"centered": True},
        {"initial_scale": 0.25},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"weight_decay": 0.1},
        {"decay": 0.5},
        {"eps": 1.0},
    ]
    results = [expected(g, **base | change) for change in [{}, *changes]]
    for i, x in enumerate(results):
        for y in results[:i]:
            assert np.max(np.abs(x - y)) > 1e-4
