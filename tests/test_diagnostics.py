"""The oracle is what the optimizer did: the rates in force are minus the updates over gradients."""

import functools
import math
import re
import xml.etree.ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rmsprop_jax import diagnostics, dialects, rmsprop, scale_by_rms, storage, weights

PARAMS = {"dense": {"kernel": jnp.ones((3, 4))}, "out": jnp.ones((3, 4))}
KERNEL = "dense/kernel"
QUANTILES = (0, 0.3, 1)  # the same wherever they don't matter: a program for each takes time
report = functools.partial(diagnostics.report, quantiles=QUANTILES)


def halving(count):
    return 0.5 ** jnp.asarray(count + 1, jnp.float32)


def gradients(seed, params=PARAMS):
    stream = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(stream.normal(size=p.shape), p.dtype), params)


def run(tx, steps=2, params=PARAMS):
    """The gradients and the updates of the last step, and the state after it."""
    grads, updates, state = params, params, tx.init(params)
    with jax.numpy_dtype_promotion("standard"):  # that Optax's own code was written for
        for step in range(steps):
            grads = gradients(step, params)
            updates, state = tx.update(grads, state, params)
    return grads, updates, state


def in_force(updates, grads, q):
    """A quantile of the rates, which have one sign, by their size."""
    rates = -np.asarray(updates) / np.asarray(grads)
    return np.sign(rates.flat[0]) * np.quantile(np.abs(rates), q, method="inverted_cdf")


MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)
OPTIMIZERS = {
    "rmsprop": lambda: rmsprop(halving),
    "inside the root": lambda: rmsprop(halving, 0.75, 0.5, eps_in_sqrt=True),
    "centered": lambda: rmsprop(halving, 0.75, 0.5, centered=True),
    "corrected": lambda: rmsprop(halving, bias_correction=True),
    "ascent": lambda: dialects.optax(lambda count: -halving(count)),
    "maximize twice": lambda: optax.chain(optax.scale(-1.0), dialects.pytorch(0.1, maximize=True)),
    "decoupled rate": lambda: dialects.timm(halving, caution=True),
    "no rate": lambda: scale_by_rms(),
    "two rates": lambda: optax.chain(
        optax.chain(scale_by_rms(), optax.scale_by_schedule(halving)), optax.scale(-0.25)
    ),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(9.0)), ("rms", rmsprop(halving))),
    "rate later in a named_chain": lambda: optax.named_chain(
        ("rms", scale_by_rms()), ("clip", optax.clip(9.0)), ("rate", optax.scale(-0.25))
    ),
    "masked": lambda: optax.masked(rmsprop(halving), {"dense": True, "out": False}),
    "masks in a chain": lambda: optax.chain(
        optax.masked(rmsprop(halving), {"dense": True, "out": False}),
        optax.masked(optax.sgd(0.1), {"dense": False, "out": True}),
    ),
    "partition": lambda: optax.partition(
        {"z": optax.sgd(0.1), "a": rmsprop(halving)}, {"dense": "a", "out": "z"}
    ),
    "freeze": lambda: optax.chain(rmsprop(halving), optax.freeze({"dense": False, "out": True})),
    "apply_if_finite": lambda: optax.apply_if_finite(rmsprop(halving), 3),
    "rate apart": lambda: optax.chain(
        scale_by_rms(), optax.apply_if_finite(optax.scale_by_learning_rate(halving), 3)
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(rmsprop)(halving, decay=0.75, eps=0.5),
    "injected rate": lambda: optax.chain(
        scale_by_rms(), optax.inject_hyperparams(optax.scale_by_learning_rate)(halving)
    ),
    "nested": lambda: optax.chain(
        optax.clip(9.0),
        optax.masked(
            optax.MultiSteps(
                optax.inject_hyperparams(rmsprop)(halving), 1
            ).gradient_transformation(),
            lambda tree: jax.tree.map(lambda x: True, tree),
        ),
    ),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(rmsprop(halving)),
    "compensated": lambda: weights.compensate(rmsprop(halving)),
    "stored": lambda: storage.store(rmsprop(halving), nu=jnp.float32),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rates_are_those_in_force(name):
    tx = OPTIMIZERS[name]()
    grads, updates, state = run(tx)
    rates = diagnostics.effective_learning_rate(tx, state, quantiles=QUANTILES)[KERNEL]
    assert set(rates) == {"p0", "p30", "p100", "eps_share"}
    for key, q in zip(("p0", "p30", "p100"), QUANTILES, strict=True):
        expected = in_force(updates["dense"]["kernel"], grads["dense"]["kernel"], q)
        np.testing.assert_allclose(rates[key], expected, rtol=1e-5)


@pytest.mark.parametrize("eps_in_sqrt", [False, True])
def test_eps_share(eps_in_sqrt):
    tx = rmsprop(0.1, 0.75, 0.25, eps_in_sqrt=eps_in_sqrt)
    nu = 0.0
    for step in range(2):
        nu = 0.75 * nu + 0.25 * np.asarray(gradients(step)["out"]) ** 2
    expected = np.mean((nu if eps_in_sqrt else np.sqrt(nu)) < 0.25)
    assert 0 < expected < 1
    rates = diagnostics.effective_learning_rate(tx, run(tx)[2], quantiles=QUANTILES)
    np.testing.assert_allclose(rates["out"]["eps_share"], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_are_those_of_numpy(dtype):
    with jax.enable_x64(dtype == np.float64):
        tx = rmsprop(1.0, decay=0.0, eps=0.0)  # the rate is 1 / |g|
        stream = np.random.default_rng(0)
        # Of 1021, a prime number, no quantile is a whole number of elements, but for the last.
        many = np.append(10.0 ** stream.uniform(-9, 9, 1000), stream.integers(1, 4, 21))
        params = {"many": jnp.asarray(many, dtype), "one": jnp.asarray(3.0, dtype)}
        _, state = tx.update(params, tx.init(params))
        quantiles = (0, 0.01, 0.25, 0.5, 0.99, 1)
        rates = diagnostics.effective_learning_rate(tx, state, quantiles=quantiles)
    for name, g in params.items():
        for q in quantiles:
            expected = np.quantile(1 / np.asarray(g), q, method="inverted_cdf")
            ulps = 3 * np.finfo(dtype).eps
            np.testing.assert_allclose(rates[name][f"p{100 * q:g}"], expected, rtol=ulps)


def test_zero_over_zero_is_a_rate_of_zero():
    tx = rmsprop(0.5, 0.75, eps=0.0)
    grads = jnp.zeros(MATRIX.shape).at[0, 0].set(2.0)
    updates, state = tx.update(grads, tx.init(grads))
    found = report(tx, state, grads, updates).scalars()
    assert found["effective_learning_rate/params/p0"] == 0
    assert found["effective_learning_rate/params/p100"] == 0.5  # 0.5 / sqrt(0.25 2^2)
    assert found["effective_learning_rate/params/eps_share"] == 0


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded(kind):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    tx = rmsprop(0.5, 0.75)
    reports = []
    for x in (MATRIX, jax.device_put(MATRIX, NamedSharding(mesh, PartitionSpec("a", "b")))):
        updates, state = tx.update(x, tx.init(x))
        reports += [report(tx, state, x, updates).scalars()]
    assert reports[0] == pytest.approx(reports[1], rel=1e-6)


def test_learning_rate_of_each_part():
    tx = optax.partition(
        {"fast": rmsprop(halving), "slow": rmsprop(0.01), "sgd": optax.sgd(3.0)},
        {"dense": "slow", "out": "fast", "rest": "sgd"},
    )
    params = {**PARAMS, "rest": jnp.ones(2)}
    rates = diagnostics.learning_rate(tx, run(tx, params=params)[2])
    assert jax.tree.map(float, rates) == {KERNEL: pytest.approx(0.01), "out": 0.25}


def test_learning_rate_where_it_changes_by_part():
    """Groups that share an average, and parameters that stand still."""
    labels = {"dense": {"kernel": "slow"}, "out": "fast"}
    rates = {"slow": optax.scale_by_learning_rate(halving), "fast": optax.scale(-0.25)}
    tx = optax.chain(scale_by_rms(), optax.partition(rates, lambda params: labels))
    found = diagnostics.learning_rate(tx, run(tx)[2])
    assert jax.tree.map(float, found) == {KERNEL: 0.25, "out": 0.25}
    found = diagnostics.learning_rate(tx, run(tx, 3)[2])
    assert jax.tree.map(float, found) == {KERNEL: 0.125, "out": 0.25}
    frozen = optax.chain(rmsprop(halving), optax.freeze({"dense": False, "out": True}))
    found = diagnostics.learning_rate(frozen, run(frozen)[2])
    assert jax.tree.map(float, found) == {KERNEL: 0.25, "out": 0.0}
    # A mask that changes nothing leaves one number.
    same = optax.chain(
        rmsprop(halving), optax.masked(optax.clip(1.0), {"dense": True, "out": False})
    )
    assert diagnostics.learning_rate(same, run(same)[2]) == 0.25


@pytest.mark.parametrize("wrap", [optax.conditionally_transform, optax.conditionally_mask])
def test_learning_rate_under_a_condition(wrap):
    tx = optax.chain(rmsprop(0.5), wrap(optax.scale(0.5), lambda step: step > 1))
    state, rates = tx.init(PARAMS), []
    for step in range(4):
        grads = gradients(step)
        updates, state = tx.update(grads, state, PARAMS)
        rates.append(float(diagnostics.learning_rate(tx, state)))
        effective = diagnostics.effective_learning_rate(tx, state, quantiles=QUANTILES)["out"]
        np.testing.assert_allclose(
            effective["p100"], in_force(updates["out"], grads["out"], 1), 1e-5
        )
    otherwise = 0.5 if wrap is optax.conditionally_transform else 0.0
    assert rates == [otherwise, otherwise, 0.25, 0.25]


def test_an_error_of_the_user_s_schedule_comes_out_as_it_is():
    def schedule(count):
        return schedule.missing * count  # pyright: ignore[reportFunctionMemberAccess]

    tx = rmsprop(schedule)
    with pytest.raises(AttributeError, match="missing"):
        diagnostics.learning_rate(tx, tx.init(PARAMS))


def test_learning_rate_set_by_hand():
    tx = optax.inject_hyperparams(rmsprop)(learning_rate=0.5)
    _, _, state = run(tx)
    state.hyperparams["learning_rate"] = jnp.float32(0.25)
    _, state = tx.update(PARAMS, state, PARAMS)
    assert diagnostics.learning_rate(tx, state) == 0.25


def test_learning_rate_on_a_plateau():
    tx = optax.chain(rmsprop(0.5), optax.contrib.reduce_on_plateau(0.25, patience=1))
    state, rates = tx.init(PARAMS), []
    for value in (1.0, 1.0, 1.0):
        with jax.numpy_dtype_promotion("standard"):
            _, state = tx.update(PARAMS, state, PARAMS, value=value)
        rates.append(float(diagnostics.learning_rate(tx, state)))
    assert rates == [0.5, 0.125, 0.03125]


def test_stored_averages_are_decoded_and_those_at_the_ends_of_their_format_counted():
    plain = rmsprop(0.5, momentum=0.5)
    formats = {"nu": storage.U8, "trace": storage.BF16}
    tx = optax.chain(optax.clip(1e10), storage.store(plain, **formats))
    kernel = jnp.tile(jnp.array([1e-9, 1.0, 1e9, 1e9]), (3, 1))
    _, state = tx.update({"dense": {"kernel": kernel}, "out": PARAMS["out"]}, tx.init(PARAMS))

    @jax.jit
    def reports(state):
        return report(tx, state), report(plain, storage.unpack(state[1], **formats))

    found, expected = reports(state)
    assert expected.stored == {}
    assert found._replace(stored={}).scalars() == expected.scalars()
    # Of each parameter, two accumulators: nu has an end at 1e9 in float32's way, trace has not.
    assert jax.tree.map(float, found.stored) == {
        KERNEL: {"zero": 1 / 8, "largest": 2 / 8},
        "out": {"zero": 0, "largest": 0},
    }
    assert found.scalars()["stored/out/largest"] == 0
    header, row, _ = str(found).splitlines()
    assert header.endswith("stored as zero  stored as largest")
    assert row.split()[-2:] == ["12.5%", "25.0%"]


LAYERS = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(5)}, "out": jnp.ones((3, 4))}


@pytest.mark.parametrize("by", [1, lambda name: name.partition("/")[0]], ids=["depth", "function"])
def test_layers_together(by):
    """As if the parameters of a layer were one array."""
    tx = rmsprop(0.25, 0.75, 0.25)
    _, updates, state = run(tx, params=LAYERS)
    joined = lambda x: jnp.concatenate([x["kernel"].ravel(), x["bias"]])
    join = lambda tree: {"dense": joined(tree["dense"]), "out": tree["out"]}
    whole = (state[0]._replace(nu=join(state[0].nu)), *state[1:])
    expected = report(tx, whole, join(LAYERS), join(updates)).scalars()
    found = report(tx, state, LAYERS, updates, by=by)
    assert set(found.nonfinite) == {"dense", "out"}
    assert found.scalars() == pytest.approx(expected, rel=1e-6)
    apart, deeper = (
        jax.eval_shape(functools.partial(report, tx, by=by), state, LAYERS, updates)
        for by in (None, 2)
    )
    assert deeper == apart


def test_a_layer_under_two_optimizers():
    tx = optax.partition(
        {"a": rmsprop(0.25, 0.0, 0.0), "b": rmsprop(0.5, 0.0, 0.0)},
        {"dense": {"kernel": "a", "bias": "b"}, "out": "a"},
    )
    updates, state = tx.update(LAYERS, tx.init(LAYERS))
    found = report(tx, state, LAYERS, updates, by=1)
    assert jax.tree.map(float, found.learning_rate) == {"out": 0.25}
    assert float(found.effective_learning_rate["dense"]["p0"]) == 0.25
    assert float(found.effective_learning_rate["dense"]["p100"]) == 0.5
    assert str(found).splitlines()[1].split()[:2] == ["dense", "-"]


@pytest.mark.parametrize("by", [0, True, "dense"], ids=repr)
def test_by_is_checked(by):
    tx = rmsprop(0.1)
    with pytest.raises(ValueError, match=f"by={by!r} is neither"):
        diagnostics.report(tx, tx.init(PARAMS), by=by)


def test_ratio_and_nonfinite():
    params = {"a": jnp.array([3.0, 4.0], jnp.bfloat16), "b": jnp.zeros(2), "c": None, "d": len}
    updates = {"a": jnp.array([0.0, 0.5], jnp.bfloat16), "b": jnp.zeros(2), "c": None, "d": None}
    tx = rmsprop(0.5, centered=True)
    numbers = {k: x for k, x in params.items() if k in "ab"}
    _, state = tx.update({**numbers, "b": jnp.array([0.0, jnp.nan])}, tx.init(numbers))
    made = report(tx, state, params, updates)
    assert jax.tree.map(float, made.update_ratio) == {"a": pytest.approx(0.1), "b": 0}
    assert made.nonfinite == {"a": 0, "b": 2}  # nu and mu
    updates["b"] = jnp.array([jnp.inf, jnp.nan])
    assert report(tx, state, params, updates).nonfinite == {"a": 0, "b": 4}
    assert report(tx, state, updates=updates).nonfinite == {"a": 0, "b": 4}
    assert report(tx, state, updates=updates).update_ratio == {}


def test_under_jit_and_scan():
    tx = optax.inject_hyperparams(rmsprop)(halving)
    report = functools.partial(diagnostics.report, quantiles=(0.05, 0.999))

    @jax.jit
    def train(params, grads):
        def step(state, grads):
            updates, state = tx.update(grads, state, params)
            return state, report(tx, state, params, updates)

        return jax.lax.scan(step, tx.init(params), grads)[1]

    reports = train(PARAMS, jax.tree.map(lambda *g: np.stack(g), *map(gradients, range(3))))
    assert isinstance(reports, diagnostics.Report)
    np.testing.assert_array_equal(reports.learning_rate, [0.5, 0.25, 0.125])
    _, updates, state = run(tx, 3)
    expected = report(tx, state, PARAMS, updates).scalars()
    last = jax.tree.map(lambda x: np.asarray(x)[-1], reports).scalars()
    assert last == pytest.approx(expected, rel=1e-5)
    assert all(type(x) is float for x in last.values())
    rates = ("p5", "p99.9", "eps_share")
    assert set(last) == {
        "learning_rate",
        *(f"effective_learning_rate/{name}/{key}" for name in (KERNEL, "out") for key in rates),
        *(f"{key}/{name}" for name in (KERNEL, "out") for key in ("update_ratio", "nonfinite")),
    }


def test_nnx_optimizer():
    """What it keeps in variables is told as what a tree of arrays has."""
    tx = rmsprop(halving)
    kernel, out = map(nnx.Param, jax.tree.leaves(PARAMS))
    model = nnx.Dict(dense=nnx.Dict(kernel=kernel), out=out)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    like = jax.tree.structure(nnx.state(model, nnx.Param))
    for step in range(2):
        optimizer.update(model, jax.tree.unflatten(like, jax.tree.leaves(gradients(step))))
    _, updates, state = run(tx)
    params = nnx.state(model, nnx.Param)
    plain = jax.tree.unflatten(jax.tree.structure(PARAMS), jax.tree.leaves(params))
    expected = report(tx, state, plain, updates).scalars()
    updates = jax.tree.unflatten(like, jax.tree.leaves(updates))
    found = report(tx, optimizer.opt_state, params, updates).scalars()
    assert found == expected
    assert found["learning_rate"] == 0.25


def test_table():
    """As a person reads it, with a parameter that has no RMSProp and one that has no update."""
    tx = optax.partition(
        {"a": rmsprop(0.25, 0.75, 0.5), "b": rmsprop(0.01, 0.75, 0.0), "sgd": optax.sgd(0.1)},
        {"<kernel>": "a", "bias": "b", "out": "sgd"},
    )
    params = {
        "<kernel>": jnp.array([[0.0, 3.0], [7.0, 9.0]]),
        "bias": jnp.ones(1),
        "out": jnp.ones(3),
    }
    updates, state = tx.update(params, tx.init(params))
    del updates["bias"]
    quantiles = (0.1, 0.5, 1)  # out of jit, they come in the order of the alphabet
    made = jax.jit(functools.partial(diagnostics.report, tx, quantiles=quantiles))(
        state, params, updates
    )
    lines = str(made).splitlines()
    assert lines == [
        "          learning rate   p10     p50  p100  eps share  update ratio  nonfinite",
        "<kernel>           0.25  0.05  0.0625   0.5      25.0%         0.062          0",
        "bias               0.01  0.02    0.02  0.02       0.0%             -          0",
        "out                   -     -       -     -          -           0.1          0",
    ]
    html = made._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "<td>&lt;kernel&gt;</td><td>0.25</td>" in html
    assert [[cell.text for cell in row][1:] for row in xml.etree.ElementTree.fromstring(html)] == [
        [cell.strip() for cell in re.split(r"\s{2,}", line)[1:]] for line in lines
    ]


def test_it_leaves_the_optimizer_alone():
    tx = optax.inject_hyperparams(rmsprop)(halving)
    _, _, state = run(tx)
    before = jax.tree.map(np.array, state)
    report(tx, state, PARAMS, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, before, state)


def test_no_rmsprop():
    tx = optax.chain(optax.clip(1.0), optax.adam(0.1))
    for function in diagnostics.learning_rate, diagnostics.report:
        with pytest.raises(ValueError, match="these parts: clip, scale_by_adam, scale"):
            function(tx, tx.init(PARAMS))


@pytest.mark.parametrize(
    ("make", "state", "message"),
    [
        (lambda: rmsprop(0.1), (), r"a tuple of 2 states it has \[\]"),
        (lambda: rmsprop(0.1), optax.EmptyState(), "a tuple of 2 states it has EmptyState"),
        (lambda: scale_by_rms(), (1.0, 2.0), r"an RmsState it has \['float', 'float'\]"),
        (lambda: optax.masked(rmsprop(0.1), True), (), r"the state of masked it has \[\]"),
    ],
    ids=["shorter", "no chain", "no RmsState", "no wrapper"],
)
def test_state_of_another_transformation(make, state, message):
    with pytest.raises(ValueError, match=f"isn't a state of tx: .*{message}"):
        diagnostics.learning_rate(make(), state)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_quantiles_out_of_range(q):
    tx = rmsprop(0.1)
    with pytest.raises(ValueError, match=f"quantiles={q}"):
        diagnostics.report(tx, tx.init(PARAMS), quantiles=(0.5, q))
