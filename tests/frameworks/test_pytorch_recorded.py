"""Checkpoints that the real packages of PyTorch's world wrote go on here, and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import QUICK
from real_checkpoints import STEPS, family, gradient

from rmsprop_jax import dialects, storage
from rmsprop_jax.frameworks import pairing
from rmsprop_jax.interop import pytorch

TOLERANCE = 2e-6
FAMILIES = ("pytorch", "timm", "stable_baselines3", "bitsandbytes")
KINDS = [(f, kind) for f in FAMILIES for kind in family(f)]
# What has to be said besides, since the file doesn't say it.
SAY = {
    ("pytorch", "never_given"): {"frozen": ["0.weight", "0.bias"]},
    ("stable_baselines3", "a2c_tf_like"): {"dialect": dialects.stable_baselines3},
    ("stable_baselines3", "tf_like_momentum"): {"dialect": dialects.stable_baselines3},
    ("stable_baselines3", "tf_like_weight_decay"): {"dialect": dialects.stable_baselines3},
}
REFUSED = {
    ("timm", "lookahead"): "Lookahead",
    ("pytorch", "one_cycle_momentum"): "cycles the momentum",
}


def to_params(named):
    """A tree with transposed matrices."""
    tree = {}
    for name, x in named.items():
        *layer, kind = name.split(".")
        tree.setdefault("/".join(layer), {})[kind] = x.T
    return tree


def from_params(tree):
    join = lambda layer, kind: ".".join([*layer.split("/"), kind]) if layer else kind
    return {
        join(layer, kind): np.asarray(x).T
        for layer, kinds in tree.items()
        for kind, x in kinds.items()
    }


def ordered(kind, case):
    """Weights in the order in which the optimizer got them, as a user has to find out."""
    weights = case["weights"]
    if kind[0] == "timm" and len(case["checkpoint"]["param_groups"]) > 1 and kind[1] != "lr_scale":
        return {n: weights[n] for n in sorted(weights, key=lambda n: weights[n].ndim > 1)}
    if kind[1] in ("groups", "lambda"):
        return {n: weights[n] for n in sorted(weights, key=lambda n: weights[n].ndim <= 1)}
    if kind[1] == "groups_of_one_shape":
        return {n: weights[n] for n in sorted(weights, key=lambda n: n.endswith("bias"))}
    return {n: weights[n] for n in case.get("order", weights)}


def table(rates, column):
    """A scheduler's learning rates after the checkpoint, as a schedule."""
    known = jnp.array([row[column] for row in rates], jnp.float32)
    return lambda count: known[jnp.clip(count - STEPS, 0, STEPS - 1)]


def own(name):
    return pairing.bare(name)


def grads(named, still, step):
    def one(name, x):
        if own(name) in still or name in still:
            return np.zeros_like(x)
        if np.iscomplexobj(x):
            pair = gradient(own(name), np.stack([x.real, x.imag], -1), step)
            return pair[..., 0] + 1j * pair[..., 1]
        return gradient(own(name), x, step)

    return {n: one(n, np.asarray(x)) for n, x in named.items()}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def update(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def go_on(tx, state, weights, still, steps=range(STEPS, 2 * STEPS)):
    params = to_params(weights)
    for step in steps:
        g = to_params(grads(from_params(params), still, step))
        params, state = update(tx, params, state, g)
    return params, state


def loaded(kind, case, **options):
    weights = ordered(kind, case)
    rates = case.get("rates")
    changes = rates and any(row != rates[0] for row in rates)
    if changes:
        options["lr"] = [table(rates, k) for k in range(len(rates[0]))]
    by_index = len({len(w) for w in (weights, case["weights"])}) == 1
    options |= SAY.get(kind, {}) | ({"in_order": True} if by_index else {})
    tx, state = pytorch.load(case["checkpoint"], weights, to_params, **options)
    return tx, state, weights


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in REFUSED], ids="-".join)
def test_goes_on_and_back(kind):
    case = family(kind[0])[kind[1]]
    with jax.enable_x64(kind[1] == "float64"):
        tx, state, weights = loaded(kind, case)
        params, state = go_on(tx, state, weights, case["still"])
        here = from_params(params)
        options = {"params": params, "bitsandbytes": kind[0] == "bitsandbytes"}
        again = pytorch.dump(tx, state, weights, from_params, like=case["checkpoint"], **options)
    tolerance = {"bfloat16": 0.05, "8bit": 0.02, "8bit_and_32bit": 0.02}.get(kind[1], TOLERANCE)
    for name, x in case["final"].items():
        x = np.asarray(x, here[name].dtype)
        np.testing.assert_allclose(here[name], x, tolerance, tolerance)
    later = case["later"]["optimizer_states"][0] if kind[1] == "lightning" else case["later"]
    assert again.keys() == later.keys()
    if kind[1].startswith("8bit"):
        return
    same = lambda mine, theirs: np.testing.assert_allclose(
        *(np.asarray(x, complex) for x in (mine, theirs)), 10 * tolerance, tolerance
    )
    if kind[1] == "by_name_flat":
        for key, x in later.items():
            same(again[key] if again[key] is not None else 0, x if x is not None else 0)
        return
    assert list(again["state"]) == list(later["state"]) or kind[1] in ("json", "before_first_step")
    for key, slots in later["state"].items():
        mine = again["state"][int(key) if kind[1] == "json" else key]
        assert mine.keys() == slots.keys()
        for slot in slots.keys() - {"__bnb_optimizer_quant_state__"}:
            same(mine[slot], slots[slot])
    for mine, theirs in zip(again["param_groups"], later["param_groups"], strict=True):
        assert list(mine) == list(theirs)
        for key, x in theirs.items():
            if key not in ("lr", "momentum"):
                assert mine[key] == x or (key == "betas" and list(mine[key]) == x), key


@pytest.mark.parametrize(("form", "tolerance"), [("U16", 0.01), ("BF16", 0.01), ("U8", 0.1)])
def test_eight_bits_stay_few(form, tolerance):
    """From the bytes of bitsandbytes into those of a format here, by one call, and on."""
    case = family("bitsandbytes")["8bit"]
    tx, state, weights = loaded(("bitsandbytes", "8bit"), case)
    form = getattr(storage, form)
    state, tx = storage.pack(state, nu=form), storage.store(tx, nu=form)
    stored = {str(x.dtype) for x in jax.tree.leaves(state) if x.ndim}
    assert stored == {str(jnp.dtype(form.dtype))}
    params, _ = go_on(tx, state, weights, case["still"])
    here = from_params(params)
    for name, x in case["final"].items():
        np.testing.assert_allclose(here[name], x, rtol=0, atol=tolerance * np.abs(x).max())


@pytest.mark.parametrize("kind", list(REFUSED), ids="-".join)
def test_refused(kind):
    with pytest.raises(ValueError, match=REFUSED[kind]):
        loaded(kind, family(kind[0])[kind[1]])
