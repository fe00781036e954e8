"""The report on prepared data: its numbers, its warnings, and how it looks at 80 columns."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vlmdet_cli.cli import data_tables
from vlmdet_cli.core.files import to_builtins
from vlmdet_cli.data.dataset import CROWD, SMALL, Dataset, Image, build
from vlmdet_cli.data.duplicates import DuplicateGroup, Duplicates
from vlmdet_cli.data.formats import coco
from vlmdet_cli.errors import DataError
from vlmdet_cli.prompts import region_tasks
from vlmdet_cli.stages.data.data_report import ClassCount, DataReport, SplitReport, report
from vlmdet_cli.stages.data.row_kinds import count_kinds

XYWH = tuple[float, float, float, float]


def data(
    *boxes: tuple[int, str, XYWH],
    pictures: int = 2,
    size: tuple[int, int] = (100, 100),
    labels: tuple[str, ...] = ("cat", "dog"),
    **columns: Any,
) -> Dataset:
    """Pictures of one size; a box is (picture, label, left top width height)."""
    images = [Image(id=n, file_name=f"{n}.jpg", width=size[0], height=size[1]) for n in range(pictures)]
    return build(
        images,
        labels,
        image=[box[0] for box in boxes],
        label=[labels.index(box[1]) for box in boxes],
        xywh=[box[2] for box in boxes],
        **columns,
    )


def report_of(**splits: Dataset) -> DataReport:
    return report(splits, {}, limit=100, exact=True)


def train_report(data: Dataset) -> SplitReport:
    return report_of(train=data).splits["train"]


def printed(result: DataReport, width: int = 80) -> str:
    """The report as a terminal without colour shows it."""
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, markup=False, highlight=False, emoji=False)
    for view in data_tables.report(result):
        console.print(view)
    return file.getvalue()


def tokens(*values: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.array(values, np.int64)


# --- numbers -------------------------------------------------------------------------------------------------


def test_boxes_and_pictures_of_each_class_are_counted() -> None:
    split = train_report(data((0, "cat", (0, 0, 9, 9)), (0, "cat", (5, 5, 9, 9)), (1, "cat", (0, 0, 9, 9)), pictures=3))
    assert (split.pictures, split.empty, split.boxes) == (3, 1, 3)
    assert split.classes == {"cat": ClassCount(boxes=3, pictures=2), "dog": ClassCount(boxes=0, pictures=0)}


def test_crowds_and_what_is_left_out_are_no_boxes() -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    boxes = [(0, "cat", box)] * 4
    split = train_report(data(*boxes, crowd=[False, True, True, False], drop_reason=[0, 0, CROWD, SMALL]))
    assert (split.boxes, split.crowds, split.left_out) == (1, 1, {"crowd": 1, "too small": 1})
    assert split.boxes_a_picture.counts[:2] == [1, 1]


def test_crowding_is_counted_in_bins_that_double() -> None:
    boxes = [(0, "cat", (float(n), 0.0, 5.0, 5.0)) for n in range(5)]
    histogram = train_report(data(*boxes, pictures=2)).boxes_a_picture
    assert histogram.edges == [0, 1, 2, 3, 5, 9]
    assert histogram.counts == [1, 0, 0, 0, 1]


def test_a_box_is_measured_by_its_share_of_the_picture_cut_off_at_its_borders() -> None:
    outside, tenth = (-20.0, -20.0, 50.0, 50.0), (10.0, 10.0, 10.0, 10.0)
    histogram = train_report(data((0, "cat", outside), (1, "dog", tenth))).box_sides
    assert dict(zip(histogram.edges[1:], histogram.counts, strict=True)) == {
        0.01: 0, 0.02: 0, 0.05: 0, 0.1: 0, 0.2: 1, 0.5: 1, 1.0: 0,
    }  # fmt: skip


def test_coco_sizes_go_by_the_annotated_area() -> None:
    box = (0.0, 0.0, 90.0, 90.0)
    split = train_report(data(*[(0, "cat", box)] * 4, area=[1023.0, 1024.0, 9215.0, 9216.0]))
    assert split.coco_sizes == {"small": 1, "medium": 2, "large": 1}


def test_the_most_frequent_picture_sizes_are_the_same_in_every_split() -> None:
    result = report_of(train=data(size=(640, 480), pictures=3), val=data(size=(480, 640), pictures=2))
    assert result.splits["train"].sizes == {"640 x 480": 3, "480 x 640": 0}
    assert result.splits["val"].sizes == {"640 x 480": 0, "480 x 640": 2}
    assert result.splits["train"].other_sizes == 0


def test_sizes_beyond_the_most_frequent_are_counted_together() -> None:
    images = [Image(id=n, file_name=f"{n}.jpg", width=100 + n, height=50) for n in range(7)]
    split = train_report(build(images, ["cat"], image=[], label=[], xywh=[]))
    assert len(split.sizes) == 5
    assert split.other_sizes == 2


def test_a_row_of_just_the_limit_is_not_over_it() -> None:
    result = report({"train": data()}, {"train": tokens(99, 100, 101)}, limit=100, exact=True)
    counts = result.splits["train"].tokens
    assert counts is not None
    assert (counts.rows, counts.longest, counts.over) == (3, 101, 1)
    last = counts.histogram.edges.index(101.0)
    assert sum(counts.histogram.counts[last:]) == 1
    assert result.warnings[0] == "train: 1 row over the limit of 100 tokens"


def test_an_upper_bound_is_named_as_such() -> None:
    result = report({"train": data()}, {"train": tokens(500)}, limit=100, exact=False)
    assert result.warnings == ["train: 1 row perhaps over the limit of 100 tokens"]
    assert "tokens, at most" in printed(result)


CORNER = st.floats(-50, 150)
BOX = st.tuples(
    st.integers(0, 3), st.sampled_from(["cat", "dog"]), st.tuples(CORNER, CORNER, st.floats(0, 200), CORNER)
)


@given(st.lists(BOX, max_size=30), st.lists(st.integers(0, 10_000), max_size=20), st.integers(1, 5000))
def test_every_value_is_in_some_bin(boxes: list[tuple[int, str, XYWH]], lengths: list[int], limit: int) -> None:
    split = report({"a": data(*boxes, pictures=4)}, {"a": tokens(*lengths)}, limit=limit, exact=True).splits["a"]
    assert sum(split.boxes_a_picture.counts) == sum(split.aspects.counts) == 4
    assert sum(split.box_sides.counts) == sum(split.coco_sizes.values()) == split.boxes == len(boxes)
    assert split.tokens is not None
    assert sum(split.tokens.histogram.counts) == len(lengths)
    for histogram in (split.boxes_a_picture, split.aspects, split.box_sides, split.tokens.histogram):
        assert len(histogram.edges) == len(histogram.counts) + 1
        assert histogram.edges == sorted(set(histogram.edges))


# --- warnings ------------------------------------------------------------------------------------------------


def test_classes_without_a_box_are_named_by_split() -> None:
    cat, dog = (0, "cat", (0.0, 0.0, 9.0, 9.0)), (1, "dog", (0.0, 0.0, 9.0, 9.0))
    assert report_of(train=data(cat, dog), val=data(cat)).warnings == ["val: 1 class without any box: dog"]


@pytest.mark.parametrize(("count", "warnings"), [(99, 0), (100, 1)])
def test_a_class_a_hundred_times_rarer_is_named(count: int, warnings: int) -> None:
    boxes: list[tuple[int, str, XYWH]] = [(0, "cat", (0.0, 0.0, 9.0, 9.0))] * count
    expected = [f"train: 1 class at least 100 times rarer than cat ({count}): dog 1"] * warnings
    assert report_of(train=data(*boxes, (1, "dog", (0.0, 0.0, 9.0, 9.0)))).warnings == expected


def duplicates() -> Duplicates:
    within = DuplicateGroup((("train", "a.jpg"), ("train", "b.jpg")))
    leak = DuplicateGroup((("train", "c.jpg"), ("val", "d.jpg")))
    large = DuplicateGroup(tuple(("train", f"{n}.jpg") for n in range(9)))
    return Duplicates(identical=(within, large), near=(leak,), pictures=13, unreadable=0, flat=0)


def test_duplicates_across_splits_come_first_and_give_a_warning() -> None:
    result = report({"train": data()}, {}, limit=9, exact=True, duplicates=duplicates())
    assert result.duplicates is not None
    assert [(case.kind, case.crosses_splits, case.unnamed) for case in result.duplicates.cases] == [
        ("near", True, 0),
        ("same", False, 0),
        ("same", False, 5),
    ]
    assert result.warnings == ["1 pair of near-duplicate pictures in different splits"]
    text = printed(result)
    assert (
        "near-duplicate, across splits: train/c.jpg ~ val/d.jpg\nidentical, in one split: train/a.jpg = train/b.jpg\n"
    ) in text
    assert "train/3.jpg and 5 more" in " ".join(text.split())


def test_the_report_as_json_keeps_its_keys() -> None:
    result = report({"train": data()}, {}, limit=9, exact=True, duplicates=duplicates(), rows_by_kind={"count": 2})
    document = orjson.loads(orjson.dumps(to_builtins(result)))
    assert list(document) == ["splits", "limit", "exact", "likeness", "mix", "warnings"]
    assert document["mix"] == {"count": 2}
    assert document["likeness"]["counts"] == {
        "pictures": 13, "unreadable": 0, "flat": 0, "same": 2, "same across splits": 0, "near": 1,
        "near across splits": 1,
    }  # fmt: skip
    assert document["likeness"]["cases"][0] == {
        "what": "near", "crosses": True, "pictures": [["train", "c.jpg"], ["val", "d.jpg"]], "more": 0,
    }  # fmt: skip


# --- the page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "splits",
    [
        {},
        {"train": data(pictures=0, labels=())},
        {"train": data(pictures=0)},
        {"train": data(pictures=1)},
        {"train": data((0, "cat", (0, 0, 9, 9)), pictures=1), "val": data(pictures=0)},
    ],
)
def test_reports_on_hardly_any_data_can_be_printed(splits: dict[str, Dataset]) -> None:
    result = report(splits, {name: tokens() for name in splits}, limit=1, exact=True, rows_by_kind={})
    assert orjson.loads(orjson.dumps(to_builtins(result)))["splits"].keys() == splits.keys()
    assert "pictures" in printed(result)


@pytest.mark.parametrize("splits", [1, 2, 3])
def test_no_line_is_wider_than_80_columns_and_no_bar_is_cut(splits: int) -> None:
    label = "a name that is longer than any column"
    split = data(*[(n % 2, label, (0.0, 0.0, 9.0, 9.0)) for n in range(4)], labels=(label, "dog"))
    result = report_of(**{f"split{n}": split for n in range(splits)})
    big = msgspec.structs.replace(result.splits["split0"], coco_sizes={"small": 1_114_493, "medium": 1, "large": 0})
    text = printed(msgspec.structs.replace(result, splits=dict.fromkeys(result.splits, big)))
    assert max(map(len, text.splitlines())) <= 80
    bars = [part for line in text.splitlines() if "1,114,493" in line for part in line.split() if "█" in part]
    assert len(bars) == splits
    assert len(set(bars)) == 1


def test_classes_are_shown_most_frequent_first_and_the_rest_in_a_line() -> None:
    labels = tuple(f"c{n:02}" for n in range(20))
    boxes = [(0, label, (0.0, 0.0, 9.0, 9.0)) for n, label in enumerate(labels) for _ in range(n)]
    text = printed(report_of(train=data(*boxes, labels=labels)))
    shown = [row.split()[0] for row in text.splitlines() if row.strip().startswith("c") and row.strip()[1:3].isdigit()]
    assert shown == [f"c{n:02}" for n in range(19, 4, -1)]
    assert "… 5 more classes 10" in " ".join(text.split())


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    label = "\x1b[31mred"
    assert "\x1b" not in printed(report_of(train=data((0, label, (0, 0, 9, 9)), labels=(label,))))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_a_larger_share_never_has_a_shorter_bar(first: float, second: float, width: int) -> None:
    small, large = (sum(map(" ▏▎▍▌▋▊▉█".index, data_tables.bar(share, width))) for share in sorted((first, second)))
    assert small <= large <= 8 * width
    assert bool(small) == (min(first, second) > 0)


def test_a_full_bar_has_the_whole_width() -> None:
    assert data_tables.bar(1.0, 5) == "█████"
    assert data_tables.bar(0.5, 5) == "██▌"
    assert data_tables.bar(1e-9, 5) == "▏"


def test_the_real_pictures_have_a_report(tiny_coco: Path) -> None:
    read = coco.read(tiny_coco / "annotations/instances_train2017.json", None, "train", [])
    result = report_of(train=read)
    text = printed(result)
    assert f"boxes {result.splits['train'].boxes}" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


# --- the mix -------------------------------------------------------------------------------------------------


def write_rows(path: Path, *prompts: str) -> Path:
    rows = [{"messages": [{"role": "user", "content": text}], "images": ["a.jpg"]} for text in prompts]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def test_rows_are_counted_by_kind_most_frequent_first(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", region_tasks.COUNT, "<image>Draw", "<image>Draw the cats")
    assert list(count_kinds(path).items()) == [("detection", 2), ("count", 1)]


@pytest.mark.parametrize("bad", ["{", '{"images": []}', '{"messages": []}', '{"messages": [{"role": "user"}]}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, bad: str) -> None:
    path = write_rows(tmp_path / "train.jsonl", "<image>Draw")
    path.write_text(path.read_text() + bad)
    with pytest.raises(DataError, match=r"train\.jsonl, line 2"):
        count_kinds(path)


def test_a_train_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the train file: .*none\.jsonl"):
        count_kinds(tmp_path / "none.jsonl")
