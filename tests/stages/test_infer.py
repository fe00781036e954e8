"""infer: nothing lost or doubled when it is stopped and run again. The engine here echoes what it is asked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Cli, picture, write_project
from vlmdet_cli.engines import Reply
from vlmdet_cli.errors import EngineError
from vlmdet_cli.stages.infer import Ask, InferSettings, infer

SIZE = (64, 48)


class Echo:
    """Answers every question with a box that its prompt names; stops after ``until`` batches."""

    def __init__(self, until: int = 99) -> None:
        self.left = until
        self.batches: list[int] = []

    def load(self, path: Path) -> Any:
        with Image.open(path) as opened:
            return opened.convert("RGB").size

    def answer(self, questions: Sequence[tuple[Any, str]], max_tokens: int) -> list[Reply]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.batches.append(len(questions))
        text = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,{n})<|box_end|>"
        # a batch's company shows in its answers, as it does in a real model's last digits
        return [
            Reply(text=text.format(n=len(prompt) + len(questions)), finish="stop" if max_tokens > 9 else "length")
            for _, prompt in questions
        ]


def asks(folder: Path, count: int) -> list[Ask]:
    return [Ask(image=f"{n}.jpg", path=picture(folder, f"{n}.jpg"), prompt="<image>x" + "y" * n) for n in range(count)]


def how(**identity: Any) -> InferSettings:
    return InferSettings(batch=4, max_tokens=100, dialect="qwen2_vl", identity=identity)


def test_an_undisturbed_run_and_one_stopped_anywhere_end_with_the_same_bytes(tmp_path: Path) -> None:
    rows = asks(tmp_path, 11)
    infer(rows, Echo, tmp_path / "whole" / "a.jsonl", how())
    for until in (0, 1, 2):
        for cut in (0, 7, 400):
            file = tmp_path / f"stopped{until}-{cut}" / "a.jsonl"
            with pytest.raises(KeyboardInterrupt):
                infer(rows, lambda: Echo(until), file, how())  # noqa: B023
            data = file.read_bytes()
            file.write_bytes(data[: max(len(data) - cut, 0)])  # killed while it wrote
            infer(rows, Echo, file, how())
            for name in ("a.jsonl", "a.detections.json"):
                assert (file.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    rows, engine = asks(tmp_path, 6), Echo()
    infer(rows, lambda: engine, tmp_path / "a.jsonl", how())
    again = infer(rows, lambda: pytest.fail("asked again"), tmp_path / "a.jsonl", how())
    assert (engine.batches, again.rows, again.asked) == ([4, 2], 6, 0)


def test_answers_of_another_model_are_put_aside_and_kept(tmp_path: Path) -> None:
    rows = asks(tmp_path, 3)
    infer(rows, Echo, tmp_path / "a.jsonl", how(model=1))
    first = (tmp_path / "a.jsonl").read_bytes()
    made = infer(rows, Echo, tmp_path / "a.jsonl", how(model=2))
    assert made.asked == 3
    assert (tmp_path / "a.1.jsonl").read_bytes() == first


def test_a_bad_picture_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    rows = asks(tmp_path, 5)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:200])
    made = infer(rows, Echo, tmp_path / "a.jsonl", how())
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["image"] for row in written] == [f"{n}.jpg" for n in range(5)]
    assert [row["image"] for row in written if row.get("finish") == "error"] == ["1.jpg", "3.jpg"]
    assert "cannot identify image file" in written[1]["error"]
    assert made.ledger == {"rows": {"in": 5, "kept": 3, "dropped": {"picture could not be read": 2}}}
    assert made.health == {"ok": 3, "error": 2}


def test_parsed_boxes_are_pixels_of_the_picture(tmp_path: Path) -> None:
    infer(asks(tmp_path, 1), Echo, tmp_path / "a.jsonl", how())
    found = json.loads((tmp_path / "a.detections.json").read_text())
    assert found == [{"image_path": "0.jpg", "object": {"cat": [[0.0, 0.0, 32.0, pytest.approx(48 * 2 / 1000)]]}}]


def test_no_picture_no_model_no_split_are_told(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 9, 9))]})
    (tmp_path / "m").mkdir()
    for arguments, code, message in (
        ((), 2, f"error: No run: {tmp_path}/out/runs\nhint: Run `vlmdet train` first.\n"),
        (("--model", "m"), 2, "error: No model folder: m\nhint: A model folder holds config.json and weights.\n"),
        (("--adapter", "m"), 2, "error: No LoRA adapter: m\nhint: An adapter folder holds adapter_config.json.\n"),
        (("--split", "x"), 2, "error: No such split: x\nhint: There are train, val, test.\n"),
    ):  # fmt: skip
        done = cli("infer", *arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (code, "", message)
    (tmp_path / "m" / "config.json").write_text('{"model_type": "qwen2_vl"}')
    done = cli("infer", "--model", "m", "gone.jpg")
    assert (done.exit_code, done.stderr) == (3, "error: No such picture: gone.jpg\nhint: Check the path.\n")
    done = cli("infer", "--model", "m", "--split", "train")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: The split train is not prepared: {tmp_path}/out/data/subset/train.json\n"
        "hint: Run `vlmdet prepare` first.\n",
    )


def test_a_folder_that_is_no_model_is_an_engine_error(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("qwen_vl_utils")
    from vlmdet_cli.engines.transformers import TransformersEngine

    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(EngineError) as caught:
        TransformersEngine(tmp_path)
    assert caught.value.what == f"Cannot load the model: {tmp_path}"
    assert caught.value.why
