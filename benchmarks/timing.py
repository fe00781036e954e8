"""Whole processes measured in turns, so that a busy moment of the machine hits both sides.

On a machine that others use, too, the ratio of CPU seconds is steadier than that of wall time.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Wall time, CPU time (user and system) of the process and its children, and the largest of their peak memories."""

    seconds: float
    cpu_seconds: float
    megabytes: float


class Pair(NamedTuple):
    """The medians of vlmdet and of its peer."""

    name: str
    ours: Cost
    peer: Cost

    @property
    def ratio(self) -> float:
        return self.ours.seconds / self.peer.seconds

    @property
    def cpu_ratio(self) -> float:
        return self.ours.cpu_seconds / self.peer.cpu_seconds


def process(command: Sequence[str], cwd: Path) -> Cost:
    """The cost of a run, which must end with exit code 0."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def paired(name: str, ours: Callable[[], Cost], peer: Callable[[], Cost], runs: int) -> Pair:
    """The medians of ``runs`` runs of each, in turns; with more than one, each runs once unmeasured before."""
    if runs > 1:
        ours(), peer()
    costs = [(ours(), peer()) for _ in range(runs)]
    return Pair(name, median([pair[0] for pair in costs]), median([pair[1] for pair in costs]))


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def vlmdet(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vlmdet_cli", *arguments]
