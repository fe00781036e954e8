"""Engines as actors on a local Ray: an actor that is killed loses no row, and the answers are those without Ray."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.conftest import Cli, picture
from tests.engines.fake_engine import TEXT, FakeEngine
from tests.stages.test_infer_inputs import model_folder
from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import SHAPES, write_coco
from vlmdet_cli.engines import Request, ray_executor
from vlmdet_cli.engines.ray_executor import CHUNK, RayExecutor, Rows
from vlmdet_cli.engines.settings import RayOptions
from vlmdet_cli.errors import EngineError, UsageError

ROOT = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `ray`")
ON_RAY = ["--set", 'infer.executor="ray"', "--set", "infer.ray.actors=2"]


def requests(count: int) -> list[Request]:
    return [Request(key=str(number), image=Path(f"{number}.png"), prompt="x") for number in range(count)]


def names(rows: list[Request]) -> list[str]:
    return [row.key for row in rows]


def test_rows_are_drawn_in_order_and_remembered_by_actor() -> None:
    rows = Rows(requests(CHUNK + 3))
    first, second = rows.draw(0), rows.draw(1)
    assert names(first + second) == [str(number) for number in range(CHUNK + 3)]
    assert (rows.left(), rows.draw(0), rows.taken(1), rows.taken(2)) == (0, [], second, [])


def test_suspects_are_drawn_one_a_call_of_the_engine_and_by_nobody_in_the_middle_of_a_call() -> None:
    rows = Rows(requests(2))
    rows.draw(0)
    rows.put_back(requests(1), [Request(key="a", image=Path(), prompt=""), Request(key="b", image=Path(), prompt="")])
    assert names(rows.draw(0)) == ["0"]
    assert rows.draw(0) == []  # the call that has other rows ends
    assert rows.left() == 2
    assert [names(rows.draw(number)) for number in (0, 1, 0, 1)] == [["a"], ["b"], [], []]
    rows.put_back(requests(1), [])
    assert (names(rows.draw(1)), rows.left()) == (["0"], 0)


@pytest.mark.parametrize(
    ("options", "has", "share"),
    [
        ({}, {"CPU": 8.0}, ({"CPU": 1, "GPU": 0}, 1)),
        ({}, {"CPU": 8.0, "GPU": 4.0}, ({"CPU": 1, "GPU": 1}, 4)),
        ({"cpus": 4.0}, {"CPU": 8.0, "GPU": 4.0}, ({"CPU": 4, "GPU": 1}, 2)),
        ({"gpus": 0.5}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 1, "GPU": 0.5}, 4)),
        ({"actors": 3, "gpus": 0.0}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 1, "GPU": 0}, 3)),
    ],
)
def test_actors_fill_the_gpus_of_a_cluster(
    options: dict[str, float], has: dict[str, float], share: tuple[dict[str, float], int]
) -> None:
    assert ray_executor.share(RayOptions(**options), has) == share  # type: ignore[arg-type]


def test_a_cluster_without_room_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(EngineError) as caught:
        ray_executor.share(RayOptions(gpus=2.0), {"CPU": 8.0, "GPU": 1.0})
    assert caught.value.why == ("An actor takes 1 CPU, 2 GPU; the cluster has 8 CPU, 1 GPU.",)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"pip install 'vlmdet\[ray\]'"):
        RayExecutor(FakeEngine(), RayOptions())


@needs_ray
def test_the_identity_is_the_engines_own() -> None:
    engine = FakeEngine(weights=7)
    assert RayExecutor(engine, RayOptions()).identity() == engine.identity()


class SlowToStart:
    """Ray on a busy machine: it starts when it is asked the ``starts``-th time."""

    def __init__(self, starts: int, error: str = "The current node timed out during startup.") -> None:
        self.starts_left = starts
        self.error = error
        self.stops = 0

    def init(self, **_arguments: object) -> None:
        self.starts_left -= 1
        if self.starts_left:
            raise RuntimeError(self.error)

    def shutdown(self) -> None:
        self.stops += 1


def test_a_cluster_that_does_not_start_in_time_is_started_again_twice_and_no_other_failure_is_tried_again() -> None:
    slow = SlowToStart(3)
    ray_executor.connect(slow, RayOptions())
    assert slow.stops == 2
    for ray, stops in ((SlowToStart(4), 3), (SlowToStart(2, "no such address"), 1)):
        with pytest.raises(RuntimeError, match=ray.error):
            ray_executor.connect(ray, RayOptions())
        assert ray.stops == stops


def start(module: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", module, "infer", "--json", "--output", "answers.jsonl", *ON_RAY, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def actors(process: "subprocess.Popen[str]") -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith("ray::Answerer"):
                yield child
        except psutil.Error:
            pass


@pytest.mark.slow
@needs_ray
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`")
def test_an_actor_that_is_killed_half_way_loses_no_row_and_the_answers_are_those_without_ray(
    cli: Cli, tmp_path: Path
) -> None:
    write_coco(tmp_path, SHAPES, {"test": 24})
    asked = ["--model", str(HERE / "model"), "images/test", "--set", "infer.batch=2", "--set", "infer.max_tokens=48"]
    process = start("vlmdet_cli", *asked)
    file = tmp_path / "answers.jsonl"
    while not file.is_file() or file.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    max(actors(process), key=lambda actor: actor.cpu_times().user).kill()  # one that answers, not one that still loads
    answered = file.read_bytes().count(b"\n")
    stdout, stderr = process.communicate(timeout=600)
    assert (process.returncode, stderr) == (0, "")
    assert (answered < 24, len(json.loads(stdout))) == (True, 24)
    assert cli("infer", "--output", "alone.jsonl", *asked, "--json").stdout == stdout
    assert file.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@pytest.mark.slow
@needs_ray
def test_a_picture_that_kills_three_actors_is_named_and_all_others_are_answered(cli: Cli, tmp_path: Path) -> None:
    del cli  # it has entered the folder
    model_folder(tmp_path / "base")
    for number in range(4 * CHUNK):
        picture(tmp_path / "pictures", f"{number:02d}.png")
    picture(tmp_path / "pictures", "deadly.png")
    process = start("tests.engines.infer_with_deadly_picture", "--model", "base", "pictures")
    stdout, stderr = process.communicate(timeout=600)
    assert (process.returncode, stdout) == (4, "")
    assert stderr.startswith("error: 3 actors died while they answered about a picture: pictures/deadly.png\n")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len({answer["image"] for answer in answers}) == len(answers) >= 3 * CHUNK
    assert {answer["text"] for answer in answers} == {TEXT.format(n=len(answers[0]["prompt"]))}
