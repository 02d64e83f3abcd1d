"""Wrong orders and ports that aren't rearrangements: none of them is silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_checkpoints import family

from rmsprop_jax import dialects
from rmsprop_jax.frameworks import accumulators, pairing
from rmsprop_jax.interop import keras, pytorch

same = lambda named: dict(named)
BY_INDEX = family("pytorch")["parameters"]
GROUPS = family("pytorch")["groups"]
ALIKE = family("pytorch")["groups_of_one_shape"]
TIMM = family("timm")["default_groups"]
LISTED = family("keras")["weights_h5"]


def sort(weights, key=None, reverse=False):
    return {n: weights[n] for n in sorted(weights, key=key, reverse=reverse)}


ORDERS = {  # a checkpoint without names, and weights in an order that isn't the optimizer's
    "sorted": (BY_INDEX, sort(BY_INDEX["weights"])),
    "sorted backwards": (BY_INDEX, sort(BY_INDEX["weights"], reverse=True)),
    "biases first": (BY_INDEX, sort(BY_INDEX["weights"], lambda n: n.endswith("weight"))),
    "vectors first": (BY_INDEX, sort(BY_INDEX["weights"], lambda n: BY_INDEX["weights"][n].ndim)),
    "matrices first": (BY_INDEX, sort(BY_INDEX["weights"], lambda n: -BY_INDEX["weights"][n].ndim)),
    "model's, of two groups": (GROUPS, GROUPS["weights"]),
    "sorted, of two groups": (GROUPS, sort(GROUPS["weights"])),
    "groups exchanged": (GROUPS, sort(GROUPS["weights"], lambda n: GROUPS["weights"][n].ndim > 1)),
    "model's, of groups alike": (ALIKE, ALIKE["weights"]),
    "groups alike exchanged": (ALIKE, sort(ALIKE["weights"], lambda n: n.endswith("weight"))),
    "sorted, of groups alike": (ALIKE, sort(ALIKE["weights"])),
    "model's, of timm's groups": (TIMM, TIMM["weights"]),
    "timm's groups exchanged": (
        TIMM,
        sort(TIMM["weights"], lambda n: TIMM["weights"][n].ndim <= 1),
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_wrong_order_is_never_silent(case):
    checkpoint, weights = ORDERS[case]
    with pytest.raises(ValueError, match="order"):
        pytorch.load(checkpoint["checkpoint"], weights, same)


def test_the_error_names_an_order_that_fits():
    with pytest.raises(ValueError, match=r"arrays of one dimension first: \['0.bias', '1.weight'"):
        pytorch.load(TIMM["checkpoint"], TIMM["weights"], same)
    with pytest.raises(ValueError, match=r"weights before biases: \['0.weight', '0.bias'"):
        pytorch.load(BY_INDEX["checkpoint"], sort(BY_INDEX["weights"]), same)


def test_names_need_no_order():
    """What pairs with names is the same in any order, and with what wrappers put in front."""
    for kind in ("named_groups", "by_name", "by_name_flat", "fsdp", "compiled", "data_parallel"):
        case = family("pytorch")[kind]
        bare = {pairing.bare(n): x for n, x in case["weights"].items()}
        tx, state = pytorch.load(case["checkpoint"], case["weights"], same)
        expected = accumulators.take(accumulators.groups_of(tx, state))
        expected = {pairing.bare(n): x for n, x in expected["nu"].items()}
        for weights in (
            sort(bare, reverse=True),
            {f"_orig_mod.{n}": x for n, x in bare.items()},
            {f"module._orig_mod.{n}": x for n, x in sort(bare).items()},
        ):
            tx, state = pytorch.load(case["checkpoint"], weights, same)
            nu = accumulators.take(accumulators.groups_of(tx, state))["nu"]
            for name, x in nu.items():
                np.testing.assert_array_equal(x, expected[pairing.bare(name)])


def test_names_that_are_not_there():
    case = family("pytorch")["named_parameters"]
    weights = {n.replace("3.", "head."): x for n, x in case["weights"].items()}
    with pytest.raises(ValueError, match=r"none by these names: 3.bias, 3.weight"):
        pytorch.load(case["checkpoint"], weights, same)


# Ports


def changed(name, function):
    return lambda named: {n: function(x) if n == name else x for n, x in named.items()}


def without(name):
    return lambda named: {n: x for n, x in named.items() if n != name}


W = "0.weight"  # (4, 3)
WRONG = {
    "a factor": changed(W, lambda x: 2 * x),
    "a sign": changed(W, lambda x: -x),
    "an offset, of a normalization": changed(W, lambda x: x + 1),
    "a cast to bfloat16": changed(W, lambda x: jnp.asarray(x, jnp.bfloat16)),
    "a cast to float16": changed(W, lambda x: np.asarray(x, np.float16)),
    "a dropped parameter": without("2.bias"),
    "half a parameter": changed(W, lambda x: x[:2]),
    "a parameter that is None": changed("2.bias", lambda x: None),
    "an invented parameter": lambda named: {**named, "extra": np.zeros(3, np.float32)},
    "padding": changed(W, lambda x: np.pad(x, 1)),
    "a sum of two biases": lambda named: {**named, "0.bias": named["0.bias"] + named["1.bias"]},
    "tied weights": lambda named: {**named, "copy": named[W]},
    "a mean over heads": changed(W, lambda x: x.mean(0)),
    "repeated heads": changed(W, lambda x: np.repeat(x, 2, 0)),
    "normalized weights": changed(W, lambda x: x / np.linalg.norm(x)),
}
RIGHT = {
    "the same": same,
    "transposed": changed(W, lambda x: x.T),
    "renamed and nested": lambda named: {"net": {n.upper(): x for n, x in named.items()}},
    "reshaped": changed(W, lambda x: x.reshape(2, 2, 3)),
    "stacked": lambda named: {
        **{n: x for n, x in named.items() if x.shape != (4,)},
        "all": np.stack([x for x in named.values() if x.shape == (4,)]),
    },
    "split": lambda named: {**without(W)(named), "q": named[W][:1], "kv": named[W][1:]},
    "flipped": changed(W, lambda x: jnp.asarray(x)[:, ::-1]),
    "a list": lambda named: [jnp.asarray(x) for x in named.values()],
    "all in one vector": lambda named: np.concatenate([x.ravel() for x in named.values()]),
}


@pytest.mark.parametrize("port", WRONG)
def test_a_port_that_is_no_rearrangement(port):
    case = BY_INDEX
    with pytest.raises(ValueError, match="may rename, transpose, reshape, stack and split") as info:
        pytorch.load(case["checkpoint"], case["weights"], WRONG[port])
    text = str(info.value)
    assert any(name in text for name in (W, "2.bias", "0.bias", "extra")), text


@pytest.mark.parametrize("port", RIGHT)
def test_a_port_that_rearranges(port):
    case = BY_INDEX
    to_params = RIGHT[port]
    _, state = pytorch.load(case["checkpoint"], case["weights"], to_params)
    for slot, part in (("square_avg", "nu"), ("grad_avg", "mu")):
        slots = [x[slot] for x in case["checkpoint"]["state"].values()]
        theirs = to_params(dict(zip(case["weights"], slots, strict=True)))
        mine = state[2].mu
        if part == "nu":
            mine = jax.tree.map(accumulators.second_moment, state[2].nu, state[2].mu)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-6), mine, theirs)


def test_a_parameter_without_accumulators_may_be_dropped():
    case = family("pytorch")["named_parameters"]
    weights = {**case["weights"], "unused": np.ones(3, np.float32)}
    tx, state = pytorch.load(case["checkpoint"], weights, without("unused"), frozen=[])
    _, expected = pytorch.load(case["checkpoint"], case["weights"], without("unused"))
    params = without("unused")(weights)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_from_params_is_probed_too():
    tx, params = dialects.keras(0.1), {"w": jnp.ones((2, 3))}
    for wrong in (lambda tree: {"w": tree["w"] * 2}, lambda tree: {"w": 0 * tree["w"]}):
        with pytest.raises(ValueError, match="from_params"):
            keras.dump(tx, tx.init(params), params, wrong)
