"""Outside of `jit` Python stays Python: what is the user's runs when called, and isn't kept."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import dialects, rmsprop

TABLE = np.array([0.5, 0.25, 0.125, 0.0625])
box = {"rate": 0.5}


class Trainer:
    """A user's class, whose method is the schedule."""

    def __init__(self):
        self.rate = 0.5
        self.calls = 0

    def schedule(self, count):
        self.calls += 1
        return self.rate / (1 + self.calls)

    def __call__(self, count):
        return self.rate / (1 + int(count))


def generator():
    rates = iter(TABLE)
    return lambda count: next(rates)


def stateful():
    seen = []
    return lambda count: seen.append(count) or 0.5 / len(seen)


SCHEDULES = {  # each makes a new one, since some remember their calls
    "branch": lambda: lambda count: 0.5 if count < 2 else 0.25,
    "table": lambda: lambda count: TABLE[int(count)],
    "table as float": lambda: lambda count: float(TABLE[int(count)]),
    "list": lambda: lambda count: [0.5, 0.25, 0.125, 0.0625][int(count)],
    "dictionary": lambda: lambda count: {0: 0.5}.get(int(count), 0.25),
    "global": lambda: lambda count: box["rate"],
    "method": lambda: Trainer().schedule,
    "object": Trainer,
    "partial": lambda: functools.partial(lambda scale, count: scale / (1 + count), 0.5),
    "partial of a branch": lambda: functools.partial(lambda s, count: s if count else 1.0, 0.5),
    "iterator": generator,
    "remembers": stateful,
    "while": lambda: lambda count: 0.5 ** len(range(int(count))),
    "NumPy": lambda: lambda count: np.float32(0.5) / (1 + np.asarray(count)),
    "NumPy double": lambda: lambda count: np.float64(0.5),
    "jax": lambda: lambda count: jnp.float32(0.5) / (1 + count),
    "Optax": lambda: optax.cosine_decay_schedule(0.5, 10),
    "Optax joined": lambda: optax.join_schedules([lambda c: 0.5, lambda c: 0.25], [2]),
    "max of Python": lambda: lambda count: max(0.5 - 0.1 * float(count), 0.1),
    "an error now and then": lambda: lambda count: 1 / (2 - 1 * (int(count) == 9)),
}
MASKS = {
    "function": lambda params: {k: v.ndim > 1 for k, v in params.items()},
    "tree": {"w": True, "b": False},
    "of names": lambda params: {k: k.startswith("w") for k in params},
    "of values": lambda params: {k: bool(np.asarray(v).size > 3) for k, v in params.items()},
}


def steps(tx, times=4):
    params = {"w": jnp.array([[1.0, -2.0], [3.0, 4.0]]), "b": jnp.array([0.5, -0.5])}
    state = tx.init(params)
    for i in range(times):
        box["rate"] = 0.5 / (1 + i)
        grads = jax.tree.map(lambda p, i=i: (1 + i) * p, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(tx, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), steps(tx), steps(other)
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_run_as_with_optax(name):
    make = SCHEDULES[name]
    with jax.numpy_dtype_promotion("standard"):
        assert_close(dialects.optax(make(), momentum=0.5), optax.rmsprop(make(), momentum=0.5))


@pytest.mark.parametrize("name", MASKS)
def test_masks_run_as_with_optax(name):
    mask = MASKS[name]
    theirs = optax.chain(
        optax.add_decayed_weights(0.5, mask), optax.rmsprop(0.1, eps_in_sqrt=False)
    )
    assert_close(rmsprop(0.1, weight_decay=0.5, mask=mask), theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda schedule: rmsprop(schedule),
        lambda schedule: rmsprop(0.1, weight_decay=schedule),
        lambda schedule: dialects.keras(schedule, weight_decay=0.1),
        lambda schedule: dialects.tf_keras_legacy(schedule, decay=0.1),
        lambda schedule: optax.inject_hyperparams(rmsprop)(schedule),
    ],
    ids=["rate", "decay", "keras", "legacy", "injected"],
)
def test_nothing_of_the_user_is_kept(make):
    """A trainer whose method is the schedule goes with the optimizer."""

    def run():
        trainer = Trainer()
        with jax.numpy_dtype_promotion("standard"):
            steps(make(trainer.schedule), 2)
        return weakref.ref(trainer)

    trainers = [run() for _ in range(10)]
    gc.collect()
    assert [ref() for ref in trainers] == [None] * 10


def test_an_error_of_a_schedule_comes_out_as_it_is():
    def schedule(count):
        raise AttributeError("no such rate")

    tx = rmsprop(schedule)
    with pytest.raises(AttributeError, match=r"^no such rate$"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_new_numbers_need_no_compilation():
    """What is compiled depends on shapes and switches only."""
    params = [jnp.ones(3), jnp.ones((2, 2))]

    def run(rate, decay, eps, momentum):
        for tx in (
            rmsprop(rate, decay, eps, momentum=momentum),
            rmsprop(optax.linear_schedule(rate, 0.0, 5), decay, eps, centered=True),
            dialects.timm(rate, decay, eps, momentum=momentum),
        ):
            state = tx.init(params)
            for _ in range(2):
                _, state = tx.update(params, state, params)

    run(0.1, 0.9, 1e-8, 0.5)
    run(0.2, 0.8, 1e-7, 0.6)
    compiled = []
    record = lambda name, *_, **__: compiled.append(name) if "compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        for i in range(5):
            run(0.3 + i, 0.9 - 0.05 * i, 1e-6 * (1 + i), 0.7 - 0.1 * i)
        assert compiled == []
        jax.jit(lambda x: x + 17)(params[0])
        assert compiled != []  # so that it would be noticed
    finally:
        jax.monitoring.clear_event_listeners()


def test_layers_on_devices_of_their_own():
    """Placed by hand on two devices: no one program takes both."""
    first, second = jax.devices()[:2]
    params = {"a": jax.device_put(jnp.ones(3), first), "b": jax.device_put(jnp.ones(4), second)}
    together = jax.tree.map(np.asarray, params)
    for tx in (
        rmsprop(0.1, momentum=0.5),
        rmsprop(lambda count: 0.1, centered=True, bias_correction=False, weight_decay=0.1),
        rmsprop(0.1, bias_correction=True),
        dialects.pytorch(0.1, momentum=0.5, weight_decay=0.1),
    ):
        state, expected = tx.init(params), tx.init(together)
        updates, wanted = params, together
        for _ in range(3):
            updates, state = tx.update(params, state, params)
            wanted, expected = tx.update(together, expected, together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted)
        assert updates["a"].devices() == {first}
        assert updates["b"].devices() == {second}


AGREEING = {
    "rmsprop": lambda: rmsprop(0.1, weight_decay=0.1),
    "centered": lambda: rmsprop(0.1, centered=True),
    "corrected": lambda: rmsprop(0.1, bias_correction=True),
    "momentum": lambda: rmsprop(0.1, momentum=0.9, nesterov=True),
    "pytorch": lambda: dialects.pytorch(0.1, momentum=0.9, weight_decay=0.1),
    "keras": lambda: dialects.keras(0.1, momentum=0.9),
    "timm": lambda: dialects.timm(0.1, momentum=0.9),
    "mlx": lambda: dialects.mlx(0.1),
    "graves": lambda: dialects.graves(0.1),
}


@pytest.mark.parametrize("name", AGREEING)
def test_outside_and_inside_agree_to_an_ulp(name):
    tx = AGREEING[name]()
    params, *gradients = np.random.default_rng(0).normal(size=(6, 7, 33)).astype(np.float32)
    state, jitted = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        outside, _ = tx.update(g, state, params)
        inside, state = jitted(g, state, params)
        outside, inside = np.asarray(outside), np.asarray(inside)
        # Of what is summed: where a trace and a step cancel, little is left of both.
        ulp = np.spacing(np.maximum(np.abs(inside), np.max(np.abs(inside)) / 2))
        assert np.max(np.abs(outside - inside) / ulp) <= 1


def test_without_jit_and_with_nan_checks():
    params = {"w": jnp.ones(2), "b": jnp.zeros(2, jnp.bfloat16)}
    with jax.disable_jit(), jax.debug_nans(True), jax.debug_infs(True):
        for tx in (
            rmsprop(0.1, centered=True, momentum=0.5),
            rmsprop(0.1, bias_correction=True),
            dialects.keras(0.1, centered=True, clipnorm=1.0),
            dialects.graves(0.1),
        ):
            state = tx.init(params)
            for _ in range(2):
                updates, state = tx.update(params, state, params)
                assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


def test_its_own_numbers_may_be_sent():
    """As they are under jit, where they are part of the program."""
    params = {"w": jnp.ones(3)}
    tx = rmsprop(0.1, momentum=0.5, centered=True)
    tx.update(params, tx.init(params), params)
    with jax.transfer_guard("disallow"):
        state = tx.init(params)
        updates, state = tx.update(params, state, params)
    assert updates["w"].shape == (3,)


def test_arrays_of_a_shape_are_traced_once():
    """In someone else's program, and eight of them are one call."""
    tx = rmsprop(0.1, momentum=0.5)
    g = {i: jnp.ones(2 + i % 3) for i in range(60)}
    lowered = jax.jit(tx.update).lower(g, tx.init(g)).as_text()
    assert lowered.count("func.func private @_average_squares") == 3
    assert lowered.count("call @_average_squares") == 3 * (8 + 20 % 8)
