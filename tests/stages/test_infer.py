"""infer: nothing is lost, doubled or asked twice when it is stopped and run again, by a small engine of our own."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import picture
from tests.engines.fake_engine import FakeEngine
from vlmdet_cli.core.locks import lock
from vlmdet_cli.engines import Completion
from vlmdet_cli.engines.answers import AnswersFile, AnswersMeta, read_answers
from vlmdet_cli.engines.infer_rows import InferRow, RowSpool
from vlmdet_cli.errors import EngineError, UsageError
from vlmdet_cli.stages.inference.infer import InferResult, infer


def rows(folder: Path, count: int) -> list[InferRow]:
    return [
        InferRow(image=f"{n}.jpg", path=str(picture(folder, f"{n}.jpg")), prompt="<image>x" + "y" * n, size=(64, 48))
        for n in range(count)
    ]


def ask(asked: list[InferRow], engine: FakeEngine, path: Path, **options: Any) -> InferResult:
    meta = AnswersMeta(engine=engine.identity(), model={}, family="qwen2_vl", dialect="qwen2_vl", max_tokens=99)
    return infer(RowSpool(asked), engine, AnswersFile(path, meta), **options)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_undisturbed_inference_and_one_stopped_anywhere_end_with_the_same_bytes(tmp_path: Path) -> None:
    asked = rows(tmp_path, 11)
    ask(asked, FakeEngine(), tmp_path / "whole" / "a.jsonl")
    for until in (0, 1, 5, 10):
        for cut in (0, 7, 400):
            path = tmp_path / f"stopped{until}-{cut}" / "a.jsonl"
            with pytest.raises(KeyboardInterrupt):
                ask(asked, FakeEngine(until), path)
            data = path.read_bytes()
            path.write_bytes(data[: max(len(data) - cut, 0)])  # killed while it wrote
            ask(asked, FakeEngine(), path)
            for name in ("a.jsonl", "a.detections.json"):
                assert (path.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_file_ends_in_the_order_of_the_rows(tmp_path: Path) -> None:
    asked = rows(tmp_path, 9)
    ask(asked, FakeEngine(), tmp_path / "a.jsonl")
    assert [row["image"] for row in written(tmp_path / "a.jsonl")] == [row.image for row in asked]
    asked.reverse()
    result = ask(asked, FakeEngine(0), tmp_path / "a.jsonl")
    assert result.asked == 0
    assert [row["image"] for row in written(tmp_path / "a.jsonl")] == [row.image for row in asked]


def test_only_what_has_no_answer_is_asked_wherever_it_is_missing(tmp_path: Path) -> None:
    asked, path = rows(tmp_path, 6), tmp_path / "a.jsonl"
    ask(asked, FakeEngine(), path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[n] for n in (5, 3, 0)))
    engine = FakeEngine()
    result = ask(asked, engine, path)
    assert sorted(request.image.name for request in engine.asked) == ["1.jpg", "2.jpg", "4.jpg"]
    assert (result.rows, result.asked) == (6, 3)
    assert path.read_bytes() == b"".join(lines)


def test_a_changed_truth_is_refreshed_without_asking(tmp_path: Path) -> None:
    asked, path = rows(tmp_path, 3), tmp_path / "a.jsonl"
    ask(asked, FakeEngine(), path)
    asked[1] = msgspec.structs.replace(asked[1], expected="No objects.", size=(128, 96), image_id=5)
    result = ask(asked, FakeEngine(0), path)
    assert (result.asked, result.refreshed) == (0, 1)
    row = written(path)[1]
    assert (row["expected"], row["size"], row["image_id"]) == ("No objects.", [128, 96], 5)
    boxes = json.loads(path.with_suffix(".detections.json").read_text())[1]["object"]["cat"]
    assert boxes == [[0, 0, 64, pytest.approx(96 * 9 / 1000)]]


def test_answers_of_another_model_are_set_aside_with_their_account(tmp_path: Path) -> None:
    asked, path = rows(tmp_path, 3), tmp_path / "a.jsonl"
    ask(asked, FakeEngine(model=1), path)
    first, account = path.read_bytes(), path.with_suffix(".meta.json").read_bytes()
    result = ask(asked, FakeEngine(model=2), path)
    assert (result.asked, result.set_aside) == (3, 3)
    assert (tmp_path / "a.1.jsonl").read_bytes() == first
    assert (tmp_path / "a.1.meta.json").read_bytes() == account
    assert path.with_suffix(".meta.json").read_bytes() != account


def test_the_ledger_names_what_was_wrong_most_often_and_adds_up(tmp_path: Path) -> None:
    class Refuses(FakeEngine):
        def answer(self, requests: Any, max_tokens: int) -> Any:
            del max_tokens
            for number, request in enumerate(requests):
                yield Completion(key=request.key, finish="error", error=f"error {max(number - 4, 0)} " + "x" * 200)

    ledger = ask(rows(tmp_path, 12), Refuses(), tmp_path / "a.jsonl").ledger["rows"]
    assert (ledger["in"], ledger["kept"], sum(ledger["dropped"].values())) == (12, 0, 12)
    assert ledger["dropped"]["error 0 " + "x" * 71 + "…"] == 5
    assert ledger["dropped"]["other errors, which their answers name"] == 4
    assert len(ledger["dropped"]) == 5


def test_a_bad_picture_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    asked, path = rows(tmp_path, 5), tmp_path / "a.jsonl"
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:200])
    result = ask(asked, FakeEngine(), path)
    assert [row["image"] for row in written(path) if row.get("finish") == "error"] == ["1.jpg", "3.jpg"]
    assert written(path)[1]["error"] == "empty file"
    assert result.ledger == {"rows": {"in": 5, "kept": 3, "dropped": {"empty file": 1, "truncated": 1}}}
    assert (result.health, result.failed) == ({"ok": 3, "error": 2}, 2)


def test_failed_rows_are_asked_again_only_when_told_so(tmp_path: Path) -> None:
    asked, path = rows(tmp_path, 4), tmp_path / "a.jsonl"
    good = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(b"")
    ask(asked, FakeEngine(), path)
    (tmp_path / "2.jpg").write_bytes(good)
    assert ask(asked, FakeEngine(0), path).failed == 1
    engine = FakeEngine()
    result = ask(asked, engine, path, retry_failed=True)
    assert [request.image.name for request in engine.asked] == ["2.jpg"]
    assert (result.asked, result.failed, result.finish) == (1, 0, {"stop": 4})
    assert [row["image"] for row in written(path)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_an_engine_that_breaks_records_no_bad_picture_and_keeps_what_is_answered(tmp_path: Path) -> None:
    class Breaking(FakeEngine):
        def answer(self, *arguments: Any) -> Any:
            yield from list(super().answer(*arguments))[:2]
            raise EngineError("CUDA error")

    asked, path = rows(tmp_path, 5), tmp_path / "a.jsonl"
    with pytest.raises(EngineError, match="CUDA error"):
        ask(asked, Breaking(), path)
    assert [answer.finish for answer in read_answers(path)] == ["stop", "stop"]
    assert ask(asked, FakeEngine(), path).asked == 3


def test_an_engine_that_leaves_a_row_out_is_noticed(tmp_path: Path) -> None:
    class Forgetful(FakeEngine):
        def answer(self, *arguments: Any) -> Any:
            completions: list[Completion] = list(super().answer(*arguments))
            yield from completions[1:]

    with pytest.raises(EngineError, match="answered 4 of 5 rows"):
        ask(rows(tmp_path, 5), Forgetful(), tmp_path / "a.jsonl")


def test_rows_asked_twice_have_an_answer_each(tmp_path: Path) -> None:
    asked = rows(tmp_path, 2) * 2
    assert ask(asked, FakeEngine(), tmp_path / "a.jsonl").rows == 4
    assert ask(asked, FakeEngine(0), tmp_path / "a.jsonl").asked == 0
    assert [row["image"] for row in written(tmp_path / "a.jsonl")] == ["0.jpg", "1.jpg", "0.jpg", "1.jpg"]


def test_two_inferences_at_once_go_into_different_files_and_not_into_one(tmp_path: Path) -> None:
    asked = rows(tmp_path, 2)
    with lock(tmp_path, ".a.jsonl.lock"):
        assert ask(asked, FakeEngine(), tmp_path / "b.jsonl").rows == 2
        with pytest.raises(UsageError, match="Another vlmdet is at work"):
            ask(asked, FakeEngine(), tmp_path / "a.jsonl")


def test_parsed_boxes_are_pixels_of_the_picture(tmp_path: Path) -> None:
    ask(rows(tmp_path, 1), FakeEngine(), tmp_path / "a.jsonl")
    detections = json.loads((tmp_path / "a.detections.json").read_text())
    assert detections == [{"image_path": "0.jpg", "object": {"cat": [[0, 0, 32, pytest.approx(48 * 8 / 1000)]]}}]


def test_the_boxes_of_a_picture_whose_rows_stand_apart_are_written_together(tmp_path: Path) -> None:
    asked = rows(tmp_path, 3)
    asked += [msgspec.structs.replace(row, prompt="<image>again") for row in asked[::-1]]
    ask(asked, FakeEngine(), tmp_path / "a.jsonl")
    detections = json.loads((tmp_path / "a.detections.json").read_text())
    assert [(picture["image_path"], len(picture["object"]["cat"])) for picture in detections] == [
        ("0.jpg", 2), ("1.jpg", 2), ("2.jpg", 2)
    ]  # fmt: skip
    ask([], FakeEngine(), tmp_path / "a.jsonl")
    assert (tmp_path / "a.detections.json").read_text() == "[]\n"


def test_answers_are_on_the_disk_and_not_in_memory(tmp_path: Path) -> None:
    class Talkative(FakeEngine):
        def answer(self, requests: Any, max_tokens: int) -> Any:
            del max_tokens
            for request in requests:
                yield Completion(key=request.key, finish="error", error="no " * 25_000)  # nothing to parse

    image = picture(tmp_path, "0.jpg")
    asked = [InferRow(image=f"{n}.jpg", path=str(image), prompt="<image>x", size=(64, 48)) for n in range(200)]
    path = tmp_path / "a.jsonl"
    ask(asked[:1], Talkative(), path)
    tracemalloc.start()
    ask(asked, Talkative(), path)
    ask(asked[::-1], Talkative(), path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 14_000_000 > 5 * peak
