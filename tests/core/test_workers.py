"""Work shared by processes: the order of the bytes, failures, killed workers, Ctrl-C, and an owner that is killed."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vlmdet_cli.core import workers
from vlmdet_cli.core.workers import WorkerPool, cpu_count
from vlmdet_cli.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]


def doubled(number: int) -> tuple[list[bytes], int]:
    """The bytes of two files, and a number. Later chunks are faster than earlier ones."""
    time.sleep(0.02 * (5 - number % 5))
    return [f"{number},".encode() * number, str(number).encode()], number * 2


def failing(number: int) -> tuple[list[bytes], int]:
    if number == 3:
        raise ValueError("chunk 3 is bad")
    return doubled(number)


def killed(number: int) -> tuple[list[bytes], int]:
    """Work whose process is killed, as by the system when memory runs out, while the other worker is busy."""
    if number == 1:
        kill_worker()
    return slow(number)


def kill_worker() -> None:
    assert multiprocessing.parent_process() is not None, "the chunk was to be a worker's"
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory(_number: int) -> tuple[list[bytes], int]:
    raise MemoryError


def large(chunk: tuple[int, bytes]) -> tuple[list[bytes], int]:
    if chunk[0] == 1:
        kill_worker()
    time.sleep(0.2)
    return [b"", b""], 0


def slow(number: int) -> tuple[list[bytes], int]:
    time.sleep(0.5)
    return [b"", b""], number


def process_id(_number: int) -> tuple[list[bytes], int]:
    time.sleep(0.2)
    return [b"", b""], os.getpid()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files; the first has a head that is to stay."""
    paths = [tmp_path / "0.txt", tmp_path / "1.txt"]
    for path, head in zip(paths, (b"head:", b""), strict=True):
        path.write_bytes(head)
    return paths


def worker_processes(pid: int | None = None) -> list[psutil.Process]:
    """The workers of a process; Python's own resource tracker is no worker."""
    children = psutil.Process(pid).children()
    return [child for child in children if is_running(child) and "spawn_main" in " ".join(child.cmdline())]


def is_running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bytes_and_results_are_in_the_order_of_the_chunks(files: list[Path], count: int) -> None:
    finished: list[int] = []
    with WorkerPool(count) as pool:
        for job in (1, 2):  # a pool can do several jobs
            assert pool.write(doubled, range(9), files, finished.append) == [number * 2 for number in range(9)]
            assert files[0].read_bytes() == b"head:" + job * b"".join(f"{n},".encode() * n for n in range(9))
            assert files[1].read_bytes() == job * b"012345678"
    assert finished == [*range(1, 10)] * 2
    assert {path.name for path in files[0].parent.iterdir()} == {"0.txt", "1.txt"}


@pytest.mark.parametrize(("workers_asked", "chunks", "expected"), [(4, 2, 2), (3, 5, 2)])
def test_there_are_no_more_workers_than_chunks(
    files: list[Path], workers_asked: int, chunks: int, expected: int
) -> None:
    with WorkerPool(workers_asked) as pool:
        pool.write(process_id, range(chunks), files)
        assert len(worker_processes()) == expected
    assert not worker_processes()


def test_the_owner_computes_chunks_too_while_its_workers_are_busy(files: list[Path]) -> None:
    with WorkerPool(2) as pool:
        computed_by = pool.write(process_id, range(8), files)
    assert os.getpid() in computed_by
    assert len(set(computed_by)) == 2


def test_few_chunks_and_a_single_worker_need_no_other_process(files: list[Path]) -> None:
    with WorkerPool() as pool:
        assert set(pool.write(process_id, range(workers.MIN_CHUNKS - 1), files)) == {os.getpid()}
    with WorkerPool(1) as pool:
        assert set(pool.write(process_id, range(9), files)) == {os.getpid()}


def test_no_chunk_at_all_writes_nothing(files: list[Path]) -> None:
    with WorkerPool(2) as pool:
        assert pool.write(doubled, [], files) == []
    assert files[0].read_bytes() == b"head:"


@pytest.mark.parametrize("count", [1, 2])
def test_a_chunk_that_fails_ends_the_job_with_its_error(files: list[Path], count: int) -> None:
    with WorkerPool(count) as pool:
        with pytest.raises(ValueError, match="chunk 3 is bad"):
            pool.write(failing, range(9), files)
        assert not worker_processes()
        assert {path.name for path in files[0].parent.iterdir()} == {"0.txt", "1.txt"}
        assert pool.write(doubled, range(2), files) == [0, 2]  # the pool can be used again


@pytest.mark.timeout(60)
def test_a_killed_worker_is_an_error_that_says_what_to_do_and_nothing_is_left(files: list[Path]) -> None:
    with WorkerPool(3) as pool, pytest.raises(EngineError) as caught:
        pool.write(killed, range(40), files)
    assert str(caught.value) == (
        "A worker process was killed\nMost likely the machine ran out of memory.\n"
        "Lower data.workers (1 uses no other process), or free memory, and run the same command again."
    )
    assert caught.value.exit_code == 4
    assert not worker_processes()
    assert {path.name for path in files[0].parent.iterdir()} == {"0.txt", "1.txt"}


@pytest.mark.timeout(60)
def test_a_worker_killed_while_large_chunks_wait_is_an_error_too(files: list[Path]) -> None:
    with WorkerPool(3) as pool, pytest.raises(EngineError):
        pool.write(large, [(number, bytes(1 << 20)) for number in range(12)], files)
    assert not worker_processes()


def test_a_worker_without_memory_is_the_same_error(files: list[Path]) -> None:
    with WorkerPool(2) as pool, pytest.raises(EngineError, match="A worker process was killed"):
        pool.write(out_of_memory, range(3), files)


def test_a_caller_that_stops_half_way_ends_the_workers(files: list[Path]) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with WorkerPool(2) as pool, pytest.raises(KeyboardInterrupt):
        pool.write(doubled, range(40), files, stop)
    assert not worker_processes()
    assert {path.name for path in files[0].parent.iterdir()} == {"0.txt", "1.txt"}


OWNER = """
import signal
from pathlib import Path
from tests.core.test_workers import forever
from vlmdet_cli.core.workers import WorkerPool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with WorkerPool(3) as pool:
        pool.write(forever, range(99), list(map(Path, FILES)))
"""


def forever(number: int) -> tuple[list[bytes], int]:
    time.sleep(600)
    return slow(number)


@pytest.fixture
def owner(tmp_path: Path, files: list[Path]) -> "subprocess.Popen[bytes]":
    """A process that is busy for ten minutes, and so are its two workers."""
    (tmp_path / "owner.py").write_text(OWNER.replace("FILES", repr([file.name for file in files])))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "owner.py"], cwd=tmp_path, env=env, stderr=subprocess.PIPE)
    assert wait_for(lambda: len(worker_processes(process.pid)) == 2)
    time.sleep(1.0)  # until they are at work
    return process


@pytest.mark.timeout(60)
def test_workers_whose_owner_is_killed_end_too(owner: "subprocess.Popen[bytes]") -> None:
    busy = worker_processes(owner.pid)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert wait_for(lambda: not any(map(is_running, busy)))


@pytest.mark.timeout(60)
def test_ctrl_c_ends_busy_workers_at_once_and_leaves_no_temporary_file(
    owner: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    busy = worker_processes(owner.pid)
    for process in [owner, *busy]:  # a terminal sends it to all of them
        with contextlib.suppress(ProcessLookupError):  # a worker that the owner has ended already
            os.kill(process.pid, signal.SIGINT)
    _, stderr = owner.communicate(timeout=20)
    assert not any(map(is_running, busy))
    assert stderr.count(b"KeyboardInterrupt") == 1  # the owner's
    assert {path.name for path in tmp_path.iterdir()} == {"0.txt", "1.txt", "owner.py"}


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpu_count() == 5
