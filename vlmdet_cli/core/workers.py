"""Work on the chunks of a data set in several processes, with the same results and files as in one process.

The process that owns the pool computes chunks as well, whenever all workers have enough to do. Each worker is a fresh
process (``spawn``), so the work is a function of a module, and chunks are picklable. Chunks and their bytes travel as
files in a temporary folder: a pipe holds 64 KiB, and in Python 3.10 a pool whose worker is killed while the pipe is
full waits for ever. The owner appends the bytes to the files in the order of the chunks.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO, TypeVar

from vlmdet_cli.core.memory import keep_freed_memory
from vlmdet_cli.errors import EngineError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Work = Callable[[Chunk], tuple[Sequence[bytes], Result]]  # the bytes for each file, and a result for the caller
MIN_CHUNKS = 4  # with fewer chunks, starting processes takes longer than it saves


def cpu_count() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ignore_progress(_done: int) -> None:
    """The progress callback of a caller that shows none."""


class WorkerPool:
    """Processes that share the chunks of a job: ``workers`` of them, this one included, or with 0 one for each core.

    The others start with the first job that has enough chunks, never more than it has chunks, and end with the block.
    """

    def __init__(self, workers: int = 0) -> None:
        self._count = workers or cpu_count()
        self._min_chunks = 2 if workers else MIN_CHUNKS
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def write(
        self,
        work: Work[Chunk, Result],
        chunks: Sequence[Chunk],
        files: Sequence[Path],
        on_chunk: Callable[[int], None] = _ignore_progress,
    ) -> list[Result]:
        """Append the bytes of each chunk to ``files``, in the order of the chunks, and return their results.

        ``on_chunk`` is called with the number of finished chunks. Raises what ``work`` raises, and ``EngineError`` if
        a worker is killed or runs out of memory. When it raises, no worker runs and no temporary file is left.
        """
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(file.open("ab")) for file in files]
            if self._executor is None and (self._count < 2 or len(chunks) < self._min_chunks):
                return _write_here(work, chunks, opened, on_chunk)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".parts-", dir=files[0].parent)))
            try:
                return self._write_shared(work, chunks, opened, on_chunk, folder)
            except (BrokenProcessPool, MemoryError):
                self._stop()
                raise _worker_killed() from None
            except BaseException:
                self._stop()  # before the folder goes: a worker may be writing into it
                raise

    def _write_shared(
        self,
        work: Work[Chunk, Result],
        chunks: Sequence[Chunk],
        opened: Sequence[BinaryIO],
        on_chunk: Callable[[int], None],
        folder: Path,
    ) -> list[Result]:
        results, pending, busy = list[Result](), deque[Callable[[], Result]](), set[Future[Result]]()

        def finish_oldest() -> None:
            results.append(pending.popleft()())
            on_chunk(len(results))

        executor = self._start()
        for number, chunk in enumerate(chunks):
            busy = {future for future in busy if not future.done()}
            is_end = number + self._count > len(chunks)  # nothing is to wait for a worker while this process idles
            if len(busy) < (self._count - 1) * (1 if is_end else 2):
                part = folder / str(number)
                part.write_bytes(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
                busy.add(future := executor.submit(_compute, work, part))
                pending.append(functools.partial(_append_parts, part, future, opened))
            else:
                pending.append(functools.partial(_append_contents, *work(chunk), opened))
            while len(pending) > 2 * self._count:  # more would only take room
                finish_oldest()
        while pending:
            finish_oldest()
        return results

    def _start(self) -> ProcessPoolExecutor:
        if self._executor is None:
            keep_freed_memory()
            self._executor = ProcessPoolExecutor(
                self._count - 1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
            )
        return self._executor

    def _stop(self) -> None:
        """End the workers at once, whatever they do."""
        if self._executor is not None:
            for process in multiprocessing.active_children():  # vlmdet starts no others by this module
                process.kill()
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _worker_killed() -> EngineError:
    return EngineError(
        "A worker process was killed",
        why="Most likely the machine ran out of memory.",
        hint="Lower data.workers (1 uses no other process), or free memory, and run the same command again.",
    )


def _write_here(
    work: Work[Chunk, Result], chunks: Sequence[Chunk], opened: Sequence[BinaryIO], on_chunk: Callable[[int], None]
) -> list[Result]:
    """The whole job in this process."""
    keep_freed_memory()
    results = list[Result]()
    for chunk in chunks:
        results.append(_append_contents(*work(chunk), opened))
        on_chunk(len(results))
    return results


def _append_contents(contents: Sequence[bytes], result: Result, files: Sequence[BinaryIO]) -> Result:
    """The result of a chunk that this process has computed, after its bytes are appended."""
    for content, file in zip(contents, files, strict=True):
        file.write(content)
    return result


def _append_parts(part: Path, future: "Future[Result]", files: Sequence[BinaryIO]) -> Result:
    """The result of a chunk that a worker computes, after its bytes are appended."""
    result = future.result()
    for number, file in enumerate(files):
        _append(_part_file(part, number), file)
    return result


def _part_file(part: Path, number: int) -> Path:
    """The file with a chunk's bytes for the job's file ``number``."""
    return part.with_name(f"{part.name}.{number}")


def _append(part: Path, target: BinaryIO) -> None:
    with part.open("rb") as source:
        shutil.copyfileobj(source, target, 1 << 18)
    part.unlink()


# --- in a worker ---------------------------------------------------------------------------------------------


def _begin_worker() -> None:
    """Make a worker ready: it ends with its parent, which alone handles Ctrl-C."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for the next chunk for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(work: Work[Chunk, Result], part: Path) -> Result:
    chunk: Chunk = pickle.loads(part.read_bytes())  # noqa: S301  (the parent wrote it)
    part.unlink()
    contents, result = work(chunk)
    for number, content in enumerate(contents):
        _part_file(part, number).write_bytes(content)
    return result
