"""The mathematics of RMSProp: one transformation, one state."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax.compiled import compiled


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


@compiled
def scale_by_rms(
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    *,
    eps_in_sqrt: bool = False,
    initial_scale: ArrayLike = 0.0,
    centered: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by the root of a running average of their squares.

    The update, for each element g of the gradients, before any learning rate:

        nu <- decay nu + (1 - decay) |g|^2                    starting at initial_scale
        update = g / (sqrt(nu) + eps)                         or g / sqrt(nu + eps) if eps_in_sqrt

    If centered, nu is the variance E|g|^2 - |E g|^2 of the same averages. It is found by a
    recursion of its own, which neither cancels nor goes negative where the difference does both
    (with the old mu on the right of the first line):

        nu <- decay (nu + (1 - decay) |g - mu|^2)
        mu <- mu + (1 - decay) (g - mu)                       starting at 0

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
      decay: rate of the averages, in [0, 1). `1 - decay` is computed in double precision if
        decay is a Python or NumPy number. An array must be float32 or wider, since bfloat16
        rounds 0.999 to 1; with `optax.inject_hyperparams` and narrow parameters, pass it
        `hyperparam_dtype=jnp.float32`.
      eps: added to the denominator, 0 or more.
      eps_in_sqrt: add eps under the square root, not outside.
      initial_scale: value at which nu starts, 0 or more; 0 with bias_correction, which would
        forget it at the first step.
      centered: divide by the standard deviation of the gradients, not by their root mean square.
      bias_correction: free the averages of the value they start at.

    Returns:
      A transformation whose state is an `RmsState`. Its updates have the shapes and dtypes of the
      gradients; all is computed in float32, or in float64 for float64 parameters. Complex
      gradients are scaled by their modulus. `params` are not needed.

    Raises:
      ValueError: for a number out of its range, and for a decay held in less than float32.
      TypeError: for a hyperparameter that is no number.

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
    check_range("decay", decay, upper=1.0)
    check_range("eps", eps)
    check_range("initial_scale", initial_scale)
    if isinstance(decay, jax.Array) and jnp.finfo(decay.dtype).bits < 32:
        raise ValueError(
            f"decay is held in {decay.dtype}, which rounds 0.999 to 1. Pass a Python number or a "
            "float32 array; through optax.inject_hyperparams, with hyperparam_dtype=jnp.float32."
        )
    if bias_correction and isinstance(initial_scale, int | float) and initial_scale != 0:
        raise ValueError(
            f"initial_scale={initial_scale} is forgotten at the first step of a bias-corrected "
            "average: pass initial_scale=0 or bias_correction=False."
        )

    def init_fn(params: Any) -> Any:
        count = jnp.zeros([], jnp.int32)
        nu = jax.tree.map(
            lambda p: jnp.full_like(p, initial_scale, dtype=jnp.finfo(_wide_dtype(p)).dtype), params
        )
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_wide_dtype(p)), params)
        return RmsState(count, nu, mu if centered else None)

    def update_fn(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        count: Any = optax.safe_increment(state.count)

        # Traced once for each shape and dtype, not for each leaf, since jit remembers.
        @jax.jit
        def update_leaf(g, nu, mu):
            dtype = nu.dtype
            g = _clip(g, 2.0 ** (jnp.finfo(dtype).maxexp // 2 - 2))
            rho, one_minus_rho = _decay_and_complement(decay, dtype)
            if bias_correction:
                rho, one_minus_rho = _bias_corrected(rho, one_minus_rho, count)
            square = rho * _abs_sq(g - mu) if centered else _abs_sq(g)
            nu = _average(one_minus_rho, nu, square)
            if centered:
                # nu needs the old mu. Making the new mu wait for nu, by a test that changes
                # nothing, spares XLA on CPUs a copy of the old one when the state is donated: 3x
                # faster.
                mu = jnp.where(jnp.isnan(nu), jnp.nan, _average(one_minus_rho, mu, g))
            inner, outer = (eps, 0.0) if eps_in_sqrt else (0.0, eps)
            if centered:  # the variance of gradients that don't vary is 0
                return _divide(g, _plus(_sqrt(_plus(nu, inner)), outer)), nu, mu
            # A root of at least this much keeps its derivative finite, 0/0 at 0, and the step
            # within its bound where squares have underflowed.
            tiny = float(jnp.finfo(dtype).tiny)
            root = jnp.sqrt(jnp.maximum(_plus(nu, inner), tiny))
            if _is_zero(outer):
                # The same once more, to keep XLA from the reciprocal root, which is off by 2 units
                # in the last place.
                root = jnp.maximum(root, math.sqrt(tiny))
            return g / _plus(root, outer), nu, mu

        def update_or_keep(g, nu, mu):
            return (None, nu, mu) if g is None else update_leaf(g, nu, mu)

        leaves, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
        nus = treedef.flatten_up_to(state.nu)
        mus = treedef.flatten_up_to(state.mu) if centered else [None] * len(leaves)
        new = [update_or_keep(*leaf) for leaf in zip(leaves, nus, mus, strict=True)]
        updates, nu, mu = (treedef.unflatten([leaf[i] for leaf in new]) for i in range(3))
        return updates, RmsState(count, nu, mu if centered else None)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_range(name: str, value: object, upper: float = math.inf) -> None:
    """Raises unless a hyperparameter is a number in [0, upper); arrays are taken on trust."""
    if isinstance(value, jax.Array | np.ndarray):
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}={value!r} is not a number or a JAX scalar.")
    if not 0 <= value < upper:  # written so that NaN is refused
        raise ValueError(f"{name}={value!r} is out of range: it must be in [0, {upper}).")


def _wide_dtype(p):
    """The dtype to average gradients of p in: float32 or better, complex if p is."""
    dtype = jax.eval_shape(jnp.asarray, p).dtype
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if wide else jnp.dtype(jnp.float32)


def _decay_and_complement(decay, dtype):
    """decay and 1 - decay, the difference taken before anything is rounded to dtype."""
    if isinstance(decay, jax.Array):
        decay = decay.astype(jnp.promote_types(decay.dtype, dtype))
    is_array = isinstance(decay, jax.Array | np.ndarray)
    convert = functools.partial(jnp.asarray, dtype=dtype) if is_array else dtype.type
    return convert(decay), convert(1 - decay)


def _average(weight, old, new):
    """(1 - weight) old + weight new, in the form that is the more exact one for the weight.

    1 - weight has the digits of weight only if it is the smaller one; at decay = 0.999 in float32,
    nu would else settle 1e-5 off the average. And the difference cancels where little is kept of a
    large old.
    """
    by_difference = lambda: old + weight * (new - old)
    by_sum = lambda: (1 - weight) * old + weight * new
    if isinstance(weight, jax.Array):
        return jnp.where(weight < 0.5, by_difference(), by_sum())
    return by_difference() if weight < 0.5 else by_sum()


def _bias_corrected(rho, one_minus_rho, count):
    """The decay that turns running averages from 0 into averages of the count gradients so far."""
    # 1 - rho^t without cancellation. The floor keeps rho = 0 from giving 0 * inf at t = 1.
    log_rho = jnp.maximum(jnp.log1p(-one_minus_rho), -1e4)
    previous_weight = -jnp.expm1((count - 1).astype(rho.dtype) * log_rho)
    weight = one_minus_rho + rho * previous_weight  # so that the first gradient counts exactly 1
    return rho * previous_weight / weight, one_minus_rho / weight


def _abs_sq(x):
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def _clip(x, limit):
    if jnp.iscomplexobj(x):
        return jax.lax.complex(_clip(x.real, limit), _clip(x.imag, limit))
    limit = jnp.asarray(limit, x.dtype)
    return jax.lax.clamp(-limit, x, limit)


def _is_zero(eps):
    return isinstance(eps, int | float) and eps == 0


def _plus(x, eps):
    return x if _is_zero(eps) else x + jnp.asarray(eps, x.dtype)


def _sqrt(x):
    """Square root, with derivative 0 at 0, where it is infinite."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def _divide(x, y):
    """x / y, and 0 with derivative 0 where y is 0."""
    zero = y == 0
    return jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, y))
