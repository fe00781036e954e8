"""The answers file: keyed rows, what is set aside, and the account beside it."""

import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.engines.answers import (
    AnswersFile,
    AnswersMeta,
    StoredAnswers,
    meta_path,
    read_answers,
    read_meta,
)
from vlmdet_cli.engines.infer_rows import InferRow, RowSpool, keyed
from vlmdet_cli.errors import DataError


def row(name: str, **values: Any) -> InferRow:
    return InferRow(**{"image": name, "path": name, "prompt": "<image>x", **values})


def meta(**values: object) -> AnswersMeta:
    plain = {"engine": {"name": "fake"}, "model": {"name": "m", "hash": "1"}, "family": "qwen2_vl",
             "dialect": "qwen2_vl", "max_tokens": 9}  # fmt: skip
    return msgspec.convert(plain | values, AnswersMeta)


def by_key(*rows: InferRow) -> dict[str, InferRow]:
    return dict(keyed(rows))


def keys(rows: Iterable[Any]) -> list[str]:
    return [key for key, _ in keyed(rows)]


def write(path: Path, rows: dict[str, InferRow], account: AnswersMeta) -> None:
    file = AnswersFile(path, account)
    file.resume({})
    file.write(
        (key, Answer(image=row.image, prompt=row.prompt, kind=row.kind, text=row.image)) for key, row in rows.items()
    )


def test_keys_tell_picture_prompt_and_kind_apart_and_a_repeated_row_from_its_first() -> None:
    rows = [row("a"), row("b"), row("a", prompt="y"), row("a", kind="count"), row("a")]
    assert len(set(keys(rows))) == 5
    assert (keys(rows))[:4] == (keys(rows[:4]))


def test_rows_come_back_from_the_disk_in_their_order_from_any_thread() -> None:
    asked = [row(f"{n}", prompt="<image>" + "x" * n, size=(n, 1), asked=["a"] * (n % 3), crop=None) for n in range(50)]
    asked.append(asked[0])
    spool = RowSpool(iter(asked))
    assert list(spool.items()) == list(keyed(asked))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(spool.__getitem__, reversed(list(spool)))) == asked[::-1]
    with pytest.raises(KeyError):
        spool["none"]


def test_a_full_temporary_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(DataError, match="Cannot write temporary files"):
        RowSpool([row("a")])


def test_an_answer_has_the_key_of_its_row_whatever_its_truth() -> None:
    first = row("a", expected="x", size=(3, 4), image_id=7)
    assert (keys([first])) == (keys([Answer(image="a", prompt="<image>x", text="t")]))


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", by_key(row("a"), row("b")), meta())
    data = (tmp_path / "a.jsonl").read_bytes()
    for cut in (1, 5):
        (tmp_path / "a.jsonl").write_bytes(data[:-cut])
        assert [answer.image for answer in read_answers(tmp_path / "a.jsonl")] == ["a"]


def test_answers_of_another_identity_are_set_aside_with_their_account(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.jsonl", by_key(row("a"))
    for number in (1, 2, 3):
        write(path, rows, meta(engine={"number": number}))
        (tmp_path / "a.detections.json").write_text(str(number))
        file = AnswersFile(path, meta(engine={"number": number + 1}))
        assert file.resume(rows).set_aside == 1
        assert len(file.stored) == 0
        aside = tmp_path / f"a.{number}.jsonl"
        assert [answer.image for answer in read_answers(aside)] == ["a"]
        assert read_meta(aside) == meta(engine={"number": number})
        assert (tmp_path / f"a.{number}.detections.json").read_text() == str(number)


@pytest.mark.parametrize("account", ['{"model": {}, "dialect": "qwen2_vl"}', "", None])
def test_answers_without_an_account_of_todays_form_are_set_aside_with_what_there_is(
    tmp_path: Path, account: str | None
) -> None:
    path, rows = tmp_path / "a.jsonl", by_key(row("a"))
    write(path, rows, meta())
    meta_path(path).unlink()
    if account is not None:
        meta_path(path).write_text(account)
    assert AnswersFile(path, meta()).resume(rows).set_aside == 1
    assert (tmp_path / "a.1.meta.json").exists() == (account is not None)
    if account is not None:
        assert (tmp_path / "a.1.meta.json").read_text() == account


def test_split_data_run_and_the_models_folder_are_no_part_of_the_identity(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.jsonl", by_key(row("a"))
    write(path, rows, meta(data="1", split="val"))
    today = meta(data="2", split="test", run="run-001", model={"name": "elsewhere", "hash": "1"})
    file = AnswersFile(path, today)
    assert file.resume(rows).set_aside == 0
    assert list(file.stored) == list(rows)
    assert read_meta(path) == today


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 10},
        {"max_pixels": 5},
        {"system": "x"},
        {"dialect": "internvl"},
        {"family": "f"},
        {"scores": True},
    ],
)
def test_what_decides_the_answers_is_part_of_the_identity(change: dict[str, object]) -> None:
    assert meta(**change).identity() != meta().identity()


def test_answers_to_rows_that_are_not_asked_any_more_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, by_key(row("a"), row("b"), row("c")), meta())
    file, rows = AnswersFile(path, meta()), by_key(row("c"), row("a"))
    assert file.resume(rows).set_aside == 1
    assert [answer.image for _, answer in file.stored.items(rows)] == ["c", "a"]
    assert [answer.image for answer in read_answers(path)] == ["a", "c"]
    assert [answer.image for answer in read_answers(tmp_path / "a.1.jsonl")] == ["b"]
    assert read_meta(tmp_path / "a.1.jsonl") == meta()


def test_a_changed_truth_is_refreshed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, by_key(row("a"), row("b")), meta())
    rows = by_key(row("a", expected="new", size=(3, 4), image_id=7, asked=["cat"]), row("b"))
    resumed = AnswersFile(path, meta()).resume(rows)
    assert resumed.refreshed == 1
    first, second = read_answers(path)
    assert (first.expected, first.size, first.image_id, first.asked, first.text) == ("new", (3, 4), 7, ["cat"], "a")
    assert second.expected is None


def test_the_account_is_plain_json_with_a_schema(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {}, meta())
    document = json.loads(meta_path(tmp_path / "a.jsonl").read_text())
    assert document["schema"] == 1
    assert {"engine", "model", "adapter", "family", "dialect", "max_pixels", "max_tokens", "scores", "split", "data",
            "run"} <= set(document)  # fmt: skip


def test_a_file_that_stands_so_already_is_not_touched_and_another_is_written_whole(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.jsonl", by_key(row("a"), row("b"), row("c"))
    write(path, rows, meta())
    file = AnswersFile(path, meta())
    file.resume(rows)
    before, data = path.stat(), path.read_bytes()
    file.resume(rows)
    file.write(file.stored.items(rows))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    lines = data.splitlines(keepends=True)
    for names, numbers in ((list(rows)[:2], (0, 1)), ([], ()), (list(rows)[::-1], (2, 1, 0)), (list(rows)[1:], (1, 2))):
        path.write_bytes(data + b'{"torn')
        file.resume(rows)
        file.write(file.stored.items(names))
        assert path.read_bytes() == b"".join(lines[number] for number in numbers)
        assert [answer.image for _, answer in file.stored.items(names)] == ["abc"[number] for number in numbers]


def test_appended_answers_are_read_by_key(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.jsonl", by_key(row("a"), row("b"), row("c", prompt="ü"))
    file = AnswersFile(path, meta())
    file.resume(rows)
    with file:
        for key in reversed(rows):
            file.append(key, Answer(image=rows[key].image, prompt=rows[key].prompt, text="é" * 5))
    assert [answer.image for _, answer in file.stored.items(rows)] == ["a", "b", "c"]
    assert list(StoredAnswers.of(path)) == list(reversed(rows))
