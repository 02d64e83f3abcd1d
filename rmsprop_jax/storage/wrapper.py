"""Wraps a transformation, so that its accumulators are kept in formats."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from rmsprop_jax.checks import check_seed, is_traced
from rmsprop_jax.eager import at_once
from rmsprop_jax.export import exportable
from rmsprop_jax.fit import describe, dtype_of
from rmsprop_jax.placement import like_parameter, place_scalars
from rmsprop_jax.records import recorded
from rmsprop_jax.storage.formats import OWN, Format, as_format, as_text, split_decay, unit
from rmsprop_jax.storage.hashing import random_bits

SIGNED = ("mu", "trace", "remainder")
"""The accumulators that are known to have signs. Of `nu` it is known that it has none."""


@exportable
class StoreState(NamedTuple):
    """State of `store`.

    Attributes:
      step: number of updates made, modulo 2^32, which the random bits follow from; a uint32 scalar.
      formats: what the accumulators are kept in: for each a text such as `"nu=U8"`, and a uint32
        scalar that is the checksum of the text, for checkpoints that keep no names. So a state that
        is read in other formats raises, and gives NaN where no error can be raised: in a program
        that is compiled already, or if only the numbers came back.
      inner: state of the wrapped transformation, with the accumulators as their formats keep them.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.store(scale_by_rms(), nu=storage.U8).init(jnp.ones(2))
      >>> int(state.step), list(state.formats), state.inner.nu.dtype
      (0, ['nu=U8'], dtype('uint8'))
    """

    step: jax.Array
    formats: dict[str, jax.Array]
    inner: Any


@recorded
def store(
    tx: optax.GradientTransformation, *, seed: ArrayLike = 0, **formats: Format | DTypeLike
) -> optax.GradientTransformationExtraArgs:
    """Keeps the accumulators of a transformation in fewer bytes.

    The update; in a compiled program, no accumulator is in memory at full width:

        accumulators = decode(stored)                               in float32
        updates, accumulators = tx.update(gradients, accumulators)
        stored = encode(accumulators)                               rounded at random

    The random bits are a hash of the seed, the number of updates, the place of the array in the
    state, and that of the element in the array. So there is no key to thread, and the numbers are
    the same under `jit`, `scan`, any sharding, and after a restart from a checkpoint. (What runs
    under `vmap` or `shard_map` sees a piece of an array, and rounds all pieces alike. And two
    stores side by side, as in `optax.partition`, round alike, unless they have different seeds.)

    Args:
      tx: any transformation. Accumulators are what its state has in a field called `nu`, `mu` or
        `trace`, as Optax calls them, or by another name given here.
      seed: of the random rounding, an integer in [0, 2^32), known or traced.
      **formats: a format for each accumulator that is to be stored: `U16`, `U8`, `BF16`, another
        `Format`, or a float dtype. A dtype rounds to nearest: float32 is there for parameters that
        are narrower, and bfloat16 stalls. `mu`, `trace` and `remainder` have signs, which `U16` and
        `U8` don't; nor may `nu` be in a dtype of less range than bfloat16, since squares leave it.
        By other names, what turns out to be negative becomes NaN in `U16` and `U8`.

    Returns:
      A transformation whose state is a `StoreState`, and whose updates have the dtypes of the
      gradients. `update` passes extra arguments on.

    Raises:
      ValueError: for a seed out of range; for no format, and for one that can't hold the
        accumulator; from `init`, for accumulators that the state of `tx` doesn't have, or that are
        integers or complex numbers; from `update`, for a state that isn't of these formats.
      TypeError: for what is not a format, and a seed that is not an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import rmsprop, storage
      >>> tx = storage.store(rmsprop(0.1), nu=storage.U8)
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), state)
      >>> print(state.inner[0].nu.dtype, storage.unpack(state, nu=storage.U8)[0].nu)
      uint8 [1.    0.375]

    References:
      P. Zamirai, J. Zhang, C. R. Aberger, C. De Sa, Revisiting BFloat16 Training, 2020:
      https://arxiv.org/abs/2010.06192
    """
    tx = optax.with_extra_args_support(tx)
    chosen = _chosen(formats)
    check_seed(seed)

    def init(params):
        inner = tx.init(params)
        if jax.tree.leaves(params):  # of none, as optax.tree.map_params takes, there are no names
            _check_accumulators(inner, chosen)
        return _place_like(_pack(inner, seed, chosen), params, chosen)

    def update(updates, state, params=None, **extra_args):
        _check_formats(state, chosen)
        inner = _unpack(state, chosen)
        # Accumulators can now be wider than what they meet. The casts below settle the types.
        with jax.numpy_dtype_promotion("standard"):
            new_updates, new_inner = tx.update(updates, inner, params, **extra_args)

        def cast(u, g):
            return None if u is None else _as_type(u, dtype_of(g))

        new_updates = jax.tree.map(cast, new_updates, updates, is_leaf=lambda x: x is None)
        with jax.transfer_guard_host_to_device("allow"):
            step = state.step + np.uint32(1)
        leaves, treedef = _leaves(state.inner, chosen)
        codes = _encode_all(leaves, treedef.flatten_up_to(new_inner), seed, step, chosen)
        new_updates = _made_from_codes(new_updates, leaves, codes, _all_is_well(state, chosen))
        return new_updates, StoreState(step, state.formats, treedef.unflatten(codes))

    return optax.GradientTransformationExtraArgs(init, update)


def pack(state: Any, *, seed: ArrayLike = 0, **formats: Format | DTypeLike) -> StoreState:
    """The state of `store(tx, seed=seed, **formats)` from that of `tx`, to go on training with.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.pack(scale_by_rms(initial_scale=1.0).init(jnp.zeros(3)), nu=storage.U16)
      >>> print(storage.unpack(state, nu=storage.U16).nu)
      [1. 1. 1.]
    """
    chosen = _chosen(formats)
    check_seed(seed)
    _check_accumulators(state, chosen)
    state = _pack(state, seed, chosen)
    return place_scalars(state, jax.tree.leaves(state.inner))


def unpack(state: StoreState, **formats: Format | DTypeLike) -> Any:
    """The state of `tx`, with float32 accumulators, from that of `store(tx, **formats)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> stored = storage.store(scale_by_rms(initial_scale=1.0), nu=storage.BF16).init(jnp.ones(2))
      >>> storage.unpack(stored, nu=storage.BF16).nu
      Array([1., 1.], dtype=float32)
    """
    chosen = _chosen(formats)
    _check_formats(state, chosen)
    return _unpack(state, chosen)


class Extremes(NamedTuple):
    """How many numbers of a stored array are at the ends of its format, see `extremes`.

    Attributes:
      zero: those that are 0: they were 0, or too small for the format.
      largest: those that are the largest number that there is, or its negative, or infinite.
      nan: those that are NaN.
      size: all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> state = storage.store(scale_by_rms(), nu=storage.U8).init(jnp.ones(2))
      >>> (counts,) = storage.extremes(state, nu=storage.U8).values()
      >>> int(counts.zero), counts.size
      (2, 2)
    """

    zero: jax.Array
    largest: jax.Array
    nan: jax.Array
    size: int


def extremes(state: StoreState, **formats: Format | DTypeLike) -> dict[str, Extremes]:
    """Counts the numbers that a format had no place for, for each stored array by its path.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import scale_by_rms, storage
      >>> tx = storage.store(scale_by_rms(), nu=storage.U8)
      >>> _, state = tx.update(jnp.array([1e-9, 1.0, 1e9]), tx.init(jnp.zeros(3)))
      >>> counts = storage.extremes(state, nu=storage.U8)[".nu"]
      >>> int(counts.zero), int(counts.largest), int(counts.nan), counts.size
      (1, 1, 0, 3)
    """
    chosen = _chosen(formats)
    _check_formats(state, chosen)
    return {jax.tree_util.keystr(leaf.path): ends for leaf, ends in _ends(state, chosen)}


def extremes_of_parameters(
    state: StoreState, **formats: Format | DTypeLike
) -> list[tuple[tuple[Any, ...], Extremes]]:
    """The same with the path of the parameter, once for each of its stored accumulators."""
    return [(leaf.below, ends) for leaf, ends in _ends(state, _chosen(formats))]


def _ends(state, chosen):
    for leaf in _leaves(state.inner, chosen)[0]:
        if leaf.form is not None:
            x = jnp.abs(leaf.form.decode(leaf.x))
            largest = getattr(leaf.form, "largest", np.inf)
            numbers = (jnp.sum(x == 0), jnp.sum(x >= largest), jnp.sum(jnp.isnan(x)))
            yield leaf, Extremes(*numbers, x.size)


def _chosen(formats):
    """The formats by name, if each can hold what has that name."""
    if not formats:
        raise ValueError("no accumulator is to be stored: pass a format, such as nu=U8.")
    chosen = {name: as_format(name, form) for name, form in sorted(formats.items())}
    for name, form in chosen.items():
        if name in SIGNED and not getattr(form, "signed", True):
            raise ValueError(
                f"{name}={as_text(form)} has no sign, and {name} has negative numbers: pass BF16."
            )
        dtype = jnp.dtype(form.dtype)
        narrow = isinstance(form, OWN) and jnp.issubdtype(dtype, jnp.floating)
        if name == "nu" and narrow and jnp.finfo(dtype).maxexp < 128:
            raise ValueError(
                f"nu={as_text(form)} ends at {float(jnp.finfo(dtype).max):g}, and squared "
                "gradients don't: pass U16, BF16, or U8.with_range."
            )
    return chosen


class _Leaf(NamedTuple):
    """An array of a state, and what it is.

    Attributes:
      path: where it is.
      x: the array.
      place: its number, which the random bits follow from.
      name: of the accumulator that it is of, if it is of one.
      below: its path in that accumulator: that of the parameter.
      form: its format, if it is to be stored.
    """

    path: tuple[Any, ...]
    x: Any
    place: int
    name: str | None
    below: tuple[Any, ...]
    form: Format | None


def _leaves(state, chosen, is_leaf=None):
    """The leaves of a state, and its structure."""
    names = {"mu", "nu", "trace", *chosen}
    leaves, treedef = jax.tree.flatten_with_path(state, is_leaf)
    found = []
    for place, (path, x) in enumerate(leaves):
        # The first name is meant, since parameters come below it.
        fields = (i for i, k in enumerate(path) if isinstance(k, jax.tree_util.GetAttrKey))
        at = next((i for i in fields if path[i].name in names), None)
        name, below = (None, ()) if at is None else (path[at].name, tuple(path[at + 1 :]))
        found.append(_Leaf(path, x, place, name, below, chosen.get(name)))
    return found, treedef


def _check_accumulators(state, chosen):
    """Raises unless the state has an accumulator of each name, and of real numbers."""
    if isinstance(state, StoreState):
        raise ValueError(f"this state is stored already: {', '.join(state.formats)}.")
    nothing = lambda x: x is None or isinstance(x, optax.MaskedNode)
    leaves, _ = _leaves(state, chosen, nothing)
    # Parameters that are nothing show the name all the same, but not a field that is None.
    no_field = lambda leaf: leaf.x is None and not leaf.below
    named = [leaf for leaf in leaves if leaf.name and not no_field(leaf)]
    for name in chosen:
        found = [leaf.x for leaf in named if leaf.name == name]
        if not found:
            there = sorted({leaf.name for leaf in named})
            raise ValueError(f"the state has no accumulator {name!r}, only these: {there}.")
        for x in found:
            if not (nothing(x) or jnp.issubdtype(x.dtype, jnp.floating)):
                raise ValueError(f"{name} is {x.dtype}: only real, floating numbers can be stored.")


def _labels(chosen):
    texts = [f"{name}={as_text(form)}" for name, form in chosen.items()]
    return {text: np.uint32(zlib.crc32(text.encode())) for text in texts}


def _check_formats(state, chosen):
    """Raises unless a state is one of `store` with these formats, as far as that is known."""
    labels = _labels(chosen)
    if not isinstance(state, StoreState):
        kind = type(state).__name__
        raise ValueError(
            f"opt_state is a {kind}, not the StoreState of these formats: {', '.join(labels)}. "
            "storage.pack makes one of a state of the wrapped transformation."
        )
    found = state.formats if isinstance(state.formats, Mapping) else {}
    with jax.transfer_guard_device_to_host("allow"):
        same = found.keys() == labels.keys() and all(
            is_traced(found[text]) or np.all(np.asarray(found[text]) == checksum)
            for text, checksum in labels.items()
        )
    if not same:
        other = ", ".join(found) if found.keys() != labels.keys() else "other codes"
        raise ValueError(
            f"the accumulators of opt_state are {other}, and are read as {', '.join(labels)}. "
            "storage.unpack reads them as what they are, and storage.pack stores them anew."
        )
    for leaf in _leaves(state.inner, chosen)[0]:
        if leaf.form is not None and dtype_of(leaf.x) != leaf.form.dtype:
            raise ValueError(
                f"inner{jax.tree_util.keystr(leaf.path)} of opt_state is {describe(leaf.x)}, and "
                f"codes of {as_text(leaf.form)} are {jnp.dtype(leaf.form.dtype)}."
            )


def _pack(state, seed, chosen):
    with jax.transfer_guard_host_to_device("allow"):
        step = jnp.zeros([], jnp.uint32)
        formats = {text: jnp.asarray(checksum) for text, checksum in _labels(chosen).items()}
    leaves, treedef = _leaves(state, chosen)
    codes = _encode_all(leaves, [leaf.x for leaf in leaves], seed, step, chosen)
    return StoreState(step, formats, treedef.unflatten(codes))


def _unpack(state, chosen):
    """The inner state, decoded; NaN if a compiled program finds codes of other formats."""
    leaves, treedef = _leaves(state.inner, chosen)
    numbers = [leaf.x for leaf in leaves]
    octaves, well = _octaves(chosen), _all_is_well(state, chosen)
    for run, stored in _by_kind(leaves, _decode, _decode_at_once):
        with jax.transfer_guard_host_to_device("allow"):
            decoded = run(
                [leaf.x for leaf in stored], octaves, state.step, well, kinds=_kinds(stored)
            )
        for leaf, x in zip(stored, decoded, strict=True):
            numbers[leaf.place] = x
    return treedef.unflatten(numbers)


def _encode_all(leaves, new, seed, step, chosen):
    """New leaves as they are kept: encoded, or in the old dtype; the old ones for `None`."""
    kept = [
        leaf.x if x is None else x if leaf.form else _as_type(x, dtype_of(leaf.x))
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


def _as_type(x, dtype):
    strong = isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type
    return x if strong else jnp.asarray(x).astype(dtype)


def _all_is_well(state, chosen):
    """1 in a program, unless the state turns out to be of other formats; then NaN."""
    pairs = [(state.formats[text], checksum) for text, checksum in _labels(chosen).items()]
    traced = [found == checksum for found, checksum in pairs if is_traced(found)]
    if not traced:
        return None
    return jnp.where(jnp.all(jnp.stack(traced)), jnp.float32(1), jnp.float32(jnp.nan))


def _place_like(state, params, chosen):
    """A new state where the parameters are."""
    leaves = jax.tree.leaves(params)
    if not any(map(is_traced, leaves)):
        return place_scalars(state, leaves)
    parameters = {tuple(path): p for path, p in jax.tree.leaves_with_path(params)}
    found, treedef = _leaves(state.inner, chosen)
    placed = [like_parameter(leaf.x, _parameter(leaf, parameters)) for leaf in found]
    return state._replace(inner=treedef.unflatten(placed))


def _parameter(leaf, parameters):
    """What a tree like the parameters has for an array of the state: a complex one has two."""
    if leaf.name is None:
        return None
    ends = range(len(leaf.below), -1, -1)
    return next((parameters[p] for end in ends if (p := leaf.below[:end]) in parameters), None)


def _made_from_codes(updates, leaves, codes, well):
    """The updates; on TPUs made from the codes, for there XLA makes one loop of both only then."""
    by_path = {tuple(path): i for i, (path, _) in enumerate(jax.tree.leaves_with_path(updates))}
    own = [(leaf, code) for leaf, code in zip(leaves, codes, strict=True) if type(leaf.form) in OWN]
    pairs = [(_parameter(leaf, by_path), leaf.form, code) for leaf, code in own]
    pairs = [(i, form, code) for i, form, code in pairs if i is not None and is_traced(code)]
    if not pairs or well is None:
        return updates

    def tied(arrays, codes, well):
        # A test that changes nothing, since well is 1; but the compiler doesn't know that.
        arrays = list(arrays)
        for (i, form, _), code in zip(pairs, codes, strict=True):
            u = arrays[i]
            if u.shape == code.shape:
                broken = jnp.isnan(form.decode(code))
                arrays[i] = jnp.where(broken, u * well.astype(u.dtype), u)
        return arrays

    arrays, treedef = jax.tree.flatten(updates)
    as_they_are = lambda arrays, codes, well: arrays
    codes = [code for *_, code in pairs]
    arrays = jax.lax.platform_dependent(arrays, codes, well, tpu=tied, default=as_they_are)
    return treedef.unflatten(arrays)
