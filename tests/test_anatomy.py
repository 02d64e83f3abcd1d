"""The walker, and the promise of all that is built on it: no crash and no false sentence."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

from rmsprop_jax import diagnostics, dialects, explain, interop, rmsprop, storage
from rmsprop_jax.anatomy import find_traces, take_apart


@functools.cache
def run(name):
    """The updates, the state after each and the gradients, at parameters that don't move."""
    tx, stream = zoo.OPTIMIZERS[name](), np.random.default_rng(0)
    state, rows = tx.init(zoo.PARAMS), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            grads = {k: stream.normal(size=p.shape).astype(p.dtype) for k, p in zoo.PARAMS.items()}
            updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, zoo.PARAMS)
            rows.append((grads, updates, state))
    return tx, rows


# What parts in front multiply gradients by, and what Nesterov adds to the first update.
BESIDE = {"pytorch": -1, "keras": 0.25, "rmsprop all": 1.5, "optax": 1.5, "torchopt": -1.5}
BESIDE |= {"mindspore": 0.25, "numerator, a chain": 2.0}


def has_momentum(tx):
    return any(part.name in ("trace", "cautious") for part in take_apart(tx).walk())


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_the_learning_rate_is_that_of_the_update_or_refused(name):
    """What updates are of gradients, over what the average says: as large as it is said to be."""
    tx, rows = run(name)
    for grads, updates, state in rows[:1] if has_momentum(tx) else rows:
        try:
            made = diagnostics.effective_learning_rate(tx, state, quantiles=(0, 0.3, 1))
            rates = diagnostics.learning_rate(tx, state)
            diagnostics.report(tx, state, zoo.PARAMS, updates).scalars()
        except ValueError:
            assert name not in zoo.KNOWN
            return
        assert name in zoo.KNOWN
        for key, numbers in made.items():
            real = -np.asarray(updates[key]) / (BESIDE.get(name, 1) * grads[key])
            side = -1 if real.flat[0] < 0 else 1
            for quantile, q in ("p0", 0), ("p30", 0.3), ("p100", 1):
                expected = side * np.quantile(np.abs(real), q, method="inverted_cdf")
                np.testing.assert_allclose(numbers[quantile], expected, rtol=2e-5)
        assert set(rates) == set(made) if isinstance(rates, dict) else np.shape(rates) == ()


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_a_state_comes_back_bit_for_bit_or_is_refused(name):
    tx, rows = run(name)
    state = rows[-1][2]
    path = lambda keys: jax.tree_util.keystr(keys, simple=True, separator="/")
    saved = {path(keys): np.asarray(x) for keys, x in jax.tree.leaves_with_path(state)}
    try:
        new = interop.restore(tx, saved, zoo.PARAMS)
    except ValueError:
        assert name not in zoo.KNOWN or name in ("two momentums",)
        return
    assert jax.tree.structure(new) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, new, state)


# What a framework has: the dialect, with nothing but what the documentation leaves out in front.
DUMPED = {
    "pytorch": [*(k for k in zoo.KNOWN if k.startswith(("pytorch", "timm", "stable")))],
    "keras": ["keras", "keras clipnorm", "keras clipvalue", "tf_keras_legacy"],
    "tensorflow": ["tensorflow1", "efficientnet"],
    "optax": ["optax", "optax ascends"],
}
DUMPED["pytorch"] += ["impala_torchbeast", "pymarl", "hinton2012"]
DUMPED["keras"] += ["tf_keras_legacy schedule", "mobilenet_v3"]


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_what_a_dialect_made_can_be_dumped_and_all_else_is_refused(name):
    tx = zoo.OPTIMIZERS[name]()
    state, same = tx.init(zoo.PARAMS), lambda tree: tree
    for framework, names in DUMPED.items():
        dump = getattr(interop, framework).dump
        arguments = (zoo.PARAMS,) if framework == "optax" else (zoo.PARAMS, same)
        if name in names:
            assert jax.tree.leaves(dump(tx, state, *arguments))
        else:
            with pytest.raises(
                ValueError, match=r"only what one of|isn.t|has no|has slots|changes|are in no group"
            ):
                dump(tx, state, *arguments)


def test_the_zoo_is_large():
    assert len(zoo.OPTIMIZERS) >= 40
    dialects_there = {
        part.factory for make in zoo.KNOWN.values() for part in take_apart(make()).walk()
    }
    assert {getattr(dialects, name) for name in dialects.__all__} <= dialects_there


def test_parts_are_told_by_their_code_and_not_by_their_name():
    """A user's function that is called as one of Optax, or that says `functools.wraps`."""
    for name in zoo.NAMES:
        assert take_apart(zoo.named(name)).factory is None
    for tx in rmsprop(0.1), optax.scale(0.5), optax.chain(optax.clip(1.0)):
        whole = take_apart(zoo.wrapped_by_hand(tx))
        assert (whole.name, whole.factory) == ("wrapped_by_hand", None)
        assert len(whole.children) == 1


def test_what_an_unknown_wrapper_holds_is_found_wherever_it_is():
    inner = rmsprop(0.1)

    def by_default(updates, state, params=None, *, tx=inner):
        return tx.update(updates, state, params)

    def through_a_function(updates, state, params=None):
        return step(updates, state)

    step = lambda updates, state: inner.update(updates, state)
    holders = {"one": [inner], "two": {"x": (1, ("name", inner))}}

    def in_containers(updates, state, params=None):
        return holders["one"][0].update(updates, state, params)

    for update in (
        by_default,
        through_a_function,
        in_containers,
        functools.partial(lambda tx, u, s, p=None: tx.update(u, s, p), inner),
        zoo.Halved(inner).update,
    ):
        whole = take_apart(optax.GradientTransformation(lambda params: (), update))
        assert [part.factory for part in whole.children.values()] == [rmsprop]
        assert "nu = 0.9 * nu" in explain(optax.GradientTransformation(inner.init, update))


def test_an_inner_transformation_is_shown_once():
    inner = optax.chain(optax.clip(1.0), rmsprop(0.1))
    supported = optax.with_extra_args_support(optax.GradientTransformation(*inner))

    def update(updates, state, params=None):
        return (supported if params is None else inner).update(updates, state, params)

    assert len(take_apart(optax.GradientTransformation(inner.init, update)).children) == 1


@pytest.mark.parametrize(
    ("tx", "side"),
    [
        (rmsprop(0.1, momentum=0.9), "outside"),
        (dialects.keras(0.1, momentum=0.9, clipnorm=1.0), "inside"),
        (dialects.timm(zoo.halving, momentum=0.9, caution=True), "inside"),
        (optax.rmsprop(0.1, momentum=0.9), "inside"),
        (optax.chain(rmsprop(0.1), optax.trace(0.9)), "inside"),
        (storage.store(dialects.pytorch(0.1, momentum=0.9), nu=storage.U8), "outside"),
        (optax.chain(dialects.mlx(0.1), optax.trace(0.9), optax.scale(0.5)), None),
        (optax.chain(dialects.mlx(0.1), zoo.scale(0.5), optax.trace(0.9)), None),
        (optax.chain(dialects.mlx(0.1), optax.trace(0.9), zoo.scale(0.5)), None),
        (optax.chain(dialects.burn(0.1), zoo.scale(0.5)), "outside"),
    ],
)
def test_the_side_of_the_learning_rate(tx, side):
    (trace,) = find_traces(take_apart(tx, tx.init(zoo.PARAMS)))
    assert trace.side == side
    assert jax.tree.leaves(trace.state.trace)[0].shape == (2, 3)


def test_a_part_of_optax_with_other_insides_isn_t_known():
    """As in a version of Optax to come: a needed number isn't where it was."""

    def update(updates, state, params=None):
        return updates, state

    code = optax.scale(0.5).update.__code__
    update.__code__ = update.__code__.replace(co_qualname=code.co_qualname)
    there = type(update)(update.__code__, vars(inspect.getmodule(optax.scale)))
    other = optax.GradientTransformation(optax.init_empty_state, there)
    assert take_apart(other)[:2] == ("scale", None)
    tx = optax.chain(rmsprop(0.1), other)
    assert "u = scale(u)" in explain(tx)
    with pytest.raises(ValueError, match="What scale does"):
        diagnostics.learning_rate(tx, tx.init(zoo.PARAMS))
