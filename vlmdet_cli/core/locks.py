"""Locks between processes.

A lock is a file in the folder that it protects, held by the operating system: a process that is killed loses it.
Where the file system has no such locks (some network mounts), an existence lock replaces them: it names its
process, and the next one on the same host removes it when that process is gone.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import filelock

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


def _acquire(file: Path) -> filelock.BaseFileLock:
    held: filelock.BaseFileLock = filelock.FileLock(file, fallback_to_soft=False)
    try:
        held.acquire(blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = filelock.SoftFileLock(file.with_name(f"{file.name}.soft"))
        held.acquire(blocking=False)
    return held
