"""Numbers that kill optimizers: the cases, what must hold in each, and what runs them.

A case is a table of gradients [steps, elements], the dtypes and options to run it with, and what
must hold for the updates. `verdict` judges the updates of any implementation; `run` makes those of
a JAX one, for all cases at once. The first element of every run is a bystander with ordinary
gradients, which no neighbour may disturb.

Updates are in units of the learning rate, and are what is subtracted from the parameters.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmsprop_jax
from rmsprop_jax import dialects

LEARNING_RATE = 2.0**-10
EAGER_STEPS = 12
INT32_MAX = 2**31 - 1

FLOATS = ("float16", "bfloat16", "float32", "float64")
NARROW = ("float16", "bfloat16")
WIDE = ("float32", "float64")
RANGY = ("bfloat16", "float32", "float64")  # that hold 1e20
COMPLEX = ("complex64", "complex128")
MIXED = ("bfloat16 float32", "float32 bfloat16", "float16 float32")  # parameters, gradients


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Gradients, how to run them, and what must hold for the updates.

    Updates are always finite, unless `nan_from` says otherwise.
    """

    name: str
    gradients: np.ndarray
    dtypes: tuple[str, ...] = FLOATS
    decay: float = 0.9
    eps: float | None = None  # None for the default of whom it runs
    centered: bool = False
    bias_correction: bool = False
    momentum: float = 0.0
    # How it runs.
    count: int = 0  # of the steps already made
    skip_non_finite: bool = False  # by optax.apply_if_finite
    absent: tuple[int, ...] = ()  # steps whose gradient is None
    # What must hold.
    bounded: bool = True  # |update| <= its closed form
    matches_from: int | None = 0  # from this step on, update = that of the specification
    forget: float = math.inf  # which there sees 0 for gradients larger than this
    rtol: float = 0.0  # where rounding to float32 can't but cost more than the usual tolerance
    skips: tuple[int, ...] = ()  # these steps have updates of 0 and leave no trace
    nan_from: int | None = None  # from this step on, updates are NaN

    @property
    def steps(self) -> int:
        return len(self.gradients)


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """What an implementation calls the options, and the algorithm that it claims to be."""

    make: Callable[..., Any]
    names: Mapping[str, str]
    eps: float
    eps_in_sqrt: bool = False
    initial_scale: float = 0.0
    always_centered: bool = False
    replaces_eps_0: bool = False
    by_component: bool = False  # complex numbers are two real ones
    refuses: tuple[str, ...] = ()  # dtypes
    traced: bool = False  # run it with decay and eps as arrays, see `run`

    def kwargs(self, case: Case) -> dict[str, Any] | None:
        """The arguments for a case, without the learning rate; `None` if it has no such option."""
        wanted = {name: getattr(case, name) for name in ("decay", "momentum")}
        if case.eps is not None:
            wanted["eps"] = case.eps
        for name in ("centered", "bias_correction"):
            if getattr(case, name):
                wanted[name] = True
        if self.always_centered and not wanted.pop("centered", False):
            return None
        if wanted["momentum"] == 0 and "momentum" not in self.names:
            del wanted["momentum"]
        if not wanted.keys() <= self.names.keys():
            return None
        return {self.names[name]: value for name, value in wanted.items()}

    def dtypes(self, case: Case) -> tuple[str, ...]:
        return tuple(dtype for dtype in case.dtypes if dtype not in self.refuses)

    def eps_of(self, case: Case) -> float:
        eps = self.eps if case.eps is None else case.eps
        return 1e-7 if self.replaces_eps_0 and eps == 0 else eps


_INSIDE = {"eps_in_sqrt": True}
_FROM_1 = {"eps_in_sqrt": True, "initial_scale": 1.0}
_FORMS: dict[str, tuple[str, float, dict[str, Any]]] = {
    # The names of decay and eps, then other options that it has; its default of eps.
    "optax": ("decay eps momentum centered bias_correction", 1e-8, _INSIDE),
    "pytorch": ("alpha eps momentum centered", 1e-8, {"by_component": True}),
    "timm": ("alpha eps momentum centered", 1e-10, _FROM_1),
    "stable_baselines3": ("alpha eps momentum centered", 1e-8, _FROM_1),
    "keras": ("rho epsilon momentum centered", 1e-7, _INSIDE),
    # With momentum, it has another place for eps.
    "tf_keras_legacy": ("rho epsilon centered", 1e-7, {"replaces_eps_0": True}),
    "tensorflow1": ("decay epsilon momentum centered", 1e-10, _FROM_1),
    "sonnet": ("decay epsilon momentum centered", 1e-10, _INSIDE),
    "paddle": ("rho epsilon momentum centered", 1e-6, _INSIDE),
    "mlx": ("alpha eps", 1e-8, {}),
    "burn": ("alpha epsilon momentum centered", 1e-5, {}),
    "graves": ("alpha eps momentum", 1e-4, _INSIDE | {"always_centered": True}),
    "fastai": ("sqr_mom eps", 1e-8, {}),  # its momentum is of gradients
    "jax_example_libraries": ("gamma eps momentum", 1e-8, _INSIDE),
    "mindspore": ("decay epsilon momentum centered", 1e-10, _FROM_1),
    "tensorflowjs": ("decay epsilon momentum", 1e-7, _INSIDE),
    "torchopt": ("alpha eps momentum centered", 1e-8, {}),
}


def _form(make: Callable[..., Any], names: str, eps: float, **options: Any) -> Form:
    decay, its_eps, *others = names.split()
    names_of = {"decay": decay, "eps": its_eps} | {name: name for name in others}
    return Form(make, names_of, eps, **options)


FORMS = {"rmsprop": _form(rmsprop_jax.rmsprop, _FORMS["optax"][0], 1e-8)} | {
    name: _form(getattr(dialects, name), names, eps, traced=True, **options)
    for name, (names, eps, options) in _FORMS.items()
}
"""`rmsprop` and the dialects."""


def _columns(*columns: Any, steps: int = 60) -> np.ndarray:
    """Gradients from one number or one sequence for each element."""
    return np.stack([np.broadcast_to(column, steps) for column in columns], axis=1)


def _noise(steps: int, size: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return mean + std * np.random.RandomState(0).standard_normal((steps, size))


def _spike(*sizes: complex, steps: int, at: int = 3) -> np.ndarray:
    """Noise, at one step of which the gradient is something else; an element for each size."""
    noise: np.ndarray = 0.5 + np.abs(_noise(steps, len(sizes)))
    if np.iscomplexobj(sizes):
        noise = noise * np.exp(1j * _noise(steps, len(sizes)))
    noise[at] = sizes
    return noise


def _with_phase(gradients: np.ndarray) -> np.ndarray:
    return gradients * np.exp(1j * np.arange(gradients.size).reshape(gradients.shape))


def _gap(steps: int, fill: float = 0.0) -> np.ndarray:
    """Ones, then nothing for a long time, then ones again."""
    gradients = np.full((steps, 1), fill)
    gradients[:5] = gradients[-5:] = 1.0
    return gradients


_SIGNS = (-1.0) ** np.arange(60)
_ONE_HOT = 1.0 * (np.arange(60) % 10 == 4)
_RAMP = np.geomspace(1e-4, 1e4, 60)
_TINY = {dtype: float(jnp.finfo(dtype).smallest_normal) for dtype in FLOATS}
_SUBNORMAL = {dtype: float(jnp.finfo(dtype).smallest_subnormal) for dtype in FLOATS}
# Constants that make the centered variance of one framework or another negative.
_CANCELLING = (1.5, 4.7, 5.9, 8.2, 8.9, 11.5, 12.1, 16.2, 17.9, 19.0, 0.1, 1 / 3)


def _burst(name: str, *sizes: complex, dtypes=RANGY, steps=1200, at=3, **options: Any) -> Case:
    """Noise with something enormous at one step; 50 steps from the end, it has to be forgotten."""
    options = {"matches_from": steps - 50, "forget": 1e15} | options
    return Case(name, _spike(*sizes, steps=steps, at=at), dtypes, **options)


def _centered(name: str, gradients: np.ndarray, dtypes=FLOATS, **options: Any) -> Case:
    return Case(name, gradients, dtypes, centered=True, **{"bounded": False} | options)


def _corrected(name: str, gradients: np.ndarray, dtypes=FLOATS, **options: Any) -> Case:
    return Case(name, gradients, dtypes, bias_correction=True, **options)


def _skipped(name: str, gradients: np.ndarray, dtypes=FLOATS, **options: Any) -> Case:
    return Case(name, gradients, dtypes, skip_non_finite=True, skips=(3,), **options)


_INF, _NAN, _MAX = np.inf, np.nan, INT32_MAX
CASES = [
    # Gradients that are only a bit special.
    Case("constant", _columns(1.0, -7.0, 1e-2)),
    Case("alternating", _columns(_SIGNS, 100 * _SIGNS)),
    Case("one step in ten", _columns(_ONE_HOT, -_ONE_HOT)),
    Case("zero", _columns(0.0, -0.0)),
    Case("zero for 1,400 steps, then 1", _gap(1410)),
    Case("growing from 1e-4 to 1e4", _columns(_RAMP, -_RAMP)),
    Case("shrinking from 1e4 to 1e-4", _columns(_RAMP[::-1], -_RAMP[::-1])),
    # Small. What underflows may be less than the specification says, but not more.
    *(
        Case(
            f"smallest {kind} {dtype}{', eps = 0' if eps == 0 else ''}",
            _columns(sizes[dtype], sizes[dtype] * _SIGNS),
            (dtype,),
            eps=eps,
            matches_from=None,
        )
        for kind, sizes in (("normal", _TINY), ("subnormal", _SUBNORMAL))
        for dtype in FLOATS
        for eps in (None, 0.0)
    ),
    Case("1e-4, default eps", _columns(1e-4, 1e-4 * _SIGNS)),
    Case("1e-6 in float16, default eps", _columns(1e-6), ("float16",)),
    # Squares among float32's subnormal numbers, which XLA flushes: the bound is all there is.
    Case("1e-19, eps = 1e-30", _columns(1e-19), RANGY, eps=1e-30, matches_from=None),
    # eps.
    Case("eps = 0 and zero", _columns(0.0), eps=0.0),
    Case("eps = 0, zero for 1,400 steps, then 1", _gap(1410), eps=0.0),
    Case("eps = 0 and noise", _noise(60, 4), eps=0.0),
    Case("eps = 1e-50", _columns(0.0, 1.0, 1e-4), eps=1e-50),
    Case("eps = 1", _noise(60, 4, std=1e-2), eps=1.0),
    Case("eps = 1e8", _columns(1e4, 1.0), eps=1e8),
    # decay.
    Case("decay = 0", _noise(60, 4), decay=0.0),
    Case("decay = 0, eps = 0, now and then zero", _columns(_ONE_HOT), decay=0.0, eps=0.0),
    Case("decay = 1e-3", _noise(60, 4), decay=1e-3),
    Case("decay = 0.9999", _columns(1.0, _noise(60, 1)[:, 0]), decay=0.9999),
    Case("decay = 0.9999999", _columns(1.0, _noise(60, 1)[:, 0]), decay=0.9999999),
    Case("decay = 0.999 for 10,000 steps", np.ones((10_000, 1)), NARROW, decay=0.999),
    Case(
        "decay = 0.999, 3,000 times 1, 7,000 times 0.01",
        np.repeat([[1.0], [0.01]], [3000, 7000], axis=0),
        NARROW,
        decay=0.999,
    ),
    # Large.
    Case("300 in float16", _columns(300.0, 300 * _SIGNS), ("float16",)),
    _burst(
        "65504 once in float16",
        *(65504, -65504),
        dtypes=("float16",),
        steps=400,
        matches_from=380,
        forget=1e4,
    ),
    Case("65504 always in float16", _columns(65504, 65504 * _SIGNS), ("float16",)),
    _burst("1e20 once", 1e20, -1e20),
    _burst("1e20 at the first step", 1e20, -1e20, at=0),
    Case("1e20 always", _columns(1e20, -1e20), RANGY),
    Case("1e20 alternating", _columns(1e20 * _SIGNS), RANGY),
    Case("3e38 always", _columns(3e38, 3e38 * _SIGNS), RANGY),
    _burst("3e38 once", 3e38, -3e38, dtypes=("bfloat16", "float32"), at=2),
    _burst("1e20 once, decay = 0", 1e20, steps=60, decay=0.0, matches_from=4),
    _burst("1e20 once, decay = 0.5", 1e20, -1e20, steps=200, decay=0.5, matches_from=180),
    _burst(
        "1e20 once, momentum = 0.9",
        *(1e20, -1e20),
        dtypes=("bfloat16", "float64"),
        momentum=0.9,
        matches_from=1190,
    ),
    _burst(
        "1e200 once in float64, decay = 0.5",
        *(1e200, -1e200),
        dtypes=("float64",),
        steps=1410,
        decay=0.5,
        matches_from=1400,
    ),
    Case("1e20 and 1e-20 in turn", _columns(np.where(_SIGNS > 0, 1e20, 1e-20)), RANGY),
    # Centered.
    _centered("centered, noise", _noise(60, 4)),
    _centered("centered, alternating", _columns(_SIGNS)),
    _centered("centered, zero, eps = 0", _columns(0.0), eps=0.0),
    _centered("centered, constant, eps = 1e-2", _columns(1.0, -1.0, 0.5, steps=1410), eps=1e-2),
    *(
        _centered(
            f"centered, constant{', decay = 0.99' if decay == 0.99 else ''}",
            _columns(*_CANCELLING, steps=1410),
            RANGY,
            decay=decay,
            bounded=True,
            matches_from=None,
        )
        for decay in (0.9, 0.99)
    ),
    _centered(
        "centered, constant, eps = 0",
        _columns(*_CANCELLING, steps=1410),
        WIDE,
        eps=0.0,
        matches_from=None,
    ),
    _centered(
        "centered, 3 + 1e-4 noise", _noise(1410, 8, 3.0, 1e-4), WIDE, matches_from=300, rtol=1e-2
    ),
    _centered(
        "centered, variance 1e-12 of the mean",
        _noise(1410, 8, 1.0, 1e-6),
        WIDE,
        matches_from=400,
        rtol=0.2,
    ),
    _centered("centered, decay = 0, eps = 1e-2", _noise(60, 8), decay=0.0, eps=1e-2),
    _centered("centered, decay = 0, eps = 1e-12", _noise(60, 8), WIDE, decay=0.0, eps=1e-12),
    _burst("centered, 1e20 once", 1e20, -1e20, centered=True, matches_from=1190, rtol=1e-3),
    _centered("centered, 1e20 alternating", _columns(1e20 * _SIGNS), RANGY, bounded=True),
    _centered("centered, 1e22 for 60 steps", _columns(1e22, -1e22), RANGY),
    _centered(
        "centered, momentum = 0.9, 3e38 once",
        _spike(3e38, steps=1200),
        ("float32",),
        momentum=0.9,
        matches_from=None,
    ),
    # Bias correction.
    _corrected("bias correction, constant", _columns(1.0, -3.0)),
    _corrected("bias correction, noise", _noise(60, 4)),
    _corrected("bias correction, decay = 0", _noise(60, 4), decay=0.0),
    _corrected("bias correction, decay = 0.9999", _noise(60, 4), decay=0.9999),
    _corrected("bias correction, decay = 0.9999999", _noise(60, 4), decay=0.9999999),
    _burst("bias correction, 1e20 at the first step", 1e20, at=0, bias_correction=True),
    _corrected("bias correction, zero first", _gap(60)[::-1] * 0 + _gap(60, 0.1)),
    _centered(
        "bias correction, centered, eps = 1e-2", _noise(60, 64), eps=1e-2, bias_correction=True
    ),
    _centered("bias correction, centered, first step", _noise(1, 200), WIDE, bias_correction=True),
    # Complex.
    Case("complex noise", _with_phase(_noise(60, 4)), COMPLEX),
    Case("complex zero, eps = 0", _with_phase(_columns(0.0)), COMPLEX, eps=0.0),
    _burst("complex 1e20 once", 1e20 + 1e20j, -1e20j, dtypes=COMPLEX),
    _burst(
        "complex infinity once, decay = 0.5",
        *(complex(_INF, 1), complex(0, -_INF)),
        dtypes=COMPLEX,
        steps=1410,
        decay=0.5,
        matches_from=1400,
    ),
    Case("complex NaN once", _spike(complex(_NAN, _NAN), steps=60), COMPLEX, nan_from=3),
    _skipped("complex NaN once, apply_if_finite", _spike(complex(_NAN, 1.0), steps=60), COMPLEX),
    # Infinite and NaN.
    *(
        _burst(
            f"{'centered, ' if centered else ''}infinity once, decay = 0.5",
            *(_INF, -_INF),
            dtypes=FLOATS,
            steps=1410,
            decay=0.5,
            centered=centered,
            matches_from=1400,
            forget=1e5,
            rtol=1e-3 * centered,
        )
        for centered in (False, True)
    ),
    Case("infinity always", _columns(_INF, -_INF), matches_from=None),
    _skipped("infinity once, apply_if_finite", _spike(_INF, -_INF, steps=60)),
    Case("NaN once", _spike(_NAN, _NAN, steps=60), nan_from=3),
    _skipped("NaN once, apply_if_finite", _spike(_NAN, 1.0, steps=60)),
    _skipped(
        "NaN once, centered, apply_if_finite",
        _spike(_NAN, 1.0, steps=60),
        ("bfloat16", "float64"),
        centered=True,
        bounded=False,
    ),
    # How it is called.
    Case("parameters and gradients of two dtypes", _noise(60, 4), MIXED),
    _burst(
        "1e20 once in float32, parameters in float16 or bfloat16",
        1e20,
        dtypes=("bfloat16 float32", "float16 float32"),
    ),
    Case("gradient of None twice", _noise(EAGER_STEPS, 4), absent=(3, 7), skips=(3, 7)),
    Case("count at the int32 maximum", _noise(60, 4), ("float32",), count=_MAX),
    _corrected(
        "count at the int32 maximum, bias correction", _noise(60, 4), ("float32",), count=_MAX
    ),
]


def param_dtype(dtype: str) -> str:
    return dtype.split()[0]


def grad_dtype(dtype: str) -> str:
    return dtype.split()[-1]


def is_wide(dtype: str) -> bool:
    """Whether it needs JAX's 64-bit mode."""
    return dtype in ("float64", "complex128")


def gradients(case: Case, dtype: str, quiet: bool = False) -> np.ndarray:
    """The gradients [steps, 1 + elements], a bystander in front; if quiet, with nothing but it."""
    bystander = np.random.RandomState(1).standard_normal((case.steps, 1))
    hostile = np.zeros_like(case.gradients) if quiet else case.gradients
    with np.errstate(over="ignore"):
        return np.concatenate([bystander, hostile], axis=1).astype(jnp.dtype(grad_dtype(dtype)))


def arrangements(form: Form, cases: Iterable[Case] = CASES) -> list[tuple[Case, str]]:
    """The cases that an implementation has the options for, with the dtypes it takes."""
    return [
        (case, dtype)
        for case in cases
        if form.kwargs(case) is not None
        for dtype in form.dtypes(case)
    ]


def run(
    form: Form, eager: bool = False, cases: Iterable[Case] = CASES
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Updates by case and dtype, divided by minus the learning rate, and those of the quiet run.

    Compiling takes longer than running, so that many cases share a program: as elements of an
    array, as arrays of a tree, as lanes of a `vmap` over decay and eps, as trees in one scan.

    Args:
      form: an implementation. If it is `traced`, decay and eps are data of the program, else
        Python numbers.
      eager: call `update` from Python, with Python numbers, for `EAGER_STEPS` steps. Otherwise,
        cases with gradients of `None` are left out.
      cases: which.

    Returns:
      Pairs of arrays [steps, 1 + elements]. In the quiet run, the bystander is alone: all other
      gradients are 0. (If eager, there is none, and both are the same.)
    """
    traced = form.traced and not eager
    batches: dict[Any, dict[Any, list[tuple[Case, str]]]] = {}
    for case, dtype in arrangements(form, cases):
        if case.absent and not eager:
            continue
        kwargs = form.kwargs(case) or {}
        numbers = [form.names[name] for name in ("decay", "eps")]
        key = tuple((name, x) for name, x in kwargs.items() if not traced or name not in numbers)
        length = EAGER_STEPS if eager else 1410 if case.steps <= 1410 else 10_000
        batch = batches.setdefault((length, traced or eager or is_wide(dtype)), {})
        group = batch.setdefault((key, case.skip_non_finite, case.count, case.absent), [])
        group.append((case, dtype))
    updates: dict[tuple[str, str], Any] = {}
    for (length, x64), groups in batches.items():
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"):
            parts = [_Part(form, group, length, traced) for group in groups.values()]
            outs = _loops(parts) if eager else _scans(parts)
        for part, pair in zip(parts, zip(*outs, strict=True), strict=True):
            for (case, dtype), (lane, columns) in part.places.items():
                steps = min(case.steps, length)
                blocks = [np.asarray(out[dtype])[:steps, lane, columns] for out in pair]
                wide = complex if np.iscomplexobj(blocks[0]) else float
                loud, quiet = (block.astype(wide) / -LEARNING_RATE for block in blocks)
                updates[case.name, dtype] = loud, quiet
    return updates


class _Part:
    """Cases that one transformation runs, arranged in arrays [steps, lanes, elements] by dtype."""

    def __init__(self, form: Form, group: list[tuple[Case, str]], length: int, traced: bool):
        numbers = [(case.decay, form.eps_of(case)) for case, _ in group]
        lanes = list(dict.fromkeys(numbers)) if traced else [numbers[0]]
        self.case = case = group[0][0]
        self.places: dict[tuple[Case, str], tuple[int, slice]] = {}
        ends: dict[tuple[str, int], int] = {}
        for (case, dtype), number in zip(group, numbers, strict=True):
            lane = lanes.index(number) if traced else 0
            start = ends.get((dtype, lane), 0)
            end = ends[dtype, lane] = start + 1 + case.gradients.shape[1]
            self.places[case, dtype] = lane, slice(start, end)
        self.grads, self.quiet = (
            {
                dtype: np.zeros(
                    (length, len(lanes), _round_up(ends, dtype)),
                    jnp.dtype(grad_dtype(dtype)),
                )
                for dtype, _ in ends
            }
            for _ in range(2)
        )
        for (case, dtype), (lane, columns) in self.places.items():
            steps = min(case.steps, length)
            for arrays, quiet in ((self.grads, False), (self.quiet, True)):
                arrays[dtype][:steps, lane, columns] = gradients(case, dtype, quiet)[:steps]

        def make(decay, eps):
            kwargs = form.kwargs(self.case) or {}
            if traced:
                kwargs |= {form.names["decay"]: decay, form.names["eps"]: eps}
            tx = form.make(LEARNING_RATE, **kwargs)
            return optax.apply_if_finite(tx, 10) if self.case.skip_non_finite else tx

        if traced:
            lanes = jnp.asarray(lanes, jnp.float64).T
            self.init = lambda p: jax.vmap(lambda d, e, p: make(d, e).init(p))(*lanes, p)
            self.update = lambda g, s, p: jax.vmap(
                lambda d, e, g, s, p: make(d, e).update(g, s, p)
            )(*lanes, g, s, p)
        else:
            self.init, self.update = make(*lanes[0])

    def start(self) -> tuple[Any, Any]:
        """Parameters of 0 and the state."""
        params = {
            dtype: jnp.zeros(g.shape[1:], jnp.dtype(param_dtype(dtype)))
            for dtype, g in self.grads.items()
        }
        state = self.init(params)
        if self.case.count:
            state = jax.tree.map(
                lambda x: jnp.full_like(x, self.case.count) if x.dtype == jnp.int32 else x, state
            )
        return params, state


def _round_up(ends, dtype):
    """A power of 2 that holds the elements: JAX compiles once for each shape."""
    width = max(end for (d, _), end in ends.items() if d == dtype)
    return max(64, 1 << (width - 1).bit_length())


def _scans(parts):
    """The updates of all, and the same without the hostile gradients."""

    @jax.jit
    def scan(grads):
        params, states = zip(*(part.start() for part in parts), strict=True)

        def step(states, grads):
            pairs = [
                part.update(g, state, p)
                for part, g, state, p in zip(parts, grads, states, params, strict=True)
            ]
            return tuple(state for _, state in pairs), [updates for updates, _ in pairs]

        return jax.lax.scan(step, states, grads)[1]

    return scan([part.grads for part in parts]), scan([part.quiet for part in parts])


def _loops(parts):
    outs = [_loop(part, part.grads) for part in parts]
    return outs, outs


def _loop(part, grads):
    params, state = part.start()
    rows: dict[str, list[np.ndarray]] = {dtype: [] for dtype in grads}
    for i in range(EAGER_STEPS):
        absent = i in part.case.absent
        g = {dtype: None if absent else jnp.asarray(g[i]) for dtype, g in grads.items()}
        updates, state = part.update(g, state, params)
        for dtype, u in updates.items():
            rows[dtype].append(np.zeros_like(grads[dtype][0]) if u is None else np.asarray(u))
    return {dtype: np.stack(us) for dtype, us in rows.items()}


def verdict(
    form: Form,
    case: Case,
    dtype: str,
    updates: np.ndarray,
    quiet: np.ndarray | None = None,
    rtol: float | None = None,
) -> str:
    """What happened to the updates of a case; nothing if all that must hold does.

    Args:
      form: whose updates.
      case: the case.
      dtype: as in the case.
      updates: [steps, 1 + elements].
      quiet: the updates with gradients of 0 in the place of the hostile ones.
      rtol: largest relative error, by default what rounding explains.
    """
    bystander, hostile = updates[:, 0], updates[:, 1:]
    if (
        quiet is not None
        and not case.skips
        and not np.array_equal(bystander, quiet[:, 0], equal_nan=True)
    ):
        return "others disturbed"
    if case.nan_from is not None:
        before, after = hostile[: case.nan_from], hostile[case.nan_from :]
        return "" if np.isnan(after).all() and np.isfinite(before).all() else "NaN hidden"
    if np.isnan(updates).any():
        return "NaN"
    if not np.isfinite(updates).all():
        return "inf"
    if np.any(updates[list(case.skips)] != 0):
        return "not skipped"
    g = gradients(case, dtype)[:, 1:]
    precise = is_wide(dtype)
    if rtol is None:
        rtol = {"float16": 1e-3, "bfloat16": 4e-3}.get(grad_dtype(dtype), 1e-9 if precise else 3e-5)
        rtol = max(rtol, 0.0 if precise else case.rtol)
    else:
        rtol = max(rtol, case.rtol)
    info = jnp.finfo(jnp.dtype(grad_dtype(dtype)))
    quantum = info.smallest_subnormal if dtype == "float16" else info.smallest_normal
    atol = 2 * float(quantum) / LEARNING_RATE
    if case.bounded:
        # If centered, gradients that are alike have larger updates: only a spike is bounded.
        spikes = np.abs(g.astype(hostile.dtype)) > (case.forget if case.centered else math.inf)
        size = np.max(np.abs(hostile[spikes] if spikes.any() else hostile))
        limit = bound(form, case, g)
        if size > limit * (1 + rtol) + atol:
            return f"{size / limit:.0e} × its bound"
    if case.matches_from is None:
        return ""
    for step in _checked_steps(case):
        want = expected(form, case, g, step)
        error = np.abs(hostile[step] - want) - atol
        worst = np.argmax(error - rtol * np.abs(want))
        if error[worst] > rtol * np.abs(want[worst]):
            got, should = np.abs(hostile[step, worst]), np.abs(want[worst])
            if got < 1e-3 * should:
                return "frozen"
            return f"{got / should:.2g} × the step" if should else f"{got:.0e} for 0"
    return ""


def bound(form: Form, case: Case, g: np.ndarray) -> float:
    """The largest update that there can be."""
    if case.centered:
        size = np.max(np.abs(np.where(np.isfinite(g), g, 0)))
        eps = form.eps_of(case)
        denominator = math.sqrt(eps) if form.eps_in_sqrt else eps
        if case.matches_from is None and np.isfinite(g).all() and np.ptp(g, axis=0).max() == 0:
            return size / denominator  # the variance of a constant becomes 0
    limit = 1 / math.sqrt(1 - case.decay)
    if case.centered:
        limit *= math.sqrt(1 / case.decay)
    if np.iscomplexobj(g) and form.by_component:
        limit *= math.sqrt(2)
    return limit / (1 - case.momentum)


def _checked_steps(case):
    """Steps to compare with the specification: the first ones, the last ones and some between."""
    first, last = case.matches_from, case.steps - 1
    some = {first, first + 1, first + 2, *np.linspace(first, last, 5).astype(int), last - 1, last}
    return sorted(step for step in some if first <= step <= last and step not in case.skips)


def expected(form: Form, case: Case, g: np.ndarray, step: int) -> Any:
    """The update of a step in float64, by the definition: no recursion, no running state."""
    g = g.astype(complex if np.iscomplexobj(g) else float)
    g = np.where(np.abs(g) > case.forget, 0, g)
    past = np.delete(g[: step + 1], [s for s in case.skips if s <= step], axis=0)
    if np.iscomplexobj(g) and form.by_component:
        return _expected(form, case, past.real) + 1j * _expected(form, case, past.imag)
    return _expected(form, case, past)


def _expected(form: Form, case: Case, past: np.ndarray) -> Any:
    if case.momentum:  # the updates of the last 400 steps, of which no more than 1e-18 is left
        terms = range(min(len(past), 400))
        plain = dataclasses.replace(case, momentum=0.0)
        return sum(
            case.momentum**age * _expected(form, plain, past[: len(past) - age]) for age in terms
        )
    age = np.arange(len(past) - 1, -1, -1.0)
    weights = ((1 - case.decay) * case.decay**age)[:, None]
    weight_of_start = case.decay ** len(past)
    if case.bias_correction and not case.count:
        weights, weight_of_start = weights / weights.sum(), 0.0
    # In units of the largest gradient, so that squares neither overflow nor underflow.
    scale = np.max(np.abs(past), axis=0)
    scale = np.where(scale > 1e-140, scale, 1.0)
    past = past / scale
    if case.centered:
        mean = np.sum(weights * past, axis=0)
        nu = np.sum(weights * np.abs(past - mean) ** 2, axis=0)
        nu = nu + weight_of_start * np.abs(mean) ** 2  # it started from a gradient of 0
    else:
        nu = np.sum(weights * np.abs(past) ** 2, axis=0)
    nu = nu + weight_of_start * form.initial_scale / scale**2
    eps = form.eps_of(case)
    root = np.sqrt(nu + eps / scale**2) if form.eps_in_sqrt else np.sqrt(nu) + eps / scale
    return np.divide(past[-1], root, out=np.zeros_like(past[-1]), where=root != 0)
