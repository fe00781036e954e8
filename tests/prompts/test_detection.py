"""Which classes detection rows ask for, in which words, and what is measured of them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boxes, Cli, coco_document, picture, write_project
from vlmdet_cli.core.rows import QUESTION_KINDS
from vlmdet_cli.models import dialects
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.prompts import object_rows
from vlmdet_cli.prompts.detection import classes_named
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.prompts.settings import Format

QWEN2 = dialects.get("qwen2_vl")
NAMES = ("cat", "dog", "bird", "traffic light")
PICTURES: dict[str, Boxes] = {
    "a.jpg": [("cat", (8, 12, 16, 24)), ("dog", (0, 0, 8, 8)), ("cat", (32, 0, 16, 8))],
    "b.jpg": [("bird", (0, 0, 32, 24)), ("crowd:dog", (0, 0, 60, 40))],
    "c.jpg": [],
}
ALL = "[subset]\nempty = 1\n"


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def written_rows(split: str = "train") -> list[tuple[str, str, list[str]]]:
    """Picture, prompt and the labels of the answer, row by row."""
    rows = []
    for row in lines(f"out/data/coco_final_{split}.jsonl"):
        user, assistant = (turn["content"] for turn in row["messages"])
        labels = re.findall(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>", assistant)
        assert labels or assistant == "No objects."
        rows.append((row["images"][0].rpartition("/")[2], user.removeprefix("<image>"), labels))
    return rows


def options(*overrides: str) -> list[str]:
    """``--set`` options of ``KEY=VALUE`` overrides."""
    return [part for override in overrides for part in ("--set", override)]


def prepare(cli: Cli, *overrides: str) -> None:
    """Prepares ``PICTURES``, all of them in train, and checks that the ledger adds up."""
    write_project(Path(), PICTURES, ALL, categories=NAMES)
    done = cli("prepare", "--json", *options(*overrides))
    assert (done.exit_code, done.stderr) == (0, "")
    for line in json.loads(done.stdout)["splits"]["train"]["ledger"].values():
        assert line["in"] == line["kept"] + sum(line["dropped"].values())


FIND = "format.class_prompt=Find {classes}"


def test_the_classes_present_are_named_in_the_data_sets_order(cli: Cli) -> None:
    prepare(cli, "format.ask=present", FIND, "format.order=annotation")
    rows = written_rows()
    assert rows[:2] == [
        ("a.jpg", "Find cat, dog", ["cat", "dog", "cat"]),
        ("b.jpg", "Find bird", ["bird"]),
    ]
    # a picture without objects is asked for one class that it lacks
    name, prompt, labels = rows[2]
    assert (name, labels) == ("c.jpg", [])
    assert prompt.removeprefix("Find ") in NAMES


def test_each_class_has_a_row_and_absent_ones_have_an_empty_answer(cli: Cli) -> None:
    prepare(cli, "format.ask=each", "format.negatives_per_row=2", FIND)
    rows = written_rows()
    assert {prompt: labels for name, prompt, labels in rows if name == "a.jpg"} == {
        "Find cat": ["cat", "cat"],
        "Find dog": ["dog"],
        "Find bird": [],
        "Find traffic light": [],
    }
    # the class of the crowd in b.jpg is neither present nor absent
    assert {prompt: labels for name, prompt, labels in rows if name == "b.jpg"} == {
        "Find bird": ["bird"],
        "Find cat": [],
        "Find traffic light": [],
    }


def test_a_draw_of_classes_leaves_out_the_boxes_of_others_and_accounts_for_them(cli: Cli) -> None:
    pictures: dict[str, Boxes] = {f"{n}.jpg": PICTURES["a.jpg"] for n in range(12)}
    write_project(Path(), pictures, categories=NAMES)
    done = cli("prepare", "--json", *options("format.ask=some", "format.negatives_per_row=1", FIND))
    line, total = json.loads(done.stdout)["splits"]["train"]["ledger"]["boxes in answers"], 0
    prompts = set()
    for _, prompt, labels in written_rows():
        asked = prompt.removeprefix("Find ").split(", ")
        prompts.add(frozenset(asked))
        assert len(set(asked) & {"bird", "traffic light"}) == 1
        assert sorted(labels) == [name for name in ("cat", "cat", "dog") if name in asked]
        total += len(labels)
    assert len(prompts) > 3
    assert line == {"in": 36, "kept": total, "dropped": {"class not asked for": 36 - total}}
    assert 0 < total < 36


def test_phrases_are_drawn_by_seed_and_the_same_again(cli: Cli) -> None:
    write_project(Path(), {f"{n}.jpg": PICTURES["a.jpg"] for n in range(20)})
    phrases = ["Find {classes}.", "Where is everything?", "Show me all objects."]

    def prompts(seed: int) -> list[str]:
        done = cli("prepare", *options(f"format.prompt={phrases}", f"project.seed={seed}"))
        assert (done.exit_code, done.stderr) == (0, "")
        return [prompt for _, prompt, _ in written_rows()]

    assert set(prompts(0)) == {"Find cat, dog.", *phrases[1:]}
    assert prompts(0) == prompts(0) != prompts(1)


@pytest.mark.parametrize("overrides", [("format.ask=each",), ()])
def test_a_class_prompt_without_the_classes_is_an_error(cli: Cli, overrides: tuple[str, ...]) -> None:
    write_project(Path(), PICTURES, categories=NAMES)
    done = cli("prepare", *options(*overrides, "format.class_prompt=Find them"))
    assert (done.exit_code, done.stderr) == (
        2, "error: format.class_prompt does not name the classes\n  Find them\n"
        "hint: Put {classes} where they belong.\n",
    )  # fmt: skip


def test_a_class_that_is_not_exhaustively_annotated_is_no_negative(cli: Cli) -> None:
    document = coco_document({"a.jpg": [("cat", (0, 0, 9, 9))], "b.jpg": []}, categories=NAMES)
    # in LVIS's keys: a has no dog, and has birds that are not all annotated
    document["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [3]}
    document["images"][1] |= {"neg_category_ids": [4], "not_exhaustive_category_ids": []}
    write_project(Path(), {"a.jpg": [], "b.jpg": []}, ALL)
    Path("annotations.json").write_text(json.dumps(document))
    done = cli("prepare", "--json", *options("format.ask=each", "format.negatives_per_row=9", FIND))
    assert done.exit_code == 0
    assert written_rows() == [("a.jpg", "Find cat", ["cat"]), ("a.jpg", "Find dog", [])]
    dropped = json.loads(done.stdout)["splits"]["train"]["ledger"]["pictures"]["dropped"]
    assert dropped == {"no object, and not every category was searched for": 1}
    ledger = json.loads(cli("augment", "--json").stdout)["ledger"]["train"]
    assert ledger["count"]["dropped"] == ledger["none"]["dropped"] == {"not every category was looked for": 1}
    assert ledger["full"]["kept"] == 1


def test_lvis_names_pictures_by_their_address(cli: Cli) -> None:
    document = coco_document({"a.jpg": [("cat", (0, 0, 9, 9))]})
    del document["images"][0]["file_name"]
    document["images"][0]["coco_url"] = "http://images.example.org/val2017/a.jpg"
    write_project(Path(), {"a.jpg": []})
    Path("annotations.json").write_text(json.dumps(document))
    assert cli("prepare").exit_code == 0
    assert written_rows()[0][0] == "a.jpg"
    picture(Path("images/val2017"), "a.jpg")
    assert cli("prepare").exit_code == 0
    assert lines("out/data/coco_final_train.jsonl")[0]["images"] == ["data/subset/images/train/val2017/a.jpg"]


# --- evaluation of rows that name their classes --------------------------------------------------------------


def test_only_objects_of_the_classes_asked_for_can_be_missed(cli: Cli) -> None:
    coco = coco_document({"a.jpg": PICTURES["a.jpg"], "b.jpg": [("dog", (0, 0, 8, 8))]}, categories=NAMES)
    Path("truth.json").write_text(json.dumps(coco))
    cat = QWEN2.render([("cat", (8, 12, 24, 36)), ("cat", (32, 0, 48, 8))], (64, 48))
    dog = QWEN2.render([("dog", (0, 0, 8, 8))], (64, 48))
    answers: list[dict[str, Any]] = [
        {"image": "a.jpg", "prompt": "<image>Find cat", "text": cat, "asked": ["cat"]},
        {"image": "a.jpg", "prompt": "<image>Find bird", "text": dog, "asked": ["bird"]},
        {"image": "b.jpg", "prompt": "<image>Find dog", "text": "No objects.", "asked": ["dog"]},
    ]

    def report() -> dict[str, Any]:
        Path("answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        done = cli("eval", "--truth", "truth.json", "--predictions", "answers.jsonl", "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    first = report()
    # no prompt about a asks for its dog: the object is not missed, and the predicted box is false
    assert {name: first["overall"][name] for name in ("tp", "fp", "fn")} == {"tp": 2, "fp": 1, "fn": 1}
    assert first["ledger"]["objects"] == {"in": 4, "kept": 3, "dropped": {"class not asked for": 1}}
    assert first["protocol"]["asked"] == "classes named in each prompt"
    assert first["protocol"]["objects"] == 3
    answers[1]["asked"] = ["bird", "dog"]
    assert {name: report()["overall"][name] for name in ("tp", "fp", "fn")} == {"tp": 3, "fp": 0, "fn": 1}


# --- swift's own form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", QWEN2_VL.objects_environments)
def test_rows_in_swifts_form_are_the_same_text_when_filled(cli: Cli, dialect: str) -> None:
    write_project(
        Path(), {**PICTURES, "d.jpg": [("cat", (4, 4, 50, 40)), ("cat", (56, 2, 4, 4))]}, ALL, categories=NAMES
    )

    def rows_in(form: str) -> list[dict[str, Any]]:
        given = (f"format.dialect={dialect}", f"format.rows={form}")
        for command in ("prepare", "augment"):
            done = cli(
                command, *options(*given, f"augment.questions={list(QUESTION_KINDS)}", "augment.question_ratio=9")
            )
            assert (done.exit_code, done.stderr) == (0, "")
        files = ("out/data/coco_final_train.jsonl", "out/augment/train.jsonl")
        return [row for file in files for row in lines(file)]

    text, placed = rows_in("text"), rows_in("objects")
    filled = [object_rows.filled(row, dialects.get(dialect), (64, 48)) for row in placed]
    assert all("objects" in row for row in placed if "<bbox>" in row["messages"][1]["content"])
    kinds = {kind_of(row["messages"][0]["content"]) for row in placed if "objects" in row}
    assert kinds == {"detection", *QUESTION_KINDS} - {"count"}
    assert sorted(map(json.dumps, filled)) == sorted(map(json.dumps, text))


def test_a_dialect_without_that_form_is_an_error(cli: Cli) -> None:
    write_project(Path(), PICTURES, categories=NAMES)
    done = cli("prepare", *options("format.rows=objects", "format.dialect=paligemma"))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: The dialect paligemma has no form with `objects`\n")


def test_a_random_order_is_drawn_for_each_picture_by_seed_and_loses_no_box(cli: Cli) -> None:
    pictures: dict[str, Boxes] = {f"{n}.jpg": PICTURES["a.jpg"] for n in range(20)}
    write_project(Path(), pictures, categories=NAMES)

    def answers(*overrides: str) -> list[str]:
        assert cli("prepare", *options(*overrides)).exit_code == 0
        return [row["messages"][1]["content"] for row in lines("out/data/coco_final_train.jsonl")]

    by_position, drawn = answers(), answers("format.order=random")
    assert len(set(by_position)) == 1
    assert len(set(drawn)) == 6  # all orders of three boxes
    assert {"".join(sorted(answer)) for answer in drawn} == {"".join(sorted(by_position[0]))}
    assert answers("format.order=random") == drawn
    assert answers("format.order=random", "project.seed=1") != drawn


def test_the_number_of_absent_classes_may_be_drawn_between_two(cli: Cli) -> None:
    pictures: dict[str, Boxes] = {f"{n}.jpg": [("cat", (8, 12, 16, 24))] for n in range(40)}
    write_project(Path(), pictures, categories=NAMES)
    assert cli("prepare", *options("format.ask=each", "format.negatives_per_row=[0, 2]", FIND)).exit_code == 0
    counts = Counter(name for name, _, labels in written_rows() if not labels)
    assert set(Counter(counts[name] for name in pictures)) == {0, 1, 2}
    done = cli("prepare", *options("format.negatives_per_row=[0, 1, 2]"))
    assert done.exit_code == 2
    assert "  format.negatives_per_row: expected a list of length <= 2, got [0, 1, 2]\n" in done.stderr


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("<image>Find cat", ("cat",)),
        ("<image>Find bird, traffic light, cat", ("bird", "traffic light", "cat")),
        ("<image>Is there any dog?", ("dog",)),
        ("<image>Find everything", None),
        ("<image>Find cow", None),
    ],
)
def test_the_classes_that_a_prompt_names_are_read_from_it(prompt: str, classes: tuple[str, ...] | None) -> None:
    settings = Format(class_prompt=("Find {classes}", "Is there any {classes}?"))
    assert classes_named(prompt, settings, NAMES) == classes
