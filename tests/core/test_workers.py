"""Work shared by processes: order, places in files, failures, and an owner that is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlmdet_cli.core.workers import MANY, Crew


def doubled(number: int) -> tuple[list[bytes], int]:
    """Two files' bytes, and a number. Later pieces are faster than earlier ones."""
    time.sleep(0.02 * (5 - number % 5))
    return [f"{number},".encode() * number, str(number).encode()], number * 2


def failing(number: int) -> tuple[list[bytes], int]:
    if number == 3:
        raise ValueError("piece 3 is bad")
    return doubled(number)


def files(folder: Path, starts: Sequence[bytes] = (b"", b"")) -> list[Path]:
    made = []
    for number, start in enumerate(starts):
        path = folder / f"{number}.txt"
        path.write_bytes(start)
        made.append(path)
    return made


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_pieces_stand_in_order_whoever_makes_them(tmp_path: Path, wanted: int) -> None:
    with Crew(wanted, "tests.core.test_workers") as crew:
        for _ in range(2):  # a crew can do several jobs
            paths = files(tmp_path, (b"head:", b""))
            assert list(crew.written(doubled, range(9), paths)) == [number * 2 for number in range(9)]
            assert paths[0].read_bytes() == b"head:" + b"".join(f"{n},".encode() * n for n in range(9))
            assert paths[1].read_bytes() == b"012345678"


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_piece_that_fails_ends_the_job_and_no_other_waits_for_it(tmp_path: Path, wanted: int) -> None:
    with Crew(wanted, "tests.core.test_workers") as crew, pytest.raises(ValueError, match="piece 3 is bad"):
        list(crew.written(failing, range(9), files(tmp_path)))


@pytest.mark.timeout(60)
def test_who_stops_half_way_need_not_wait_for_pieces_that_will_never_come(tmp_path: Path) -> None:
    with Crew(2, "tests.core.test_workers") as crew:
        made = crew.written(doubled, range(40), files(tmp_path))
        assert [next(made) for _ in range(3)] == [0, 2, 4]
    assert not multiprocessing.active_children()


def test_no_piece_at_all_writes_nothing(tmp_path: Path) -> None:
    paths = files(tmp_path, (b"head", b""))
    with Crew(2, "tests.core.test_workers") as crew:
        assert list(crew.written(doubled, [], paths)) == []
    assert paths[0].read_bytes() == b"head"


def test_processes_start_early_only_for_very_many_pictures() -> None:
    with Crew(2, "tests.core.test_workers") as crew:
        crew.expect(MANY - 1)
        assert not multiprocessing.active_children()
        crew.expect(MANY)
        assert len(multiprocessing.active_children()) == 1


OWNER = """
from pathlib import Path
from tests.core.test_workers import slow
from vlmdet_cli.core.workers import Crew
if __name__ == "__main__":
    with Crew(2, "tests.core.test_workers") as crew:
        list(crew.written(slow, range(99), [Path("a"), Path("b")]))
"""


def slow(number: int) -> tuple[list[bytes], int]:
    with Path("pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    return [b"", b""], number


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def until(what: object, seconds: float = 20.0) -> bool:
    assert callable(what)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def test_processes_whose_owner_is_killed_end_too(tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text(OWNER)
    files(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    root = str(Path(__file__).resolve().parents[2])
    owner = subprocess.Popen([sys.executable, "owner.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root})
    try:
        pids = tmp_path / "pids"
        assert until(lambda: pids.is_file() and len(set(pids.read_text().split())) == 2)
        workers = [int(pid) for pid in set(pids.read_text().split())]
        assert all(map(alive, workers))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert until(lambda: not any(map(alive, workers)))
