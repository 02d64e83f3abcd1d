"""Numbers in one or two bytes, rounded at random: no scales, no blocks, each for itself."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Format(Protocol):
    """How numbers are kept: each for itself, in one array of their shape and this dtype.

    One that also has a `decay` other than 1 is given the numbers in a unit that decays with them,
    see `with_decay`. One with `signed = False` isn't taken for accumulators that have signs.
    Outside of `jit`, its functions run as Python at every step.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import rmsprop, storage
      >>> class Half:  # one of your own
      ...     dtype = jnp.float16
      ...     encode = lambda self, x, random: x.astype(jnp.float16)  # to nearest: it will stall
      ...     decode = lambda self, code: code.astype(jnp.float32)
      >>> storage.store(rmsprop(), nu=Half()).init(jnp.ones(2)).inner[0].nu.dtype
      dtype('float16')
    """

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    def encode(self, x: jax.Array, random: jax.Array) -> jax.Array:
        """The float32 numbers x, rounded as 32 random bits for each decide."""
        ...

    def decode(self, code: jax.Array) -> jax.Array:
        """The numbers that are kept, exactly."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decaying:
    """A format for averages that decay.

    Attributes:
      decay: what the average is multiplied with at every step; 1 if that isn't known.
    """

    decay: float = 1.0

    def with_decay(self, decay: float):
        """The same format for an average that is multiplied with `decay` at every step.

        It keeps the average in a unit that shrinks as fast, up to powers of 2, which are exact. So
        what only decays hardly needs rounding: an average of rare gradients is as good as exact
        between them, as is one of gradients that have become small. If it decays at another rate,
        it is merely rounded more often, and still right on average.

        Args:
          decay: in (0, 1], a Python number: that of the optimizer.

        Returns:
          The format.

        Raises:
          ValueError: for a decay out of range.

        Example:
          >>> from rmsprop_jax import rmsprop, storage
          >>> tx = storage.store(rmsprop(1e-3, decay=0.99), nu=U8.with_decay(0.99))
        """
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay!r} is out of range: (0, 1].")
        return dataclasses.replace(self, decay=float(decay))


@dataclasses.dataclass(frozen=True)
class _U16(_Decaying):
    """Unsigned float of 8 exponent and 8 mantissa bits: float32 without its sign, cut short.

    Subnormal numbers become 0, numbers beyond the largest become it. Infinity and NaN stay what
    they are. Negative numbers, which have no place here, become NaN.
    """

    dtype = jnp.uint16
    signed = False
    largest = (2 - 2.0**-8) * 2.0**127

    def encode(self, x: jax.Array, random: jax.Array) -> jax.Array:
        return (_shorten(_as_bits(x), random, 15)).astype(jnp.uint16)

    def decode(self, code: jax.Array) -> jax.Array:
        return _as_float(code.astype(jnp.uint32) << 15)


@dataclasses.dataclass(frozen=True)
class _BF16(_Decaying):
    """bfloat16. Subnormal and too large numbers, infinities and NaN fare as in `U16`."""

    dtype = jnp.bfloat16
    signed = True
    largest = (2 - 2.0**-7) * 2.0**127

    def encode(self, x: jax.Array, random: jax.Array) -> jax.Array:
        bits = _as_bits(x)
        code = _shorten(bits & 0x7FFFFFFF, random, 16) | ((bits >> 16) & 0x8000)
        return jax.lax.bitcast_convert_type(code.astype(jnp.uint16), jnp.bfloat16)

    def decode(self, code: jax.Array) -> jax.Array:
        return code.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _U8(_Decaying):
    """Unsigned float of 6 exponent and 2 mantissa bits, or 5 and 3, ..., evenly spaced near 0.

    With 2 mantissa bits its numbers are `smallest` times 0, 1/4, 1/2, 3/4, 1, 3/2, 2, 5/2, 3, 4, 5,
    6, 7, 9, ..., four to an octave, up to 1.4e19. Rounding is right on average also between 0 and
    the first. Subnormal numbers become 0, numbers beyond the largest and infinity the largest; NaN
    stays. Negative numbers become NaN.

    Attributes:
      smallest: where even spacing ends, a power of 2. The default, 2^-48 = 3.6e-15, suits gradients
        whose root mean squares are between 6e-8 and 220.
      mantissa: number of mantissa bits.
    """

    smallest: float = 2.0**-48
    mantissa: int = 2

    dtype = jnp.uint8
    signed = False

    def with_range(self, smallest: float, largest: float) -> "_U8":
        """The finest such format for squared gradients of another range.

        A third mantissa bit, which halves the variance of the rounding, fits if `largest` is less
        than 3.7e9 times `smallest`, and a fourth for 6e4. Squared gradients that are much larger
        than `largest`, or smaller than both `smallest` and `eps**2`, get updates that are too long,
        by at most `1 / sqrt(1 - decay)`.

        Args:
          smallest: in [2^-120, 2^64]; it is rounded down to a power of 2.
          largest: above `smallest`, up to 1.3e19 times as much.

        Returns:
          The format.

        Raises:
          ValueError: for numbers out of range.

        Example:
          >>> U8.with_range(1e-8, 10.0).mantissa
          3
        """
        if not 2.0**-120 <= smallest <= 2.0**64:  # written so that NaN is refused
            raise ValueError(f"smallest={smallest!r} is out of range: [2^-120, 2^64].")
        for mantissa in (4, 3, 2):
            power = 2.0 ** (math.frexp(smallest)[1] - 1)
            form = dataclasses.replace(self, smallest=power, mantissa=mantissa)
            if smallest < largest <= form.largest:
                return form
        raise ValueError(f"largest={largest!r} is out of range: [{smallest}, {form.largest}].")

    @property
    def largest(self) -> float:
        """The largest number: that of the last code but one, which is NaN."""
        octaves = 2 ** (8 - self.mantissa)
        return self.smallest * (2.0**octaves * (1 - 2.0**-self.mantissa) - 1)

    def encode(self, x: jax.Array, random: jax.Array) -> jax.Array:
        # In units of `smallest`, the numbers are v - 1 for the short floats v from 1 up. That needs
        # no case for the small ones.
        x = _as_float(_flush(_as_bits(x)))
        bits = _as_bits(x + self.smallest) + (random >> (9 + self.mantissa))
        code = (bits >> (23 - self.mantissa)) - self._code_of_zero
        return jnp.where(x >= 0, jnp.minimum(code, 254), 255).astype(jnp.uint8)

    def decode(self, code: jax.Array) -> jax.Array:
        bits = (code.astype(jnp.uint32) + self._code_of_zero) << (23 - self.mantissa)
        return _as_float(jnp.where(code == 255, _NAN, bits)) - self.smallest

    @property
    def _code_of_zero(self):
        return np.float32(self.smallest).view(np.uint32) >> np.uint32(23 - self.mantissa)


@dataclasses.dataclass(frozen=True)
class _Cast:
    """A plain dtype, which rounds to nearest; numbers beyond its largest become it."""

    dtype: Any
    signed = True

    @property
    def largest(self) -> float:
        return float(jnp.finfo(self.dtype).max)

    def encode(self, x: jax.Array, random: jax.Array) -> jax.Array:
        del random
        narrow = self.dtype.itemsize < 4
        return (jnp.clip(x, -self.largest, self.largest) if narrow else x).astype(self.dtype)

    def decode(self, code: jax.Array) -> jax.Array:
        return code.astype(jnp.float32) if self.dtype.itemsize < 4 else code


U16 = _U16()
BF16 = _BF16()
U8 = _U8()
OWN = (_U16, _BF16, _U8, _Cast)
"""The types of formats that may be kept in a cache of what is compiled."""


def as_format(name: str, form: Any) -> Format:
    """A format, from one or from a float dtype; else raises, with the name of the argument."""
    has_codes = hasattr(form, "encode") and hasattr(form, "decode")
    if has_codes and not isinstance(form, type):
        return form
    is_dtype = isinstance(form, type | str | np.dtype) and not has_codes
    if is_dtype and jnp.issubdtype(form, jnp.floating):
        dtype = jnp.dtype(form)
        kept = np.array([0.0, -1.0, np.nan]).astype(dtype).astype(np.float64)
        if np.array_equal(kept, [0.0, -1.0, np.nan], equal_nan=True):
            return _Cast(dtype)
        raise TypeError(f"{name}={dtype} is no format: it has no 0, no sign or no NaN.")
    raise TypeError(f"{name}={form!r} is no format: pass U16, U8, BF16 or a float dtype.")


def as_text(form: Format) -> str:
    """What a format is, in a few words, the same in every process."""
    if not isinstance(form, OWN):
        return repr(form) if dataclasses.is_dataclass(form) else type(form).__qualname__
    if isinstance(form, _Cast):
        return form.dtype.name
    words = [type(form).__name__[1:]]
    if isinstance(form, _U8) and form != dataclasses.replace(U8, decay=form.decay):
        words.append(f"from 2^{math.frexp(form.smallest)[1] - 1}, {form.mantissa} bits")
    return ", ".join([*words, f"decay {form.decay!r}"] if form.decay != 1 else words)


def split_decay(form: Format) -> tuple[Format, np.uint32 | None]:
    """A format without its decay, and that as a number for `unit`; `None` for a decay of 1."""
    decay = getattr(form, "decay", 1.0)
    if decay == 1:
        return form, None
    octaves = np.uint32(round(math.log2(decay) * 2**32) % 2**32)
    return dataclasses.replace(form, decay=1.0) if isinstance(form, _Decaying) else form, octaves


def unit(octaves: Any, step: jax.Array) -> jax.Array:
    """What the numbers of a format are multiples of after so many steps: 1 <= unit < 2.

    It is `decay**step` times a power of 2. Fixed point and tables make it the same to the bit in
    every program, which `exp2` isn't.

    Args:
      octaves: by which the unit moves in a step, in units of 2^-32; see `split_decay`.
      step: the number of steps.
    """
    octaves = step * octaves  # They wrap around at 1, which leaves their fraction.
    one, two, three = (
        jnp.asarray(powers, jnp.float32)[octaves >> shift & 255]
        for powers, shift in zip(_POWERS, (24, 16, 8), strict=True)
    )
    return one * two * three


_POWERS = 2.0 ** (np.arange(256) / 256.0 ** np.array([[1], [2], [3]]))
_INFINITY, _NAN = np.uint32(0x7F800000), np.uint32(0x7FC00000)


def _flush(bits):
    """The bits of a float, or of 0 for a subnormal one, which XLA flushes or not as it likes."""
    return jnp.where(bits & 0x7FFFFFFF < 0x00800000, 0, bits)


def _shorten(bits, random, less):
    """The first bits of x >= 0; the last ones are the odds of rounding up. Inf and NaN stay."""
    bits = _flush(bits)
    finite = jnp.minimum(bits + (random >> (32 - less)), _INFINITY - 1)
    other = jnp.where(bits == _INFINITY, _INFINITY, _NAN)
    return jnp.where(bits < _INFINITY, finite, other) >> less


def _as_bits(x):
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _as_float(bits):
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
