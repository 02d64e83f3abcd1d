"""The accumulators of a state, encoded and decoded: those of one kind in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_jax.eager import at_once
from rmsprop_jax.fit import dtype_of
from rmsprop_jax.storage.formats import OWN, split_decay, unit
from rmsprop_jax.storage.hashing import random_bits


def decode_all(leaves, step, well, chosen):
    """Leaves with those that are stored as numbers; NaN if `well` turns out to be."""
    numbers = [leaf.x for leaf in leaves]
    for run, stored in _by_kind(leaves, _decode, _decode_at_once):
        codes = [leaf.x for leaf in stored]
        with jax.transfer_guard_host_to_device("allow"):
            decoded = run(codes, _octaves(chosen), step, well, kinds=_kinds(stored))
        for leaf, x in zip(stored, decoded, strict=True):
            numbers[leaf.place] = x
    return numbers


def encode_all(leaves, new, seed, step, chosen):
    """New leaves as they are kept: encoded, or in the old dtype; the old ones for `None`."""
    kept = [
        leaf.x if x is None else x if leaf.form else as_type(x, dtype_of(leaf.x))
        for leaf, x in zip(leaves, new, strict=True)
    ]
    moved = [leaf for leaf, x in zip(leaves, new, strict=True) if x is not None]
    with jax.transfer_guard_host_to_device("allow"):
        seed = seed if isinstance(seed, jax.Array) else np.uint32(seed)
        for run, stored in _by_kind(moved, _encode, _encode_at_once):
            numbers = [kept[leaf.place] for leaf in stored]
            codes = run(numbers, _octaves(chosen), seed, step, kinds=_kinds(stored))
            for leaf, code in zip(stored, codes, strict=True):
                kept[leaf.place] = code
    return kept


def _by_kind(leaves, plain, at_once):
    """What is to be stored, with the function to call: a format of the user's runs as Python."""
    stored = [leaf for leaf in leaves if leaf.form is not None]
    own = [leaf for leaf in stored if type(leaf.form) in OWN]
    others = [leaf for leaf in stored if type(leaf.form) not in OWN]
    return [(run, some) for run, some in ((at_once, own), (plain, others)) if some]


def _kinds(stored):
    """What is another program: the name of each array, its place, and its format but the decay."""
    return tuple((leaf.name, leaf.place, split_decay(leaf.form)[0]) for leaf in stored)


def _octaves(chosen):
    return {name: split_decay(form)[1] for name, form in chosen.items()}


def _decode(codes, octaves, step, well, *, kinds):
    def decode(code, name, form):
        x = form.decode(code)
        x = x if octaves[name] is None else x * unit(octaves[name], step)
        if well is None or x.dtype.itemsize != 4:
            return x if well is None else x * well.astype(x.dtype)
        # As bits, so that the compiler has no multiplication to join with what comes after.
        nan = jnp.where(jnp.isnan(well), np.uint32(0x7FC00000), np.uint32(0))
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) | nan
        return jax.lax.bitcast_convert_type(bits, x.dtype)

    return [decode(code, name, form) for code, (name, _, form) in zip(codes, kinds, strict=True)]


def _encode(numbers, octaves, seed, step, *, kinds):
    def encode(x, name, place, form):
        x = x if x.dtype == form.dtype == np.float64 else _as_float32(x)
        x = x if octaves[name] is None else x * (1 / unit(octaves[name], step))
        seed_word = seed.astype(jnp.uint32)
        return form.encode(x, random_bits(x, seed_word, np.uint32(place), step))

    return [encode(x, *kind) for x, kind in zip(numbers, kinds, strict=True)]


_decode_at_once, _encode_at_once = at_once(_decode), at_once(_encode)


def _as_float32(x):
    """float64 numbers that are finite stay so."""
    if x.dtype.itemsize > 4:
        largest = float(np.finfo(np.float32).max)
        x = jnp.where(jnp.isinf(x), x, jnp.clip(x, -largest, largest))
    return x.astype(jnp.float32)


def as_type(x, dtype):
    """An array of a dtype, which isn't weak."""
    strong = isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type
    return x if strong else jnp.asarray(x).astype(dtype)
