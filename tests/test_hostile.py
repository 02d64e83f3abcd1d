"""The cases of `hostile`, for `rmsprop` and every dialect, in every dtype, jitted and not."""

import functools

import hostile
import hostile_chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmsprop_jax

BY_NAME = {case.name: case for case in hostile.CASES}
CASES = tuple(hostile.CASES)
SHORT = tuple(case for case in CASES if case.steps <= 1410)
BESIDE = (hostile.COMPLEX, hostile.MIXED)
SOME = {
    "rmsprop": CASES,
    "pytorch": tuple(case for case in SHORT if case.dtypes == hostile.COMPLEX),
    "timm": tuple(x for x in SHORT if not x.momentum and not x.skips and x.dtypes not in BESIDE),
    "graves": SHORT,
}
"""What each form of the algorithm is run on; the other dialects are chains of the same parts."""
ALL = dict.fromkeys(hostile.FORMS, CASES)
names = pytest.mark.parametrize("name", hostile.FORMS)
compiled = pytest.mark.parametrize(
    "dialects", [SOME, pytest.param(ALL, marks=pytest.mark.nightly)], ids=["some", "all"]
)
ABSENT = "gradient of None twice"
EAGER = [  # with all options
    "constant",
    "300 in float16",
    "1e20 once",
    "1e20 once, momentum = 0.9",
    "infinity always",
    "NaN once",
    "NaN once, apply_if_finite",
    "centered, constant",
    "bias correction, centered, first step",
    "parameters and gradients of two dtypes",
    ABSENT,
]


@functools.cache
def eager(name):
    """`hostile.run` without `jit`: what can't be jitted, and a set of options beside."""
    other = {"pytorch": "complex noise", "graves": "centered, constant"}
    few = [ABSENT, other.get(name, "constant")]
    cases = [BY_NAME[x] for x in (EAGER if name == "rmsprop" else few)]
    return hostile.run(hostile.FORMS[name], True, cases)


@functools.cache
def jitted(name, cases):
    """`hostile.run`, once for all tests."""
    return hostile.run(hostile.FORMS[name], cases=cases)


@compiled
@pytest.mark.parametrize("case", BY_NAME)
def test_it_survives(case, dialects):
    happened = {}
    for name, cases in dialects.items():
        form = hostile.FORMS[name]
        for case_, dtype in hostile.arrangements(form, [x for x in cases if x.name == case]):
            runs = eager(name) if case_.absent else jitted(name, cases)
            if what := hostile.verdict(form, case_, dtype, *runs[case, dtype]):
                happened[name, dtype] = what
    assert happened == {}


@compiled
def test_eager_is_jitted(dialects):
    for name, cases in dialects.items():
        runs = jitted(name, cases)
        both = [key for key in eager(name) if key in runs]
        assert both
        for case, dtype in both:
            rtol = {"bfloat16": 2**-7, "float16": 2**-10}.get(hostile.grad_dtype(dtype), 1e-6)
            mine, theirs = eager(name)[case, dtype][0], runs[case, dtype][0]
            message = f"{name}: {case}"
            np.testing.assert_allclose(mine, theirs[: len(mine)], rtol, 1e-6, err_msg=message)


@names
def test_more_elements_than_an_int32_counts(name):
    tx = hostile.FORMS[name].make(hostile.LEARNING_RATE)
    p = jax.ShapeDtypeStruct((2**31 + 1,), jnp.bfloat16)
    state = jax.eval_shape(tx.init, p)
    updates, new_state = jax.eval_shape(tx.update, p, state, p)
    assert (updates.shape, updates.dtype) == (p.shape, p.dtype)
    assert new_state == state
    assert any(leaf.shape == p.shape for leaf in jax.tree.leaves(state))


@names
def test_count_stops_at_its_maximum(name):
    tx = hostile.FORMS[name].make(lambda count: hostile.LEARNING_RATE)
    g = jnp.ones(3)
    full = lambda x: jnp.full_like(x, hostile.INT32_MAX) if x.dtype == jnp.int32 else x
    _, state = tx.update(g, jax.tree.map(full, tx.init(g)), g)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert len(counts) > 1
    assert all(count == hostile.INT32_MAX for count in counts)


def test_the_forms_are_all_dialects():
    assert set(hostile.FORMS) == {"rmsprop", *rmsprop_jax.dialects.__all__}
    assert len(BY_NAME) == len(hostile.CASES)


def test_the_judge_sees():
    form, case = hostile.FORMS["rmsprop"], BY_NAME["constant"]
    loud, quiet = jitted("rmsprop", CASES)[case.name, "float32"]
    assert hostile.verdict(form, case, "float32", loud, quiet) == ""
    assert hostile.verdict(form, case, "float32", loud, quiet * 2) == "others disturbed"
    for change, what in (
        (lambda u: np.where(u == u[5, 1], np.nan, u), "NaN"),
        (lambda u: np.where(u == u[5, 1], np.inf, u), "inf"),
        (lambda u: 10 * u, "1e+01 × its bound"),
        (lambda u: 0 * u, "frozen"),
        (lambda u: 0.9 * u, "0.9 × the step"),
    ):
        wrong = np.hstack([loud[:, :1], change(loud)[:, 1:]])
        assert hostile.verdict(form, case, "float32", wrong, quiet) == what


@functools.cache
def chain(name, *options):
    """One for all cases that differ in their gradients alone."""
    case = hostile_chains.Case("", np.zeros(()), *options)
    rate = hostile_chains.RATES[case.rate] if case.rate != "constant" else 0.01
    return hostile_chains.FORMS[name][0](case, rate)


@functools.cache
def chained(name):
    cases = hostile_chains.CASES
    txs = [chain(name, case.clip, case.weight_decay, case.rate) for case in cases]
    return hostile_chains.run_all(txs, cases)


@pytest.mark.parametrize("case", hostile_chains.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", hostile_chains.FORMS)
def test_it_survives_in_a_chain(name, case):
    parameters = chained(name)[hostile_chains.CASES.index(case)]
    _, eps_in_sqrt = hostile_chains.FORMS[name]
    assert hostile_chains.verdict(case, parameters, eps_in_sqrt, rtol=1e-3) == ""
