"""Which classes rows ask for, in what words, and what becomes of rows that are too long."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Boxes, Cli, coco_document, picture, write_project
from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.data import dataset
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.models import dialects
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.project import Format
from vlmdet_cli.prompts import lengths, object_rows
from vlmdet_cli.prompts.detection import RowPlan, answer_boxes, plan_rows
from vlmdet_cli.prompts.fitting import FittedRows, LengthLimit, RowBuilder, fit
from vlmdet_cli.prompts.questions import kind_of

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


def said(split: str = "train") -> list[tuple[str, str, list[str]]]:
    """Picture, prompt and the labels of the answer, row by row."""
    out = []
    for row in lines(f"out/data/coco_final_{split}.jsonl"):
        user, assistant = (turn["content"] for turn in row["messages"])
        labels = re.findall(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>", assistant)
        assert labels or assistant == "No objects."
        out.append((row["images"][0].rpartition("/")[2], user.removeprefix("<image>"), labels))
    return out


def prepared(cli: Cli, *sets: str, text: str = ALL) -> dict[str, Any]:
    write_project(Path(), PICTURES, text, categories=NAMES)
    done = cli("prepare", "--json", *[part for one in sets for part in ("--set", one)])
    assert (done.exit_code, done.stderr) == (0, "")
    made: dict[str, Any] = json.loads(done.stdout)["splits"]["train"]
    for line in made["ledger"].values():
        assert line["in"] == line["kept"] + sum(line["dropped"].values())
    return made


FIND = "format.class_prompt=Find {classes}"


def test_the_classes_present_are_named_in_the_data_sets_order(cli: Cli) -> None:
    prepared(cli, "format.ask=present", FIND, "format.order=annotation")
    made = said()
    assert made[:2] == [
        ("a.jpg", "Find cat, dog", ["cat", "dog", "cat"]),
        ("b.jpg", "Find bird", ["bird"]),
    ]
    # a picture without objects is asked for one class that it does not have
    name, prompt, labels = made[2]
    assert (name, labels) == ("c.jpg", [])
    assert prompt.removeprefix("Find ") in NAMES


def test_each_class_has_a_row_and_absent_ones_answer_that_there_is_nothing(cli: Cli) -> None:
    prepared(cli, "format.ask=each", "format.negatives_per_row=2", FIND)
    made = said()
    assert {prompt: labels for name, prompt, labels in made if name == "a.jpg"} == {
        "Find cat": ["cat", "cat"],
        "Find dog": ["dog"],
        "Find bird": [],
        "Find traffic light": [],
    }
    # the class of the crowd in b.jpg is neither present nor absent
    assert {prompt: labels for name, prompt, labels in made if name == "b.jpg"} == {
        "Find bird": ["bird"],
        "Find cat": [],
        "Find traffic light": [],
    }


def test_a_draw_of_classes_leaves_out_the_boxes_of_others_and_accounts_for_them(cli: Cli) -> None:
    many: dict[str, Boxes] = {f"{n}.jpg": PICTURES["a.jpg"] for n in range(12)}
    write_project(Path(), many, categories=NAMES)
    done = cli("prepare", "--json", "--set", "format.ask=some", "--set", "format.negatives_per_row=1", "--set", FIND)
    made, total = json.loads(done.stdout)["splits"]["train"]["ledger"]["boxes in answers"], 0
    prompts = set()
    for _, prompt, labels in said():
        asked = prompt.removeprefix("Find ").split(", ")
        prompts.add(frozenset(asked))
        assert len(set(asked) & {"bird", "traffic light"}) == 1
        assert sorted(labels) == [name for name in ("cat", "cat", "dog") if name in asked]
        total += len(labels)
    assert len(prompts) > 3
    assert made == {"in": 36, "kept": total, "dropped": {"class not asked for": 36 - total}}
    assert 0 < total < 36


def test_phrases_are_drawn_by_seed_and_the_same_again(cli: Cli) -> None:
    write_project(Path(), {f"{n}.jpg": PICTURES["a.jpg"] for n in range(20)})
    phrases = ["Find {classes}.", "Where is everything?", "Show me all objects."]

    def prompts(seed: int) -> list[str]:
        done = cli("prepare", "--set", f"format.prompt={phrases}", "--set", f"project.seed={seed}")
        assert (done.exit_code, done.stderr) == (0, "")
        return [prompt for _, prompt, _ in said()]

    assert set(prompts(0)) == {"Find cat, dog.", *phrases[1:]}
    assert prompts(0) == prompts(0) != prompts(1)


@pytest.mark.parametrize("sets", [("format.ask=each",), ()])
def test_a_phrase_that_must_name_classes_and_does_not_is_told(cli: Cli, sets: tuple[str, ...]) -> None:
    write_project(Path(), PICTURES, categories=NAMES)
    given = [part for one in (*sets, "format.class_prompt=Find them") for part in ("--set", one)]
    done = cli("prepare", *given)
    assert (done.exit_code, done.stderr) == (
        2, "error: format.class_prompt does not name the classes\n  Find them\n"
        "hint: Put {classes} where they belong.\n",
    )  # fmt: skip


def test_a_class_that_nobody_looked_for_is_no_negative(cli: Cli) -> None:
    document = coco_document({"a.jpg": [("cat", (0, 0, 9, 9))], "b.jpg": []}, categories=NAMES)
    # as LVIS says it: of a, dogs were looked for and not found, birds are there but not all of them annotated
    document["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [3]}
    document["images"][1] |= {"neg_category_ids": [4], "not_exhaustive_category_ids": []}
    write_project(Path(), {"a.jpg": [], "b.jpg": []}, ALL)
    Path("annotations.json").write_text(json.dumps(document))
    done = cli("prepare", "--json", "--set", "format.ask=each", "--set", "format.negatives_per_row=9", "--set", FIND)
    assert done.exit_code == 0
    assert said() == [("a.jpg", "Find cat", ["cat"]), ("a.jpg", "Find dog", [])]
    dropped = json.loads(done.stdout)["splits"]["train"]["ledger"]["pictures"]["dropped"]
    assert dropped == {"no object, and not every category was searched for": 1}
    made = json.loads(cli("augment", "--json").stdout)["ledger"]["train"]
    assert made["count"]["dropped"] == made["none"]["dropped"] == {"not every category was looked for": 1}
    assert made["full"]["kept"] == 1


def test_lvis_names_pictures_by_their_address(cli: Cli) -> None:
    document = coco_document({"a.jpg": [("cat", (0, 0, 9, 9))]})
    del document["images"][0]["file_name"]
    document["images"][0]["coco_url"] = "http://images.example.org/val2017/a.jpg"
    write_project(Path(), {"a.jpg": []})
    Path("annotations.json").write_text(json.dumps(document))
    assert cli("prepare").exit_code == 0
    assert said()[0][0] == "a.jpg"
    picture(Path("images/val2017"), "a.jpg")
    assert cli("prepare").exit_code == 0
    assert lines("out/data/coco_final_train.jsonl")[0]["images"] == ["data/subset/images/train/val2017/a.jpg"]


# --- evaluation of rows that name their classes --------------------------------------------------------------


def test_only_what_was_asked_for_can_be_missed(cli: Cli) -> None:
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
        Path("answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
        done = cli("eval", "--truth", "truth.json", "--predictions", "answers.jsonl", "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    made = report()
    # the dog of a was not asked for: it is not missed; that it was named all the same is false
    assert {name: made["overall"][name] for name in ("tp", "fp", "fn")} == {"tp": 2, "fp": 1, "fn": 1}
    assert made["ledger"]["objects"] == {"in": 4, "kept": 3, "dropped": {"class not asked for": 1}}
    assert made["protocol"]["asked"] == "classes named in each prompt"
    assert made["protocol"]["objects"] == 3
    answers[1]["asked"] = ["bird", "dog"]
    assert {name: report()["overall"][name] for name in ("tp", "fp", "fn")} == {"tp": 3, "fp": 0, "fn": 1}


# --- rows that are too long ----------------------------------------------------------------------------------


def crowded(seed: int, many: int) -> Dataset:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 300, (many, 2)), rng.uniform(8, 300, (many, 2))
    objects = tuple(
        Object(NAMES[n], (x, y, x + w, y + h))
        for n, (x, y), (w, h) in zip(rng.integers(0, 4, many).tolist(), corner.tolist(), side.tolist(), strict=True)
    )
    return dataset.from_pictures([Picture(image_id=1, image="a.jpg", width=640, height=640, objects=objects)], NAMES)


def fitted(data: Dataset, limit: int, **how: Any) -> tuple[FittedRows, RowBuilder]:
    wanted = Format(class_prompt="Find {classes}", **how)
    maker = RowBuilder(data, answer_boxes(data, QWEN2, "position"), QWEN2, wanted, 0)
    guard = LengthLimit(lengths.token_counter(QWEN2_VL, "no folder", None), limit)
    return fit(maker, list(plan_rows(data, maker.boxes, wanted, 0)), guard, shorten=True), maker


def boxes_of(maker: RowBuilder, plan: RowPlan) -> list[tuple[str, tuple[int, ...]]]:
    return [(label, tuple(box)) for label, box in maker.boxes.labelled_boxes(plan)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(620, 1500))
def test_split_rows_fit_ask_for_each_class_once_and_have_its_boxes(seed: int, many: int, limit: int) -> None:
    made, maker = fitted(crowded(seed, many), limit, too_long="split")
    assert (made.tokens <= limit).all()
    named = [name for plan in made.plans for name in plan.asked or ()]
    assert len(named) == len(set(named))
    for plan, answer in zip(made.plans, made.answers, strict=True):
        found = boxes_of(maker, plan)
        assert answer == QWEN2.write([(label, (x1, y1, x2, y2)) for label, (x1, y1, x2, y2) in found])
        if plan.asked is not None:
            assert plan.prompt == f"Find {', '.join(plan.asked)}"
            assert {label for label, _ in found} <= set(plan.asked)
        alone = len(plan.asked or NAMES) == 1
        missing = [name for name in maker.boxes.labels if name in (plan.asked or NAMES)]
        assert alone or len(found) == len(missing)  # only a class that is too long alone loses boxes


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(700, 1500))
def test_the_largest_boxes_are_kept_as_many_as_fit_in_their_order(seed: int, many: int, limit: int) -> None:
    made, maker = fitted(crowded(seed, many), limit, too_long="largest")
    plan = made.plans[0]
    sides = maker.boxes.pixel_boxes[:, 2:] - maker.boxes.pixel_boxes[:, :2]
    sizes = (sides[:, 0] * sides[:, 1]).tolist()
    kept, left = [sizes[n] for n in plan.targets], [size for n, size in enumerate(sizes) if n not in plan.targets]
    assert list(plan.targets) == sorted(plan.targets)
    assert not left or min(kept) >= max(left)
    assert made.tokens[0] <= limit
    if left:
        more = sorted([*plan.targets, sizes.index(max(left))])
        longer = plan._replace(targets=more)
        guard = LengthLimit(lengths.token_counter(QWEN2_VL, "no folder", None), limit)
        assert maker.token_counts([longer], [maker.answer(longer)], guard)[0] > limit


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(500, 1500))
def test_counting_only_what_may_be_long_finds_the_same_long_rows_and_the_longest(
    seed: int, many: list[int], limit: int
) -> None:
    parts = [next(iter(crowded(seed + n, count).pictures())) for n, count in enumerate(many)]
    data = dataset.from_pictures([msgspec.structs.replace(one, image_id=n) for n, one in enumerate(parts)], NAMES)
    wanted = Format()
    maker = RowBuilder(data, answer_boxes(data, QWEN2, "position"), QWEN2, wanted, 0)
    planned = list(plan_rows(data, maker.boxes, wanted, 0))
    texts = [maker.answer(plan) for plan in planned]
    counter = lengths.token_counter(QWEN2_VL, "no folder", None)
    whole = maker.token_counts(planned, texts, LengthLimit(counter, limit))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlmdet_cli.prompts.fitting.BATCH", 2)
        some = maker.token_counts(planned, texts, LengthLimit(counter, limit, count_all=False))
    assert some.max() == whole.max()
    assert (some >= whole).all()
    assert ((some > limit) == (whole > limit)).all()


def long_row(cli: Cli, policy: str, limit: int) -> Any:
    many: Boxes = [(NAMES[n % 2], (n % 50, n % 30, 9 + n % 5, 9)) for n in range(20)]
    write_project(Path(), {"a.jpg": many, "b.jpg": many[:2]}, categories=NAMES)
    sets = (f"format.too_long={policy}", f"train.max_length={limit}", FIND)
    return cli("prepare", "--json", *[part for one in sets for part in ("--set", one)])


@pytest.mark.parametrize(
    ("policy", "accounts"),
    [
        ("drop", {"rows": (2, 1, {"over max_length": 1}), "boxes in answers": (22, 2, {"over max_length": 20}),
                  "rows over max_length": (1, 0, {"dropped": 1})}),
        ("split", {"rows": (3, 3, {}), "boxes in answers": (22, 22, {}), "rows over max_length": (1, 1, {})}),
    ],
)  # fmt: skip
def test_rows_over_the_limit_are_treated_as_wanted_and_accounted_for(
    cli: Cli, policy: str, accounts: dict[str, tuple[int, int, dict[str, int]]]
) -> None:
    done = long_row(cli, policy, 420)
    assert (done.exit_code, done.stderr) == (0, "")
    made = json.loads(done.stdout)["splits"]["train"]
    for name, (total, kept, dropped) in accounts.items():
        assert made["ledger"][name] == {"in": total, "kept": kept, "dropped": dropped}
    assert made["tokens"] <= 420
    assert made["exact"] is False
    if policy == "split":
        assert [(name, prompt, len(labels)) for name, prompt, labels in said()] == [
            ("a.jpg", "Find cat", 10),
            ("a.jpg", "Find dog", 10),
            ("b.jpg", "Draw the bounding box of objects", 2),
        ]


def test_rows_over_the_limit_stop_all_where_that_is_wanted(cli: Cli) -> None:
    done = long_row(cli, "stop", 420)
    assert done.exit_code == 3
    assert done.stderr.startswith("error: 1 rows are or may be longer than train.max_length = 420 tokens\n")
    assert list(Path("out").rglob("*.json*")) == []


def test_questions_over_the_limit_are_not_asked_and_stand_in_the_ledger(cli: Cli) -> None:
    objects: Boxes = [(NAMES[n % 2], (1 + 6 * (n % 10), 1 + 20 * (n // 10), 5, 18)) for n in range(20)]
    write_project(Path(), {f"{n}.jpg": objects for n in range(12)}, categories=NAMES)
    kinds = "augment.questions=['region', 'none']"
    assert cli("prepare").exit_code == 0

    def asked(limit: int) -> tuple[dict[str, Any], list[int]]:
        done = cli("augment", "--json", "--set", kinds, "--set", f"train.max_length={limit}")
        assert done.exit_code == 0
        made = json.loads(Path("out/augment/region.json").read_text())
        lengths_ = [row["messages"][1]["content"].count("<|box_start|>") for row in made]
        ledger: dict[str, Any] = json.loads(done.stdout)["ledger"]["train"]
        return ledger, lengths_

    ledger, whole = asked(4000)
    assert max(whole) > 10
    assert "over max_length" not in ledger["region"]["dropped"]
    ledger, short = asked(500)
    assert ledger["region"]["dropped"]["over max_length"] == len(whole) - len(short) > 0
    assert max(short) <= 10
    assert "over max_length" not in ledger["none"]["dropped"]


def test_rows_of_test_pictures_stay_as_they_are(cli: Cli) -> None:
    many: Boxes = [(NAMES[n % 2], (n, n, 9, 9)) for n in range(20)]
    write_project(Path(), {f"{n}.jpg": many for n in range(8)}, categories=NAMES)
    assert cli("prepare", "--set", "data.split.test=0.4", "--set", "train.max_length=420").exit_code == 0
    assert {len(labels) for _, _, labels in said("test")} == {20}
    assert {len(labels) for _, _, labels in said()} == {10}


# --- swift's own form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", QWEN2_VL.objects_environments)
def test_rows_in_swifts_form_are_the_same_text_when_filled(cli: Cli, dialect: str) -> None:
    questions = ["count", "full", "partial", "none", "region", "class", "largest", "left"]
    write_project(
        Path(), {**PICTURES, "d.jpg": [("cat", (4, 4, 50, 40)), ("cat", (56, 2, 4, 4))]}, ALL, categories=NAMES
    )

    def made(form: str) -> list[dict[str, Any]]:
        sets = [
            f"format.dialect={dialect}",
            f"format.rows={form}",
            f"augment.questions={questions}",
            "augment.question_ratio=9",
        ]
        given = [part for one in sets for part in ("--set", one)]
        for command in ("prepare", "augment"):
            done = cli(command, *given)
            assert (done.exit_code, done.stderr) == (0, "")
        files = ("out/data/coco_final_train.jsonl", "out/augment/train.jsonl")
        return [row for file in files for row in lines(file)]

    text, placed = made("text"), made("objects")
    full = [object_rows.filled(row, dialects.get(dialect), (64, 48)) for row in placed]
    assert all("objects" in row for row in placed if "<bbox>" in row["messages"][1]["content"])
    assert {kind_of(row["messages"][0]["content"]) for row in placed if "objects" in row} == {
        "detection", "full", "partial", "none", "region", "class", "largest", "left",
    }  # fmt: skip
    assert sorted(map(json.dumps, full)) == sorted(map(json.dumps, text))


def test_a_dialect_without_that_form_is_told(cli: Cli) -> None:
    write_project(Path(), PICTURES, categories=NAMES)
    done = cli("prepare", "--set", "format.rows=objects", "--set", "format.dialect=paligemma")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: The dialect paligemma has no form with `objects`\n")
