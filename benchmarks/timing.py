"""Whole processes timed in turns, so that a busy moment of the machine hits both sides."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    seconds: float
    megabytes: float


class Pair(NamedTuple):
    """Medians of ours and the peer's."""

    name: str
    ours: Cost
    peer: Cost

    @property
    def ratio(self) -> float:
        return self.ours.seconds / self.peer.seconds


def process(command: Sequence[str], cwd: Path) -> Cost:
    """Wall time and peak memory of one run; it must end well."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return Cost(seconds, usage.ru_maxrss / 1024)


def paired(name: str, ours: Callable[[], Cost], peer: Callable[[], Cost], runs: int) -> Pair:
    """In turns; each once unmeasured before, but for a single run."""
    if runs > 1:
        ours(), peer()
    mine, theirs = zip(*((ours(), peer()) for _ in range(runs)), strict=True)
    return Pair(name, _median(mine), _median(theirs))


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def vlmdet(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vlmdet_cli", *arguments]
