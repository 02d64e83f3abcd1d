"""`scale_by_rms` against its specification; what numbers break others is in test_hostile."""

import functools
import itertools

import equinox as eqx
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx
from one_program import run_all

from rmsprop_jax import dialects, scale_by_rms

OPTIONS = [
    {"centered": centered, "bias_correction": bias, "eps_in_sqrt": inside, "initial_scale": start}
    for centered, bias, inside, start in itertools.product(
        (False, True), (False, True), (False, True), (0.0, 1.0)
    )
    if not (bias and start)
]
option_ids = ["-".join(k if v is True else f"{k}={v}" for k, v in o.items() if v) for o in OPTIONS]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=[i or "plain" for i in option_ids])


def run(tx, gradients):
    """Updates [steps, ...] and final state for gradients [steps, ...]."""
    return run_all([tx], gradients)[0]


def run_eagerly(tx, gradients):
    """The updates, step by step outside of `jit`."""
    state, rows = tx.init(gradients[0]), []
    for g in gradients:
        updates, state = tx.update(g, state)
        rows.append(np.asarray(updates))
    return np.stack(rows)


def gradients(kind, steps=1000, size=32):
    rng = np.random.RandomState(0)
    g = rng.standard_normal((steps, size))
    if kind == "heavy-tailed":
        g = rng.standard_t(3, (steps, size))
    if kind == "sparse":
        g *= rng.random_sample((steps, size)) < 0.02
    if kind == "scales":
        g *= np.logspace(-12, 12, size)
    return g.astype(np.float32)


DECAYS = {0.9: ["normal", "heavy-tailed", "sparse", "scales"], 0.999: ["normal"]}


@functools.cache
def trajectories(dtype):
    """The gradients of all kinds, and their updates by every option, for each decay."""
    g = np.concatenate([gradients(kind) for kind in DECAYS[0.9]], axis=1)
    txs = [scale_by_rms(decay, **options) for options in OPTIONS for decay in DECAYS]
    with jax.enable_x64(dtype == "float64"):
        updates = [updates for updates, _ in run_all(txs, g.astype(dtype))]
    return g, [updates[i : i + len(DECAYS)] for i in range(0, len(txs), len(DECAYS))]


@every_option
def test_agrees_with_the_specification(options):
    (g, doubles), (_, singles) = trajectories("float64"), trajectories("float32")
    i = OPTIONS.index(options)
    for (decay, kinds), double, single in zip(DECAYS.items(), doubles[i], singles[i], strict=True):
        part = g[:, : 32 * len(kinds)]
        double, single = double[:, : part.shape[1]], single[:, : part.shape[1]]
        expected = reference.scale_by_rms(part, decay, **options)
        np.testing.assert_allclose(double, expected, rtol=1e-13, atol=0)

        # 4 ulp, where float32 allows it. The roundings of nu add up like a random walk, for about
        # 1 / (1 - decay) steps; or for hundreds, where tiny gradients leave nothing but
        # nu <- decay nu from a start at 1. Exact arithmetic on a float32 nu has them too.
        ulp = np.spacing(np.abs(expected).astype(np.float32))
        best = best_in_float32(part.astype(np.float64), decay, **options)
        for i, kind in enumerate(kinds):
            ours, ideal = (
                np.max(np.split(np.abs(u - expected) / ulp, len(kinds), axis=1)[i])
                for u in (single, best)
            )
            assert ours <= max(4, 1.5 * ideal), kind
            if decay == 0.9 and not (kind == "scales" and options["initial_scale"] == 1.0):
                assert ours <= 4, kind


def best_in_float32(g, decay, eps=1e-8, *, eps_in_sqrt, initial_scale, centered, bias_correction):
    """What exact arithmetic makes of accumulators that have to be kept in float32."""
    nu, mu, updates = np.full(g.shape[1:], initial_scale), np.zeros(g.shape[1:]), []
    for t, x in enumerate(g, 1):
        rho = decay * (1 - decay ** (t - 1)) / (1 - decay**t) if bias_correction else decay
        nu = rho * (nu + (1 - rho) * (x - mu) ** 2) if centered else rho * nu + (1 - rho) * x**2
        mu = mu + (1 - rho) * (x - mu) if centered else mu
        root = np.sqrt(nu + eps) if eps_in_sqrt else np.sqrt(nu) + eps
        updates.append(np.float32(x / root))
        nu, mu = np.float32(nu).astype(np.float64), np.float32(mu).astype(np.float64)
    return np.array(updates)


def by_formula(gradients, root, numerator):
    """The updates for gradients [steps, ...], by the definitions, at a decay of 0.9."""
    nu, updates = 0.0, []
    for g, top in zip(gradients, numerator, strict=True):
        nu = 0.9 * nu + 0.1 * g**2
        updates.append(top / root(nu))
    return np.array(updates)


ROOTS = {  # arguments, and the denominator
    "eps": ({"eps": 0.5}, lambda nu: np.sqrt(nu) + 0.5),
    "eps inside": ({"eps": 0.5, "eps_in_sqrt": True}, lambda nu: np.sqrt(nu + 0.5)),
    "two eps": ({"eps": 0.25, "eps_root": 0.5}, lambda nu: np.sqrt(nu + 0.5) + 0.25),
    "only under the root": ({"eps": 0.0, "eps_root": 0.5}, lambda nu: np.sqrt(nu + 0.5)),
    "least root": ({"eps": 0.0, "least_root": 1.0}, lambda nu: np.maximum(np.sqrt(nu), 1.0)),
    "all": (
        {"eps": 0.25, "eps_root": 0.5, "least_root": 1.0},
        lambda nu: np.maximum(np.sqrt(nu + 0.5), 1.0) + 0.25,
    ),
    "least root, eps inside": (
        {"eps": 0.25, "eps_in_sqrt": True, "least_root": 1.0},
        lambda nu: np.maximum(np.sqrt(nu + 0.25), 1.0),
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_denominators(dtype):
    g = gradients("normal", steps=200)
    with jax.enable_x64(dtype == "float64"):
        txs = [scale_by_rms(0.9, **options) for options, _ in ROOTS.values()]
        results = run_all(txs, g.astype(dtype))
    rtol = 1e-13 if dtype == "float64" else 1e-6
    for (name, (_, root)), (updates, _) in zip(ROOTS.items(), results, strict=True):
        expected = by_formula(g.astype(float), root, g)
        np.testing.assert_allclose(updates, expected, rtol=rtol, atol=rtol, err_msg=name)


def test_denominators_of_a_variance():
    """nu of a centered state is the variance, so the last update tells its denominator."""
    g = gradients("normal", steps=50).astype(float)
    with jax.enable_x64(True):
        txs = [scale_by_rms(0.9, centered=True, **o) for o in ({}, *(o for o, _ in ROOTS.values()))]
        (_, plain), *results = run_all(txs, g)
    for (name, (_, root)), (updates, state) in zip(ROOTS.items(), results, strict=True):
        np.testing.assert_array_equal(state.nu, plain.nu, err_msg=name)
        np.testing.assert_allclose(updates[-1], g[-1] / root(plain.nu), rtol=1e-13, err_msg=name)


def moving_sum(g, rate):
    sums = [g[0]]
    for row in g[1:]:
        sums.append(rate * sums[-1] + row)
    return np.array(sums)


NUMERATORS = {
    "trace": (optax.trace(0.75), lambda g: moving_sum(g, 0.75)),
    "ema": (optax.ema(0.75, debias=False), lambda g: 0.25 * moving_sum(g, 0.75)),
    "clip": (optax.clip(0.5), lambda g: np.clip(g, -0.5, 0.5)),
    "norm": (
        optax.clip_by_global_norm(2.0),
        lambda g: g * 2 / np.maximum(2, np.linalg.norm(g, axis=1, keepdims=True)),
    ),
}


def test_numerators():
    """nu is of the gradients themselves, whatever is divided by its root."""
    g = gradients("normal", steps=50).astype(float)
    with jax.enable_x64(True):
        txs = [scale_by_rms(0.9, 1e-3, numerator=numerator) for numerator, _ in NUMERATORS.values()]
        *results, (_, plain) = run_all([*txs, scale_by_rms(0.9, 1e-3)], g)
        eager = run_eagerly(txs[0], jnp.asarray(g[:5]))
    np.testing.assert_allclose(eager, results[0][0][:5], rtol=1e-13, atol=1e-15)
    for (name, (_, formula)), (updates, state) in zip(NUMERATORS.items(), results, strict=True):
        expected = by_formula(g, lambda nu: np.sqrt(nu) + 1e-3, formula(g))
        np.testing.assert_allclose(updates, expected, rtol=1e-13, atol=1e-15, err_msg=name)
        np.testing.assert_allclose(state.rms.nu, plain.nu, rtol=1e-15, err_msg=name)
        assert state.rms.count == plain.count


def test_what_a_numerator_is_given():
    """Parameters; and gradients as they are squared, so that an infinite one is forgotten."""
    numerator = optax.chain(optax.add_decayed_weights(0.5), optax.trace(0.5))
    tx = scale_by_rms(0.0, 1.0, numerator=numerator)
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    state = tx.init(params)
    updates, state = tx.update({"a": jnp.ones(2, jnp.bfloat16), "b": None}, state, params)
    assert updates["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["a"].astype(np.float32), 0.75)  # (1 + 0.5) / (1 + 1)
    assert updates["b"] is None
    assert state.numerator[1].trace["a"].dtype == jnp.float32
    infinite = jnp.array([jnp.inf, 1.0])
    tx = scale_by_rms(0.5, 1.0, numerator=optax.trace(0.5))
    state = tx.init(infinite)
    updates, state = tx.update(infinite, state)
    assert np.isfinite(updates).all()
    for _ in range(200):
        updates, state = tx.update(jnp.ones(2), state)
        assert np.isfinite(updates).all()
    np.testing.assert_allclose(updates, 1.0, rtol=1e-5)


SCHEDULED = {
    "first square": lambda t: jnp.where(t == 0, 0.0, 0.9),
    "mean": lambda t: t / (t + 1.0),
    "python number": lambda t: 0.75,
}


def test_decay_may_be_a_schedule():
    """Each average is written out as a weighted sum, with the weights of the schedule."""
    g = gradients("normal", steps=40).astype(float)
    cases = list(itertools.product(SCHEDULED, (False, True)))
    with jax.enable_x64(True):
        txs = [scale_by_rms(SCHEDULED[name], 1e-3, centered=centered) for name, centered in cases]
        jitted = [updates for updates, _ in run_all(txs, g)]
        eager = [run_eagerly(tx, jnp.asarray(g[:5])) for tx in txs]
        rates = {name: [float(f(t)) for t in range(len(g))] for name, f in SCHEDULED.items()}
    for (name, centered), *results in zip(cases, jitted, eager, strict=True):
        weights, rest, expected = np.zeros(len(g)), 1.0, []
        for t, rho in enumerate(rates[name]):
            weights *= rho
            weights[t], rest = 1 - rho, rest * rho
            mean = weights @ g
            nu = weights @ (g - mean) ** 2 + rest * mean**2 if centered else weights @ g**2
            expected.append(g[t] / (np.sqrt(nu) + 1e-3))
        for updates in results:
            np.testing.assert_allclose(updates, expected[: len(updates)], rtol=1e-10, err_msg=name)


def test_a_schedule_of_decay_is_what_inject_hyperparams_makes_of_it():
    schedule = SCHEDULED["first square"]
    injected = optax.inject_hyperparams(scale_by_rms, hyperparam_dtype=jnp.float32)(schedule)
    kept = optax.inject_hyperparams(scale_by_rms, static_args=("decay",))(schedule, eps=1e-8)
    results = run_all([injected, kept, scale_by_rms(schedule)], np.float32([[0.5, -3.0]] * 3))
    for updates, _ in results:
        np.testing.assert_array_equal(updates, results[-1][0])
        np.testing.assert_allclose(updates[-1], [1.0, -1.0], rtol=1e-6)  # since nu started at g^2


def test_what_a_schedule_of_decay_gives_is_checked_as_far_as_it_is_known():
    g = jnp.ones(2)
    for schedule, word in [(lambda t: 1.5, "1.5"), (lambda t: jnp.bfloat16(0.9), "bfloat16")]:
        tx = scale_by_rms(schedule)
        with pytest.raises(ValueError, match=word):
            tx.update(g, tx.init(g))


def test_decay_may_be_a_number_or_an_array():
    g = np.float32([1.0, 2.0])
    kinds = (float, np.float32, np.array, jnp.asarray)
    cases = list(itertools.product((0.9, 0.2), kinds))
    txs = [scale_by_rms(kind(decay)) for decay, kind in cases]
    jitted = [state for _, state in run_all(txs, g[None])]
    eager = [tx.update(g, tx.init(g))[1] for tx in txs]
    for (decay, kind), *states in zip(cases, jitted, eager, strict=True):
        for state in states:
            expected = (1 - decay) * g**2
            np.testing.assert_allclose(state.nu, expected, rtol=1e-6, err_msg=str(kind))


@pytest.mark.parametrize(
    ("decay", "dtype"), [(np.float64(0.999), np.float32), (np.float32(0.1), np.float64)]
)
def test_an_array_decay_keeps_the_digits_that_it_has(decay, dtype):
    """Subtracted from 1 in the wider of its dtype and that of nu, then rounded once."""
    with jax.enable_x64(True):
        g = jnp.ones(1, dtype)
        tx = scale_by_rms(jnp.asarray(decay))
        _, state = tx.update(g, tx.init(g))
    assert state.nu.dtype == dtype
    np.testing.assert_allclose(state.nu, 1 - np.float64(decay), rtol=np.finfo(dtype).eps, atol=0)


def test_the_root_is_no_reciprocal_root():
    """XLA's is off by 2 units in the last place, so that 1 in 4 of g / sqrt(g^2) would not be 1."""
    g = jnp.arange(1.0, 4097.0)
    tx = scale_by_rms(decay=0.0, eps=0.0)
    for update in (tx.update, jax.jit(tx.update)):
        updates, _ = update(g, tx.init(g))
        np.testing.assert_array_equal(updates, 1.0)


def test_a_jitted_init_takes_parameters_of_any_kind():
    params = {"z": jnp.full(2, 1 + 1j), "n": jnp.arange(3), "b": jnp.array([True, False])}
    for tx in (scale_by_rms(centered=True), dialects.pytorch(momentum=0.5, centered=True)):
        assert jax.eval_shape(tx.init, params) == jax.eval_shape(lambda: tx.init(params))  # noqa: B023


def test_decay_close_to_one_keeps_its_digits_in_float32():
    """Rounded to float32, decay and 1 - decay no longer add up to 1: nu would be 1.3e-5 off."""
    g = np.random.RandomState(0).standard_normal((10_000, 512)).astype(np.float32)
    _, state = run(scale_by_rms(0.999), g)
    exact = 0.001 * 0.999 ** np.arange(9_999, -1, -1.0) @ g.astype(np.float64) ** 2
    assert abs(np.mean(state.nu / exact - 1)) < 1e-6


def test_a_fall_of_the_gradient_is_followed():
    g = np.float32([1e6, 1e-3, 1e-3])
    decays = (0.0, 0.5, 0.9, jnp.float32(0.0), jnp.float32(0.9))
    results = run_all([scale_by_rms(decay, 0.0) for decay in decays], g)
    for decay, (updates, _) in zip(decays, results, strict=True):
        expected = reference.scale_by_rms(g, float(decay), 0.0)
        np.testing.assert_allclose(updates, expected, rtol=1e-6, err_msg=repr(decay))


class TestCentered:
    """Issue: optax.rmsprop gives NaN for 25 to 36 of these constants, PyTorch for 165."""

    constants = np.unique(
        np.concatenate(
            [np.arange(1, 200) / 10, np.arange(1, 100) * 10.0, 10.0 ** np.arange(-4, 7), [1 / 3]]
        )
    ).astype(np.float32)

    def test_constant_gradients_stay_finite(self):
        assert len(self.constants) == 305
        g = np.broadcast_to(self.constants, (3000, 305))
        txs = [scale_by_rms(centered=True, eps_in_sqrt=inside) for inside in (False, True)]
        for (updates, state), denominator in zip(run_all(txs, g), (1e-8, 1e-4), strict=True):
            assert np.isfinite(updates).all()
            assert np.all(state.nu >= 0)
            assert np.all(updates <= self.constants / denominator * (1 + 1e-6))

    def test_small_variance_keeps_its_digits(self):
        g = 3 + 1e-4 * np.random.RandomState(0).standard_normal((1500, 64))
        g = g.astype(np.float32)
        updates, _ = run(scale_by_rms(centered=True), g)
        expected = reference.scale_by_rms(g, centered=True)
        assert np.isfinite(updates).all()
        assert np.median(np.abs(updates / expected - 1)) < 1e-3

    def test_first_bias_corrected_step_is_exact(self):
        g = np.float32([3.0, 0.1, -7.0])
        updates, _ = run(scale_by_rms(centered=True, bias_correction=True, eps=0.5), g[None])
        np.testing.assert_array_equal(updates[0], g / 0.5)


@pytest.mark.parametrize(
    "dtype", [np.complex128, pytest.param(np.complex64, marks=pytest.mark.nightly)]
)
def test_complex_gradients_are_scaled_by_their_modulus(dtype):
    rng = np.random.RandomState(0)
    g = (rng.standard_normal((50, 8)) + 1j * rng.standard_normal((50, 8))).astype(np.complex64)
    with jax.enable_x64(dtype == np.complex128):
        results = run_all([scale_by_rms(**options) for options in OPTIONS], g.astype(dtype))
    rtol = 1e-13 if dtype == np.complex128 else 3e-6
    for options, (updates, state) in zip(OPTIONS, results, strict=True):
        assert not np.iscomplexobj(state.nu)
        assert updates.dtype == dtype
        expected = reference.scale_by_rms(g, **options)
        np.testing.assert_allclose(updates, expected, rtol=rtol, err_msg=str(options))


class TestDerivatives:
    def test_meta_gradients_are_finite_at_zero(self):
        def loss_after_training(start, tx):
            params, state = start, tx.init(start)
            for _ in range(3):
                g = jax.grad(lambda p: jnp.sum(p[1:] ** 2))(params)  # that of p[0] is always 0
                updates, state = tx.update(g, state)
                params = params - 0.1 * updates
            return jnp.sum(params**2)

        txs = [
            scale_by_rms(eps_in_sqrt=inside, centered=centered)
            for inside, centered in itertools.product((False, True), repeat=2)
        ]
        run = jax.jit(lambda start: [jax.grad(loss_after_training)(start, tx) for tx in txs])
        metas = np.array(run(jnp.array([1.0, 2.0, 0.0])))
        assert np.isfinite(metas).all()
        np.testing.assert_allclose(metas[:, 0], 2.0)  # p[0] never moves: d p[0]^2 = 2 p[0]

    def test_hyperparameters_are_differentiable(self):
        g, step = gradients("normal", steps=20, size=4).astype(float), 1e-6
        numbers = {"decay": 0.75, "eps": 0.125, "initial_scale": 0.5}

        def sum_of_squares(numbers):
            tx = scale_by_rms(**numbers)
            update = lambda state, g: tx.update(g, state)[::-1]
            return jnp.sum(jax.lax.scan(update, tx.init(g[0]), g)[1][-1] ** 2)

        changes = step * np.eye(3)
        around = {k: numbers[k] + np.stack([x, -x]) for k, x in zip(numbers, changes, strict=True)}
        with jax.enable_x64(True):
            values = jax.vmap(jax.vmap(sum_of_squares))
            both = lambda x, around: (jax.grad(sum_of_squares)(x), values(around))
            derivatives, differences = jax.tree.map(np.asarray, jax.jit(both)(numbers, around))
        up, down = differences
        derivatives = np.array([derivatives[name] for name in numbers])
        np.testing.assert_allclose(derivatives, (up - down) / (2 * step), rtol=1e-6)
        assert np.all(derivatives != 0)


class Layer(eqx.Module):
    weight: jax.Array
    activation: object = eqx.field(static=True, default=jnp.tanh)


TREES = {
    "scalar": jnp.float32(2.0),
    "python number": 2.0,
    "empty": {},
    "none": {"a": jnp.ones(3), "b": None, "c": (None, jnp.ones(()))},
    "size 0": [jnp.ones((0, 3)), jnp.ones(2)],
    "masked": {"a": jnp.ones(2), "b": optax.MaskedNode()},
    "frozen dict": flax.core.freeze({"a": {"b": jnp.ones(2)}}),
    "nnx state": nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param),
    "equinox": Layer(jnp.ones((2, 2))),
}


@pytest.mark.parametrize("centered", [pytest.param(False, marks=pytest.mark.nightly), True])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_any_pytree(tree, centered):
    tx = scale_by_rms(0.75, centered=centered)
    for with_params in (False, True):
        updates, state = tx.update(tree, tx.init(tree), *([tree] if with_params else []))
        assert jax.tree.structure(updates) == jax.tree.structure(tree)
        assert jax.tree.structure(state.nu) == jax.tree.structure(tree)
        for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(tree), strict=True):
            expected = reference.scale_by_rms(np.asarray(g)[None], 0.75, centered=centered)[0]
            np.testing.assert_allclose(u, expected, rtol=1e-6)


def test_init_from_shapes_alone():
    shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "b": None}
    state = scale_by_rms(initial_scale=0.1, centered=True).init(shapes)
    np.testing.assert_array_equal(state.nu["a"], np.full((2, 3), 0.1, np.float32))
    assert state.mu["a"].dtype == jnp.float32
    huge = jax.ShapeDtypeStruct((2**33,), jnp.float32)
    abstract = jax.eval_shape(scale_by_rms().init, huge)
    assert abstract.nu.shape == (2**33,)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"decay": 1.0}, ValueError, ["decay=1.0", "[0, 1"]),
        ({"decay": None}, TypeError, ["decay=None"]),
        ({"initial_scale": 1.0, "bias_correction": True}, ValueError, ["initial_scale", "pass"]),
        ({"decay": jnp.bfloat16(0.999)}, ValueError, ["bfloat16", "hyperparam_dtype"]),
        ({"decay": lambda t: 0.9, "bias_correction": True}, ValueError, ["decay is a schedule"]),
        ({"eps_root": -1.0}, ValueError, ["eps_root=-1.0"]),
        ({"least_root": -1.0}, ValueError, ["least_root=-1.0"]),
        ({"eps_root": 1.0, "eps_in_sqrt": True}, ValueError, ["eps_root", "eps_in_sqrt"]),
        ({"numerator": "clip"}, TypeError, ["numerator='clip'", "Optax"]),
    ],
)
def test_bad_hyperparameters_are_refused(kwargs, error, words):
    with pytest.raises(error) as raised:
        scale_by_rms(**kwargs)
    for word in words:
        assert word in str(raised.value)
