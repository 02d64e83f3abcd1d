"""Checkpoints of a run, in a directory that no other run uses meanwhile.

Orbax writes a checkpoint under another name and renames it once it is complete. So a run can be
killed at any time, and what it leaves are the whole of its last epochs.
"""

import contextlib
import gc
import json
import logging
import os
import shutil
import socket
import sys
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmsprop_jax.trainer.reports import FULL, check_space

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

KEPT = 2  # the newest, and one to fall back to


@contextlib.contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keeps other runs out of a directory, until this process ends in whatever way."""
    with (directory / ".lock").open("a+") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{directory} is in use by another run, process {file.read()}: "
                    "wait for its end, or take another directory."
                ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def steps(directory: Path) -> list[int]:
    """Returns the epochs of which a directory has checkpoints, the newest first."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


class Store:
    """Where a run goes on from, and where it is saved; neither has to be.

    Inside of `with`, no other run can use these directories.

    Args:
      save: directory for the checkpoints.
      resume: directory of the run to go on with, and to save to if there is no other.

    Raises:
      ValueError: if another run uses one of them, if there is nothing to resume, or if another
        run has been saved where this one is to be.
      OSError: if a directory can't be made.
    """

    def __init__(self, save: Path | None, resume: Path | None):  # noqa: D107
        self._source, self._target = resume, save or resume
        self._locks = contextlib.ExitStack()
        self._manager: Any = None

    def __enter__(self):  # noqa: D105
        source, target = self._source, self._target
        if source and not steps(source):
            reason = "has no checkpoint to go on from; to start anew, say save."
            raise ValueError(f"resume={str(source)!r} {reason}")
        if target:
            target.mkdir(parents=True, exist_ok=True)
        same = source and target and source.samefile(target)
        with contextlib.ExitStack() as locks:
            if jax.process_index() == 0:
                if target:
                    locks.enter_context(locked(target))
                if source and not same and os.access(source, os.W_OK):  # else nobody writes there
                    locks.enter_context(locked(source))
            if target and not same and steps(target):
                reason = "holds another run; to go on with it, resume it."
                raise ValueError(f"save={str(target)!r} {reason}")
            self._locks = locks.pop_all()
        return self

    def __exit__(self, *error):  # noqa: D105
        self._locks.close()

    def check(self, known: dict[str, Any]) -> None:
        """Refuses to go on with a run that is known to be another, before anything is done.

        Raises:
          ValueError: if the newest checkpoint that can be read is of another run.
        """
        if not self._source:
            return
        with _quiet():
            for path in [self._source / str(step) for step in steps(self._source)]:
                with contextlib.suppress(_Damage):
                    _refuse_other(path, _about(path)["run"], known)
                    return

    def restore(self, run: dict[str, Any], like: Any) -> tuple[Any, list[Any]]:
        """Returns the state, made `like` another, and the history of the newest whole checkpoint.

        Without one to resume, they are `like` and nothing. Damaged ones are named on stderr, and
        set aside if they are in the way.

        Raises:
          ValueError: if no checkpoint is whole, or they are of another run.
          OSError: if there is no room for new ones.
        """
        state, history, damaged = like, [], {}
        if self._source:
            with _quiet():
                for path in [self._source / str(step) for step in steps(self._source)]:
                    try:
                        state, history = _read(path, run, like)
                        break
                    except _Damage as damage:
                        damaged[path] = str(damage)
                if damaged:
                    gc.collect()  # they end now, not in the middle of something else
            report = "; ".join(f"{path} is damaged ({damaged[path]})" for path in damaged)
            if not history:
                reason = "No older one is whole: start anew, with save in another directory."
                raise ValueError(f"{report}. {reason}")
            if damaged and jax.process_index() == 0:
                print(f"{report}: going on from epoch {len(history)}.", file=sys.stderr)
        if self._target and jax.process_index() == 0:
            for path in damaged:
                if self._target.samefile(path.parent):
                    shutil.rmtree(aside := path.with_suffix(".damaged"), ignore_errors=True)
                    path.rename(aside)
            check_space(self._target, (KEPT + 1) * _size(state))
        return state, history

    def save(self, run: dict[str, Any], state: Any, history: list[Any]) -> None:
        """Writes the checkpoint of the last epoch in `history`, if there is a directory for it.

        Raises:
          OSError: if there is no room; nothing is left of this checkpoint then.
        """
        if not self._target:
            return
        import orbax.checkpoint as ocp

        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEPT, enable_async_checkpointing=False
            )
            self._manager = ocp.CheckpointManager(self._target.absolute(), options=options)
        path = self._target / str(len(history))
        about: Any = {"run": run, "history": history, "crc32": _checksum(run, history, state)}
        items = {"about": ocp.args.JsonSave(about), "state": ocp.args.StandardSave(state)}
        try:
            if jax.process_index() == 0:
                check_space(path, _size(state))  # what Orbax says of a full disk fills a page
            self._manager.save(len(history), args=ocp.args.Composite(**items))
        except (OSError, ValueError, RuntimeError) as error:
            full = [code for code, text in FULL.items() if text.lower() in str(error).lower()]
            if not full:
                raise
            for fragment in self._target.glob(f"{path.name}.orbax-checkpoint-tmp*"):
                shutil.rmtree(fragment, ignore_errors=True)
            raise OSError(full[0], FULL[full[0]], str(path)) from error


class _Damage(Exception):
    """A checkpoint that isn't what was written."""


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Silences what Python says of the other reads that Orbax leaves behind when one fails."""
    logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
    logger.disabled, sys.unraisablehook = True, lambda unraisable: None
    try:
        yield
    finally:
        logger.disabled, sys.unraisablehook = False, hook


def _size(state: Any) -> int:
    """Returns the bytes that a checkpoint may take, roughly."""
    return 2**18 + sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _checksum(run: dict[str, Any], history: list[Any], state: Any) -> int:
    """Returns the CRC-32 of all that a checkpoint holds."""
    crc = zlib.crc32(json.dumps([run, history], sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def _about(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint says about itself: its run, the history and the checksum."""
    import orbax.checkpoint as ocp

    with _read_of(path) as item:
        return item(about=ocp.args.JsonRestore())["about"]


def _refuse_other(path: Path, found: dict[str, Any], run: dict[str, Any]) -> None:
    """Raises if a checkpoint is of another run."""
    for name, value in run.items():
        if (saved := found.get(name)) != value:
            raise ValueError(f"{name}={value!r}, but the run in {path} has {name}={saved!r}.")


def _read(path: Path, run: dict[str, Any], like: Any) -> tuple[Any, list[Any]]:
    """Returns state and history of a checkpoint, or raises for another run or damage."""
    import orbax.checkpoint as ocp

    about = _about(path)
    _refuse_other(path, found := about["run"], run)
    if found != run:
        raise _Damage(f"its run has {sorted(found.keys() - run.keys())} besides")
    with _read_of(path) as item:
        state = item(state=ocp.args.StandardRestore(like))["state"]
        if _checksum(run, about["history"], state) != about["crc32"]:
            raise ValueError("its checksum is another")
        return state, about["history"]


@contextlib.contextmanager
def _read_of(path: Path) -> Generator[Any]:
    """A reader of the items of a checkpoint; what fails inside is damage."""
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            yield lambda **item: reader.restore(path.absolute(), ocp.args.Composite(**item))
    except jax.errors.JaxRuntimeError:  # another process is gone
        raise
    except Exception as error:  # whatever Orbax makes of what it finds there
        raise _Damage(str(error).partition("\n")[0] or type(error).__name__) from None
