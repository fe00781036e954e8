"""The four questions: exact texts, and truths checked by an independent reading of the written area."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Cli, write_project
from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data import dataset
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion

AREA = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
CATEGORIES = ("cat", "dog", "traffic light")
SIZE = (640, 480)
FOUR: tuple[QuestionKind, ...] = ("count", "full", "partial", "none")


def area_of(sample: InstructionRow) -> Box:
    """The area in pixels, as the question writes it; the answer must name the same one."""
    asked, said = AREA.search(sample.prompt), AREA.search(sample.answer)
    assert asked
    assert said
    assert asked[0] == said[0]
    x1, y1, x2, y2 = (int(value) for value in asked.groups())
    assert 0 <= x1 < x2 <= 1000
    assert 0 <= y1 < y2 <= 1000
    return (x1 * SIZE[0] / 1000, y1 * SIZE[1] / 1000, x2 * SIZE[0] / 1000, y2 * SIZE[1] / 1000)


def common(one: Box, two: Box) -> float:
    return max(0.0, min(one[2], two[2]) - max(one[0], two[0])) * max(0.0, min(one[3], two[3]) - max(one[1], two[1]))


def share(box: Box, area: Box) -> float:
    return common(box, area) / ((box[2] - box[0]) * (box[3] - box[1]))


def box(x: float, y: float, wide: float, high: float) -> Box:
    return (x, y, min(x + wide, 640.0), min(y + high, 480.0))


OBJECTS = st.lists(
    st.builds(
        Object,
        st.sampled_from(CATEGORIES),
        st.builds(box, st.floats(0, 600), st.floats(0, 440), st.floats(4, 300), st.floats(4, 300)),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=6,
)


def picture(objects: list[Object], ignored: list[Object]) -> Picture:
    return Picture(
        image_id=1, image="a.jpg", width=SIZE[0], height=SIZE[1], objects=tuple(objects), ignored=tuple(ignored)
    )


def ask(kind: QuestionKind, *pictures: Picture, seed: int) -> InstructionRow | NoQuestion:
    """The question about the first picture, asked in one go with the others."""
    data = dataset.from_pictures(pictures, CATEGORIES)
    return questions.generate_questions(
        kind, data, dataset.image_hashes(data.images, seed, "test"), dialects.get("qwen2_vl")
    )[0]


@settings(max_examples=150, deadline=None)
@given(OBJECTS, OBJECTS, st.integers(0, 1000))
def test_every_area_is_true_against_all_objects_crowds_and_ignored_ones_included(
    objects: list[Object], ignored: list[Object], seed: int
) -> None:
    one = picture(objects, ignored)
    everything = [*objects, *ignored]
    full = ask("full", one, seed=seed)
    if isinstance(full, InstructionRow):
        area = area_of(full)
        inside = [
            o
            for o in everything
            if area[0] <= o.box[0] and area[1] <= o.box[1] and o.box[2] <= area[2] and o.box[3] <= area[3]
        ]
        assert [o.label for o in inside] == [full.answer.split('"')[1]]
    partial = ask("partial", one, seed=seed)
    if isinstance(partial, InstructionRow):
        area = area_of(partial)
        touched = [o for o in everything if common(o.box, area) > 0]
        assert [o.label for o in touched] == [partial.answer.split('"')[1]]
        assert 0.1 <= share(touched[0].box, area) <= 0.9
        said = re.search(r"about (\d+)%", partial.answer)
        assert said
        assert int(said[1]) % 10 == 0
        assert abs(int(said[1]) - 100 * share(touched[0].box, area)) <= 5 + 1e-6
    none = ask("none", one, seed=seed)
    if isinstance(none, InstructionRow):
        assert not [o for o in everything if common(o.box, area_of(none)) > 0]


def test_the_texts_are_exact() -> None:
    one = picture(
        [Object("dog", (100, 100, 200, 200)), Object("cat", (300, 300, 400, 400)), Object("dog", (500, 0, 600, 99))], []
    )
    made = {kind: ask(kind, one, seed=3) for kind in FOUR}
    texts = {kind: sample for kind, sample in made.items() if isinstance(sample, InstructionRow)}
    assert len(texts) == 4
    assert texts["count"].prompt == "<image> Please count how many objects of each category are in the image."
    assert texts["count"].answer == "cat: 1\ndog: 2"
    a = {kind: AREA.search(sample.prompt) for kind, sample in texts.items()}
    expected: tuple[tuple[QuestionKind, str, str], ...] = (
        ("full", "and describe if it fully contains any object from the COCO categories.",
         r'The area A fully contains a "(dog|cat)"\.'),
        ("partial", "and describe the category and degree of inclusion.",
         r'The area A partially contains a "(dog|cat)", about \d0% is visible\.'),
        ("none", "and determine if any object is present.",
         r"The area A does not contain any object from the COCO categories\."),
    )  # fmt: skip
    for kind, question, answer in expected:
        area = a[kind]
        assert area
        assert texts[kind].prompt == f"<image> Please check the area {area[0]} {question}"
        assert re.fullmatch(answer, texts[kind].answer.replace(area[0], "A"))


def test_areas_vary_and_depend_on_seed_and_picture_alone() -> None:
    one = picture([Object("cat", (200, 200, 300, 300))], [])
    asked = [ask("full", one, seed=seed) for seed in range(20)]
    assert len({sample.prompt for sample in asked if isinstance(sample, InstructionRow)}) == 20
    assert ask("full", one, seed=5) == asked[5]


def test_a_picture_gets_the_same_questions_alone_and_among_others() -> None:
    one = picture([Object("cat", (200, 200, 300, 300)), Object("dog", (10, 10, 90, 90))], [])
    others = [msgspec.structs.replace(one, image_id=n, objects=one.objects[: n % 3]) for n in range(2, 20)]
    for kind in FOUR:
        assert ask(kind, one, seed=4) == ask(kind, one, *others, seed=4)


SAME_PLACE = [Object("cat", (10, 10, 90, 90)), Object("dog", (10, 10, 90, 90))]


@pytest.mark.parametrize(
    ("kind", "objects", "ignored", "reason"),
    [
        ("count", [Object("cat", (0, 0, 9, 9), crowd=True)], [], "a crowd or left-out object cannot be counted"),
        ("count", [], [Object("cat", (0, 0, 2, 2))], "a crowd or left-out object cannot be counted"),
        ("full", [], [], "no object"),
        ("partial", [], [], "no object"),
        ("full", SAME_PLACE, [], "no area holds exactly one object"),
        ("partial", SAME_PLACE, [], "no area cuts exactly one object"),
        ("none", [Object("cat", (0, 0, 640, 480))], [], "no free area"),
    ],
)  # fmt: skip
def test_a_picture_that_admits_no_true_question_says_why(
    kind: QuestionKind, objects: list[Object], ignored: list[Object], reason: str
) -> None:
    assert ask(kind, picture(objects, ignored), seed=0) == NoQuestion(reason)


def test_an_empty_picture_counts_to_no_objects() -> None:
    made = ask("count", picture([], []), seed=0)
    assert isinstance(made, InstructionRow)
    assert made.answer == "No objects."


def test_kinds_are_told_apart_by_their_questions() -> None:
    one = picture([Object("cat", (200, 200, 300, 300))], [])
    for kind in FOUR:
        made = ask(kind, one, seed=1)
        assert isinstance(made, InstructionRow)
        assert questions.kind_of(made.prompt) == kind
    assert questions.kind_of("<image>Draw the bounding box of objects") == "detection"


PICTURES = {f"{n}.jpg": [("cat", (4 + n, 6, 20, 20)), ("dog", (36, 20, 20, 20))] for n in range(8)}


def load(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_files_and_the_mixed_shuffled_train_file(cli: Cli) -> None:
    write_project(Path(), {**PICTURES, "e.jpg": []})
    assert cli("prepare", "--set", "subset.empty=0.5").exit_code == 0
    done = cli("augment", "--json", "--set", "augment.question_ratio=2")
    assert (done.exit_code, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    kinds = {
        "count.json": "count", "fully-overlapped.json": "full",
        "partial-overlapped.json": "partial", "non-overlapping.json": "none",
    }  # fmt: skip
    for name, kind in kinds.items():
        rows = json.loads((Path("out/augment") / name).read_text())
        assert len(rows) == made["ledger"]["train"][kind]["kept"]
        assert {questions.kind_of(row["messages"][0]["content"]) for row in rows} == {kind}
    mixed = load("out/augment/train.jsonl")
    detection = load("out/data/coco_final_train.jsonl")
    kind_counts = Counter(questions.kind_of(row["messages"][0]["content"]) for row in mixed)
    assert kind_counts["detection"] == len(detection) == 9
    assert sum(kind_counts.values()) - 9 == 18
    assert [row for row in mixed if row in detection] != detection
    assert sorted(map(json.dumps, [row for row in mixed if row in detection])) == sorted(map(json.dumps, detection))


def test_quotas_hold_and_the_ledger_adds_up(cli: Cli) -> None:
    write_project(Path(), {**PICTURES, "e.jpg": []})
    assert cli("prepare", "--set", "subset.empty=0.5").exit_code == 0
    sets = ("--set", "augment.per_kind=5", "--set", "augment.per_picture=2")
    ledger = json.loads(cli("augment", "--json", *sets).stdout)["ledger"]["train"]
    for kind, asked in (("count", 9), ("full", 18), ("partial", 18), ("none", 18)):
        line = ledger[kind]
        assert (line["in"], line["kept"]) == (asked, 5), kind
        assert line["in"] == line["kept"] + sum(line["dropped"].values())
    assert ledger["full"]["dropped"]["no object"] == 2


def test_the_same_seed_gives_the_same_bytes(cli: Cli) -> None:
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == 0

    def made(seed: int) -> dict[str, bytes]:
        assert cli("augment", "--set", f"project.seed={seed}").exit_code == 0
        return {path.name: path.read_bytes() for path in Path("out/augment").iterdir()}

    assert made(1) == made(1)
    assert made(1)["train.jsonl"] != made(2)["train.jsonl"]


def test_augment_before_prepare_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), PICTURES)
    done = cli("augment")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: The split train is not prepared: {tmp_path}/out/data/subset/train.json\n"
        "hint: Run `vlmdet prepare` first.\n",
    )


def test_rows_of_other_data_are_not_trained_on(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == cli("augment").exit_code == 0
    assert cli("prepare", "--set", "subset.pictures=3").exit_code == 0
    done = cli("train", "--dry-run")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        f"error: The augmented rows were made from other data: {tmp_path}/out/augment/train.jsonl\n"
        "hint: Run `vlmdet augment` again.\n",
    )
