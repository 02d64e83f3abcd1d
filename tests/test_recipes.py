"""Recipes against the cited code, retold in NumPy in the names that its sources use."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_program import run_all

from rmsprop_jax import recipes

SHAPES = {"a": (3,), "b": (2, 2)}  # two leaves, so that a norm over all differs from one of each


def gradients(steps, size):
    """Gradients whose norm is around size, half of the time above it."""
    random = np.random.RandomState(0)
    scales = size * 10.0 ** random.uniform(-0.8, 0.8, steps) / np.sqrt(7)
    return [{k: s * random.standard_normal(n) for k, n in SHAPES.items()} for s in scales]


# What the sources compute. Each takes the gradients of one leaf and the learning rates.


def hinton(gs, rates, decay):
    mean_square = 0
    for g, rate in zip(gs, rates, strict=True):
        mean_square = decay * mean_square + (1 - decay) * g**2
        yield -rate * g / np.sqrt(mean_square)


def chainer_graves(gs, rates, alpha, momentum, eps):
    n = g = delta = 0
    for grad, lr in zip(gs, rates, strict=True):
        n = n * alpha + (1 - alpha) * grad * grad
        g = g * alpha + (1 - alpha) * grad
        delta = delta * momentum - lr * grad / np.sqrt(n - g * g + eps)
        yield delta


def lua_dqn(gs, rates, keep, add, min_sq_gradient):
    g = g2 = 0
    for gradient, lr in zip(gs, rates, strict=True):
        dw = -gradient  # the source ascends
        g = keep * g + add * dw
        g2 = keep * g2 + add * (dw * dw)
        tmp = np.sqrt(g * g * -1 + g2 + min_sq_gradient)
        yield lr * dw / tmp


def eps_inside_sqrt(gs, rates, alpha, eps, square_avg):
    for grad, lr in zip(gs, rates, strict=True):
        square_avg = square_avg * alpha + (1 - alpha) * grad * grad
        yield -lr * grad / np.sqrt(square_avg + eps)


def pytorch(gs, rates, alpha, eps):
    square_avg = 0
    for grad, lr in zip(gs, rates, strict=True):
        square_avg = square_avg * alpha + (1 - alpha) * grad * grad
        yield -lr * (grad / (np.sqrt(square_avg) + eps))


def tf_kernel(gs, rates, rho, momentum, epsilon, ms):
    mom = 0
    for grad, lr in zip(gs, rates, strict=True):
        ms = ms + (grad * grad - ms) * (1 - rho)
        mom = mom * momentum + lr * grad / np.sqrt(ms + epsilon)
        yield -mom


# The schedules of the sources.


def constant(step, lr):
    return lr


def lr_lambda(epoch, lr, T, B, total_steps):
    return lr * (1 - min(epoch * T * B, total_steps) / total_steps)


def anneal_learning_rate(update, lr, t_max, max_global_time_step):
    global_time_step = update * t_max
    return max(lr * (max_global_time_step - global_time_step) / max_global_time_step, 0.0)


def exponential_decay(global_step, lr, decay_steps, decay_rate):
    return lr * decay_rate ** (global_step // decay_steps)


def build_learning_rate(global_step, base, batch, epoch, factor, decay_epochs, warmup_epochs):
    initial_lr = base * (batch / 256.0)
    warmup_steps = int(warmup_epochs * epoch)
    if global_step < warmup_steps:
        return initial_lr * global_step / warmup_steps
    return exponential_decay(global_step, initial_lr, epoch * decay_epochs, factor)


def linear_warmup(step, lr, decay_steps, decay_rate, warmup_steps, warmup_lr):
    final_warmup_lr = exponential_decay(warmup_steps, lr, decay_steps, decay_rate)
    if step < warmup_steps:
        return warmup_lr + step / warmup_steps * (final_warmup_lr - warmup_lr)
    return exponential_decay(step, lr, decay_steps, decay_rate)


def dpo_warmup(step, lr, warmup_steps):
    return lr * min(1.0, (step + 1) / (warmup_steps + 1))


# The tables: how a recipe is called, then the numbers cited in its docstring, which no test takes
# from the recipe.
TORCH = dict(alpha=0.99)
TF = dict(rho=0.9, momentum=0.9, ms=1.0)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "hinton2012": dict(learning_rate=0.3),
    "a3c": dict(learning_rate=7e-4, total_steps=204, t_max=5),
    "impala_torchbeast": dict(total_steps=20_100),
    "a2c_stable_baselines, tf_like": dict(tf_like=True),
    "efficientnet": dict(steps_per_epoch=6.5, batch_size=2048),
    "mobilenet_v3": dict(steps_per_epoch=7),
    "inception_v3": dict(steps_per_epoch=6.7),
}
OPTIMIZERS = {
    "hinton2012": (hinton, dict(decay=0.9)),
    "graves2013": (chainer_graves, dict(alpha=0.95, momentum=0.9, eps=1e-4)),
    "dqn_nature": (lua_dqn, dict(keep=0.95, add=0.05, min_sq_gradient=0.01)),
    "a3c": (eps_inside_sqrt, dict(alpha=0.99, eps=0.1, square_avg=0.0)),
    "impala_torchbeast": (pytorch, dict(TORCH, eps=0.01)),
    "pymarl": (pytorch, dict(TORCH, eps=1e-5)),
    "a2c_stable_baselines": (pytorch, dict(TORCH, eps=1e-5)),
    "a2c_stable_baselines, tf_like": (eps_inside_sqrt, dict(TORCH, eps=1e-5, square_avg=1.0)),
    "efficientnet": (tf_kernel, dict(TF, epsilon=0.001)),
    "mobilenet_v3": (tf_kernel, dict(TF, epsilon=0.002, ms=0.0)),
    "inception_v3": (tf_kernel, dict(TF, epsilon=1.0)),
    "dpo": (pytorch, dict(TORCH, eps=1e-8)),
}
SCHEDULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "hinton2012": (constant, dict(lr=0.3)),
    "graves2013": (constant, dict(lr=1e-4)),
    "dqn_nature": (constant, dict(lr=0.00025)),
    "a3c": (anneal_learning_rate, dict(lr=7e-4, t_max=5, max_global_time_step=204)),
    "impala_torchbeast": (lr_lambda, dict(lr=0.00048, T=80, B=8, total_steps=20_100)),
    "pymarl": (constant, dict(lr=0.0005)),
    "a2c_stable_baselines": (constant, dict(lr=7e-4)),
    "a2c_stable_baselines, tf_like": (constant, dict(lr=7e-4)),
    "efficientnet": (
        build_learning_rate,
        dict(base=0.016, batch=2048, epoch=6.5, factor=0.97, decay_epochs=2.4, warmup_epochs=5),
    ),
    "mobilenet_v3": (
        linear_warmup,
        dict(lr=0.01, decay_steps=21, decay_rate=0.99, warmup_steps=35, warmup_lr=0.001),
    ),
    "inception_v3": (exponential_decay, dict(lr=0.045, decay_steps=13, decay_rate=0.94)),
    "dpo": (dpo_warmup, dict(lr=5e-7, warmup_steps=150)),
}
CLIPPING = {  # of gradients: largest norm, what is added to the norm
    "a3c": (40.0, 0.0),
    "impala_torchbeast": (40.0, 1e-6),
    "pymarl": (10.0, 1e-6),
    "a2c_stable_baselines": (0.5, 1e-6),
    "a2c_stable_baselines, tf_like": (0.5, 1e-6),
    "dpo": (10.0, 1e-6),
}
CITED: dict[str, tuple[Any, ...]] = {
    name: (
        ARGUMENTS.get(name, {}),
        *OPTIMIZERS[name],
        *SCHEDULES[name],
        CLIPPING.get(name, (np.inf, 0.0)),
    )
    for name in OPTIMIZERS
}
STEPS = 170  # beyond the end of every schedule


def cited_updates(gs, optimizer, numbers, schedule, rate_numbers, clipping):
    max_norm, added = clipping
    norms = [np.sqrt(sum(np.sum(x**2) for x in g.values())) for g in gs]
    factors = np.minimum(1.0, max_norm / (np.asarray(norms) + added))
    if max_norm < np.inf:
        assert np.any(factors < 0.9)
        assert np.any(factors == 1)
    rates = [schedule(step, **rate_numbers) for step in range(len(gs))]
    clipped = {k: [f * g[k] for f, g in zip(factors, gs, strict=True)] for k in SHAPES}
    return {k: np.stack(list(optimizer(clipped[k], rates, **numbers))) for k in SHAPES}


def recipe_updates(tx, gs):
    return all_updates([tx], gs)[0]


def all_updates(txs, gs):
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *gs)
    return [updates for updates, _ in run_all(txs, stacked)]


def gradients_for(name):
    return gradients(STEPS, CLIPPING.get(name, (0.2,))[0])


@functools.cache
def trajectories(name):
    """The updates of a recipe as it is, by `None`, and with each number changed, by its name."""
    arguments, recipe = ARGUMENTS.get(name, {}), getattr(recipes, name.partition(",")[0])
    with jax.enable_x64(True):
        txs = [recipe(**arguments)]
        txs += [recipe(**arguments, **{k: x}) for k, x in changes(name).items()]
        updates = all_updates(txs, gradients_for(name))
    return dict(zip([None, *changes(name)], updates, strict=True))


def error(updates, expected):
    """Largest difference, in units of the largest update of the whole run."""
    scale = max(np.max(np.abs(u)) for u in expected.values())
    return max(np.max(np.abs(updates[k] - expected[k])) / scale for k in SHAPES)


@pytest.mark.parametrize("name", CITED)
def test_recipe_computes_what_its_source_does(name):
    _, optimizer, numbers, schedule, rate_numbers, clipping = CITED[name]
    max_norm, added = clipping
    gs, updates = gradients_for(name), trajectories(name)[None]
    assert updates["a"].dtype == np.float64

    def error_with(numbers=numbers, rate_numbers=rate_numbers, clipping=clipping):
        expected = cited_updates(gs, optimizer, numbers, schedule, rate_numbers, clipping)
        return error(updates, expected)

    assert error_with() <= 1e-12
    # Every number counts: with any other in its place, the source would do something else.
    for key, value in numbers.items():
        other = value * 0.99 if value else 0.01
        assert error_with(numbers={**numbers, key: other}) > 1e-10, key
    for key, value in rate_numbers.items():
        assert error_with(rate_numbers={**rate_numbers, key: value * 0.9}) > 1e-4, key
    if max_norm < np.inf:
        assert error_with(clipping=(max_norm * 0.99, added)) > 1e-4
        assert error_with(clipping=(max_norm, 1e-6 - added)) > 1e-10


# What the sources call the numbers that all recipes have by the same names.
SAME = {
    "decay": ("decay", "alpha", "rho", "keep"),
    "eps": ("eps", "epsilon", "min_sq_gradient"),
    "momentum": ("momentum",),
    "learning_rate": ("lr", "base"),
}


def overrides(name):
    """The numbers that a recipe takes by name, with the values of its source."""
    arguments = inspect.signature(getattr(recipes, name)).parameters.values()
    return {a.name: a.default for a in arguments if isinstance(a.default, float)}


def changes(name):
    """Another value for each of them."""
    defaults = overrides(name.partition(",")[0])
    return {key: value * 0.75 if value else 0.125 for key, value in defaults.items()}


@pytest.mark.parametrize("name", CITED)
def test_numbers_can_be_changed_by_name(name):
    _, optimizer, numbers, schedule, rate_numbers, (max_norm, added) = CITED[name]
    recipe = name.partition(",")[0]
    assert {"decay", "eps"} <= changes(name).keys() <= {*SAME, "max_norm"}
    assert ("max_norm" in changes(name)) == (max_norm < np.inf)
    for key, changed in changes(name).items():
        theirs, their_rates, clip = dict(numbers), dict(rate_numbers), (max_norm, added)
        if key == "max_norm":
            clip = (changed, added)
        else:
            if (recipe, key) == ("hinton2012", "eps"):  # of which the slide has none
                optimizer, theirs = pytorch, {"alpha": 0.9, "eps": 0.0}
            (other,) = (n for n in SAME[key] if n in theirs or n in their_rates)
            (theirs if other in theirs else their_rates)[other] = changed
            if other == "keep":
                theirs["add"] = 1 - changed
        gs = gradients_for(name)
        expected = cited_updates(gs, optimizer, theirs, schedule, their_rates, clip)
        assert error(trajectories(name)[key], expected) <= 1e-12, key


def test_a_schedule_takes_the_place_of_the_recipes_own():
    schedule = lambda count: 0.5 * (count == 3)
    arguments = {
        name: ARGUMENTS.get(name, {}) | {"learning_rate": schedule} for name in recipes.__all__
    }
    txs = [getattr(recipes, name)(**kwargs) for name, kwargs in arguments.items()]
    results = all_updates(txs, [{"a": np.ones(1, np.float32)}] * 5)
    for name, updates in zip(arguments, results, strict=True):
        momentum = "momentum" in overrides(name)
        moves = (updates["a"][:, 0] != 0).tolist()
        assert moves == [False, False, False, True, momentum], name


@pytest.mark.parametrize("recipe", recipes.__all__)
def test_changed_numbers_are_checked(recipe):
    bad = {"decay": 1.0, "eps": -1.0, "momentum": -0.5, "max_norm": 0.0, "learning_rate": -1.0}
    for key in {*overrides(recipe), "learning_rate"}:
        with pytest.raises(ValueError, match=f"^{key}="):
            getattr(recipes, recipe)(**ARGUMENTS.get(recipe, {}) | {key: bad[key]})


# Learning rates worked out by hand, around the boundaries of the schedules.
RATES = [
    ("a3c", {0: 7e-4, 1: 7e-4 * 199 / 204, 40: 7e-4 * 4 / 204, 41: 0, 169: 0}),
    (
        "impala_torchbeast",
        {0: 0.00048, 1: 0.00048 * 19_460 / 20_100, 31: 6.208955223880597e-06, 32: 0, 169: 0},
    ),
    (  # warm-up to int(32.5) = 32, when two of the steps of 15.6 are past
        "efficientnet",
        {0: 0, 1: 0.004, 31: 0.124}
        | {32: 0.128 * 0.97**2, 46: 0.128 * 0.97**2}
        | {47: 0.128 * 0.97**3, 77: 0.128 * 0.97**4, 78: 0.128 * 0.97**5},
    ),
    (  # the first step of 21 is within the warm-up
        "mobilenet_v3",
        {0: 0.001, 20: 0.001 + 0.0089 * 20 / 35, 34: 0.001 + 0.0089 * 34 / 35}
        | {35: 0.0099, 41: 0.0099, 42: 0.009801, 63: 0.00970299},
    ),
    ("inception_v3", {0: 0.045, 12: 0.045, 13: 0.0423, 26: 0.039762}),
    ("dpo", {0: 5e-7 / 151, 1: 1e-6 / 151, 149: 5e-7 * 150 / 151, 150: 5e-7, 169: 5e-7}),
]


@pytest.mark.parametrize(("name", "expected"), RATES)
def test_learning_rates(name, expected):
    """Of the schedules above, which the recipes were compared with."""
    schedule, numbers = SCHEDULES[name]
    found = [schedule(step, **numbers) for step in expected]
    assert found == pytest.approx(list(expected.values()), rel=1e-13, abs=1e-22)


def test_dqn_with_a_mean_makes_the_steps_of_a_sum():
    gs = gradients(20, 0.2)
    means = [{k: x / 32 for k, x in g.items()} for g in gs]
    with jax.enable_x64(True):
        summed = recipe_updates(recipes.dqn_nature(), gs)
        mean = recipe_updates(recipes.dqn_nature(averaged_over=32), means)
    assert error(mean, summed) <= 1e-12


@pytest.mark.parametrize("name", ["pymarl", "dpo", "impala_torchbeast", "a2c_stable_baselines"])
def test_pytorch_itself(name):
    torch = pytest.importorskip("torch", reason="compares with the real PyTorch")
    (_, numbers), (schedule, rate_numbers) = OPTIMIZERS[name], SCHEDULES[name]
    tensors = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in SHAPES.values()]
    optimizer = torch.optim.RMSprop(tensors, lr=1.0, **numbers)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: schedule(n, **rate_numbers))
    rows = []
    for g in gradients_for(name):
        for tensor, key in zip(tensors, SHAPES, strict=True):
            tensor.grad = torch.from_numpy(g[key].copy())
        torch.nn.utils.clip_grad_norm_(tensors, CLIPPING[name][0])
        optimizer.step()
        rates.step()
        rows.append([t.detach().numpy().copy() for t in tensors])
    positions = {k: np.stack([row[i] for row in rows]) for i, k in enumerate(SHAPES)}
    updates = {k: np.cumsum(u, axis=0) for k, u in trajectories(name)[None].items()}
    assert error(updates, positions) <= 1e-12


def test_traced_learning_rates():
    g = {"a": jnp.ones(1)}

    def first_step(rate):
        tx = recipes.a3c(rate, total_steps=100)
        return tx.update(g, tx.init(g))[0]

    updates: Any = jax.jit(jax.vmap(first_step))(jnp.array([1e-3, 2e-3]))
    np.testing.assert_allclose(updates["a"][:, 0], [-1e-3 / 0.11**0.5, -2e-3 / 0.11**0.5], 1e-6)


def test_bfloat16_is_computed_in_float32():
    tx = recipes.pymarl()
    g = jnp.full(3, 100.0, jnp.bfloat16)
    state = tx.init(g)
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}
    updates = recipe_updates(tx, [{"a": g}])["a"]
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates.astype(np.float32), -0.005, rtol=5e-3)


BAD = [
    (lambda: recipes.dqn_nature(averaged_over=0), "averaged_over=0"),
    (lambda: recipes.a3c(7e-4, 0), "total_steps=0"),
    (lambda: recipes.a3c(7e-4, 1e6), "total_steps=1000000.0"),  # type: ignore[arg-type]
    (lambda: recipes.a3c(7e-4, 100, t_max=-5), "t_max=-5"),
    (lambda: recipes.impala_torchbeast(-1), "total_steps=-1"),
    (lambda: recipes.impala_torchbeast(True), "total_steps=True"),
    (lambda: recipes.impala_torchbeast(100, unroll_length=0), "unroll_length=0"),
    (lambda: recipes.impala_torchbeast(100, batch_size=0), "batch_size=0"),
    (lambda: recipes.efficientnet(0, 256), "steps_per_epoch=0"),
    (lambda: recipes.efficientnet(0.3, 256), "steps_per_epoch=0.3"),
    (lambda: recipes.efficientnet(float("nan"), 256), "steps_per_epoch=nan"),
    (lambda: recipes.efficientnet(100, 0), "batch_size=0"),
    (lambda: recipes.mobilenet_v3(0), "steps_per_epoch=0"),
    (lambda: recipes.mobilenet_v3(2.5), "steps_per_epoch=2.5"),  # type: ignore[arg-type]
    (lambda: recipes.inception_v3(0.4), "steps_per_epoch=0.4"),
]


@pytest.mark.parametrize(("call", "named"), BAD, ids=[named for _, named in BAD])
def test_bad_numbers_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_numbers_that_are_none():
    bad: Any = "fast"
    for call in (recipes.hinton2012, recipes.inception_v3, recipes.a2c_stable_baselines):
        with pytest.raises(TypeError, match="is not a real number"):
            call(bad)


def test_every_recipe_is_cited():
    assert {name.partition(",")[0] for name in CITED} == set(recipes.__all__)
    assert sorted(recipes.__all__) == recipes.__all__


@pytest.mark.parametrize("name", recipes.__all__)
def test_docstring_tells_the_source(name):
    doc = inspect.getdoc(getattr(recipes, name)) or ""
    assert "https://" in doc.partition("References:")[2]
