"""Rows that take more tokens than training allows."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Boxes, Cli, write_project
from tests.prompts.test_detection import NAMES, options, written_rows
from vlmdet_cli.core import boxes
from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.data import dataset
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.models import dialects
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.project import Format
from vlmdet_cli.prompts import lengths
from vlmdet_cli.prompts.detection import answer_boxes, plan_rows
from vlmdet_cli.prompts.fitting import FittedRows, LengthLimit, RowBuilder, fit

DIALECT = dialects.get("qwen2_vl")
COUNTER = lengths.token_counter(QWEN2_VL, "no folder", None)


class Fit(NamedTuple):
    rows: FittedRows
    builder: RowBuilder


def crowded(seed: int, count: int) -> Dataset:
    """A picture with ``count`` random objects."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 300, (count, 2)), rng.uniform(8, 300, (count, 2))
    objects = tuple(
        Object(NAMES[n], (x, y, x + w, y + h))
        for n, (x, y), (w, h) in zip(rng.integers(0, 4, count).tolist(), corner.tolist(), side.tolist(), strict=True)
    )
    picture = Picture(image_id=1, image="a.jpg", width=640, height=640, objects=objects)
    return dataset.from_pictures([picture], NAMES)


def row_builder(data: Dataset, **format_keys: Any) -> RowBuilder:
    row_format = Format(class_prompt="Find {classes}", **format_keys)
    return RowBuilder(data, answer_boxes(data, DIALECT, "position"), DIALECT, row_format, 0)


def fitted(data: Dataset, limit: int, **format_keys: Any) -> Fit:
    builder = row_builder(data, **format_keys)
    plans = list(plan_rows(data, builder.boxes, builder.settings, 0))
    return Fit(fit(builder, plans, LengthLimit(COUNTER, limit), shorten=True), builder)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(620, 1500))
def test_split_rows_fit_ask_for_each_class_once_and_have_its_boxes(seed: int, count: int, limit: int) -> None:
    rows, builder = fitted(crowded(seed, count), limit, too_long="split")
    assert (rows.tokens <= limit).all()
    asked = [name for plan in rows.plans for name in plan.asked or ()]
    assert len(asked) == len(set(asked))
    for plan, answer in zip(rows.plans, rows.answers, strict=True):
        labelled = [(label, tuple(box)) for label, box in builder.boxes.labelled_boxes(plan)]
        assert answer == DIALECT.write([(label, (x1, y1, x2, y2)) for label, (x1, y1, x2, y2) in labelled])
        if plan.asked is not None:
            assert plan.prompt == f"Find {', '.join(plan.asked)}"
            assert {label for label, _ in labelled} <= set(plan.asked)
        # only a class that alone is too long loses boxes
        targets = [name for name in builder.boxes.labels if name in (plan.asked or NAMES)]
        assert len(plan.asked or NAMES) == 1 or len(labelled) == len(targets)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(700, 1500))
def test_as_many_of_the_largest_boxes_are_kept_as_fit_in_their_order(seed: int, count: int, limit: int) -> None:
    rows, builder = fitted(crowded(seed, count), limit, too_long="largest")
    plan = rows.plans[0]
    areas = boxes.area(builder.boxes.pixel_boxes).tolist()
    kept = [areas[n] for n in plan.targets]
    left_out = [area for n, area in enumerate(areas) if n not in plan.targets]
    assert list(plan.targets) == sorted(plan.targets)
    assert not left_out or min(kept) >= max(left_out)
    assert rows.tokens[0] <= limit
    if left_out:
        longer = plan._replace(targets=sorted([*plan.targets, areas.index(max(left_out))]))
        assert builder.token_counts([longer], [builder.answer(longer)], LengthLimit(COUNTER, limit))[0] > limit


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(500, 1500))
def test_counting_only_rows_that_may_be_long_gives_the_same_long_rows_and_the_same_longest(
    seed: int, counts: list[int], limit: int
) -> None:
    pictures = [
        msgspec.structs.replace(next(iter(crowded(seed + n, count).pictures())), image_id=n)
        for n, count in enumerate(counts)
    ]
    data = dataset.from_pictures(pictures, NAMES)
    builder = row_builder(data)
    plans = list(plan_rows(data, builder.boxes, builder.settings, 0))
    answers = [builder.answer(plan) for plan in plans]
    exact = builder.token_counts(plans, answers, LengthLimit(COUNTER, limit))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlmdet_cli.prompts.fitting.BATCH", 2)
        bounded = builder.token_counts(plans, answers, LengthLimit(COUNTER, limit, count_all=False))
    assert bounded.max() == exact.max()
    assert (bounded >= exact).all()
    assert ((bounded > limit) == (exact > limit)).all()


def prepare_long_row(cli: Cli, policy: str, limit: int) -> Any:
    """Prepares a picture with 20 boxes and one with 2."""
    objects: Boxes = [(NAMES[n % 2], (n % 50, n % 30, 9 + n % 5, 9)) for n in range(20)]
    write_project(Path(), {"a.jpg": objects, "b.jpg": objects[:2]}, categories=NAMES)
    keys = (f"format.too_long={policy}", f"train.max_length={limit}", "format.class_prompt=Find {classes}")
    return cli("prepare", "--json", *options(*keys))


@pytest.mark.parametrize(
    ("policy", "accounts"),
    [
        ("drop", {"rows": (2, 1, {"over max_length": 1}), "boxes in answers": (22, 2, {"over max_length": 20}),
                  "rows over max_length": (1, 0, {"dropped": 1})}),
        ("split", {"rows": (3, 3, {}), "boxes in answers": (22, 22, {}), "rows over max_length": (1, 1, {})}),
    ],
)  # fmt: skip
def test_the_ledger_accounts_for_rows_over_the_limit(
    cli: Cli, policy: str, accounts: dict[str, tuple[int, int, dict[str, int]]]
) -> None:
    done = prepare_long_row(cli, policy, 420)
    assert (done.exit_code, done.stderr) == (0, "")
    train = json.loads(done.stdout)["splits"]["train"]
    for name, (total, kept, dropped) in accounts.items():
        assert train["ledger"][name] == {"in": total, "kept": kept, "dropped": dropped}
    assert train["tokens"] <= 420
    assert train["exact"] is False
    if policy == "split":
        assert [(name, prompt, len(labels)) for name, prompt, labels in written_rows()] == [
            ("a.jpg", "Find cat", 10),
            ("a.jpg", "Find dog", 10),
            ("b.jpg", "Draw the bounding box of objects", 2),
        ]


def test_a_row_over_the_limit_stops_prepare_before_it_writes_anything_with_stop(cli: Cli) -> None:
    done = prepare_long_row(cli, "stop", 420)
    assert done.exit_code == 3
    assert done.stderr.startswith("error: 1 rows are or may be longer than train.max_length = 420 tokens\n")
    assert list(Path("out").rglob("*.json*")) == []


def test_questions_over_the_limit_are_dropped_with_the_reason_in_the_ledger(cli: Cli) -> None:
    objects: Boxes = [(NAMES[n % 2], (1 + 6 * (n % 10), 1 + 20 * (n // 10), 5, 18)) for n in range(20)]
    write_project(Path(), {f"{n}.jpg": objects for n in range(12)}, categories=NAMES)
    assert cli("prepare").exit_code == 0

    def augment(limit: int) -> tuple[dict[str, Any], list[int]]:
        """The ledger of train, and the number of boxes in each region answer."""
        done = cli("augment", "--json", *options("augment.questions=['region', 'none']", f"train.max_length={limit}"))
        assert done.exit_code == 0
        rows = json.loads(Path("out/augment/region.json").read_text())
        ledger: dict[str, Any] = json.loads(done.stdout)["ledger"]["train"]
        return ledger, [row["messages"][1]["content"].count("<|box_start|>") for row in rows]

    ledger, whole = augment(4000)
    assert max(whole) > 10
    assert "over max_length" not in ledger["region"]["dropped"]
    ledger, short = augment(500)
    assert ledger["region"]["dropped"]["over max_length"] == len(whole) - len(short) > 0
    assert max(short) <= 10
    assert "over max_length" not in ledger["none"]["dropped"]


def test_rows_of_test_pictures_are_never_shortened(cli: Cli) -> None:
    objects: Boxes = [(NAMES[n % 2], (n, n, 9, 9)) for n in range(20)]
    write_project(Path(), {f"{n}.jpg": objects for n in range(8)}, categories=NAMES)
    assert cli("prepare", *options("data.split.test=0.4", "train.max_length=420")).exit_code == 0
    assert {len(labels) for _, _, labels in written_rows("test")} == {20}
    assert {len(labels) for _, _, labels in written_rows()} == {10}


def test_the_system_prompt_of_training_counts_towards_a_rows_length(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 1, 9, 9))]})
    stop = ("prepare", "--set", "format.too_long=stop", "--set", "train.max_length=400")
    assert cli(*stop).exit_code == 0
    done = cli(*stop, "--set", f"train.swift.system={'Be brief. ' * 40}")
    assert done.exit_code == 3
    assert "1 rows are or may be longer than train.max_length = 400 tokens" in done.stderr
    Path("system.txt").write_text("Be brief. " * 40)
    from_file = cli(*stop, "--set", "train.swift.system=system.txt")
    assert (from_file.exit_code, from_file.stderr) == (3, done.stderr)
