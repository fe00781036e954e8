"""ms-swift as a program: where it is, and the only place that starts a process.

swift runs as a program of its own, installed beside the running interpreter (``pipx`` puts no dependency's program
on PATH; another program called ``swift`` there is a different one).
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training.arguments import version

# the signals that end a process, and the seconds that it is given after each
_STOPS = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 4.0))


class Command(msgspec.Struct, frozen=True):
    """A process to start: its argument list and the environment variables it adds."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}

    def quoted(self) -> str:
        """The command as it can be pasted into a shell."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.env.items()), shlex.join(self.argv)])


def program() -> str:
    """``swift`` where a shell finds the right one by name, else its whole path."""
    own = Path(sys.executable).parent / "swift"
    on_path = shutil.which("swift")
    return str(own) if own.exists() and (on_path is None or not own.samefile(on_path)) else "swift"


def require() -> None:
    """Raise ``EngineError`` where ms-swift is not installed beside vlmdet."""
    if not version() or not (Path(sys.executable).parent / "swift").exists():
        raise EngineError(
            "swift is not installed beside vlmdet",
            why=f"Looked for ms-swift in {Path(sys.executable).parent}.",
            hint="Install the training stack: pip install 'vlmdet[train]' (pipx: pipx install 'vlmdet[train]').",
        )


def gpus() -> int:
    """The number of CUDA devices that are visible."""
    return len(gpu_memory())


def gpu_memory() -> list[float]:
    """Memory of each visible CUDA device in GB, asked of the driver itself: torch is not imported for it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in {"", "-1"}:
        return []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    memory = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        memory.append(size.value / 1e9)
    return memory


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
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file, _interrupts_reach_children():
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_child_environment(command.env),
            cwd=cwd,
            start_new_session=True,
        )
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


def failed(command: Command, code: int, log: Path, hint: str) -> EngineError:
    """What a user needs of a failed process: the code, the last lines of its log, the log's name."""
    with log.open("rb") as file:
        last = [line.decode("utf-8", "replace").rstrip() for line in deque(file, 40)]
    lines = [line.split("\r")[-1] for line in last if line.strip()][-12:]
    name = " ".join([Path(command.argv[0]).name, *command.argv[1:2]])
    ended = f"exit code {code}" if code > 0 else f"killed by signal {-code} ({signal.Signals(-code).name})"
    return EngineError(f"{name} failed: {ended}", why=[*lines, f"The whole log: {log}"], hint=hint)


def stop(process: "subprocess.Popen[Any]") -> None:
    """End a process and everything it started: politely first, then by force, at once after another interrupt."""
    family: set[psutil.Process] = set()
    for number, patience in _STOPS:
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
    """The process and all that it and its children have started."""
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.Error:
        return set()


def _runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
