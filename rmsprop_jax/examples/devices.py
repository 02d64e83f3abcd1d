"""Training on several devices, of one process or of many: who they are, and who gets which images.

Every device holds the parameters and the optimizer's state, and makes its share of every batch.
The program is the one for a single device: `jax.jit` sees where its arguments lie, and sums over
the devices where it must.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import jax
import numpy as np

# Seconds after which a process that fell silent counts as dead, and JAX aborts the others. One that
# was killed is noticed at once, by its closed connections.
HEARTBEAT = 30
# How the errors begin that XLA raises for lack of another process.
XLA_LOST = "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): "


def connect(coordinator: str, processes: int | None, process_id: int | None) -> None:
    """Joins the processes that train together; to be called before JAX is used.

    Args:
      coordinator: `host:port` of process 0, or `"auto"` to find all three arguments in the
        environment of a cluster that JAX knows, as Slurm, Open MPI, Kubernetes, Cloud TPU.
      processes: how many they are.
      process_id: which of them this is, from 0.

    Raises:
      ConnectionError: if there is no such cluster, or the others can't be reached.
    """
    address = None if coordinator == "auto" else coordinator
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # GPUs have their own
    try:
        jax.distributed.initialize(
            address, processes, process_id, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        reason = f"coordinator={coordinator!r} can't be found or reached: {first_line(error)}"
        raise ConnectionError(reason) from error


def agree(about: dict[str, Any]) -> None:
    """Raises a ValueError, in all processes, if they are not about to do the same."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    hashes = multihost_utils.process_allgather(np.uint32(zlib.crc32(repr(about).encode())))
    if different := np.flatnonzero(hashes != hashes[0]).tolist():
        raise ValueError(f"processes {different} have other arguments or data than process 0.")


@contextlib.contextmanager
def together() -> Generator[None]:
    """Sees to it that a process which loses another one ends with a line that says so.

    Raises:
      ConnectionError: if a computation fails, which it does when another process is gone.
    """
    resume = "All can go on from the last checkpoint, with --resume."
    # Where JAX or Gloo notice first, they abort this process from a thread of theirs, with a trace
    # of the stack at best. So a child waits for the end, and tells if it comes without a word.
    message = "rmsprop-jax mnist: this process was killed, or ended because another one is gone."
    code = "import sys; sys.stdin.read() or sys.exit(sys.argv[1])"
    command = [sys.executable, "-c", code, f"{message} {resume}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as witness:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not re.match(XLA_LOST, str(error)):
                raise
            reason = f"another process is gone. {resume} ({first_line(error)})"
            raise ConnectionError(reason) from error
        finally:
            witness.communicate(b"a word")


def leave(message: str) -> NoReturn:
    """Ends a process that failed, with a message on stderr."""
    if not jax.distributed.is_initialized():
        sys.exit(message)
    # Python's own exit would wait for the other processes, which wait for this one.
    print(message, file=sys.stderr, flush=True)
    if jax.process_index() == 0:
        time.sleep(2)  # JAX aborts the others when process 0 is gone: let them say why they end
    os._exit(1)


def first_line(error: Exception) -> str:
    """Returns what XLA says, without its details."""
    return str(error).partition("\n")[0]


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
