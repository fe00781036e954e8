"""The only place that starts a process: a program with its output in a log, to its end or until it is stopped.

``run`` waits for a program; ``start`` gives a program that is talked to through pipes. Either way an exception, such as
an interrupt, ends the process and everything that it started.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil

from vlmdet_cli.errors import EngineError

# the signals that end a process, and the seconds that it is given after each
_STOPS = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 4.0))


class Command(msgspec.Struct, frozen=True):
    """A process to start: its argument list and the environment variables it adds."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}

    def quoted(self) -> str:
        """The command as it can be pasted into a shell."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.env.items()), shlex.join(self.argv)])


def run(
    command: Command,
    log: Path,
    *,
    cwd: Path,
    watch: Callable[[], None],
    hint: str,
    on_start: Callable[[int], None] = lambda _pid: None,
    on_exit: Callable[[int | None], None] = lambda _code: None,
) -> None:
    """Run to the end with all output in ``log``, calling ``watch`` a few times a second.

    ``on_start`` gets the process's id, ``on_exit`` its exit code (negative: the signal that ended it), however it
    ends. Raises ``EngineError`` with the log's last lines and the exit code. An exception, such as an interrupt, ends
    the process and all its children before it goes on.
    """
    process = start(command, log, cwd=cwd)
    try:
        on_start(process.pid)
        while process.poll() is None:
            watch()
            time.sleep(0.25)
        watch()
    except BaseException:
        stop(process)
        raise
    finally:
        on_exit(process.returncode)
    if process.returncode:
        raise failed(command, process.returncode, log, hint)


def start(command: Command, log: Path, *, cwd: Path, pipes: bool = False) -> "subprocess.Popen[bytes]":
    """A process whose output is appended to ``log``. The caller stops it with ``stop``.

    ``pipes``: its stdin and stdout are pipes, which the caller closes; only its stderr goes into ``log``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file, _interrupts_reach_children():
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else file,
            stderr=file,
            env=_child_environment(command.env),
            cwd=cwd,
            start_new_session=True,
        )


def pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    """The stdin and the stdout of a process that was started with ``pipes``."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process has no pipes")
    return process.stdin, process.stdout


def wait(process: "subprocess.Popen[Any]", seconds: float) -> int | None:
    """The exit code of a process, None where it still runs after ``seconds``."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None


@contextlib.contextmanager
def _interrupts_reach_children() -> Iterator[None]:
    """Start children that heed SIGINT.

    A shell starts its background jobs with SIGINT ignored, and they hand that on: swift would not end at the first,
    polite signal of ``stop``.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _child_environment(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with ``added``; python's own output is not held back."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **added}


def failed(command: Command, code: int, log: Path, hint: str, name: str = "") -> EngineError:
    """What a user needs of a failed process: the code, the last lines of its log, the log's name.

    ``name``: what the process is called; by default the program and its first argument.
    """
    with log.open("rb") as file:
        last = [line.decode("utf-8", "replace").rstrip() for line in deque(file, 40)]
    lines = [line.split("\r")[-1] for line in last if line.strip()][-12:]
    name = name or " ".join([Path(command.argv[0]).name, *command.argv[1:2]])
    ended = f"exit code {code}" if code >= 0 else f"killed by signal {-code} ({signal.Signals(-code).name})"
    return EngineError(f"{name} failed: {ended}", why=[*lines, f"The whole log: {log}"], hint=hint)


def stop(process: "subprocess.Popen[Any]") -> None:
    """End a process and everything it started: politely first, then by force, at once after another interrupt.

    What a process that has ended left behind is ended by force.
    """
    family: set[psutil.Process] = set()
    for number, patience in _STOPS if process.poll() is None else _STOPS[-1:]:
        with contextlib.suppress(KeyboardInterrupt):
            family |= _family(process.pid)
            if _ended(process, family, number, patience):
                return


def _ended(process: "subprocess.Popen[Any]", family: set[psutil.Process], number: int, patience: float) -> bool:
    """Send the signal to all of ``family`` and wait; whether all have ended."""
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.send_signal(number)
    end = time.monotonic() + patience
    while any(map(_runs, family)) and time.monotonic() < end:
        process.poll()
        time.sleep(0.1)
    process.poll()  # takes its exit status: it leaves no zombie
    return not any(map(_runs, family))


def _family(pid: int) -> set[psutil.Process]:
    """The process and all that it and its children have started.

    ``start`` gives each process a session of its own: what a killed one leaves behind is known by that.
    """
    family = {process for process in psutil.process_iter() if _session(process.pid) == pid}
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        family |= {process, *process.children(recursive=True)}
    return family


def _session(pid: int) -> int:
    """The session of a process, 0 where it has ended."""
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return 0


def _runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
