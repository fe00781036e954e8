"""Locks of folders between processes."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from vlmdet_cli.errors import UsageError


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone; a second one that wants it gets a ``UsageError`` at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"Another vlmdet is at work in this folder: {folder}", hint="Wait for it, or stop it."
            ) from None
        yield
