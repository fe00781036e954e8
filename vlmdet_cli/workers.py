"""Work spread over processes, in order: the same results from one process or many.

Functions and what they are given go to fresh processes (``spawn``: no thread of this one is torn in half), so both
must be picklable: functions of modules, records, arrays.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
WORTH_IT = 4  # with fewer pieces, starting processes costs more than it saves


def count(wanted: int) -> int:
    """How many processes: as many as wanted, or one for each core that this process may use."""
    return wanted or len(os.sched_getaffinity(0))


def ordered(function: Callable[[Given], Made], items: Sequence[Given], wanted: int = 0) -> Iterator[Made]:
    """``map`` in ``wanted`` processes (0: one a core, where that pays); results come in the items' order."""
    processes = min(count(wanted), len(items))
    if processes < 2 or (not wanted and len(items) < WORTH_IT):
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
