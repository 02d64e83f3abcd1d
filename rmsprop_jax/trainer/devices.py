"""Training on several devices, of one process or of many: who gets which images.

Every device holds the parameters and the optimizer's state, and makes its share of every batch.
The program is the one for a single device: `jax.jit` sees where its arguments lie, and sums over
the devices where it must.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def mesh(limit: int | None) -> jax.sharding.Mesh:
    """Returns the devices of all processes, at most `limit` of each, along one axis, batch."""
    available = jax.local_device_count()
    if limit and limit > available:
        raise ValueError(f"devices={limit}, but JAX finds {available} here.")
    owners = range(jax.process_count())
    devices = [d for i in owners for d in jax.local_devices(process_index=i)[:limit]]
    return jax.sharding.Mesh(np.array(devices), ("batch",))


def feed(mesh: jax.sharding.Mesh, *arrays: np.ndarray) -> Callable[[np.ndarray], tuple[Any, ...]]:
    """Returns a function from rows of indices into `arrays` to what a program scans over.

    On one device these are the arrays, which it keeps, and the rows. On several they are the
    batches that the rows name, [steps, size, ...], and the rows, padded with -1 to a multiple of
    the number of devices. Each device gets its columns of them, and each process gathers those of
    its own devices only.
    """
    if mesh.size == 1:
        whole = jax.device_put(arrays, mesh.devices.item())
        return lambda rows: (*whole, jax.device_put(rows, mesh.devices.item()))
    columns = jax.NamedSharding(mesh, jax.P(None, "batch"))

    def batches(rows):
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % mesh.size)), constant_values=-1)

        def put(values, shape):
            share = lambda index: values(rows[index[:2]])
            return jax.make_array_from_callback(rows.shape + shape, columns, share)

        return *(put(a.__getitem__, a.shape[1:]) for a in arrays), put(np.asarray, ())

    return batches


def scan_over(
    images: Any, labels: Any, rows: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]], Any]:
    """Takes apart what `feed` made.

    Returns:
      What to scan over, a function from an item of it to `images, labels, row`, and the number of
      images.
    """
    if labels.ndim == rows.ndim:
        return (images, labels, rows), lambda batch: batch, (rows >= 0).sum(dtype="float32")
    return rows, lambda row: (images[row], labels[row], row), len(images)
