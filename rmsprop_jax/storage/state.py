"""The state of a stored transformation: which arrays of it are kept in which formats."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_jax.checks import is_traced
from rmsprop_jax.export import exportable
from rmsprop_jax.fit import describe, dtype_of
from rmsprop_jax.storage.formats import OWN, Format, as_format, as_text

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


def chosen_formats(formats):
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


class Leaf(NamedTuple):
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


def leaves_of(state, chosen, is_leaf=None):
    """The leaves of a state, and its structure."""
    names = {"mu", "nu", "trace", *chosen}
    leaves, treedef = jax.tree.flatten_with_path(state, is_leaf)
    found = []
    for place, (path, x) in enumerate(leaves):
        # The first name is meant, since parameters come below it.
        fields = (i for i, k in enumerate(path) if isinstance(k, jax.tree_util.GetAttrKey))
        at = next((i for i in fields if path[i].name in names), None)
        name, below = (None, ()) if at is None else (path[at].name, tuple(path[at + 1 :]))
        found.append(Leaf(path, x, place, name, below, chosen.get(name)))
    return found, treedef


def check_accumulators(state, chosen):
    """Raises unless the state has an accumulator of each name, and of real numbers."""
    if isinstance(state, StoreState):
        raise ValueError(f"this state is stored already: {', '.join(state.formats)}.")
    nothing = lambda x: x is None or isinstance(x, optax.MaskedNode)
    leaves, _ = leaves_of(state, chosen, nothing)
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


def labels_of(chosen):
    """What a state says of its formats: texts, and their checksums."""
    texts = [f"{name}={as_text(form)}" for name, form in chosen.items()]
    return {text: np.uint32(zlib.crc32(text.encode())) for text in texts}


def check_state(state, chosen):
    """Raises unless a state is one of `store` with these formats, as far as that is known."""
    labels = labels_of(chosen)
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
    for leaf in leaves_of(state.inner, chosen)[0]:
        if leaf.form is not None and dtype_of(leaf.x) != leaf.form.dtype:
            raise ValueError(
                f"inner{jax.tree_util.keystr(leaf.path)} of opt_state is {describe(leaf.x)}, and "
                f"codes of {as_text(leaf.form)} are {jnp.dtype(leaf.form.dtype)}."
            )


def all_is_well(state, chosen):
    """1 in a program, unless the state turns out to be of other formats; then NaN."""
    pairs = [(state.formats[text], checksum) for text, checksum in labels_of(chosen).items()]
    traced = [found == checksum for found, checksum in pairs if is_traced(found)]
    if not traced:
        return None
    return jnp.where(jnp.all(jnp.stack(traced)), jnp.float32(1), jnp.float32(jnp.nan))
