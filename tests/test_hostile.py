"""The cases of `hostile`, for `rmsprop` and every dialect, in every dtype, jitted and not."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import hostile
import hostile_chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SOME = ("rmsprop", "pytorch", "timm", "tf_keras_legacy", "graves")
"""Each form of the algorithm; the other dialects are chains of the same parts."""
OTHERS = tuple(name for name in hostile.FORMS if name not in SOME)
names = pytest.mark.parametrize("name", hostile.FORMS)
compiled = pytest.mark.parametrize(
    "dialects", [SOME, pytest.param(OTHERS, marks=pytest.mark.nightly)], ids=["some", "others"]
)
BY_NAME = {case.name: case for case in hostile.CASES}
EAGER = [
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
    "gradient of None twice",
]


@pytest.fixture(scope="module")
def runs(request) -> Callable[..., Any]:
    """`hostile.run` of dialects by name, for the cases that are asked for in this session.

    What takes long is to compile, which two threads can do at a time.
    """
    users = [item for item in request.session.items if "runs" in item.fixturenames]
    asked: set[str] = set()
    for item in users:
        asked |= {item.callspec.params["case"]} if "case" in item.callspec.params else set(EAGER)
    pool = concurrent.futures.ThreadPoolExecutor(2)

    def jitted(name):
        return hostile.run(hostile.FORMS[name], cases=[BY_NAME[x] for x in BY_NAME if x in asked])

    def eager(name):
        form = hostile.FORMS[name]
        # All options for one; for the others, what can't be jitted and a set of options beside.
        few = ("gradient of None twice", "constant", "centered, constant")
        few = few[2:] if form.always_centered else few[:2]
        return hostile.run(form, True, [BY_NAME[x] for x in (EAGER if name == "rmsprop" else few)])

    kinds = {"jitted": jitted, "eager": eager}
    start = functools.cache(lambda kind, name: pool.submit(kinds[kind], name))

    def run(kind, names):
        futures = {name: start(kind, name) for name in names}
        return {name: future.result() for name, future in futures.items()}

    return run


@compiled
@pytest.mark.parametrize("case", BY_NAME)
def test_it_survives(case, dialects, runs):
    happened = {}
    results = runs("eager" if BY_NAME[case].absent else "jitted", dialects)
    for name in dialects:
        form = hostile.FORMS[name]
        for _, dtype in hostile.arrangements(form, [BY_NAME[case]]):
            loud, quiet = results[name][case, dtype]
            if what := hostile.verdict(form, BY_NAME[case], dtype, loud, quiet):
                happened[name, dtype] = what
    assert happened == {}


@compiled
def test_eager_is_jitted(dialects, runs):
    jitted, eager = runs("jitted", dialects), runs("eager", dialects)
    for name in dialects:
        both = [key for key in eager[name] if key in jitted[name]]
        assert both
        for case, dtype in both:
            rtol = {"bfloat16": 2**-7, "float16": 2**-10}.get(hostile.grad_dtype(dtype), 1e-6)
            mine, theirs = eager[name][case, dtype][0], jitted[name][case, dtype][0]
            message = f"{name}: {case}"
            np.testing.assert_allclose(mine, theirs[: len(mine)], rtol, 1e-6, err_msg=message)


@names
def test_more_elements_than_an_int32_counts(name):
    tx = hostile.FORMS[name].make(hostile.LEARNING_RATE)
    p = jax.ShapeDtypeStruct((2**31 + 1,), jnp.bfloat16)
    state = jax.eval_shape(tx.init, p)
    updates, new_state = jax.eval_shape(tx.update, p, state, p)
    assert (updates.shape, updates.dtype) == (p.shape, p.dtype)
    spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert spec(new_state) == spec(state)
    assert any(leaf.shape == p.shape for leaf in jax.tree.leaves(state))


@names
def test_count_stops_at_its_maximum(name):
    tx = hostile.FORMS[name].make(hostile.LEARNING_RATE)
    g = jnp.ones(3)
    full = lambda x: jnp.full_like(x, hostile.INT32_MAX) if x.dtype == jnp.int32 else x
    _, state = tx.update(g, jax.tree.map(full, tx.init(g)), g)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert counts
    assert all(count == hostile.INT32_MAX for count in counts)


def test_the_names_of_cases_differ():
    assert len({case.name for case in hostile.CASES}) == len(hostile.CASES) >= 40


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda u: np.where(u == u[5, 1], np.nan, u), "NaN"),
        (lambda u: np.where(u == u[5, 1], np.inf, u), "inf"),
        (lambda u: 10 * u, "1e+01 × its bound"),
        (lambda u: 0 * u, "frozen"),
        (lambda u: 0.9 * u, "0.9 × the step"),
    ],
)
def test_the_judge_sees(change, what):
    form, case = hostile.FORMS["rmsprop"], BY_NAME["constant"]
    loud, quiet = hostile.run(form, cases=[case])[case.name, "float32"]
    assert hostile.verdict(form, case, "float32", loud, quiet) == ""
    wrong = loud.copy()
    wrong[:, 1:] = change(loud)[:, 1:]
    assert hostile.verdict(form, case, "float32", wrong, quiet) == what
    assert hostile.verdict(form, case, "float32", loud, quiet * 2) == "others disturbed"


@pytest.mark.parametrize("case", hostile_chains.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", hostile_chains.FORMS)
def test_it_survives_in_a_chain(name, case):
    make, eps_in_sqrt = hostile_chains.FORMS[name]
    rate = hostile_chains.RATES[case.rate]
    parameters = hostile_chains.run(make(case, rate if case.rate != "constant" else 0.01), case)
    assert hostile_chains.verdict(case, parameters, eps_in_sqrt, rtol=1e-3) == ""
