"""States of our own: whatever saved them, and into which options they go."""

import itertools
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rmsprop_jax import RmsState, dialects, rmsprop, scale_by_rms, storage
from rmsprop_jax.interop import restore

GOLDEN = Path(__file__).parent / "interop" / "golden"
SCHEDULE = optax.linear_schedule(0.1, 0.0, 100)
PARAMS = {
    "linear/~/mlp": {"w": jnp.ones((2, 3)), "nu": jnp.ones(2)},
    "layers": [jnp.ones(2), {"count": jnp.ones(3)}],
    "pair": (jnp.ones(1), jnp.float32(2.0)),
}
OPTIMIZERS = {
    "plain": rmsprop(0.1),
    "all": rmsprop(SCHEDULE, centered=True, momentum=0.9, weight_decay=0.1),
    "timm": dialects.timm(SCHEDULE, momentum=0.9, weight_decay=0.1, decoupled_decay=True),
    "cautious": dialects.timm(momentum=0.9, caution=True, centered=True),
    "heart": scale_by_rms(centered=True),
    "groups": optax.partition(
        {"a": rmsprop(SCHEDULE, centered=True), "b": rmsprop(0.1, momentum=0.9)},
        {"linear/~/mlp": "a", "layers": ["a", {"count": "b"}], "pair": ("b", "a")},
    ),
    "stored": storage.store(rmsprop(0.1, momentum=0.9), nu=storage.U8, trace=storage.BF16),
    "injected": optax.inject_hyperparams(rmsprop)(learning_rate=0.1),
    "steps": optax.MultiSteps(rmsprop(0.1), 3).gradient_transformation(),
    "clipped": optax.chain(optax.clip(1.0), rmsprop(0.1), optax.ema(0.9)),
}


def filled(tx, params=PARAMS):
    """A state as from training; its numbers tell which accumulator of which parameter they are."""
    names = list(paths(params))

    def fill(path, x):
        words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        part = next((i for i, w in enumerate(words) if w in ("nu", "mu", "trace")), None)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(7, x.dtype) if x.dtype == jnp.int32 else x
        name = None if part is None else "/".join(words[part + 1 :])
        if part is None or name not in names:
            return jnp.full(x.shape, 0.5, x.dtype)
        number = {"nu": 1.0, "mu": 20.0, "trace": -20.0}[words[part]]
        return jnp.full(x.shape, number + names.index(name), x.dtype)

    return jax.tree.map_with_path(fill, tx.init(params))


def paths(state):
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(state)}


def orbax_raw(state, folder):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "checkpoint", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "checkpoint")


def npz(state, folder):
    np.savez(folder / "state.npz", **paths(state))
    return np.load(folder / "state.npz")


def lists(state):
    """As JSON does: no tuple and no name survives."""
    if isinstance(state, dict):
        return {key: lists(x) for key, x in state.items()}
    return [lists(x) for x in state] if isinstance(state, list | tuple) else state


WAYS = {
    "as it is": lambda state, folder: state,
    "flax state dict": lambda state, folder: flax.serialization.to_state_dict(state),
    "msgpack": lambda state, folder: flax.serialization.msgpack_restore(
        flax.serialization.to_bytes(state)
    ),
    "orbax": orbax_raw,
    "npz": npz,
    "lists": lambda state, folder: lists(state),
    "numpy": lambda state, folder: jax.tree.map(np.asarray, state),
}


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, x), y in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        assert (x.dtype, x.shape, x.weak_type) == (y.dtype, y.shape, y.weak_type), path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


CASES = set(itertools.product(OPTIMIZERS, WAYS)) - {("stored", "npz")}  # npz has no bfloat16


@pytest.mark.parametrize(("name", "way"), sorted(CASES))
def test_comes_back_bit_for_bit(name, way, tmp_path):
    tx = OPTIMIZERS[name]
    state = filled(tx)
    assert_same(state, restore(tx, WAYS[way](state, tmp_path), PARAMS))


def test_nnx_optimizer():
    model = nnx.Linear(2, 3, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    tx = rmsprop(SCHEDULE, momentum=0.9)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    saved = nnx.to_pure_dict(nnx.state(optimizer))["opt_state"]
    saved[0]["nu"]["kernel"] = np.full((2, 3), 5.0)
    state = restore(tx, saved, nnx.state(model, nnx.Param))
    assert (jax.tree.leaves(state[0].nu)[1] == 5).all()
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(nnx.state(model, nnx.Param)))


CHOICES = list(itertools.product((None, 0.9), (False, True), (0.1, SCHEDULE), (None, 0.01)))


def make(choice):
    momentum, centered, learning_rate, weight_decay = choice
    return rmsprop(learning_rate, momentum=momentum, centered=centered, weight_decay=weight_decay)


def find(state, name) -> Any:
    """The accumulators of a name, or `None`."""
    has_name = lambda x: name in getattr(x, "_fields", ())
    nodes = filter(has_name, jax.tree.leaves(state, is_leaf=has_name))
    return next((getattr(node, name) for node in nodes), None)


def test_every_option_into_every_other():
    """16 sets of options into 16: the rules of the docstring."""
    params = {"w": jnp.ones((2, 3))}
    for before, after in itertools.product(CHOICES, CHOICES):
        old = filled(make(before), params)
        saved = flax.serialization.to_state_dict(old)
        new = restore(make(after), saved, params, saved_by=make(before))
        assert jax.tree.structure(new) == jax.tree.structure(make(after).init(params))
        nu, mu, trace = (find(old, name) for name in ("nu", "mu", "trace"))
        new_nu, new_mu, new_trace = (find(new, name) for name in ("nu", "mu", "trace"))
        second = nu["w"] if before[1] == after[1] or not before[1] else nu["w"] + mu["w"] ** 2
        np.testing.assert_allclose(new_nu["w"], second, 1e-7)
        if after[1]:
            np.testing.assert_array_equal(new_mu["w"], mu["w"] if before[1] else 0)
        if after[0]:
            np.testing.assert_array_equal(new_trace["w"], trace["w"] if before[0] else 0)
        counts = [x for path, x in paths(new).items() if path.endswith("count")]
        assert len(counts) == (2 if callable(after[2]) else 1)
        assert all(x == 7 for x in counts)


def test_learning_rate_changes_sides():
    """While the learning rate is constant, the two orders are one algorithm."""
    options = {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "centered": True}
    outside = dialects.timm(0.1, **options, lr_in_momentum=False)
    inside = dialects.timm(0.1, **options)
    params = jnp.ones(3)
    grads = [jnp.asarray(g) for g in np.random.default_rng(0).normal(size=(6, 3)).astype("float32")]

    def go_on(tx, params, state, grads):
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    for first, then in ((outside, inside), (inside, outside)):
        there, _ = go_on(first, params, first.init(params), grads)
        half, state = go_on(first, params, first.init(params), grads[:3])
        for saved in (state, flax.serialization.to_state_dict(state)):
            with pytest.raises(ValueError, match="pass saved_by"):
                restore(then, saved, params, learning_rate=0.1)
            with pytest.raises(ValueError, match="pass the learning_rate"):
                restore(then, saved, params, saved_by=first)
            moved = restore(then, saved, params, saved_by=first, learning_rate=0.1)
            np.testing.assert_allclose(go_on(then, half, moved, grads[3:])[0], there, 1e-6)
    # Without a trace there is nothing to convert.
    restore(dialects.keras(0.1), dialects.pytorch().init(params), params)
    restore(dialects.keras(0.1, momentum=0.9), dialects.pytorch().init(params), params)


def test_another_dialect():
    """The state moves from one dialect to another, wherever it is in the chain."""
    options = {"momentum": 0.9, "centered": True}
    there = dialects.tensorflow1(0.1, **options)
    old = filled(there)
    new = restore(dialects.keras(0.1, **options), old, PARAMS, saved_by=there)
    np.testing.assert_array_equal(*(jax.tree.leaves(find(s, "trace"))[0] for s in (old, new)))
    np.testing.assert_array_equal(*(jax.tree.leaves(find(s, "nu"))[0] for s in (old, new)))


def test_the_side_of_the_learning_rate_is_never_guessed():
    clip = optax.clip_by_block_rms(1e6)
    by_hand = optax.chain(scale_by_rms(), clip, optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    params = jnp.ones(3)
    saved = filled(by_hand, params)
    outside, inside = rmsprop(0.1, momentum=0.9), dialects.graves(0.1, momentum=0.9)
    for tx in outside, inside:  # the second has its trace in the same place as by_hand
        for state in saved, flax.serialization.to_state_dict(saved):
            with pytest.raises(ValueError, match="pass saved_by"):
                restore(tx, state, params, learning_rate=0.1)
    new = restore(outside, saved, params, saved_by=by_hand, learning_rate=0.1)
    np.testing.assert_array_equal(new[1].trace, saved[2].trace)
    unknown = optax.GradientTransformation(optax.init_empty_state, lambda u, s, p=None: (u, s))
    before = optax.chain(scale_by_rms(), unknown, optax.trace(0.9), optax.scale(-0.1))
    with pytest.raises(
        ValueError, match="saved_by has a part beside its momentum that isn't known"
    ):
        restore(outside, filled(before, params), params, saved_by=before, learning_rate=0.1)
    with pytest.raises(ValueError, match="saved_by has no trace"):
        restore(inside, filled(outside, params), params, saved_by=rmsprop(0.1))


@pytest.mark.parametrize("word", ["nu", "mu", "trace", "count"])
def test_labels_and_parameters_that_are_called_as_accumulators(word, tmp_path):
    def partition(**options):
        return optax.partition(
            {word: rmsprop(0.1, **options), "rest": rmsprop(0.1)},
            {word: {word: word, "w": "rest"}, "w": {"nu": word}},
        )

    params = {word: {word: jnp.ones(2), "w": jnp.ones(3)}, "w": {"nu": jnp.ones(4)}}
    old = filled(partition(), params)
    for way in WAYS.values():
        assert_same(old, restore(partition(), way(old, tmp_path), params))
        other = partition(centered=True, momentum=0.9)
        new = restore(other, WAYS["flax state dict"](old, tmp_path), params)
        assert jax.tree.structure(new) == jax.tree.structure(other.init(params))
        kept = new.inner_states[word].inner_state[0].nu
        jax.tree.map(np.testing.assert_array_equal, kept, old.inner_states[word].inner_state[0].nu)


def test_a_sum_of_gradients_is_no_sum_of_steps():
    """fastai's momentum isn't that of others, and never becomes it."""
    params = {"w": jnp.ones(3)}
    fastai, pytorch = dialects.fastai(0.1, mom=0.9), dialects.pytorch(0.1, momentum=0.9)
    for saved_by, tx in [(fastai, pytorch), (pytorch, fastai)]:
        _, state = saved_by.update(params, saved_by.init(params), params)
        same = restore(saved_by, jax.tree.map(np.asarray, state), params)
        jax.tree.map(np.testing.assert_array_equal, same, state)
        for origin in (None, saved_by):
            with pytest.raises(ValueError, match=r"saved_by|isn.t known here"):
                restore(tx, state, params, saved_by=origin, learning_rate=0.1)


def test_shardings_of_the_parameters():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    params = jax.device_put(jnp.ones((8, 2)), sharding)
    tx = rmsprop(0.1, momentum=0.9)
    state = restore(tx, paths(filled(tx, params)), params)
    assert state[0].nu.sharding == sharding
    assert state[1].trace.sharding == sharding


def test_dtypes_are_those_of_the_optimizer():
    tx, params = rmsprop(0.1), jnp.ones(2, jnp.bfloat16)
    saved = {"0": {"count": 7, "nu": jnp.ones(2, jnp.bfloat16)}}
    assert restore(tx, saved, params)[0].nu.dtype == jnp.float32
    saved = {"0": {"count": np.int64(7), "nu": np.ones(2, np.float64)}}
    assert restore(tx, saved, params)[0].nu.dtype == jnp.float32


def message(tx, saved, params=PARAMS):
    with pytest.raises(ValueError, match=r".") as error:
        restore(tx, saved, params)
    return str(error.value)


def test_all_that_is_wrong_is_said_at_once():
    saved = paths(filled(OPTIMIZERS["all"]))
    saved["1/nu/linear/~/mlp/w"] = np.ones((3, 2))
    saved["1/nu/pair/0"] = np.ones(1, np.int32)
    saved["9/surprise"] = np.ones(4)
    del saved["1/mu/layers/0"], saved["1/count"], saved["2/trace/layers/1/count"]
    assert message(OPTIMIZERS["all"], saved).splitlines()[1:] == [
        "  missing: count of nu, integer ()",
        "  missing: mu/layers/0, float (2,)",
        "  missing: trace/layers/1/count, float (3,)",
        "  extra: 9/surprise, float (4,)",
        "  wrong: nu/linear/~/mlp/w is float (3, 2), should be float (2, 3)",
        "  wrong: nu/pair/0 is int32 (1,), should be float (1,)",
    ]


def test_a_part_that_is_dropped_must_be_whole():
    saved = paths(filled(OPTIMIZERS["all"]))
    del saved["1/mu/layers/0"]
    assert "missing: mu/layers/0" in message(rmsprop(0.1), saved)


def test_states_of_others():
    adam = optax.adam(0.1).init(PARAMS)
    assert "ScaleByAdamState is the state of another optimizer" in message(rmsprop(0.1), adam)
    theirs = optax.rmsprop(0.1).init(PARAMS)
    assert "ScaleByRmsState is the state of another" in message(rmsprop(0.1), theirs)
    sgd = optax.sgd(0.1, momentum=0.9).init(PARAMS)
    assert "missing: nu/layers/0" in message(rmsprop(0.1), sgd)
    twice = optax.chain(rmsprop(0.1), rmsprop(0.1))
    assert "several arrays that are nu" in message(twice, twice.init(PARAMS))


def test_numbers_that_cannot_be():
    w = jnp.ones(3)
    negative = (RmsState(jnp.int32(1), jnp.array([1.0, -1.0, 1.0]), None), ())
    assert "negative: nu" in message(rmsprop(0.1), negative, w)
    nans = (RmsState(jnp.int32(1), jnp.array([1.0, jnp.nan, jnp.nan]), None), ())
    with pytest.warns(UserWarning, match=r"holds 2 NaN: nu 2"):
        state = restore(rmsprop(0.1), nans, w)
    assert np.isnan(state[0].nu).sum() == 2


def test_stored_accumulators_are_not_computed_with():
    w = jnp.ones(2)
    tx = storage.store(rmsprop(0.1, centered=True), nu=storage.U8)
    with pytest.raises(ValueError, match="unpack"):
        restore(storage.store(rmsprop(0.1), nu=storage.U8), tx.init(w), w)


GOLDEN_OPTIMIZERS = {
    "rmsprop": rmsprop(SCHEDULE, centered=True, momentum=0.9, weight_decay=0.1),
    "timm": dialects.timm(SCHEDULE, momentum=0.9, weight_decay=0.1, decoupled_decay=True),
    "groups": OPTIMIZERS["groups"],
}


def test_there_are_checkpoints_of_the_first_version():
    assert (GOLDEN / "0.1.0").is_dir()


@pytest.mark.parametrize("name", GOLDEN_OPTIMIZERS)
@pytest.mark.parametrize("version", sorted(x.name for x in GOLDEN.glob("*")))
def test_checkpoints_of_all_versions_are_loadable(version, name):
    tx = GOLDEN_OPTIMIZERS[name]
    expected = filled(tx)
    with np.load(GOLDEN / version / f"{name}.npz") as file:
        assert_same(expected, restore(tx, file, PARAMS))
    packed = (GOLDEN / version / f"{name}.msgpack").read_bytes()
    assert_same(expected, restore(tx, flax.serialization.msgpack_restore(packed), PARAMS))
