"""Locks: held by one process at a time, lost by a process that is gone, and not confused with a disk that has none."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import DataError, UsageError


def in_another_process(folder: Path) -> str:
    """What a second process gets of the lock."""
    script = (
        "import sys;from pathlib import Path;from vlmdet_cli.core.locks import lock\n"
        "try:\n  with lock(Path(sys.argv[1])): print('held')\n"
        "except Exception as error: print(type(error).__name__, error.what)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_lock_is_held_by_one_process_and_free_after_it(tmp_path: Path) -> None:
    with lock(tmp_path / "run"):
        assert in_another_process(tmp_path / "run") == (
            f"UsageError Another vlmdet is at work in this folder: {tmp_path}/run"
        )
        assert in_another_process(tmp_path / "other") == "held"
    assert in_another_process(tmp_path / "run") == "held"


def test_two_locks_of_one_folder_are_two(tmp_path: Path) -> None:
    with lock(tmp_path, "a.lock"), lock(tmp_path, "b.lock"), pytest.raises(UsageError), lock(tmp_path, "a.lock"):
        pass


def no_locks(*_: object) -> NoReturn:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_disk_without_locks_is_not_another_vlmdet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network mount without a lock service answers ENOLCK: the lock is then a file that exists."""
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for _ in range(2):
        with lock(tmp_path), pytest.raises(UsageError, match="Another vlmdet"), lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_locked_says_why(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DataError) as caught, lock(tmp_path):
        pass
    assert caught.value.what == f"Cannot lock the folder: {tmp_path}"
    assert caught.value.why == ("Is a directory.",)
