"""infer by a server: which model is meant, in which form it is asked, and what is kept when one of the two ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, picture
from tests.engines.fake_server import FakeServer, picture_of, serving
from tests.stages.test_infer_inputs import model_folder, prepared, trained_run
from vlmdet_cli import Detector
from vlmdet_cli.engines.answers import read_answers, read_meta
from vlmdet_cli.errors import UsageError

pytest.importorskip("openai")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


def options(server: FakeServer, **values: str) -> list[str]:
    settings = {"engine": "server", "server.urls": json.dumps([server.url]), "server.retries": "0", **values}
    return [part for name, value in settings.items() for part in ("--set", f"infer.{name}={value}")]


def ask(cli: Cli, server: FakeServer, *arguments: str, **values: str) -> dict[str, Any]:
    result = cli("infer", *arguments, *options(server, **values), "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def listed(server: FakeServer, name: str, root: str | None = None) -> None:
    server.models = [{"id": name, "owned_by": "vllm", "root": root or name}]


def test_the_latest_run_is_asked_as_it_was_trained_and_its_weights_need_not_be_here(
    cli: Cli, server: FakeServer
) -> None:
    run = trained_run(prepared(cli), "run-001")
    for file in (run / "merged").iterdir():
        file.unlink()
    (run / "merged").rmdir()
    listed(server, "tuned", str((run / "merged").resolve()))
    result = ask(cli, server)
    assert Path(result["answers"]).resolve() == (run / "answers" / "train.jsonl").resolve()
    meta = read_meta(Path(result["answers"]))
    assert meta is not None
    assert meta.model == {"name": "tuned", "hash": None}
    assert (meta.run, meta.family, meta.dialect, meta.max_pixels) == ("run-001", "qwen2_vl", "qwen3_vl", 7056)
    assert meta.engine["root"] == str((run / "merged").resolve())
    for body in server.asked:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        width, height = picture_of(body).size
        assert width * height <= 7056


def test_a_server_with_another_model_than_the_run_is_refused(cli: Cli, server: FakeServer) -> None:
    run = trained_run(prepared(cli), "run-001")
    listed(server, "Qwen/Qwen2-VL-2B-Instruct")
    result = cli("infer", *options(server))
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(
        f"error: The server has another model than the one that is named: {server.url}\n"
        f"  named: {run.resolve()}/merged\n  at the server: Qwen/Qwen2-VL-2B-Instruct\n"
    )


def test_a_run_under_a_name_of_its_own_at_the_server(cli: Cli, server: FakeServer) -> None:
    run = trained_run(prepared(cli), "run-001")
    listed(server, "tuned", "/elsewhere/merged")
    result = ask(cli, server, "--run", "run-001", **{"server.model": "tuned"})
    assert Path(result["answers"]).resolve() == (run / "answers" / "train.jsonl").resolve()
    assert server.asked[0]["messages"][0]["content"] == "Be brief."


def test_a_model_by_its_name_at_the_server(cli: Cli, server: FakeServer) -> None:
    output = prepared(cli)
    listed(server, "Qwen/Qwen2.5-VL-3B-Instruct")
    result = ask(cli, server, "--model", "Qwen/Qwen2.5-VL-3B-Instruct")
    assert Path(result["answers"]).resolve() == (output / "answers" / "Qwen2.5-VL-3B-Instruct-train.jsonl").resolve()
    meta = read_meta(Path(result["answers"]))
    assert meta is not None
    assert (meta.family, meta.model["name"]) == ("qwen2_5_vl", "Qwen/Qwen2.5-VL-3B-Instruct")
    same = ask(cli, server, **{"server.model": "Qwen/Qwen2.5-VL-3B-Instruct"})
    assert (same["answers"], same["asked"]) == (result["answers"], 0)


def test_a_name_that_tells_no_family_needs_infer_family(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    listed(server, "tuned")
    picture(tmp_path, "a.jpg")
    arguments = ("infer", "--model", "tuned", "a.jpg")
    result = cli(*arguments, *options(server))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Not a model of a known family: tuned\n  ")
    assert "infer.family" in result.stderr
    document = ask(cli, server, *arguments[1:], family="qwen2_vl")
    assert document["object"]


def test_what_is_known_of_a_model_is_read_from_the_servers_folder_on_the_same_machine(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "models" / "tuned")
    (folder / "preprocessor_config.json").write_text('{"max_pixels": 7056}')
    listed(server, "tuned", str(folder))
    picture(tmp_path, "a.jpg", (300, 300))
    ask(cli, server, "--model", "tuned", "a.jpg")
    assert picture_of(server.asked[0]).size == (84, 84)


def test_the_detector_asks_a_server_for_its_only_model(server: FakeServer, tmp_path: Path) -> None:
    listed(server, "tuned", "/elsewhere/qwen2-vl-tuned")
    detector = Detector(engine="server", server={"urls": [server.url]})
    seen = detector(picture(tmp_path, "a.jpg"))
    assert (seen.labels, seen.health) == (("cat",), "ok")
    server.models.append({"id": "other"})
    with pytest.raises(UsageError, match="The server has several models") as caught:
        Detector(engine="server", server={"urls": [server.url]})
    assert caught.value.why == ("tuned, other",)


def test_a_server_that_is_down_is_exit_code_4_and_no_file_is_touched(cli: Cli, server: FakeServer) -> None:
    run = trained_run(prepared(cli), "run-001")
    listed(server, "tuned", str((run / "merged").resolve()))
    answers = Path(ask(cli, server)["answers"])
    before = answers.read_bytes()
    server.socket.close()
    result = cli("infer", *options(server))
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(f"error: The server does not answer: {server.url}\n  {server.url}: ")
    assert "Traceback" not in result.stderr
    assert answers.read_bytes() == before


# --- in a process of its own ---------------------------------------------------------------------------------

PICTURES = 60


def started(folder: Path, server: FakeServer) -> "subprocess.Popen[str]":
    """A ``vlmdet infer`` that heeds SIGINT, as in a shell."""
    script = (
        "import signal;signal.signal(signal.SIGINT,signal.default_int_handler);from vlmdet_cli.cli import main;main()"
    )
    arguments = ["infer", "--model", "Qwen2-VL", "--json", "--output", "answers.jsonl", "pictures",
                 *options(server, **{"server.concurrency": "2"})]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_answers(process: "subprocess.Popen[str]", answers: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not answers.is_file() or answers.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_interrupted_it_ends_with_each_row_answered_once(tmp_path: Path) -> None:
    for number in range(PICTURES):
        picture(tmp_path / "pictures", f"{number:02d}.png")
    answers = tmp_path / "answers.jsonl"
    with serving(seconds=0.05) as server:
        listed(server, "Qwen2-VL")
        process = started(tmp_path, server)
        wait_for_answers(process, answers, 5)
        server.seconds = 60  # it does not come to its end
        process.kill()
        process.communicate()
        killed = answers.read_bytes()
        server.seconds = 0.05
        process = started(tmp_path, server)
        wait_for_answers(process, answers, killed.count(b"\n") + 1)
        server.seconds = 60
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130, stderr
        assert "Traceback" not in stderr
        server.seconds = 0.0
        stdout, stderr = started(tmp_path, server).communicate()
    assert len(json.loads(stdout)) == PICTURES, stderr
    assert [answer.image for answer in read_answers(answers)] == [f"pictures/{n:02d}.png" for n in range(PICTURES)]
    assert set(killed.splitlines()) <= set(answers.read_bytes().splitlines())
