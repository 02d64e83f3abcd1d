"""`dialects`: each framework's RMSProp, against the framework itself."""

import functools
import inspect
import re
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from oracles import LIVE, QUICK, RECORDED, TOLERANCES
from trajectories import RECORDED_STEPS, SCHEDULES, gradients, initial_params

from rmsprop_jax import RmsState, dialects, scale_by_rms

NAMES = dialects.__all__


def parameters(tx, params, grads) -> list[Any]:
    """The parameters after each of the gradients."""
    state, result = tx.init(params), []
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        result.append(params)
    return result


def available(framework):
    """The framework's name, or a skip where it can't run."""
    try:
        oracles.optimizer(framework)
    except ImportError as error:
        pytest.skip(str(error))
    return framework


# 1,000 steps beside the frameworks, recorded and as they are today.


@pytest.mark.parametrize(
    ("framework", "dtype"),
    [
        # In float32, one configuration of each is among the mistakes below.
        pytest.param(name, dtype, marks=pytest.mark.nightly if i else ())
        for name in RECORDED
        for i, dtype in enumerate(oracles.dtypes(name))
    ],
)
def test_framework(framework, dtype):
    distances = oracles.compare(framework, dtype, options=QUICK if dtype == "float64" else None)
    configs, _ = oracles.recording(framework, dtype)
    assert distances.shape == (len(configs),)
    assert distances.max() <= TOLERANCES[dtype], configs[distances.argmax()]


@pytest.mark.parametrize(
    ("dtype", "steps"),
    [
        ("float64", 100),
        pytest.param("float64", 1000, marks=pytest.mark.nightly),
        pytest.param("float32", 1000, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("framework", ["pytorch", "timm", "keras"])
def test_framework_does_what_it_was_recorded_to_do(framework, dtype, steps):
    configs, now = oracles.live(available(framework), dtype, steps)
    recorded_configs, then = oracles.recording(framework, dtype)
    assert configs == recorded_configs
    assert oracles.distance(now, then[:, : now.shape[1]]).max() <= TOLERANCES[dtype]


def test_burn_gives_the_numbers_in_its_own_tests():
    # test_rmsprop_optimizer_with_numbers_basic: a linear layer of ones, and the sum of its outputs
    # is differentiated, so that all columns of the weight are equal.
    batches = [
        [
            [0.6294, 0.0940, 0.8176, 0.8824, 0.5228, 0.4310],
            [0.7152, 0.9559, 0.7893, 0.5684, 0.5939, 0.8883],
        ],
        [
            [0.8491, 0.2108, 0.8939, 0.4433, 0.5527, 0.2528],
            [0.3270, 0.0412, 0.5538, 0.9605, 0.3195, 0.9085],
        ],
    ]
    grads = [jnp.float32([*np.sum(x, axis=0), len(x)]) for x in batches]
    tx = dialects.burn(0.01, alpha=0.99, epsilon=1e-8, weight_decay=0.05, momentum=0.9)
    got = parameters(tx, jnp.float32([1] * 6 + [0.5]), grads)[-1]
    expected = [0.743937, 0.783809, 0.742881, 0.740366, 0.748005, 0.743710, 0.239199]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


# What makes a dialect, undone: each has to fail the comparisons above.


def deviation_from_the_new_mean(decay, eps, *, eps_in_sqrt=False, initial_scale=0.0, **options):
    """A centered second moment that isn't the variance: it averages (g - new mean)^2."""

    def init(params):
        return jnp.full_like(params, initial_scale), jnp.zeros_like(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        g, (nu, mu) = updates, state
        mu = decay * mu + (1 - decay) * g
        nu = decay * nu + (1 - decay) * (g - mu) ** 2
        return g / (jnp.sqrt(nu + eps) if eps_in_sqrt else jnp.sqrt(nu) + eps), (nu, mu)

    return optax.GradientTransformation(init, update)


def momentum_of_updates(*args, numerator=None, **options):
    """What is summed up has been divided before."""
    rms = scale_by_rms(*args, **options)
    return rms if numerator is None else optax.chain(rms, numerator)


def with_option(name, change):
    """`scale_by_rms` with one option other than asked for."""
    default = inspect.signature(scale_by_rms).parameters[name].default

    def mutant(*args, **options):
        return scale_by_rms(*args, **options | {name: change(options.get(name, default))})

    return mutant


RATE, TRACE = r"( *parts\.scale_by_learning_rate\(.*\n)", r"( *\S.*trace\(.*\n)"
MUTATIONS: dict[str, Any] = {  # another `scale_by_rms`, or a replacement in the dialect's source
    "nothing": scale_by_rms,
    "place of eps": with_option("eps_in_sqrt", lambda inside: not inside),
    "start value": with_option("initial_scale", lambda start: 1.0 - start),
    "centering": with_option("centered", lambda centered: False),
    "form of centering": deviation_from_the_new_mean,
    "place of the learning rate": (
        (RATE + TRACE, r"\2\1"),
        (TRACE + RATE, r"\2\1"),
        ("if lr_in_momentum else", "if not lr_in_momentum else"),
    ),
    "order of weight decay": (
        (
            rf" *parts.coupled_decay\(weight_decay\),\n(.*\n(?:{RATE}|{TRACE}){{2}})",
            r"\1parts.decoupled_decay(RATE, weight_decay),\n",
        ),
        (
            r"( *scale_by_rms\(.*\n(?:.*\n)*) *parts.decoupled_decay\(learning_rate, .*\n",
            r"parts.coupled_decay(weight_decay),\n\1",
        ),
        ("if decoupled_decay else", "if not decoupled_decay else"),
        ("if decouple_wd else", "if not decouple_wd else"),
        (
            rf" *parts.coupled_decay\(weight_decay\),\n(.*\n.*\n(?:{RATE}|{TRACE}){{2}})",
            r"\1parts.decoupled_decay(RATE, weight_decay),\n",
        ),
    ),
    "what momentum is of": momentum_of_updates,
    "place of maximize": ((r"( *parts.scale\(-1.0\).*\n)( *parts.coupled_decay.*\n)", r"\2\1"),),
}
UNCENTERED = ("jax_example_libraries", "fastai", "tensorflowjs")
WITHOUT = {  # what a framework doesn't have, or always has
    "centering": ["mlx", *UNCENTERED],
    "form of centering": ["mlx", *UNCENTERED],
    "place of the learning rate": ["mlx", "fastai"],
    "order of weight decay": [
        *("tf_keras_legacy", "tensorflow1", "sonnet", "optax", "mlx", "chainer_graves"),
        *("jax_example_libraries", "tensorflowjs"),
    ],
    "what momentum is of": [name for name in RECORDED if name != "fastai"],
    "place of maximize": [name for name in RECORDED if name not in ("pytorch", "torchopt")],
}
MUTANTS = [
    (framework, mutation)
    for framework in RECORDED
    for mutation in MUTATIONS
    if framework not in WITHOUT.get(mutation, ())
    and mutation != "nothing"
    and framework != "mxnet"  # graves once
]
BY_DAY = ("timm", "fastai", "torchopt")
"""Frameworks that have all of it between them."""


def mutant(dialect, mutation):
    """A dialect with one mistake."""
    function = getattr(dialects, dialect)
    source, change, namespace = inspect.getsource(function), MUTATIONS[mutation], {}
    if isinstance(change, tuple):
        first = next(iter(inspect.signature(function).parameters))
        new = [re.subn(old, new.replace("RATE", first), source) for old, new in change]
        ((source, _),) = [(text, count) for text, count in new if count == 1]
    else:
        namespace = {"scale_by_rms": change}
    exec(source, namespace := vars(sys.modules[function.__module__]) | namespace)
    return namespace[dialect]


def with_everything(framework):
    """A configuration with all that the framework has, and what the framework did with it."""
    configs, theirs = oracles.recording(framework, "float32")
    steps = [i for i, config in enumerate(configs) if config["schedule"] == "step"]
    first = max(steps, key=lambda i: sum(map(bool, configs[i]["kwargs"].values())))
    return configs[first]["kwargs"], theirs[first]


@functools.cache
def distances(mutants, options=None):
    """How far a framework is from its dialect with a mistake, for pairs of both."""
    factories = []
    for framework, mutation in mutants:
        dialect = RECORDED[framework]
        calls = vars(dialects) | {dialect: mutant(dialect, mutation)}
        config, calls = with_everything(framework)[0], types.SimpleNamespace(**calls)
        factories.append(functools.partial(oracles.call, framework, config, calls=calls))
    rows = oracles.run(factories, "float32", options and dict(options))[:, SCHEDULES.index("step")]
    theirs = [with_everything(framework)[1] for framework, _ in mutants]
    found = oracles.distance(rows[:, np.array(RECORDED_STEPS) - 1], np.stack(theirs))
    return dict(zip(mutants, found, strict=True))


@pytest.mark.parametrize("framework", RECORDED)
def test_single_precision(framework):
    """In one program for all, compiled as users do."""
    every = tuple((name, "nothing") for name in RECORDED)
    assert distances(every)[framework, "nothing"] <= TOLERANCES["float32"]


@pytest.mark.parametrize(
    ("framework", "mutation"),
    [pytest.param(*x, marks=() if x[0] in BY_DAY else pytest.mark.nightly) for x in MUTANTS],
)
def test_every_mistake_is_noticed(framework, mutation):
    together = tuple(x for x in MUTANTS if (x[0] in BY_DAY) == (framework in BY_DAY))
    found = distances(together, tuple(QUICK.items()))
    assert found[framework, mutation] > 10 * TOLERANCES["float32"]


def test_complex_parameters():
    torch = pytest.importorskip("torch")
    config = {"momentum": 0.5, "centered": True, "weight_decay": 0.1, "maximize": True}
    target = np.array([1 + 2j, -3 + 0.5j, 0.25j])
    start = np.array([0.5 - 1j, 2 + 2j, -1 + 0j])
    z = torch.nn.Parameter(torch.tensor(start))
    opt, theirs = torch.optim.RMSprop([z], **config), []
    for _ in range(20):
        opt.zero_grad()
        ((z**2 - torch.tensor(target)).abs() ** 2).sum().backward()
        opt.step()
        theirs.append(z.detach().numpy().copy())
    tx = dialects.pytorch(**config)

    def step(carry, _):
        z, state = carry
        g = jax.grad(lambda z: jnp.sum(jnp.abs(z**2 - target) ** 2))(z)
        updates, state = tx.update(jnp.conj(g), state, z)
        return (z + updates, state), z + updates

    with jax.enable_x64(True):
        mine = jax.lax.scan(step, (jnp.asarray(start), tx.init(start)), length=20)[1]
    np.testing.assert_allclose(mine, theirs, rtol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.nightly)])
def test_optax_values(dtype):
    """Every step starts from Optax's own state, so that differences don't add up."""

    def run(config, start, grads):
        theirs, mine = optax.rmsprop(2.0**-7, **config), dialects.optax(2.0**-7, **config)

        def step(carry, g):
            params, state, count = carry
            second, *rest = state
            # Our averages are kept bias-corrected, and centered.
            weight = 1 - config.get("decay", 0.9) ** count if "bias_correction" in config else 1
            weight = jnp.where(count == 0, 1, weight).astype(dtype)
            mu = second.mu / weight if config.get("centered") else None
            nu = second.nu / weight - (0 if mu is None else mu**2)
            converted: Any = (RmsState(count, nu, mu), *rest)
            ours, _ = mine.update(g, converted, params)
            updates, state = theirs.update(g, state, params)
            new = params + updates
            return (new, state, count + 1), (new, params + ours)

        return jax.lax.scan(step, (start, theirs.init(start), jnp.int32(0)), grads)[1]

    def run_all(start, grads):
        return [run(config, start, grads) for config in LIVE["optax"]]

    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        start = jnp.asarray(initial_params(dtype))
        results = jax.jit(run_all)(start, jnp.asarray(gradients(dtype)[:300]))
    for config, result in zip(LIVE["optax"], results, strict=True):
        theirs, mine = map(np.asarray, result)
        ulp = np.spacing(np.maximum(np.abs(theirs), 1))  # of 1 for a parameter on its way past 0
        assert np.max(np.abs(mine - theirs) / ulp) <= 2, config


# All of them.


def halving(count):
    """A learning rate that tells a buffer of updates from one of directions."""
    return 0.5**count


BASE = {"momentum": 0.5, "weight_decay": 0.25, "mom": 0.5, "wd": 0.25}
OTHER: dict[str, Any] = {  # another value for each argument; 0.5 for those that aren't here
    **dict.fromkeys(["centered", "maximize", "nesterov", "bias_correction"], True),
    **dict.fromkeys(["capturable", "foreach", "differentiable", "use_locking", "use_ema"], True),
    **dict.fromkeys(["decoupled_decay", "corrected_weight_decay", "caution"], True),
    **dict.fromkeys(["eps_in_sqrt", "lr_in_momentum", "decouple_wd"], False),
    **dict.fromkeys(["gradient_accumulation_steps", "ema_overwrite_frequency"], 2),
    **dict.fromkeys(["grad_clip", "grad_clipping"], "of the framework"),
    "name": "mine",
    "momentum": 0.75,
    "weight_decay": 0.125,
    "mom": 0.75,
    "wd": 0.125,
}
NEEDS = {  # what has to be there for an argument to have an effect
    "corrected_weight_decay": {"decoupled_decay": True, "max_lr": 1.0},
    "eps_in_sqrt": {"eps": 0.5},
    "max_lr": {"decoupled_decay": True, "corrected_weight_decay": True, "max_lr": 1.0},
}


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, a) for name in NAMES for a in inspect.signature(getattr(dialects, name)).parameters],
)
def test_every_argument_is_honoured_or_refused(name, argument):
    dialect = getattr(dialects, name)
    arguments = list(inspect.signature(dialect).parameters)
    base = {k: v for k, v in BASE.items() if k in arguments} | {arguments[0]: halving}
    base |= NEEDS.get(argument, {})
    other = base | {argument: OTHER.get(argument, 0.5)}
    text = re.search(rf"^  {argument}: (.*)", inspect.getdoc(dialect) or "", re.M)
    assert text is not None, "not documented"
    if text[1].startswith("must be"):
        with pytest.raises(ValueError, match=rf"{argument}: .*(optax|dialects)\."):
            dialect(**other)
        return
    results = [after_three_steps(name, tuple(kwargs.items())) for kwargs in (base, other)]
    same = np.allclose(*results, rtol=1e-6, atol=0)
    assert same == ("without effect" in text[1])


@functools.cache
def after_three_steps(name, kwargs):
    stream = np.random.RandomState(0)
    # Two arrays, to tell a norm from the global one; of one shape, which is compiled once.
    grads = [tuple(jnp.float32(stream.randn(2, 2))) for _ in range(3)]
    params = (jnp.ones(2), jnp.ones(2))
    return np.concatenate(parameters(getattr(dialects, name)(**dict(kwargs)), params, grads)[-1])


def test_numbers_may_be_traced():
    numbers = dict.fromkeys(["lr", "learning_rate", "step_size", "weight_decay", "wd"], 0.25)
    names = ["alpha", "rho", "decay", "gamma", "sqr_mom", "momentum", "mom", "eps", "epsilon"]
    numbers |= dict.fromkeys(names, 0.5)

    def run(numbers):
        results = {}
        for name in NAMES:
            dialect = getattr(dialects, name)
            known = inspect.signature(dialect).parameters
            tx = dialect(**{k: v for k, v in numbers.items() if k in known})
            results[name] = parameters(tx, jnp.arange(1.0, 4.0), grads)[-1]
        return results

    grads = np.array([[-1, 0, 1], [1, 1, 1]], np.float32)
    traced, known = jax.jit(lambda traced: (run(traced), run(numbers)))(numbers)
    for name in NAMES:
        np.testing.assert_allclose(traced[name], known[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, p.name)
        for name in NAMES
        for p in inspect.signature(getattr(dialects, name), eval_str=True).parameters.values()
        if p.annotation is not bool
        and p.name not in ("name", "foreach", "ema_momentum", "ema_overwrite_frequency")
        and p.name not in ("gradient_accumulation_steps", "grad_clip", "grad_clipping")
        and not (name == "optax" and p.name == "learning_rate")  # Optax's users ascend by it
    ],
)
def test_numbers_out_of_range_are_refused(name, argument):
    dialect = getattr(dialects, name)
    required = {next(iter(inspect.signature(dialect).parameters)): 0.1}
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"^(learning_rate|{argument})=.* out of range"):
            dialect(**required | {argument: wrong})


DECAYED = dialects.keras(weight_decay=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dialects.pytorch(lr=jnp.array([1.0])), "lr must be a scalar"),
        (lambda: dialects.timm(halving, corrected_weight_decay=True), "max_lr"),
        (lambda: DECAYED.update(jnp.ones(1), DECAYED.init(jnp.ones(1))), "needs params"),
        (lambda: dialects.keras(clipnorm=1.0, clipvalue=1.0), "Only one of"),
        (lambda: dialects.keras(clipnorm=0.0), "clipnorm=0"),
        (lambda: dialects.tf_keras_legacy(clipnorm=1.0, global_clipnorm=1.0), "Only one of"),
        (lambda: dialects.optax(0.1, initial_scale=1.0, bias_correction=True), "initial_scale"),
        (lambda: dialects.pytorch(alpha=1.0), "alpha"),
        (lambda: dialects.keras(momentum=1.5), "momentum"),
        (lambda: dialects.tf_keras_legacy(momentum=1.5), "momentum"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tf_keras_legacy_replaces_an_epsilon_of_0():
    params, grads = jnp.zeros(2), [jnp.array([1e-4, 1.0])]
    for momentum in (0.0, 0.5):
        results = [
            parameters(dialects.tf_keras_legacy(momentum=momentum, epsilon=eps), params, grads)[0]
            for eps in (0, None, 1e-7, 1e-9)
        ]
        np.testing.assert_array_equal(results[0], results[2])
        np.testing.assert_array_equal(results[1], results[2])
        assert results[0][0] != results[3][0]


def test_tf_keras_legacy_decays_the_learning_rate_and_clips_in_its_order():
    schedule = lambda count: 0.5 / (1 + 0.25 * count)
    params, grads = jnp.zeros(2), [jnp.array([3.0, 4.0])] * 3
    both = dialects.tf_keras_legacy(0.5, clipvalue=3.0, clipnorm=2.0, decay=0.25, epsilon=1.0)
    plain = dialects.tf_keras_legacy(schedule, epsilon=1.0)
    clipped = [jnp.full(2, 2.0**0.5)] * 3  # by value to [3, 3], then by norm
    mine, expected = parameters(both, params, grads), parameters(plain, params, clipped)
    np.testing.assert_allclose(mine, expected, rtol=1e-6)


CENTERED = [
    name
    for name in NAMES
    if "centered" in inspect.signature(getattr(dialects, name)).parameters
    and name != "tensorflowjs"  # which refuses it
]


def test_variance_is_exact_where_frameworks_give_nan():
    # The variance of a constant is rho^t (1 - rho^t) g^2, of rho = 0.5 soon far below g^2's ulp.
    txs = {"graves": dialects.graves(0.1, alpha=0.5)}
    for name in CENTERED:
        dialect = getattr(dialects, name)
        arguments = inspect.signature(dialect).parameters
        rho = next(k for k in ("alpha", "rho", "decay") if k in arguments)
        txs[name] = dialect(0.1, centered=True, **{rho: 0.5})

    def step(states, _):
        steps = {name: tx.update(jnp.array([1.7]), states[name]) for name, tx in txs.items()}
        return {name: state for name, (_, state) in steps.items()}, {
            k: u for k, (u, _) in steps.items()
        }

    states = {name: tx.init(jnp.zeros(1)) for name, tx in txs.items()}
    states, updates = jax.lax.scan(step, states, length=40)
    for name, state in states.items():
        assert np.isfinite(updates[name]).all()
        (rms,) = [s for s in jax.tree.leaves(state, is_leaf=is_rms) if is_rms(s)]
        start = name in ("timm", "mindspore", "stable_baselines3", "tensorflow1")
        exact = 0.5**40 * (start + (1 - 0.5**40) * 1.7**2)
        np.testing.assert_allclose(rms.nu, exact, rtol=1e-5, err_msg=name)


def is_rms(x):
    return isinstance(x, RmsState)
