"""Work spread over processes, in order: the same results, and the same files, from one process or many.

Functions and what they are given go to fresh processes (``spawn``: no thread of this one is torn in half), so both
must be picklable: functions of modules, records, arrays. What becomes of a file is written where it belongs by the
process that made it: sent through a pipe to be written here, it would cost as much again.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
WORTH_IT = 4  # with fewer pieces, starting processes costs more than it saves
MANY = 50_000  # pictures, of which there will surely be many pieces
MOST_FILES = 16
BROKEN = -1


class Relay:
    """Places in files that are written by several processes, piece after piece.

    ``state``: whose turn it is, then how far each file is written. A piece waits for its turn, takes its places, and
    writes while the next one takes its own.
    """

    def __init__(self, condition: Any, state: Any) -> None:
        self._condition = condition
        self._state = state

    def begin(self, starts: Sequence[int]) -> None:
        """A new job: each file begins behind what it has already."""
        self._state[:] = [0, *starts, *[0] * (MOST_FILES - len(starts))]

    def take(self, number: int, sizes: Sequence[int]) -> list[int]:
        """Where piece ``number`` begins in each file. Raises ``RuntimeError`` if another piece failed."""
        with self._condition:
            self._condition.wait_for(lambda: self._state[0] in (number, BROKEN))
            if self._state[0] == BROKEN:
                raise RuntimeError("another piece failed")
            places = list(self._state[1 : len(sizes) + 1])
            for file, size in enumerate(sizes, 1):
                self._state[file] += size
            self._state[0] = number + 1
            self._condition.notify_all()
        return places

    def end(self) -> None:
        """No piece has a turn any more."""
        with self._condition:
            self._state[0] = BROKEN
            self._condition.notify_all()

    def fail(self, number: int) -> None:
        """No piece shall wait for piece ``number``, which will never come. Those before it still have their turn."""
        with self._condition:
            self._condition.wait_for(lambda: self._state[0] == BROKEN or self._state[0] >= number)
            self.end()


class Crew:
    """Processes that share the pieces of one job, this one among them: ``wanted``, or, with 0, one for each core where
    that pays.
    """

    def __init__(self, wanted: int, module: str) -> None:
        """``module``: what the work needs imported."""
        self._wanted = wanted
        self._module = module
        self._relay: tuple[Any, Any] = (threading.Condition(), [0] * (MOST_FILES + 1))  # for this process alone
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._pool is not None:
            Relay(*self._relay).end()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _count(self) -> int:
        return self._wanted or len(os.sched_getaffinity(0))

    def expect(self, pictures: int) -> None:
        """Start already if there will surely be many pieces, while this process has other work to do.

        Not before it has read its input, though: cores often share what reading needs most.
        """
        if pictures >= MANY and self._count() > 1:
            self._start()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._relay = (context.Condition(), context.Array("q", MOST_FILES + 1, lock=False))
            self._pool = ProcessPoolExecutor(
                self._count() - 1, mp_context=context, initializer=_begin, initargs=(*self._relay, self._module)
            )
            for _ in range(self._count() - 1):
                self._pool.submit(_nothing)
        return self._pool

    def written(
        self, function: Callable[[Given], tuple[Sequence[bytes], Made]], items: Sequence[Given], files: Sequence[Path]
    ) -> Iterator[Made]:
        """Append the bytes that ``function`` makes of each item to ``files``, in the items' order.

        Yields what it returns beside them. The files must be there; what they have already stays.
        """
        work, alone = partial(_written, function, files), self._count() < 2
        if not alone and len(items) >= (2 if self._wanted else WORTH_IT):
            self._start()
        Relay(*self._relay).begin([file.stat().st_size for file in files])
        _begin(*self._relay, "")
        yield from self._shared(work, items) if self._pool else map(work, range(len(items)), items)

    def _shared(self, work: Callable[[int, Given], Made], items: Sequence[Given]) -> Iterator[Made]:
        """Each last of ``count`` pieces is made here, the others by the pool."""
        pool, count, many = self._start(), self._count(), len(items)
        others = {n: pool.submit(work, n, items[n]) for n in range(many) if n % count != count - 1}
        done = 0
        for own in range(count - 1, many, count):
            try:
                mine = work(own, items[own])
            except RuntimeError:
                for number in range(done, own):
                    others[number].result()  # raises what went wrong there
                raise
            yield from (others[number].result() for number in range(done, own))
            yield mine
            done = own + 1
        yield from (others[number].result() for number in range(done, many))


_relay: Relay


def _keep_memory() -> None:
    """Let glibc keep what was freed for the next piece: to give pages back and ask for them again takes time."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-1, 1 << 30), (-3, 1 << 28)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(parameter, value)


def _begin(condition: Any, state: Any, module: str) -> None:
    """Make a process ready."""
    _keep_memory()
    global _relay  # noqa: PLW0603  (what a pool's processes have in common can be given to them only so)
    _relay = Relay(condition, state)
    if module:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        importlib.import_module(module)


def _end_with_parent() -> None:
    """A pool whose owner was killed would wait for work for ever."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        owner.join()
        os._exit(1)


def _nothing() -> None:
    """Work that makes a process start."""


def _written(
    function: Callable[[Given], tuple[Sequence[bytes], Made]], files: Sequence[Path], number: int, item: Given
) -> Made:
    try:
        parts, rest = function(item)
        for file, part, place in zip(files, parts, _relay.take(number, list(map(len, parts))), strict=True):
            _write_at(file, part, place)
    except BaseException:
        _relay.fail(number)
        raise
    return rest


def _write_at(file: Path, content: bytes, place: int) -> None:
    opened, view = os.open(file, os.O_WRONLY), memoryview(content)
    try:
        while view:
            done = os.pwrite(opened, view, place)
            view, place = view[done:], place + done
    finally:
        os.close(opened)
