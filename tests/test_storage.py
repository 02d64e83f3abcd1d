"""Formats round right, their random bits are random, and a stored transformation stays itself."""

import contextlib
import dataclasses
import functools
import gc
import pickle
import re
import weakref
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_types import types
from test_wrappers import start, train

from rmsprop_jax import records, rmsprop, scale_by_rms, storage, weights
from rmsprop_jax.storage import BF16, U8, U16, extremes, hashing, pack, store, unpack

FORMATS = {"U16": U16, "BF16": BF16, "U8": U8}
each_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
TINY = float(np.finfo(np.float32).tiny)
HUGE = float(np.finfo(np.float32).max)
RANGES = [
    *FORMATS.values(),
    U8.with_range(2.0**-120, 1e-20),
    U8.with_range(2.0**64, 2.0**127),
    U8.with_range(1e-8, 10.0),
    U8.with_range(1.0, 6e4),
]
UP_AND_DOWN = np.uint32([[2**32 - 1], [0]])  # random bits


@functools.partial(jax.jit, static_argnums=0)
def encoded(form, x, random):
    return form.encode(x, random)


@functools.partial(jax.jit, static_argnums=0)
def decoded(form, code):
    return form.decode(code)


def codes(form):
    """All codes of a format, as it makes them: one NaN, no subnormal numbers."""
    if form.dtype == jnp.uint8:
        return np.arange(256, dtype=np.uint8)
    exponent = np.arange(2**16) >> (8 if form is U16 else 7) & 255
    every = np.arange(2**16)[(exponent > 0) & (exponent < 255)]
    return np.append(every, 0).astype(np.uint16).view(form.dtype)


@functools.cache
def numbers(form):
    """All finite numbers of a format, 0 and up, in order."""
    x = np.asarray(decoded(form, codes(form)))
    return np.sort(x[np.isfinite(x) & (x >= 0)])


# Formats


@pytest.mark.parametrize("form", RANGES)
def test_what_a_format_keeps_it_keeps_exactly(form):
    every = codes(form)
    again = encoded(form, decoded(form, every), UP_AND_DOWN)
    assert again.dtype == form.dtype
    np.testing.assert_array_equal(again, np.stack([every, every]))


def test_with_decay():
    moved = U8.with_range(1e-8, 10.0)
    assert moved.with_decay(0.9) == U8.with_decay(0.9).with_range(1e-8, 10.0) != moved
    assert U16.with_decay(1) == U16
    for form, decay in ((U8, 0.0), (U16, 1.001), (BF16, float("nan"))):
        with pytest.raises(ValueError, match=r"decay=.* is out of range: \(0, 1\]"):
            form.with_decay(decay)


def test_documented_numbers():
    assert numbers(U8)[1] == 2.0**-50 == pytest.approx(8.9e-16, rel=0.01)
    assert numbers(U8)[-1] == pytest.approx(4.9e4, rel=0.01)
    np.testing.assert_array_equal(
        numbers(U8)[:14] * 2.0**48, [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 9]
    )
    assert len(numbers(U8)) == 255
    for form, least, most in (
        (U8, 1 / 7, 1 / 4),
        (U16, 1 / 511, 1 / 256),
        (BF16, 1 / 255, 1 / 128),
    ):
        x = numbers(form)[64:].astype(np.float64)
        distance = np.diff(x) / x[:-1]
        assert distance.max() == pytest.approx(most, rel=1e-4)
        assert distance.min() == pytest.approx(least, rel=1e-4)
        assert numbers(form)[-1] > (3e38 if form is not U8 else 4e4)
    assert numbers(U16)[1] == numbers(BF16)[1] == TINY


def test_with_range():
    for smallest, largest, mantissa in (
        (1e-20, 1e-2, 2),
        (1e-8, 10.0, 3),
        (1.0, 3.7e9, 3),
        (1.0, 6e4, 4),
        (2.0**64, 2.0**127, 2),
    ):
        form = U8.with_range(smallest, largest)
        assert form.mantissa == mantissa
        assert form.smallest <= smallest < 2 * form.smallest
        assert form.largest == numbers(form)[-1] >= largest
        x = numbers(form)[2**mantissa :].astype(np.float64)
        assert np.max(np.diff(x) / (x[:-1] + form.smallest)) == pytest.approx(2.0**-mantissa)
    for number in (0.0, 2.0**-121, 2.0**65, float("nan"), -1.0):
        with pytest.raises(ValueError, match="smallest"):
            U8.with_range(number, 1.0)
    for number in (1.0, 1.5e19, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="largest"):
            U8.with_range(1.0, number)


HOSTILE = [  # x, then what U16, BF16 and U8 make of it: 'max' is a format's largest number
    (0.0, 0.0, 0.0, 0.0),
    (-1.0, np.nan, -1.0, np.nan),
    (-np.inf, np.nan, -np.inf, np.nan),
    (np.inf, np.inf, np.inf, "max"),
    (HUGE, "max", "max", "max"),
    (-HUGE, np.nan, "-max", np.nan),
    (-0.0, 0.0, 0.0, 0.0),
    (TINY / 2, 0.0, 0.0, 0.0),
    (-TINY / 2, 0.0, 0.0, 0.0),
    (np.nan, np.nan, np.nan, np.nan),
    (np.uint32(0xFFC00000).view(np.float32), np.nan, np.nan, np.nan),
    (np.uint32(0x7F800001).view(np.float32), np.nan, np.nan, np.nan),
]


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_numbers(name):
    form = FORMATS[name]
    largest = numbers(form)[-1]
    x, *columns = zip(*HOSTILE, strict=True)
    wanted = columns[list(FORMATS).index(name)]
    wanted = [{"max": largest, "-max": -largest}.get(number, number) for number in wanted]
    x = np.stack([np.float32(number) for number in x])
    kept = decoded(form, encoded(form, x, UP_AND_DOWN))
    np.testing.assert_array_equal(kept, [wanted, wanted])
    if form is BF16:
        np.testing.assert_array_equal(np.signbit(kept[:, x == 0]), [[False, True]] * 2)


@each_format
def test_rounding_is_right_on_average(form):
    """Over evenly spaced random bits, the mean is the number, to their spacing."""
    x = np.concatenate(
        [
            np.random.default_rng(0).lognormal(sigma=4, size=60).clip(max=4e4),
            [1.0, 1.001, 1.999, np.nextafter(np.float32(2), np.float32(1))],
            numbers(form)[1] * np.float32([1, 1.3, 1.9, 2.4, 3.6]),
            [2.0**-52] if form is U8 else [],  # where it has nothing but 0 and its first number
        ]
    ).astype(np.float32)
    n = 2**15
    random = np.arange(0, 2**32, 2**32 // n, dtype=np.uint32)
    rounded = np.asarray(decoded(form, encoded(form, x[:, None], random)), np.float64)
    above = np.searchsorted(numbers(form), x)
    gap = numbers(form)[above] - numbers(form)[np.maximum(above - 1, 0)]
    assert np.max(np.abs(rounded.mean(1) - x) / gap) <= 1.001 / n
    assert np.max(np.abs(rounded - x[:, None]) / gap[:, None]) < 1
    if form is U8:
        assert set(rounded[-1]) == {0.0, 2.0**-50}
        assert np.mean(rounded[-1]) == x[-1]


@each_format
@settings(max_examples=100, deadline=None)
@given(
    x=st.floats(TINY, HUGE, width=32),
    random=st.integers(0, 2**32 - 1),
    more=st.integers(0, 2**32 - 1),
)
def test_rounds_to_a_neighbour_and_up_with_larger_random_numbers(form, x, random, more):
    low, high = sorted((random, more))
    rounded = decoded(form, encoded(form, np.float32(x), np.uint32([low, high])))
    every = numbers(form)
    i = np.searchsorted(every, np.float32(x))
    below = every[i] if i < len(every) and every[i] == np.float32(x) else every[i - 1]
    above = every[min(i, len(every) - 1)]
    assert below <= rounded[0] <= rounded[1] <= above
    assert set(rounded.tolist()) <= {below, above}


# Random bits


def hashed(index, *words, wide=False):
    """The random bits of an element, in plain Python."""
    times = lambda a, b: a * b % 2**32

    def mix(h):
        h = times(h ^ h >> 16, 0x7FEB352D)
        h = times(h ^ h >> 15, 0x846CA68B)
        return h ^ h >> 16

    a, b = 0x243F6A88, 0x85A308D3
    for word in words:
        a, b = mix(a ^ word), mix(b ^ word)
    high, low = divmod(index + a, 2**32)
    if wide:
        low, b = low + mix(a ^ high), mix(b ^ high)
    h = times(low, 0x9E3779B1)
    h = (times(h ^ h >> 16, 0x7FEB352D) + b) % 2**32
    return times(h ^ h >> 15, 0x846CA68B)


@functools.partial(jax.jit, static_argnums=0)
def jitted_random_bits(shape, words):
    return hashing.random_bits(jnp.zeros(shape), *words)


def random_bits(shape, *words):
    return np.asarray(jitted_random_bits(shape, [np.uint32(word) for word in words]))


@pytest.mark.parametrize("devices", [1, 8])
def test_random_bits_are_the_documented_hash_of_the_index(devices, monkeypatch):
    """Fixed for good: a checkpoint goes on with the same numbers in another version.

    The index is row-major, but of an array of one axis it counts from the end.
    """
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    words = (3, 2**32 - 1, 123_456)
    shapes = [(), (7,), (2, 3, 5), (1, 4, 1)]
    run = jax.jit(lambda xs: [hashing.random_bits(x, *map(np.uint32, words)) for x in xs])
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    for bits in run(arrays):
        expected = [hashed(i, *words) for i in range(bits.size)]
        assert expected[0] == 1721692860
        np.testing.assert_array_equal(np.ravel(bits), expected[:: -1 if bits.ndim == 1 else 1])
    # A lone CPU reverses, and so makes the index by vectors; of several, each has its own part.
    assert ("reverse" in run.lower(arrays).as_text()) == (devices == 1)


@pytest.mark.parametrize(
    ("shape", "starts"),
    [
        ((2**32 + 8,), (0,)),
        ((2**32 + 8,), (2**32,)),
        ((2**18, 3, 2**14), (2**17 - 1, 2, 2**14 - 2)),
    ],
)
def test_random_bits_beyond_2_to_the_32_elements(shape, starts):
    """XLA computes only the slice that is asked for."""
    sizes = [min(2, size - first) for size, first in zip(shape, starts, strict=True)]
    axes = [slice(i, i + size) for i, size in zip(starts, sizes, strict=True)]
    piece = jax.jit(lambda x: hashing.random_bits(jnp.broadcast_to(x, shape), np.uint32(5))[*axes])
    index = np.ravel_multi_index(np.mgrid[axes], shape).ravel()
    index = (shape[0] - 1 - index if len(shape) == 1 else index).tolist()
    expected = [hashed(i, 5, wide=True) for i in index]
    np.testing.assert_array_equal(piece(jnp.float32(0)).ravel(), expected)
    assert not jax.config.jax_enable_x64


def chi_square(*values):
    """How many standard deviations the counts of the joint top 5 bits are off equal ones."""
    joint = functools.reduce(lambda a, b: a << 5 | b, [v.ravel() >> 27 for v in values])
    count = np.bincount(joint.astype(np.int64), minlength=2 ** (5 * len(values)))
    expected = joint.size / count.size
    degrees = count.size - 1
    return (np.sum((count - expected) ** 2) / expected - degrees) / np.sqrt(2 * degrees)


def correlation(x, y, bit):
    """The same for the correlation of a bit of x with that of y."""
    signs = [(v >> bit & 1).astype(np.int64) * 2 - 1 for v in (x, y)]
    return np.mean(signs[0] * signs[1]) * np.sqrt(x.size)


def test_random_bits_are_uniform_and_independent():
    """Over elements, steps, arrays and seeds, for the bits that U16 and U8 use.

    The sizes are those for which one multiplication fewer, or no golden ratio, is off by 20 and
    more standard deviations.
    """
    n = 2**20
    words = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 1), (0, 2, 1), (1, 0, 1), (0, 0, 2**32 - 1)]
    streams = [random_bits((n,), *w) for w in words]
    off = []
    for i, x in enumerate(streams):
        off += [chi_square(x), chi_square(x << 5), chi_square(x << 10)]
        for lag in (1, 2, 3, 8, 64, 256, 1000, 2**16):
            off.append(chi_square(x[lag:], x[:-lag]))
            off += [correlation(x[lag:], x[:-lag], bit) for bit in (31, 24, 17, 11)]
        for y in streams[:i]:
            off += [chi_square(x, y), *(correlation(x, y, bit) for bit in (31, 24, 17, 11))]
    assert np.max(np.abs(off)) < 6


def test_random_bits_of_one_element_over_the_steps():
    """What one accumulator sees in time."""
    zero, steps = np.uint32(0), np.arange(4096, dtype=np.uint32)
    at = jax.vmap(lambda t: hashing.random_bits(jnp.zeros(512), zero, zero, t))
    x = np.asarray(jax.jit(at)(steps))
    off = [chi_square(x), *(chi_square(x[lag:], x[:-lag]) for lag in (1, 2, 8))]
    off += [correlation(x[lag:], x[:-lag], bit) for lag in (1, 2, 8) for bit in (31, 17, 11)]
    assert np.max(np.abs(off)) < 6
    uniform = x / 2**32 - 0.5
    between = np.corrcoef(uniform.T) - np.eye(512)
    assert np.max(np.abs(between)) * np.sqrt(4096) < 6


# Averages


def averages(forms, decay, gradients, steps, nu=0.0):
    """The stored average in each format, and the "exact" one, after some steps: in one program."""
    plain = scale_by_rms(decay, initial_scale=nu)
    txs = {"exact": plain} | {name: store(plain, nu=form) for name, form in forms.items()}

    @jax.jit
    def run():
        def step(states, t):
            g = gradients(t)
            return {name: tx.update(g, states[name])[1] for name, tx in txs.items()}, None

        first = {name: tx.init(jnp.zeros(gradients(0).shape)) for name, tx in txs.items()}
        states, _ = jax.lax.scan(step, first, jnp.arange(steps))
        exact = {"exact": states["exact"].nu}
        return exact | {name: unpack(states[name], nu=form).nu for name, form in forms.items()}

    return {name: np.asarray(x, np.float64) for name, x in run().items()}


def with_decay(decay):
    return {name: form.with_decay(decay) for name, form in FORMATS.items()}


def dense(t):
    """Gradients with scales that differ by octaves within the array."""
    scales, now = jax.random.normal(key(1), (16_384,)), jax.random.fold_in(key(0), t)
    return jnp.exp2(2 * scales) * jax.random.normal(now, scales.shape)


def sparse(t):
    """The case that defeats `U8` alone: gradients that are 0 in 99 of 100 steps."""
    size, chance = jax.random.split(jax.random.fold_in(key(0), t))
    rare = jax.random.uniform(chance, (4096,)) < 0.01
    return jnp.where(rare, jax.random.normal(size, (4096,)), 0.0)


def key(seed):
    return jax.random.key(seed, impl="unsafe_rbg")  # compiles in no time


@functools.cache
def ratios(gradients, decay):
    """The root of the average in each format, divided by the exact one."""
    if gradients is dense:
        found = averages(FORMATS, decay, dense, round(6 / (1 - decay)))
    else:
        found = averages(with_decay(decay), decay, sparse, max(1000, round(4 / (1 - decay))))
    exact = found.pop("exact")
    seen = exact > U8.smallest
    return {name: np.sqrt(x[seen] / exact[seen]) for name, x in found.items()}


LIMITS = {"U16": (3e-4, 0.016), "BF16": (5e-4, 0.025), "U8": (0.015, 0.17)}


@pytest.mark.parametrize(
    "decay", [0.99, *(pytest.param(decay, marks=pytest.mark.nightly) for decay in (0.9, 0.999))]
)
@pytest.mark.parametrize("gradients", [dense, sparse])
@pytest.mark.parametrize("name", FORMATS)
def test_stationary_error(name, gradients, decay):
    """Sparse gradients are as good as dense ones for a format that knows the decay."""
    ratio = ratios(gradients, decay)[name]
    bias, spread = LIMITS[name]
    n = jax.eval_shape(gradients, 0).size
    assert abs(ratio.mean() - 1) < bias + 3 * spread / np.sqrt(n)
    assert ratio.std() < spread


@pytest.mark.parametrize("decay", [pytest.param(0.9, marks=pytest.mark.nightly), 0.999])
def test_follows_where_bfloat16_stalls(decay):
    """After the gradients fall, or rise, the average is there in 10 time constants."""
    g = np.repeat(1 / np.float32([[100.0], [1e4], [0.01]]), 4096, axis=1)
    forms = FORMATS | {"bfloat16": jnp.bfloat16}
    found = averages(forms, decay, lambda t: g, round(10 / (1 - decay)), nu=1.0)
    for name in FORMATS:
        # The start is still there by exp(-10), which is all there is after a fall by 1e4.
        np.testing.assert_allclose(found[name].mean(1), found["exact"][:, 0], rtol=0.03)
    assert decay == 0.9 or np.all(np.median(found["bfloat16"][:2], axis=1) == 1.0)


def test_with_decay_what_only_decays_is_exact():
    """Over 4,000 steps, where without it every element walks a way of its own."""
    walking = {f"{name} alone": form for name, form in FORMATS.items()}
    found = averages(with_decay(0.998) | walking, 0.998, lambda t: jnp.zeros(2048), 4000, nu=1.0)
    near = {name: np.mean(np.abs(x / found["exact"] - 1) < 1e-4) for name, x in found.items()}
    for name in FORMATS:
        assert near[name] > 0.8
        assert near[f"{name} alone"] < 0.05


def test_with_another_decay_it_is_still_right_on_average():
    found = averages(with_decay(0.8), 0.95, lambda t: jnp.zeros(2**15), 60, nu=1.0)
    for name in FORMATS:
        error = found[name] / found["exact"] - 1
        assert 0 < error.std() < 2
        assert abs(error.mean()) < 5 * error.std() / np.sqrt(2**15)


# The transformation

STORED = {
    "U8, BF16": lambda: store(rmsprop(0.1, 0.99, momentum=0.5), nu=U8.with_decay(0.99), trace=BF16),
    "U16": lambda: store(rmsprop(0.1, 0.99), nu=U16),
    "centered": lambda: store(rmsprop(0.1, centered=True), nu=U8, mu=BF16),
    "adamw": lambda: store(optax.adamw(0.1), mu=BF16, nu=U8),
    "dtypes": lambda: store(optax.adamw(0.1), mu=jnp.bfloat16, nu=jnp.float32),
}
# Those whose own arithmetic is the same to the bit however XLA compiles it; AdamW's is not.
exact_stored = pytest.mark.parametrize(
    "make", [STORED["U8, BF16"], pytest.param(STORED["U16"], marks=pytest.mark.nightly)]
)
PARAMS = {"w": np.ones((24, 16), np.float32), "b": np.ones(16, np.float32), "s": np.float32(1)}
ADAM = optax.adam(0.1)
PLAIN = rmsprop(0.1, momentum=0.9)
WIDE = PLAIN.init(PARAMS)


def gradients(t):
    """Those of PARAMS at a step."""
    rng = np.random.default_rng(t)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS)


def trained(tx, steps, state=None, first=0, update=None):
    """The updates of the last of some steps, and the state."""
    state = tx.init(PARAMS) if state is None else state
    updates = PARAMS
    for t in range(first, first + steps):
        updates, state = (update or tx.update)(gradients(t), state, PARAMS)
    return updates, state


def stored_state(**formats):
    return store(PLAIN, **formats).init(PARAMS)


@contextlib.contextmanager
def compilations():
    """A list of all that is compiled meanwhile."""
    found = []

    def listen(event, duration, **kwargs):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def dtypes(state):
    """The dtypes of the accumulators mu, nu and trace in a state."""
    names = [
        (jax.tree_util.keystr(path), x.dtype.name) for path, x in jax.tree.leaves_with_path(state)
    ]
    return [" ".join({d for path, d in names if f".{n}" in path}) for n in ("mu", "nu", "trace")]


def same(a, b):
    """Whether two states or updates are the same to the bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves
    )


def test_formats_are_kept():
    kept = {name: dtypes(jax.eval_shape(make().init, PARAMS)) for name, make in STORED.items()}
    assert kept == {
        "U8, BF16": ["", "uint8", "bfloat16"],
        "U16": ["", "uint16", ""],
        "centered": ["bfloat16", "uint8", ""],
        "adamw": ["bfloat16", "uint8", ""],
        "dtypes": ["bfloat16", "float32", ""],
    }


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False}),
    "partition": lambda tx: optax.partition(
        {"rms": tx, "sgd": optax.sgd(0.1)}, {"w": "rms", "b": "sgd"}
    ),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 3).gradient_transformation(),
}


def test_around_wrappers():
    """In float32 it changes nothing around all of them; test_matrix has it in each of them."""
    tx = rmsprop(0.01, 0.9, 1e-3, momentum=0.5)
    for wrap in WRAPPERS.values():
        state = jax.eval_shape(store(wrap(tx), nu=U8, trace=BF16).init, start())
        assert dtypes(state) == ["", "uint8", "bfloat16"]
    tx = functools.reduce(lambda tx, wrap: wrap(tx), WRAPPERS.values(), tx)
    found = train(store(tx, nu=jnp.float32, trace=jnp.float32), start())
    jax.tree.map(np.testing.assert_array_equal, found, train(tx, start()))


def test_extra_arguments_reach_the_transformation():
    def update(updates, state, params=None, *, value, function=None, flag=False):
        return jax.tree.map(lambda u: u * value if flag is False else -u, updates), state

    inner = optax.GradientTransformationExtraArgs(
        lambda p: optax.TraceState(jax.tree.map(jnp.zeros_like, p)), update
    )
    tx = store(inner, trace=BF16)
    state = tx.init(PARAMS)
    for run, more in ((tx.update, {"function": print}), (jax.jit(tx.update), {})):
        updates, _ = run(PARAMS, state, value=2.0, **more)
        np.testing.assert_array_equal(updates["w"], 2 * PARAMS["w"])


@dataclasses.dataclass(frozen=True)
class Half:
    """A user's format."""

    keep: Any = None
    dtype = jnp.float16

    def encode(self, x, random):
        del random
        return x.astype(jnp.float16)

    def decode(self, code):
        return code.astype(jnp.float32)


class Dropping:
    """A user's format with a name of its own, which writes down what it is given."""

    dtype = jnp.uint16

    def __init__(self):
        self.seen = []

    def encode(self, x, random):
        self.seen.append((x, random))
        return U16.encode(x, random)

    def decode(self, code):
        return U16.decode(code)


def updated(state, **formats):
    return store(PLAIN, **formats).update(PARAMS, state, PARAMS)


MISUSE = {
    # Signs
    "adam, mu=U8": (lambda: store(ADAM, mu=U8), "mu=U8 has no sign, and mu has negative numbers"),
    "trace=U16": (lambda: store(PLAIN, trace=U16), "trace=U16 has no sign"),
    "centered, mu=U8": (lambda: store(rmsprop(centered=True), mu=U8.with_decay(0.9)), "mu=U8, dec"),
    "compensate, remainder=U8": (
        lambda: store(weights.compensate(PLAIN), remainder=U8),
        "remainder=U8 has no sign",
    ),
    "pack, mu=U8": (lambda: pack(ADAM.init(PARAMS), mu=U8), "mu=U8 has no sign"),
    # Ranges
    "nu=float16": (lambda: store(PLAIN, nu=jnp.float16), "nu=float16 ends at 65504"),
    "nu=float8_e5m2": (lambda: store(PLAIN, nu=jnp.float8_e5m2), "nu=float8_e5m2 ends at 57344"),
    "nu=float8_e4m3fn": (lambda: store(ADAM, nu=jnp.float8_e4m3fn), "nu=float8_e4m3fn ends at 448"),
    "no zero": (lambda: store(ADAM, mu=jnp.float8_e8m0fnu), "it has no 0, no sign or no NaN"),
    "no NaN": (lambda: store(ADAM, mu=jnp.float4_e2m1fn), "it has no 0, no sign or no NaN"),
    # Formats
    "no format": (lambda: store(PLAIN), "pass a format, such as nu=U8"),
    "nu=8": (lambda: store(PLAIN, nu=8), "nu=8 is no format"),
    "nu='U8'": (lambda: store(PLAIN, nu="U8"), "nu='U8' is no format"),
    "nu=int8": (lambda: store(PLAIN, nu=jnp.int8), "nu=.*int8.* is no format"),
    "nu=None": (lambda: store(PLAIN, nu=None), "nu=None is no format"),
    "a class": (lambda: store(PLAIN, nu=Half), "nu=<class .* is no format"),
    # Names
    "no trace": (
        lambda: store(ADAM, trace=BF16).init(PARAMS),
        r"no accumulator 'trace', only these: \['mu', 'nu'\]",
    ),
    "momentum": (lambda: store(PLAIN, momentum=BF16).init(PARAMS), "no accumulator 'momentum'"),
    "an integer": (lambda: store(PLAIN, count=BF16).init(PARAMS), "count is int32"),
    "a complex one": (
        lambda: store(rmsprop(centered=True), mu=BF16).init(jnp.ones(2, jnp.complex64)),
        "mu is complex64",
    ),
    "twice": (lambda: store(store(PLAIN, nu=U8), nu=U8).init(PARAMS), "this state is stored alr"),
    "packed twice": (lambda: pack(stored_state(nu=U8), nu=U8), "stored already: nu=U8"),
    # Seeds
    "seed=-1": (lambda: store(PLAIN, nu=U8, seed=-1), "seed=-1 is out of range"),
    "seed=2**32": (lambda: store(PLAIN, nu=U8, seed=2**32), "seed=4294967296 is out of range"),
    "seed=None": (lambda: store(PLAIN, nu=U8, seed=None), "seed=None is not an integer"),
    "seed=True": (lambda: store(PLAIN, nu=U8, seed=True), "seed=True is not an integer"),
    "seed=1.5": (lambda: pack(WIDE, nu=U8, seed=1.5), "seed=1.5 is not an integer"),
    # States
    "a float32 state": (
        lambda: updated(WIDE, nu=U8),
        "opt_state is a tuple, not the StoreState of these formats: nu=U8. storage.pack",
    ),
    "float32 in a stored state": (
        lambda: updated(stored_state(nu=U8)._replace(inner=WIDE), nu=U8),
        r"inner\[0\].nu\['b'\] of opt_state is float32 \(16,\), and codes of U8 are uint8",
    ),
    "unpack a float32 state": (lambda: unpack(WIDE, nu=U8), "opt_state is a tuple, not the StoreS"),
    "leaves of U8 in containers of U8 with_decay": (
        lambda: updated(
            jax.tree.unflatten(
                jax.tree.structure(stored_state(nu=U8.with_decay(0.9))),
                jax.tree.leaves(stored_state(nu=U8)),
            ),
            nu=U8.with_decay(0.9),
        ),
        "opt_state are other codes, and are read as nu=U8, decay 0.9",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_one_clear_error(name):
    act, message = MISUSE[name]
    with pytest.raises((ValueError, TypeError), match=message):
        act()


def test_misuse_that_only_a_running_program_can_see():
    """The numbers of one state, in a program that is compiled for another: NaN, at once.

    One format that differs is enough.
    """
    tx = store(PLAIN, nu=U8.with_decay(0.9), trace=BF16)
    leaves = jax.tree.leaves(stored_state(nu=U8, trace=BF16))
    state = jax.tree.unflatten(jax.tree.structure(tx.init(PARAMS)), leaves)
    updates, new = jax.jit(tx.update)(PARAMS, state, PARAMS)
    assert np.all(np.isnan(updates["w"]))
    assert np.all(np.asarray(new.inner[0].nu["w"]) == 255)


STORED_AS = {
    "nu=U8": {"nu": U8},
    "nu=U8, from 2^-27, 3 bits": {"nu": U8.with_range(1e-8, 10.0)},
    "nu=U8, decay 0.9": {"nu": U8.with_decay(0.9)},
    "nu=U8, decay 0.99": {"nu": U8.with_decay(0.99)},
    "nu=U16": {"nu": U16},
    "nu=BF16": {"nu": BF16},
    "nu=bfloat16": {"nu": jnp.bfloat16},
    "trace=BF16": {"trace": BF16},
    "nu=U8, trace=BF16": {"nu": U8, "trace": BF16},
}


def test_a_state_of_other_formats_is_refused():
    for stored, formats in STORED_AS.items():
        state = pack(WIDE, **formats)
        for read in STORED_AS.keys() - {stored}:
            message = f"are {stored}, and are read as {read}. storage.unpack"
            with pytest.raises(ValueError, match=re.escape(message)):
                unpack(state, **STORED_AS[read])


@pytest.mark.parametrize("other", [U16, U8.with_range(1e-8, 10.0), U8.with_decay(0.9)])
def test_a_checkpoint_of_another_format_is_refused(other, tmp_path):
    """Orbax, which would cast uint8 to uint16, and flax, which would take anything."""
    state, like = stored_state(nu=U8), stored_state(nu=other)
    for read in (functools.partial(through_orbax, tmp_path=tmp_path), through_flax):
        with pytest.raises(ValueError, match="nu=U"):
            read(state, like)


def test_what_turns_out_to_be_negative_is_seen():
    """By a name that nothing is known of."""
    inner = optax.GradientTransformation(
        lambda p: optax.EmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, p)),
        lambda u, s, p=None: (u, s._replace(ema=jax.tree.map(lambda x: -x, u))),
    )
    tx = store(inner, ema=U8)
    _, state = tx.update(PARAMS, tx.init(PARAMS))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(unpack(state, ema=U8).ema))


@pytest.mark.parametrize("form", [jnp.float16, jnp.bfloat16, jnp.float8_e5m2, jnp.float8_e4m3fn])
def test_a_dtype_saturates_and_comes_back(form):
    tx = store(optax.trace(0.5), trace=form)
    state = tx.init(jnp.zeros(3))
    _, state = tx.update(jnp.float32([3.4e38, -3.4e38, np.inf]), state)
    largest = float(jnp.finfo(form).max)
    expected = [largest, -largest, largest]
    np.testing.assert_array_equal(unpack(state, trace=form).trace, np.float32(expected))
    for _ in range(400):
        _, state = tx.update(jnp.zeros(3), state)
    np.testing.assert_array_equal(unpack(state, trace=form).trace, 0)


def test_a_float64_average_stays_finite_and_may_stay_float64():
    with jax.enable_x64(True):
        packed = pack(optax.TraceState(jnp.float64([1e60, -1e60, np.inf])), trace=BF16)
        expected = np.float32([BF16.largest, -BF16.largest, np.inf])
        np.testing.assert_array_equal(unpack(packed, trace=BF16).trace, expected)
        g = jnp.full(3, 1e60)
        tx = store(rmsprop(0.1), nu=jnp.float64)
        updates, state = tx.update(g, tx.init(g))
        expected, plain = rmsprop(0.1).update(g, rmsprop(0.1).init(g))
        assert same((updates, state.inner), (expected, plain))


def test_extremes_are_counted():
    g = {"w": jnp.float32([0.0, 1e-12, 1.0, 1e9, np.nan]), "b": jnp.float32([1.0])}
    tx = store(rmsprop(0.1, momentum=0.5), nu=U8, trace=BF16)
    _, state = tx.update(g, tx.init(g))
    counts = jax.jit(extremes, static_argnames=("nu", "trace"))(state, nu=U8, trace=BF16)
    assert counts["[0].nu['w']"] == (2, 1, 1, 5)
    assert counts["[0].nu['b']"] == (0, 0, 0, 1)
    assert counts["[1].trace['w']"].nan == 1


def test_arrays_at_different_places_never_share_random_bits():
    """For every seed: arrays of one shape and one number, which one place would round alike."""
    half_way = jnp.full(256, 1 + 2.0**-9)
    params = {"a": half_way, "b": half_way}
    state = optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu=params, nu=params)
    for seed in (0, 1, 7, 2**32 - 1):
        packed = pack(state, seed=seed, mu=BF16, nu=BF16).inner
        weights_too = weights.apply_updates(
            jax.tree.map(lambda x: jnp.ones(256, jnp.bfloat16), params),
            jax.tree.map(lambda x: jnp.full(256, 2.0**-9), params),
            step=0,
            seed=seed,
        )
        bits = [np.asarray(x).tobytes() for x in jax.tree.leaves((packed, weights_too))[1:]]
        assert len(bits) == len(set(bits)) == 6


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 2**32 - 1))
def test_for_any_seed_and_step_places_differ(seed, step):
    streams = [random_bits((64,), seed, place, step) for place in range(6)]
    streams.append(random_bits((64,), seed, 0, step, 1))
    for i, x in enumerate(streams):
        for y in streams[:i]:
            assert np.mean(x == y) < 0.1


# Outside of `jit`


def test_outside_of_jit_python_stays_python():
    """No compilation for a new number, nothing of the user's kept, and no implicit transfer."""
    rates = []

    def schedule(count):
        rates.append(0.1 / (1 + int(count)))  # of a number that is known
        return rates[-1]

    form, params = Half(keep=object()), {"w": jnp.ones(3), "b": jnp.ones(3)}
    seen = Dropping()
    gone = [weakref.ref(form), weakref.ref(schedule)]
    tx = store(rmsprop(schedule, momentum=0.9), nu=seen, trace=Half(form))
    state = tx.init(params)
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            _, state = tx.update(params, state, params)
    assert rates == [0.1, 0.05]
    assert len(seen.seen) == 2 * 3
    assert not any(isinstance(x, jax.core.Tracer) for pair in seen.seen for x in pair)
    del tx, form, schedule
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_new_number_compiles_nothing():
    injected = optax.inject_hyperparams(
        lambda learning_rate: store(rmsprop(learning_rate, momentum=0.9), nu=U8, trace=BF16)
    )
    tx = injected(lambda count: 0.1 / (1 + count.astype(jnp.float32)))
    state = tx.init(PARAMS)
    _, state = tx.update(PARAMS, state, PARAMS)
    with compilations() as compiled:
        for _ in range(3):
            _, state = tx.update(PARAMS, state, PARAMS)
        for rate in (0.9, 0.91, 0.92):
            tx = store(rmsprop(rate, rate), nu=U8.with_decay(rate), seed=int(100 * rate))
            tx.update(PARAMS, tx.init(PARAMS), PARAMS)
            if rate == 0.9:
                compiled.clear()
    assert compiled == []


def test_the_seed_counts_and_may_be_traced():
    def run(seed):
        tx = store(PLAIN, nu=U8, trace=BF16, seed=seed)
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)

    expected = [run(seed) for seed in (3, 4, 5)]
    assert not same(expected[0], expected[1])
    assert same(run(np.int64(3)), expected[0])
    assert same(run(jnp.int32(3)), expected[0])
    many = jax.jit(jax.vmap(run))(np.uint32([3, 4, 5]))
    for i in range(3):
        assert same(jax.tree.map(lambda x: x[i], many), expected[i])  # noqa: B023


@pytest.mark.parametrize("name", ["U8, BF16", "U16"])
def test_healthy_numbers_are_no_nan(name):
    tx, params = STORED[name](), np.ones(4, np.float32)
    with jax.debug_nans(True), jax.disable_jit():
        _, state = tx.update(params, tx.init(params), params)
        updates, _ = tx.update(params, state, params)
    assert np.all(np.isfinite(updates))


def test_it_carries_its_record():
    record = records.record_of(store(PLAIN, nu=U8, trace=BF16))
    assert record is not None
    assert record.factory is storage.store
    assert record.arguments == {"tx": PLAIN, "seed": 0, "formats": {"nu": U8, "trace": BF16}}


def test_parameters_may_have_any_names_and_holes():
    """A parameter that is an attribute called `mu` is no accumulator; nothing is no parameter."""
    params = optax.ScaleByRmsState(nu=jnp.ones(3))  # any container with a field of that name
    state = store(rmsprop(momentum=0.5), trace=BF16).init(params)
    assert state.inner[0].nu.nu.dtype == jnp.float32
    assert state.inner[1].trace.nu.dtype == jnp.bfloat16
    tx = store(rmsprop(0.1), nu=U8)
    for params in ({}, {"a": None}, None):
        assert tx.update(params, tx.init(params))[0] == params
    for of in (
        lambda tx: optax.masked(store(tx, nu=U8), {"w": False}),
        lambda tx: store(optax.masked(tx, {"w": False}), nu=U8),
    ):
        masked = of(rmsprop(0.1))
        masked.update({"w": 1.0}, masked.init({"w": 1.0}))


def test_a_gradient_of_none_leaves_its_accumulator():
    tx = store(rmsprop(0.1), nu=U8)
    _, state = trained(tx, 3)
    updates, new = tx.update(gradients(4) | {"w": None}, state, PARAMS)
    assert updates["w"] is None
    np.testing.assert_array_equal(new.inner[0].nu["w"], state.inner[0].nu["w"])
    assert not np.array_equal(new.inner[0].nu["b"], state.inner[0].nu["b"])


def test_map_params_and_tree_get():
    tx = STORED["centered"]()
    specs = optax.tree.map_params(
        tx, lambda _: "spec", tx.init(PARAMS), transform_non_params=lambda _: "other"
    )
    assert specs.inner[0].nu == specs.inner[0].mu == dict.fromkeys(PARAMS, "spec")
    assert specs.step == specs.inner[0].count == "other"
    assert optax.tree.get(tx.init(PARAMS), "count") == 0


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", STORED)
def test_types_are_kept(name, x64):
    """By shapes alone; and once by numbers, outside of `jit` and within."""
    with jax.enable_x64(x64):
        kinds = [jnp.float16, jnp.bfloat16, jnp.float32, *([jnp.float64] if x64 else [])]
        params = {k.__name__: jnp.ones((2, 3), k) for k in kinds} | {"s": jnp.ones(())}
        narrow = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), params)
        tx = STORED[name]()
        state = jax.eval_shape(tx.init, params)
        promised = jax.tree.map(lambda x: (x.shape, x.dtype, False), state)
        now = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
        abstract = functools.partial(jax.eval_shape, tx.update)
        runs = [(abstract, params, state), (abstract, narrow, state)]
        if x64 and name == "U8, BF16":
            state = tx.init(params)
            assert now(state) == promised
            assert same(tx.init(jax.eval_shape(lambda: params)), state)
            runs += [(tx.update, params, state), (jax.jit(tx.update), params, state)]
        for update, gradients, state in runs:
            updates, new = update(gradients, state, params)
            assert now(new) == promised
            assert now(updates) == now(gradients)


@exact_stored
def test_the_same_bits_under_jit_and_scan(make):
    tx = make()
    expected = trained(tx, 6)
    assert same(trained(tx, 6, update=jax.jit(tx.update)), expected)

    @jax.jit
    def scanned(state, stacked):
        step = lambda state, g: tx.update(g, state, PARAMS)[::-1]
        state, updates = jax.lax.scan(step, state, stacked)
        return jax.tree.map(lambda u: u[-1], updates), state

    stacked = jax.tree.map(lambda *g: np.stack(g), *map(gradients, range(6)))
    assert same(scanned(tx.init(PARAMS), stacked), expected)


def test_shard_map():
    """Pieces are rounded alike: the one thing that is documented to differ."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = store(rmsprop(0.1), nu=U8)
    params = jnp.full(64, 0.3)
    state = tx.init(params)
    specs = jax.tree.map(lambda x: jax.P("x") if x.ndim else jax.P(), state)
    in_specs, out_specs = (jax.P("x"), specs), (jax.P("x"), specs)
    mapped = jax.shard_map(tx.update, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    _, new = jax.jit(mapped)(params, state)
    pieces = np.asarray(new.inner[0].nu).reshape(8, 8)
    np.testing.assert_array_equal(pieces[1:], pieces[:-1])
    np.testing.assert_array_equal(pieces[0], tx.update(params, state)[1].inner[0].nu[-8:])


def through_pickle(state, like):
    return pickle.loads(pickle.dumps(state))


def through_flax(state, like):
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(state))


def through_orbax(state, like, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(tmp_path / "state", like)


@exact_stored
def test_the_same_bits_after_a_restart(make, tmp_path):
    tx = make()
    _, state = trained(tx, 3)
    like, expected = tx.init(PARAMS), trained(tx, 3, state, first=3)
    orbax = functools.partial(through_orbax, tmp_path=tmp_path)
    for through in (through_pickle, through_flax, orbax):
        restored = through(state, like)
        assert same(restored, state)
        # A new process makes a new transformation.
        assert same(trained(make(), 3, restored, first=3), expected)


def test_step_goes_on_after_its_maximum():
    """It wraps, where a count that saturates would freeze the rounding."""
    tx = store(rmsprop(0.1), nu=U8)
    state = tx.init(jnp.zeros(8))
    last = state._replace(step=jnp.uint32(2**32 - 1))
    g = jnp.full(8, 0.3)
    _, new = tx.update(g, last)
    assert new.step == 0
    _, newer = tx.update(g, new)
    assert newer.step == 1
    assert not np.array_equal(new.inner[0].nu, tx.update(g, newer)[1].inner[0].nu)


def test_a_float32_run_goes_on_stored_and_back():
    tx = rmsprop(0.1, 0.99, momentum=0.9, nesterov=True)
    formats = {"trace": BF16, "nu": U16}
    _, state = trained(tx, 50)
    packed = pack(state, seed=3, **formats)
    assert types(packed) == types(store(tx, seed=3, **formats).init(PARAMS))
    unpacked = unpack(packed, **formats)
    assert types(unpacked) == types(state)
    for name, limit in (("trace", 1 / 128), ("nu", 1 / 256)):
        for x, y in zip(
            jax.tree.leaves(optax.tree.get(state, name)),
            jax.tree.leaves(optax.tree.get(unpacked, name)),
            strict=True,
        ):
            np.testing.assert_allclose(y, x, rtol=limit)
    assert unpacked[0].count == 50
    assert same(pack(unpacked, **formats), pack(unpacked, seed=1, **formats))  # nothing to round
    _, packed = trained(store(tx, **formats), 50, packed, first=50)
    _, back = trained(tx, 50, unpack(packed, **formats), first=100)
    _, exact = trained(tx, 150)
    np.testing.assert_allclose(back[0].nu["w"], exact[0].nu["w"], rtol=0.05)
    assert back[0].count == 150


# Memory


@pytest.mark.parametrize(
    ("make", "bytes_each"),
    [
        (lambda: store(rmsprop(0.1), nu=U16), 2),
        (lambda: store(rmsprop(0.1), nu=U8), 1),
        (lambda: store(optax.adamw(0.1), mu=BF16, nu=U8), 3),
    ],
)
def test_no_accumulator_is_in_memory_at_full_width(make, bytes_each):
    n = 100_000
    tx = make()
    params = jnp.zeros(n)
    state = tx.init(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim) == bytes_each * n

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    memory: Any = compiled.memory_analysis()
    assert memory.alias_size_in_bytes - 4 * n in range(bytes_each * n, bytes_each * n + 100)
    # XLA for CPUs copies what is stored, since two fusions read it, and no more.
    assert memory.temp_size_in_bytes < bytes_each * n + 1000
    entry = str(compiled.as_text()).partition("\nENTRY")[2]
    wide = [line for line in entry.splitlines() if f"= f32[{n}]" in line]
    operations = [line.split(f"f32[{n}]{{0}} ")[1].split("(")[0] for line in wide]
    assert set(operations) == {"parameter", "fusion"}
    assert operations.count("fusion") == 1  # the new parameters


def test_a_loop_over_steps_keeps_no_random_bits_in_memory():
    """Nor anything else of full width that doesn't change from step to step."""
    params = jnp.zeros((100, 500))

    def temporary(tx):
        def steps(params, state, gradients):
            def step(carry, g):
                updates, state = tx.update(g, carry[1], params)
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (params, state), gradients)[0]

        arguments = params, tx.init(params), jnp.zeros((4, *params.shape))
        memory: Any = jax.jit(steps, donate_argnums=(0, 1)).lower(*arguments).compile()
        return memory.memory_analysis().temp_size_in_bytes / params.size

    assert temporary(store(rmsprop(0.1), nu=U8)) < temporary(rmsprop(0.1)) + 2.1
