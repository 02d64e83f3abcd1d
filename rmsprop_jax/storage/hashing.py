"""Random bits without a key: a hash of what they are for."""

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_jax.eager import at_once


@at_once
def random_bits(x: jax.Array, *words: Any) -> jax.Array:
    """32 random bits for each element of x, of which the first are the best: a hash of the words.

    Two multiplications, with the golden ratio before them, are the least that left no correlation
    between neighbours, steps or arrays: without either, pairs of neighbours are off by dozens of
    standard deviations in a million. The key between them keeps steps from being each other,
    shifted.
    """
    a, b = jnp.uint32(0x243F6A88), jnp.uint32(0x85A308D3)  # pi
    for word in words:
        a, b = _mix(a ^ word), _mix(b ^ word)
    high, low = _index(x, a)
    if high is not None:
        low, b = low + _mix(a ^ high), _mix(b ^ high)
    h = low * jnp.uint32(0x9E3779B1)
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D) + b
    return (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)


def _mix(h):
    """Chris Wellons' lowbias32, https://github.com/skeeto/hash-prospector."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def _index(x, start):
    """The row-major index of each element, plus start: its high word, or None if 0, and its low.

    That of an array of one axis counts from its end, see `_from_the_end`.

    It is made from an iota for each axis, because that can be sharded as x is. Each has start added
    to it, because XLA would else compute it once before a loop over steps, and keep it in memory;
    and its axis, because XLA would else take those of two axes of one length for one array, and
    where they are sharded in different ways, gather it.
    """
    wide = x.size >= 2**32
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        dtype = jnp.uint64 if wide else jnp.uint32
        modulus = 2 ** jnp.iinfo(dtype).bits
        start = start.astype(dtype)
        added = sum(axis * stride for axis, stride in enumerate(strides))
        index = jnp.zeros_like(x, dtype) + (
            start - start * dtype(sum(strides) % modulus) - dtype(added % modulus)
        )
        for axis, stride in enumerate(strides):
            iota = jax.lax.broadcasted_iota(
                dtype, x.shape, axis, out_sharding=jax.typeof(x).sharding
            )
            index += (iota + (start + dtype(axis))) * dtype(stride)
        if x.ndim == 1:
            index = _from_the_end(index, start + start + dtype(x.size - 1))
        return (index >> 32).astype(jnp.uint32) if wide else None, index.astype(jnp.uint32)


def _from_the_end(index, both_ends):
    """The index of an array of one axis, backwards.

    For a CPU it is reversed, not subtracted: LLVM would make an index that goes along with the
    address one element at a time, which takes as long as all the rest. But that moves the parts of
    an array which is sharded.
    """
    subtracted = lambda index: both_ends - index
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return subtracted(index)
    reverse = lambda index: jax.lax.rev(index, (0,))
    return jax.lax.platform_dependent(index, cpu=reverse, default=subtracted)
