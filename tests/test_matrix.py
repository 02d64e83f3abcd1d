"""Optimizers × everything in Optax that goes around or beside one × JAX's transformations.

Each cell trains for some steps and is held against the same steps by hand: a Python loop in which
nothing is compiled, `update` of this library included, which otherwise compiles itself. The wrapper
is also put around Optax's own RMSProp, which is the oracle from outside.

All hyperparameters are powers of two, and gradients have few bits. Products of them are exact, so
that it makes no difference whether a compiler fuses them with the sum that follows, and most cells
agree to the bit. Where weights decay, gradients have all bits, and squares are rounded or not.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib, transforms

from rmsprop_jax import dialects, rmsprop, storage

STEPS, DEVICES = 4, 8
VALUES = np.float32([3.0, 2.0, 4.0, 3.5])  # of the loss, for what asks for it
FROZEN = {"w": False, "b": True}
LABELS = {"w": "rms", "b": "sgd"}


def stored(learning_rate, decay, eps):
    return storage.store(rmsprop(learning_rate, decay, eps), nu=storage.U8)


def pytorch_of_optax(lr, alpha, eps, momentum, weight_decay):
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_rms(alpha, eps, eps_in_sqrt=False),
        optax.trace(momentum),
        optax.scale_by_learning_rate(lr),
    )


_COMMON = {"learning_rate": 0.125, "decay": 0.5}
_OPTAX = functools.partial(optax.rmsprop, **_COMMON, eps=2.0**-10, eps_in_sqrt=False)
_PYTORCH = {"lr": 0.125, "alpha": 0.5, "eps": 2.0**-10, "momentum": 0.5, "weight_decay": 0.25}

OPTIMIZERS = {
    "rmsprop": functools.partial(rmsprop, **_COMMON, eps=2.0**-10),
    "pytorch": functools.partial(dialects.pytorch, **_PYTORCH),
    "tensorflow1": functools.partial(
        dialects.tensorflow1, **_COMMON, momentum=0.5, epsilon=2.0**-10
    ),
    "stored": functools.partial(stored, **_COMMON, eps=2.0**-10),
}
THEIRS = {
    "rmsprop": _OPTAX,
    "pytorch": functools.partial(pytorch_of_optax, **_PYTORCH),
    "tensorflow1": functools.partial(
        optax.rmsprop, **_COMMON, momentum=0.5, eps=2.0**-10, initial_scale=1.0
    ),
    "stored": _OPTAX,
}
"""The same algorithms in Optax, the last one without the storage."""

BY_DAY = ("pytorch", "stored")  # states of many layers, exact and rounded


def odd_steps(step, **extra_args):
    return step % 2 == 1


def spoilt(tx):
    """The transformation, with NaN for the gradients of one step."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, *, value):
        spoil = lambda u: jnp.where(value == 4.0, jnp.nan, u)
        return tx.update(jax.tree.map(spoil, updates), state, params, value=value)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def monitored(measures):
    """`optax.monitor`, whose own initial state has no measurements and so another structure."""
    tx = optax.monitor(measures)
    return tx._replace(init=lambda params: tx.update(params, tx.init(params))[1])


AROUND = {  # what takes an optimizer
    "chain": lambda opt: optax.chain(optax.scale(2.0), opt(), optax.identity()),
    "named_chain": lambda opt: optax.named_chain(("rms", opt()), ("half", optax.scale(0.5))),
    "masked": lambda opt: optax.masked(opt(), {"w": True, "b": False}),
    "partition": lambda opt: optax.partition({"rms": opt(), "sgd": optax.sgd(0.125)}, LABELS),
    "selective_transform": lambda opt: optax.selective_transform(opt(), freeze_mask=FROZEN),
    "MultiSteps": lambda opt: optax.MultiSteps(opt(), 2).gradient_transformation(),
    "skip_not_finite": lambda opt: spoilt(
        optax.MultiSteps(
            opt(), 2, should_skip_update_fn=optax.skip_not_finite
        ).gradient_transformation()
    ),
    "apply_if_finite": lambda opt: spoilt(optax.apply_if_finite(opt(), 3)),
    "conditionally_mask": lambda opt: optax.conditionally_mask(opt(), odd_steps),
    "conditionally_transform": lambda opt: optax.conditionally_transform(opt(), odd_steps),
    "inject_hyperparams": lambda opt: optax.inject_hyperparams(opt.func)(**opt.keywords),
    "flatten": lambda opt: optax.flatten(opt()),
    "lookahead": lambda opt: optax.lookahead(opt(), 2, 0.5, reset_state=True),
    "mechanize": lambda opt: contrib.mechanize(opt()),
    "sam": lambda opt: optax.GradientTransformation(*contrib.sam(opt(), optax.sgd(0.125))),
    "schedule_free": lambda opt: contrib.schedule_free(opt(), 0.125),
    "split_real_and_imaginary": lambda opt: contrib.split_real_and_imaginary(opt()),
    "galore": lambda opt: contrib.galore(1.0, rank=1, base_optimizer=opt()),
}
BESIDE = {  # what stands beside one in a chain
    "adaptive_grad_clip": lambda opt: optax.chain(optax.adaptive_grad_clip(0.125), opt()),
    "add_decayed_weights": lambda opt: optax.chain(optax.add_decayed_weights(0.125), opt()),
    "clip": lambda opt: optax.chain(
        optax.centralize(), optax.clip(0.25), optax.clip_by_block_rms(0.125), opt()
    ),
    "clip_by_global_norm": lambda opt: optax.chain(optax.clip_by_global_norm(0.25), opt()),
    "ema": lambda opt: optax.chain(opt(), optax.ema(0.5, debias=False)),
    "freeze": lambda opt: optax.chain(opt(), optax.freeze(FROZEN)),
    "keep_params_nonnegative": lambda opt: optax.chain(
        opt(), optax.scale(4.0), optax.keep_params_nonnegative()
    ),
    "monitor": lambda opt: optax.chain(
        opt(), monitored({"ema": optax.measure_with_ema(optax.tree.norm, 0.5)})
    ),
    "reduce_on_plateau": lambda opt: optax.chain(
        opt(), contrib.reduce_on_plateau(factor=0.5, patience=1)
    ),
    "snapshot": lambda opt: optax.chain(opt(), optax.snapshot("norm", optax.tree.norm)),
    "trace": lambda opt: optax.chain(opt(), optax.trace(0.5, nesterov=True), optax.apply_every(2)),
    "zero_nans": lambda opt: spoilt(optax.chain(optax.zero_nans(), opt())),
}
WRAPPERS = AROUND | BESIDE
ROUNDED = {
    "adaptive_grad_clip",
    "add_decayed_weights",
    "clip",
    "clip_by_global_norm",
    "galore",
    "mechanize",
    "monitor",
    "schedule_free",
    "snapshot",
}
"""Those with decay, means, norms or other numbers than powers of two, which compilers round
otherwise."""

REFUSED = {("galore", "pytorch"): "weight decay needs the parameters, which GaLore doesn't pass on"}

EXCLUDED = {
    "add_noise": "its random numbers take seconds by hand; test_wrappers has it",
    "inject_stateful_hyperparams": "deprecated for inject_hyperparams",
    "lbfgs": "takes a line search",
    "multi_transform": "another name of partition",
    "per_example_global_norm_clip": "a function of arrays",
    "per_example_layer_norm_clip": "a function of arrays",
    "scale_by_galore": "part of galore",
    "skip_large_updates": "a condition like skip_not_finite",
    "sophia": "takes an estimator of the Hessian",
    "unitwise_clip": "a function of arrays",
    "unitwise_norm": "a function of arrays",
    "with_extra_args_support": "around everything here",
}
"""What Optax exports that looks as if it belonged into WRAPPERS."""

NEWER = {"monitor", "galore"}  # than the oldest Optax that is supported
wrappers = [
    name for name in WRAPPERS if name not in NEWER or hasattr(optax, name) or hasattr(contrib, name)
]


@pytest.fixture(autouse=True)
def promotion_that_optax_is_written_for():
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def problem(wrapper, seed):
    """Parameters, and gradients [STEPS, DEVICES, ...] with so few bits that their mean is exact."""
    random = np.random.default_rng(seed)
    # A complex problem for what makes two real ones of it.
    is_complex = wrapper == "split_real_and_imaginary"

    def numbers(*shape):
        x = random.integers(-15, 16, shape) / 16
        return (x + 1j * x[..., ::-1]).astype(np.complex64) if is_complex else np.float32(x)

    # Arrays of one shape, for what runs by hand is compiled for each shape, operation by operation.
    params = {k: jnp.asarray(numbers(2, 3) + 1.25) for k in "wb"}
    gradients = {k: numbers(STEPS, DEVICES, 2, 3) for k in "wb"}
    if wrapper == "lookahead":
        params = optax.LookaheadParams.init_synced(params)
    return params, gradients


def mean(gradients):
    return jax.tree.map(lambda g: g.mean(1), gradients)


@functools.cache
def transformations(wrapper, theirs=False):
    """The wrapper around every optimizer that it takes."""
    return {
        name: optax.with_extra_args_support(WRAPPERS[wrapper](opt))
        for name, opt in (THEIRS if theirs else OPTIMIZERS).items()
        if (wrapper, name) not in REFUSED
    }


@functools.cache
def start(wrapper, optimizers, seed=0, theirs=False):
    """Parameters and state for some optimizers or all, without weak types."""
    params, _ = problem(wrapper, seed)
    txs = transformations(wrapper, theirs)
    names = [name for name in txs if optimizers == "all" or name in BY_DAY]
    # Some wrappers of older versions of Optax start weakly typed; ours is looked at in test_types.
    return arrays({name: (params, txs[name].init(params)) for name in names})


def arrays(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def take_step(wrapper, carry, gradients, value, theirs=False):
    """One step of all optimizers in a carry, so that they are one program to compile."""

    def step(tx, params, state):
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state

    txs = transformations(wrapper, theirs)
    return {name: step(txs[name], *pair) for name, pair in carry.items()}


def loop(step, carry, gradients):
    for t in range(STEPS):
        now = jax.tree.map(lambda x: x[t], (gradients, VALUES))  # noqa: B023
        carry = step(carry, *arrays(now))
    return carry


@functools.cache
def by_hand(wrapper, optimizers, seed=0, theirs=False):
    step = functools.partial(take_step, wrapper, theirs=theirs)
    with jax.disable_jit():
        return loop(step, start(wrapper, optimizers, seed, theirs), mean(problem(wrapper, seed)[1]))


def stack(*trees):
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *trees)


def scan(wrapper, carry, gradients):
    step = lambda carry, now: (take_step(wrapper, carry, *now), None)
    return jax.lax.scan(step, carry, (gradients, VALUES))[0]


# Each goes on from what every problem starts with.


def with_jit(wrapper, carry):
    step = jax.jit(functools.partial(take_step, wrapper))
    return loop(step, carry, mean(problem(wrapper, 0)[1]))


def with_vmap(wrapper, carry):
    """Over two problems, of which each is as it is alone; with storage too, rounding and all."""
    gradients = stack(*(mean(problem(wrapper, seed)[1]) for seed in (0, 1)))
    return jax.jit(jax.vmap(functools.partial(scan, wrapper)))(carry, gradients)


def with_shard_map(wrapper, carry):
    """Each device with its part of the batch, and all with the same parameters and state."""

    def train(carry, gradients):
        local = jax.tree.map(lambda g: g[:, 0], gradients)
        return scan(wrapper, carry, jax.lax.pmean(local, "data"))

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    in_specs = (jax.P(), jax.P(None, "data"))
    mapped = jax.shard_map(train, mesh=mesh, in_specs=in_specs, out_specs=jax.P())
    return jax.jit(mapped)(carry, problem(wrapper, 0)[1])


TRANSFORMS = {"jit": with_jit, "vmap": with_vmap, "shard_map": with_shard_map}
"""The last two with `scan` inside."""


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_close(got, expected, tolerance, name):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("wrapper", "transform", "optimizers"),
    [
        *((wrapper, "jit", "some") for wrapper in wrappers if wrapper in AROUND),
        *(
            pytest.param(*cell, "all", marks=pytest.mark.nightly)
            for cell in itertools.product(wrappers, TRANSFORMS)
        ),
    ],
)
def test_cell(wrapper, transform, optimizers):
    """The numbers are those by hand, and the types those that `init` promised."""
    promised, expected = start(wrapper, optimizers), by_hand(wrapper, optimizers)
    if transform == "vmap":
        promised = stack(promised, start(wrapper, optimizers, seed=1))
        expected = stack(expected, by_hand(wrapper, optimizers, seed=1))
    got = TRANSFORMS[transform](wrapper, promised)
    assert types(got) == types(promised)
    for name in promised:
        tolerance = 2e-6 if wrapper in ROUNDED or name == "pytorch" else 0
        assert_close(got[name], expected[name], tolerance, name)


@pytest.mark.parametrize("optimizers", ["some", pytest.param("all", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("wrapper", wrappers)
def test_wrapped_like_optax(wrapper, optimizers):
    """To the same parameters as the wrapper around Optax's own parts, in the promised types."""
    ours, theirs = by_hand(wrapper, optimizers), by_hand(wrapper, optimizers, theirs=True)
    assert types(ours) == types(start(wrapper, optimizers))
    before = jax.tree.leaves(problem(wrapper, 0)[0])
    for name, (params, _) in ours.items():
        assert_close(params, theirs[name][0], 0.05 if name == "stored" else 2e-6, name)
        moved = zip(jax.tree.leaves(params), before, strict=True)
        least = 0 if wrapper == "mechanize" else 0.01
        assert max(np.max(np.abs(x - y)) for x, y in moved) > least, name


def test_nothing_of_optax_is_forgotten():
    """What a newer Optax adds shows up here: it goes into WRAPPERS or EXCLUDED."""

    def takes_one(function):
        parameters = inspect.signature(function).parameters.values()
        return any("GradientTransformation" in str(p.annotation) for p in parameters)

    functions = {
        name: function
        for module in (optax, contrib)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    looks_like_one = {name for name, function in functions.items() if takes_one(function)}
    looks_like_one |= {name for name, f in vars(transforms).items() if inspect.isfunction(f)}
    covered = {name for make in WRAPPERS.values() for name in make.__code__.co_names}
    covered |= WRAPPERS.keys()
    assert looks_like_one - covered == EXCLUDED.keys() & looks_like_one
    assert not covered & EXCLUDED.keys()
