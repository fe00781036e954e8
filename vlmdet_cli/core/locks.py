"""Locks between processes, and whether the process that wrote a record still runs.

A lock is a file in the folder that it protects, held by the operating system: a process that is killed loses it.
Where the file system has no such locks (some network mounts), an existence lock replaces them: it names its
process, and the next one on the same host removes it when that process is gone.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock
import msgspec
import psutil

from vlmdet_cli.errors import DataError, UsageError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the lock ``name`` in ``folder``, which is created, for this process alone.

    Raises ``UsageError`` at once where another process holds it, ``DataError`` where the file cannot be locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = _acquire(folder / name)
    except filelock.Timeout:
        raise UsageError(
            f"Another vlmdet is at work in this folder: {folder}", hint="Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise DataError(
            f"Cannot lock the folder: {folder}",
            why=f"{error.strerror or error}.",
            hint="Check its rights and the free space.",
        ) from None
    try:
        yield
    finally:
        held.release()


def _acquire(file: Path) -> "filelock.BaseFileLock":

    held: filelock.BaseFileLock = filelock.FileLock(file, fallback_to_soft=False)
    try:
        held.acquire(blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = filelock.SoftFileLock(file.with_name(f"{file.name}.soft"))
        held.acquire(blocking=False)
    return held


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process among all machines that share a file system. ``started``: seconds since the epoch."""

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The running process ``pid`` of this machine, None where there is none."""
        try:
            return cls(host=socket.gethostname(), pid=pid, started=psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def runs(self) -> bool | None:
        """Whether it runs; None where that cannot be known, because it belongs to another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 2  # an identifier is used again after a while
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


def this_process() -> Process | None:
    return Process.of(os.getpid())
