"""The mathematics of RMSProp: one transformation, one state."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax.checks import check_decay, check_nonnegative, check_wide, given, is_traced
from rmsprop_jax.eager import at_once, for_each
from rmsprop_jax.export import exportable
from rmsprop_jax.fit import describe, dtype_of, is_none, kind_of, name_of
from rmsprop_jax.precision import is_narrow, public


@exportable
class RmsState(NamedTuple):
    """State of `scale_by_rms`, the same for all of its options.

    Attributes:
      count: number of updates made; an int32 scalar that stops at its maximum.
      nu: average of the squared gradients, or their variance if centered. For each parameter a
        real array of its shape: float64 for float64 and complex128, else float32.
      mu: average of the gradients if centered, of the same precision as `nu` and complex for
        complex parameters; else `None`.

    Example:
      >>> import jax.numpy as jnp, rmsprop_jax
      >>> state = rmsprop_jax.scale_by_rms().init({"w": jnp.ones(2, jnp.bfloat16)})
      >>> state.nu["w"].dtype, state.mu
      (dtype('float32'), None)
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    nu: optax.Updates
    mu: optax.Updates | None


@exportable
class NumeratorState(NamedTuple):
    """State of `scale_by_rms` with a numerator of its own.

    Attributes:
      rms: what it is without one.
      numerator: the state of the transformation that makes the numerator.

    Example:
      >>> import jax.numpy as jnp, optax, rmsprop_jax
      >>> state = rmsprop_jax.scale_by_rms(numerator=optax.trace(0.9)).init(jnp.ones(2))
      >>> print(state.rms.nu, state.numerator.trace)
      [0. 0.] [0. 0.]
    """

    rms: RmsState
    numerator: Any


@public
def scale_by_rms(
    decay: ArrayLike | optax.Schedule = 0.9,
    eps: ArrayLike = 1e-8,
    *,
    eps_in_sqrt: bool = False,
    eps_root: ArrayLike = 0.0,
    least_root: ArrayLike = 0.0,
    initial_scale: ArrayLike = 0.0,
    centered: bool = False,
    bias_correction: bool = False,
    numerator: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by the root of a running average of their squares.

    The update, for each element g of the gradients, before any learning rate:

        nu <- decay nu + (1 - decay) |g|^2                    starting at initial_scale
        update = g / (sqrt(nu) + eps)                         or g / sqrt(nu + eps) if eps_in_sqrt

    If centered, nu is the variance `E|g|^2 - |E g|^2` of the same averages. It is found by a
    recursion of its own, which neither cancels nor goes negative where the difference does both
    (with the old mu on the right of the first line):

        nu <- decay (nu + (1 - decay) |g - mu|^2)
        mu <- mu + (1 - decay) (g - mu)                       starting at 0

    Some frameworks have other denominators and numerators. With all of them, the update is

        update = numerator(g) / (max(sqrt(nu + eps_root), least_root) + eps)

    where nu is the average of the squares of g itself, so that numerator=optax.clip(1.0) clips
    after the squares were taken, and numerator=optax.trace(0.9) adds up gradients, not updates.

    With bias_correction, both averages are those over the t gradients seen so far, free of their
    start: at step t, decay is replaced by decay (1 - decay^(t-1)) / (1 - decay^t), which rises
    from 0. The variance of a single gradient is 0, so that with both options the first update is
    g / eps, or g / sqrt(eps): combine them with a learning rate that warms up from 0.

    What hostile numbers do: 0/0, as for eps = 0 and g = 0, is 0. A gradient beyond 2^62 (2^510 in
    float64), whose square would overflow, counts as that number, infinities included; so the
    update stays within its bound of 1 / sqrt(1 - decay) (times sqrt(1 / decay) if centered) and
    the parameter recovers. So it does where squares underflow, if not centered, since what the root
    is taken of is at least the smallest normal number (1.2e-38 in float32). NaN stays visible, in
    the update and in the accumulators; skipping it is the business of `optax.apply_if_finite`.

    Args:
      decay: rate of the averages, in [0, 1); or a schedule, a function of the number of updates
        made. One that is 0 at first starts at the first squared gradient. `1 - decay` is computed
        in double precision if decay is a Python or NumPy number. An array must be float32 or wider,
        since bfloat16 rounds 0.999 to 1; with `optax.inject_hyperparams` and narrow parameters,
        pass it `hyperparam_dtype=jnp.float32`.
      eps: added to the denominator, 0 or more.
      eps_in_sqrt: add eps under the square root, not outside; the same as eps_root=eps, eps=0.
      eps_root: added under the root besides, 0 or more.
      least_root: the least that the root can be, 0 or more.
      initial_scale: value at which nu starts, 0 or more; 0 with bias_correction, which would
        forget it at the first step.
      centered: divide by the standard deviation of the gradients, not by their root mean square.
      bias_correction: free the averages of the value they start at.
      numerator: a transformation of Optax that makes of the gradients what is divided.

    Returns:
      A transformation whose state is an `RmsState`; with a numerator, a `NumeratorState`. Its
      updates have the shapes and dtypes of the
      gradients; all is computed in float32, or in float64 for float64 parameters. Complex
      gradients are scaled by their modulus. `params` are not needed.

    Raises:
      ValueError: for a number out of its range, for a decay held in less than float32, for
        bias_correction with a schedule, and for eps_root with eps_in_sqrt.
      TypeError: for a hyperparameter that is not a number.

    Example:
      >>> import jax.numpy as jnp, optax, rmsprop_jax
      >>> tx = optax.chain(optax.clip(1.0), rmsprop_jax.scale_by_rms(0.75), optax.scale(-0.1))
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([0.5, 4.0]), tx.init(params))
      >>> print(updates, state[1].nu)
      [-0.2 -0.2] [0.0625 0.25  ]

    References:
      G. Hinton, Neural Networks for Machine Learning, lecture 6e, 2012:
      https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf

      A. Graves, Generating Sequences With Recurrent Neural Networks, 2013 (centered):
      https://arxiv.org/abs/1308.0850

      D. H. D. West, Updating Mean and Variance Estimates, 1979 (the recursion of the variance):
      https://doi.org/10.1145/359146.359153
    """
    check_nonnegative(
        eps=eps, eps_root=eps_root, least_root=least_root, initial_scale=initial_scale
    )
    if eps_in_sqrt and given(eps_root):
        raise ValueError(
            "eps_in_sqrt=True puts eps where eps_root is: pass eps_root and eps, without it."
        )
    if bias_correction and not is_traced(initial_scale) and np.asarray(initial_scale) != 0:
        raise ValueError(
            f"initial_scale={initial_scale} is forgotten at the first step of a bias-corrected "
            "average: pass initial_scale=0 or bias_correction=False."
        )
    if callable(decay) and bias_correction:
        raise ValueError(
            "bias_correction divides by what one decay comes to, and decay is a schedule. "
            "A schedule needs none if it is 0 at first: lambda t: jnp.where(t == 0, 0.0, 0.9)."
        )
    if numerator is not None and not isinstance(numerator, optax.GradientTransformation):
        raise TypeError(f"numerator={numerator!r} is no transformation of Optax.")
    if not callable(decay):
        check_decay(decay=decay)
    known = None if callable(decay) else _Rate.of(decay)
    eps_root, eps = (eps, 0.0) if eps_in_sqrt else (eps_root, eps)
    constants = _Constants(*(x if given(x) else None for x in (eps, eps_root, least_root)))

    def init_fn(params: Any) -> Any:
        # Made once for each dtype, the number to fill with takes half the time of a Python one.
        start = functools.cache(lambda dtype: jnp.asarray(initial_scale, dtype))
        zero = functools.cache(lambda dtype: jnp.zeros([], dtype))
        fill = lambda p, x: jnp.full_like(p, x, dtype=x.dtype)
        nu = jax.tree.map(lambda p: fill(p, start(_real(_wide_dtype(p)))), params)
        mu = jax.tree.map(lambda p: fill(p, zero(_wide_dtype(p))), params) if centered else None
        rms = RmsState(jnp.zeros([], jnp.int32), nu, mu)
        return rms if numerator is None else NumeratorState(rms, numerator.init(params))

    def update_fn(updates: Any, state: Any, params: Any = None) -> Any:
        if numerator is None:
            return divide(updates, None, state)
        if not isinstance(state, NumeratorState):
            raise ValueError(f"a numerator has a NumeratorState, and not {describe(state)}.")
        # Clamped as its square is, so that an infinite gradient is forgotten here too.
        (finite,) = _clamp([updates])
        made, inner = numerator.update(finite, state.numerator, params)
        updates, rms = divide(updates, made, state.rms)
        return updates, NumeratorState(rms, inner)

    def divide(updates: Any, made: Any, state: Any) -> Any:
        if (state.mu is not None) != centered:
            raise ValueError(f"mu is {describe(state.mu)} in a state where centered={centered}.")
        if np.shape(state.count) != () or not jnp.issubdtype(dtype_of(state.count), jnp.integer):
            raise ValueError(f"count is {describe(state.count)}, and should be an integer scalar.")
        _check_averages(updates, state, bias_correction)
        count: Any = next_count(state.count)
        rate = known or _scheduled(decay, state.count)
        seen = count if bias_correction else None
        numbers = _Numbers(rate.decay, rate.complement, constants, seen)
        form = _Form(centered, bias_correction, rate.by_difference)
        trees = [updates, state.nu, state.mu, made]
        updates, nu, mu, _ = _average_squares(trees, numbers, form=form)
        return updates, RmsState(count, nu, mu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Rate(NamedTuple):
    """A decay, checked, and what follows from it."""

    decay: Any
    complement: Any  # 1 - decay; `None` where the decay is an array
    by_difference: bool | None  # see `_average`; `None` likewise

    @classmethod
    def of(cls, decay: Any) -> _Rate:
        """That of a number."""
        if isinstance(decay, jax.Array):
            return cls(decay, None, None)
        # In double precision, so that the difference is taken before anything is rounded.
        exact = np.asarray(decay, np.float64)[()]
        return cls(exact, 1 - exact, bool(exact > 0.5))


def _scheduled(decay, count):
    """The rate of a schedule. To look at an array would be to wait for it."""
    rate = decay(count)
    if isinstance(rate, jax.Array):
        check_wide(decay=rate)
    else:
        check_decay(decay=rate)
    return _Rate.of(rate)


class _Form(NamedTuple):
    """The switches: what is another program."""

    centered: bool
    bias_correction: bool
    by_difference: bool | None  # how to average; `None` where the decay is an array


class _Constants(NamedTuple):
    """The numbers of the denominator; `None` leaves one out."""

    eps: Any
    eps_root: Any
    least_root: Any


class _Numbers(NamedTuple):
    """The numbers: operands, so that other ones need no other program."""

    decay: Any
    complement: Any  # 1 - decay; `None` where the decay is an array
    constants: _Constants
    count: Any  # where it counts


next_count = at_once(optax.safe_increment)


@for_each
def _clamp(g):
    """Gradients of which the squares are finite."""
    wide = _real(_wide_dtype(g))
    return (clamp(g, largest(wide)),)


@for_each
def _average_squares(g, nu, mu, made, numbers, *, form):
    """The mathematics, for one array; made is the numerator, if that isn't g."""
    dtype = nu.dtype
    # The square alone is clamped by its size, which spares a third of the time to compile.
    plain = not form.centered and not jnp.iscomplexobj(g)
    square = jnp.minimum(g**2, largest(dtype) ** 2) if plain else None
    g = clamp(g, largest(dtype))
    decay, complement = numbers.decay, numbers.complement
    eps, eps_root, least_root = (
        None if x is None else jnp.asarray(x, dtype) for x in numbers.constants
    )
    if complement is None:
        complement = 1 - decay.astype(jnp.promote_types(decay.dtype, dtype))
    rho, weight = jnp.asarray(decay, dtype), jnp.asarray(complement, dtype)
    by_difference = form.by_difference
    if form.bias_correction:
        rho, weight = _bias_corrected(rho, weight, numbers.count)
        by_difference = None
    if square is None:
        square = rho * _abs_sq(g - mu) if form.centered else _abs_sq(g)
    nu = _average(weight, nu, square, by_difference)
    inner = nu if eps_root is None else nu + eps_root
    at_least = lambda root: root if least_root is None else jnp.maximum(root, least_root)
    top = g if made is None else made
    if form.centered:  # the variance of gradients that don't vary is 0
        # nu needs the old mu. Making the new mu wait for nu, by a test that changes nothing, spares
        # XLA on CPUs a copy of the old one when the state is donated: 3x faster.
        mu = jnp.where(jnp.isnan(nu), nu.astype(mu.dtype), _average(weight, mu, g, by_difference))
        root = at_least(_sqrt(inner))
        update = _divide(top, root if eps is None else root + eps)
        # On TPUs, XLA makes one loop of all three if the update is made from mu. It is NaN with it.
        from_mu = lambda update, mu: jnp.where(jnp.isnan(mu), mu.astype(update.dtype), update)
        as_it_is = lambda update, mu: update
        update = jax.lax.platform_dependent(update, mu, tpu=from_mu, default=as_it_is)
        return update, nu, mu, made
    # A root of at least this much keeps its derivative finite, 0/0 at 0, and the step within its
    # bound where squares have underflowed.
    tiny = float(jnp.finfo(dtype).tiny)
    root = at_least(jnp.sqrt(jnp.maximum(inner, tiny)))
    # The same once more where no eps follows, to keep XLA from the reciprocal root, which is off by
    # 2 units in the last place.
    root = jnp.maximum(root, math.sqrt(tiny)) if eps is None else root + eps
    return top / root, nu, mu, made


def _check_averages(updates, state, bias_correction):
    """Raises unless the averages of all arrays are those of their gradients."""
    gs: list[Any]
    gs, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    nus = treedef.flatten_up_to(state.nu)
    mus = [None] * len(gs) if state.mu is None else treedef.flatten_up_to(state.mu)
    for i, (g, nu, mu) in enumerate(zip(gs, nus, mus, strict=True)):
        if g is None and bias_correction and jax.tree.leaves(nu):
            raise ValueError(
                f"the gradient of {name_of(updates, i)} is None, and bias_correction counts the "
                "same steps for all parameters: pass zeros, or leave it out by optax.partition."
            )
        averages: list[tuple[str, Any]] = [("nu", nu)] + ([] if mu is None else [("mu", mu)])
        for name, x in averages if g is not None else []:
            kind = "complex" if name == "mu" and kind_of(g) == "complex" else "real"
            if kind_of(x) != kind or is_narrow(x) or np.shape(x) != np.shape(g):  # pyright: ignore[reportCallIssue, reportArgumentType]
                raise ValueError(
                    f"{name} of {name_of(updates, i)} is {describe(x)}, and its gradient "
                    f"{describe(g)}: it must have that shape, and be float32 or wider."
                )


def _wide_dtype(p):
    """The dtype to average gradients of p in: float32 or better, complex if p is."""
    return _wide(jax.dtypes.canonicalize_dtype(dtype_of(p)))  # NumPy's float64 as JAX takes it


@functools.cache
def _wide(dtype):
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if wide else jnp.dtype(jnp.float32)


@functools.cache
def _real(dtype):
    return jnp.finfo(dtype).dtype


def _average(weight, old, new, by_difference):
    """(1 - weight) old + weight new, in the form that is the more exact one for the weight.

    1 - weight has the digits of weight only if it is the smaller one; at decay = 0.999 in float32,
    nu would else settle 1e-5 off the average. And the difference cancels where little is kept of a
    large old.
    """
    difference = lambda: old + weight * (new - old)
    combination = lambda: (1 - weight) * old + weight * new
    if by_difference is None:
        return jnp.where(weight < 0.5, difference(), combination())
    return difference() if by_difference else combination()


def _bias_corrected(rho, one_minus_rho, count):
    """The decay that turns running averages from 0 into averages of the count gradients so far."""
    # 1 - rho^t without cancellation. The floor keeps rho = 0 from giving 0 * inf at t = 1.
    log_rho = jnp.maximum(jnp.log1p(-one_minus_rho), -1e4)
    previous_weight = -jnp.expm1((count - 1).astype(rho.dtype) * log_rho)
    weight = one_minus_rho + rho * previous_weight  # so that the first gradient counts exactly 1
    return rho * previous_weight / weight, one_minus_rho / weight


def _abs_sq(x):
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def largest(dtype: Any, size: int = 1) -> float:
    """The largest power of 2 of which the squares of `size` complex numbers can be summed up."""
    return 2.0 ** (jnp.finfo(dtype).maxexp // 2 - 2 - math.ceil(math.log2(max(size, 1)) / 2))


def clamp(g: Any, limit: float) -> Any:
    """A gradient within limits. NaN stays."""
    if jnp.iscomplexobj(g):
        return jax.lax.complex(clamp(g.real, limit), clamp(g.imag, limit))
    return jax.lax.clamp(jnp.asarray(-limit, g.dtype), g, jnp.asarray(limit, g.dtype))


def _sqrt(x):
    """Square root, with derivative 0 at 0, where it is infinite."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def _divide(x, y):
    """x / y, and 0 with derivative 0 where y is 0."""
    zero = y == 0
    return jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, y))
