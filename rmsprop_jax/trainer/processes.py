"""Several processes that train together: how they meet, agree, and end when one is gone."""

import contextlib
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Generator
from typing import Any

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
    mesh = jax.make_mesh((jax.device_count(),), ("all",), (jax.sharding.AxisType.Auto,))
    split, everywhere = (jax.NamedSharding(mesh, spec) for spec in (jax.P("all"), jax.P()))
    mine = np.full(jax.local_device_count(), zlib.crc32(repr(about).encode()), np.uint32)
    parts = jax.make_array_from_process_local_data(split, mine)
    hashes = np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(parts))
    owners = np.array([device.process_index for device in mesh.devices.flat])
    right = hashes[owners == 0][0]
    if different := np.unique(owners[hashes != right]).tolist():
        raise ValueError(f"processes {different} have other arguments or data than process 0.")


@contextlib.contextmanager
def together(command: str) -> Generator[None]:
    """Sees to it that a process which fails, or loses another one, ends with a line that says so.

    Raises:
      ValueError, OSError: as what is run in it, if this process is alone after all.
    """
    resume = "All can go on from the last checkpoint, with --resume."
    # Where JAX or Gloo notice first, they abort this process from a thread of theirs, with a trace
    # of the stack at best. So a child waits for the end, and tells if it comes without a word.
    message = f"{command}: this process was killed, or ended because another one is gone."
    code = "import sys; sys.stdin.read() or sys.exit(sys.argv[1])"
    arguments = [sys.executable, "-c", code, f"{message} {resume}"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, start_new_session=True) as witness:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            lost = re.match(XLA_LOST, str(error))
            if not jax.distributed.is_initialized() or (
                isinstance(error, RuntimeError) and not lost
            ):
                raise
            # Python's own exit would wait for the other processes, which wait for this one. The
            # message comes last, so that nothing of JAX's stands behind it.
            witness.communicate(b"a word")
            if not isinstance(error, BrokenPipeError):
                gone = f"another process is gone. {resume} ({first_line(error)})"
                print(f"{command}: {gone if lost else error}", file=sys.stderr, flush=True)
            if jax.process_index() == 0:
                time.sleep(2)  # JAX aborts the others when process 0 is gone: let them say why
            os._exit(1)
        finally:
            witness.communicate(b"a word")


def first_line(error: Exception) -> str:
    """Returns what XLA says, without its details."""
    return str(error).partition("\n")[0]
