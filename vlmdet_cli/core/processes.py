"""Whether the process that wrote a record still runs.

psutil is imported inside the functions: run records have this module's ``Process``, and ``--help`` does without psutil.
"""

import os
import socket

import msgspec


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process among all machines that share a file system. ``started``: seconds since the epoch."""

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The running process ``pid`` of this machine, None where there is none."""
        import psutil

        try:
            return cls(host=socket.gethostname(), pid=pid, started=psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def runs(self) -> bool | None:
        """Whether it runs; None where that cannot be known, because it belongs to another machine."""
        import psutil

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
