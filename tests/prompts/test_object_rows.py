"""Rows in ms-swift's ``objects`` form: they read as the texts of the dialect, and bad rows are refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_rows

QWEN2 = dialects.get("qwen2_vl")
ABLE = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "florence2", "swift"]
SIZE = (640, 480)
PERSON: Box = (64.0, 48.0, 320.5, 240.0)
Objects = list[tuple[str, Box]]

shares = st.floats(0, 1) | st.integers(0, 2000).map(lambda n: n / 2000)
boxes = st.tuples(shares, shares, shares | st.just(1e-6), shares | st.just(1e-6))
names = st.sampled_from(["cat", "traffic light", 'the "big" one', "back\\slash", "猫", "<bbox>", "<ref-object>"])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], Objects]:
    """Boxes inside a picture: some thin, some at its borders."""
    wide, high = draw(st.tuples(st.integers(20, 5000), st.integers(20, 5000)))
    objects: Objects = []
    for label, (x, y, across, down) in draw(st.lists(st.tuples(names, boxes), max_size=5)):
        x2, y2 = min(x + across, 1.0), min(y + down, 1.0)
        objects.append((label, (x * wide, y * high, x2 * wide, y2 * high)))
    return (wide, high), objects


def exact(objects: Objects, dialect: Dialect, size: tuple[int, int]) -> Objects:
    """The objects with their boxes as a row has them."""
    places = object_rows.pixels([box for _, box in objects], [size] * len(objects), dialect).tolist()
    return [(label, (x1, y1, x2, y2)) for (label, _), (x1, y1, x2, y2) in zip(objects, places, strict=True)]


def texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


def row_of(user: str, assistant: str, **objects: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": turns, "images": ["7.jpg"], "objects": objects}


@pytest.mark.parametrize("name", ABLE)
@settings(deadline=None)
@given(scenes(), st.booleans(), st.none() | st.integers(1000, 3_000_000))
def test_a_detection_row_with_objects_is_the_dialects_text(
    name: str, scene: tuple[tuple[int, int], Objects], group: bool, limit: int | None
) -> None:
    (size, objects), dialect = scene, dialects.get(name, limit)
    answer, pairs = object_rows.detection(exact(objects, dialect, size), dialect, group=group)
    row = object_rows.placed("7.jpg", "<image>Draw boxes", answer, pairs, dialect)
    text = dialect.render(objects, size, group=group and dialect.objects_group)
    filled = object_rows.filled(row, dialect, size)
    assert texts(filled) == ["<image>Draw boxes", text]
    assert "objects" not in filled
    assert ("objects" in row) == bool(objects)


@pytest.mark.parametrize("name", ABLE)
@settings(deadline=None)
@given(scenes())
def test_pixels_are_changed_only_where_swift_would_write_another_number(
    name: str, scene: tuple[tuple[int, int], Objects]
) -> None:
    (size, objects), dialect = scene, dialects.get(name)
    frame = dialect.frame(size) * 2
    for (_, box), (_, pixels) in zip(objects, exact(objects, dialect, size), strict=True):
        for true, value, side, units, ours in zip(
            box, pixels, size * 2, frame, dialect.to_frame(box, size), strict=True
        ):
            assert round(value / side * units) == ours
            assert value == true or round(true / side * units) != ours


def test_a_detection_row_by_example() -> None:
    objects: Objects = [("person", PERSON), ("hot dog", (0.0, 0.0, 64.0, 48.0)), ("person", (1.0, 2.0, 30.0, 40.0))]
    answer, pairs = object_rows.detection(objects, QWEN2, group=True)
    assert answer == "<ref-object><bbox><bbox><ref-object><bbox>"
    row = object_rows.placed("a/7.jpg", "<image>Draw", answer, pairs, QWEN2)
    assert row == {
        "messages": [{"role": "user", "content": "<image>Draw"}, {"role": "assistant", "content": answer}],
        "images": ["a/7.jpg"],
        "objects": {"ref": ["person", "hot dog"], "bbox": [list(PERSON), [1, 2, 30, 40], [0, 0, 64, 48]]},
    }
    listed, _ = object_rows.detection(objects[:2], dialects.get("qwen3_vl"))
    entry = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'
    assert listed == f"[{entry}, {entry}]"


def test_numbers_of_a_row_are_floats_whatever_was_given() -> None:
    row = object_rows.placed("7.jpg", "?", "<bbox>", [("", (1, 2, 3, 4))], QWEN2)
    assert [type(value) for value in row["objects"]["bbox"][0]] == [float] * 4
    assert row["objects"]["ref"] == []


@pytest.mark.parametrize("name", ABLE)
def test_areas_stand_in_question_and_answer(name: str) -> None:
    dialect = dialects.get(name)
    area = dialect.as_written((10, 20, 300, 400), SIZE)
    row = object_rows.placed("7.jpg", "<image> Is <bbox> full?", 'Area <bbox>: a "cat".', [("", area)] * 2, dialect)
    text = dialect.render_box(area, SIZE)
    assert texts(object_rows.filled(row, dialect, SIZE)) == [f"<image> Is {text} full?", f'Area {text}: a "cat".']


def test_boxes_outside_are_cut_off_and_thin_ones_keep_a_unit() -> None:
    boxes_ = object_rows.pixels([[-5, 10, 700, 500], [64, 48, 64.1, 96]], [SIZE] * 2, QWEN2)
    assert boxes_[0].tolist() == [0, 10, 640, 480]
    assert boxes_[1].tolist() == pytest.approx([64, 48, 64.64, 96])
    assert object_rows.pixels([], [], QWEN2).shape == (0, 4)


def test_the_far_border_is_written_as_the_familys_last_number() -> None:
    boxes_ = object_rows.pixels([[0, 0, 640, 480]], [SIZE], dialects.get("florence2"))
    assert boxes_.tolist() == [pytest.approx([0, 0, 639.36, 479.52])]


def test_a_row_without_objects_stays_as_it_is() -> None:
    row = row_of("<image>Where is <bbox>?", "No objects.")
    for given_row in (row, {**row, "objects": None}, {key: row[key] for key in ("messages", "images")}):
        assert object_rows.filled(given_row, QWEN2, SIZE) == given_row
    assert object_rows.filled({"text": "x"}, dialects.get("paligemma"), SIZE) == {"text": "x"}


def test_rows_of_others_read_as_swift_reads_them() -> None:
    """Corners in any order, shares of the picture, and boxes that reach over its border."""
    swapped = row_of("?", "<bbox>", bbox=[[320, 240, 64, 48]])
    shares = row_of("?", "<bbox>", bbox=[[0.1, 0.1, 0.5, 0.5]], bbox_type="norm1")
    outside = row_of("?", "<bbox>", bbox=[[-64, 48, 704, 240]], image_id=[0])
    assert [texts(object_rows.filled(row, QWEN2, SIZE))[1] for row in (swapped, shares, outside)] == [
        "<|box_start|>(100,100),(500,500)<|box_end|>",
        "<|box_start|>(100,100),(500,500)<|box_end|>",
        "<|box_start|>(-100,100),(1100,500)<|box_end|>",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (row_of("<bbox>", "<bbox>", bbox=[[1, 2, 3, 4]]), "2 times <bbox> in the text, and 1 for it"),
        (row_of("?", "<bbox>", bbox=[[1, 2, 3, 4]] * 2), "1 times <bbox> in the text, and 2 for it"),
        (row_of("?", "<bbox>", ref=["cat"], bbox=[[1, 2, 3, 4]]), "0 times <ref-object> in the text, and 1"),
        (row_of("?", "<bbox>", bbox=[[1, 2]]), r"no box of four numbers: \[1, 2\]"),
        (row_of("?", "<bbox>", bbox=[[1, 2, 3, "4"]]), "no box of four numbers"),
        (row_of("?", "<bbox>", bbox=[[1, 2, 3, float("nan")]]), "no box of four numbers"),
        (row_of("?", "<bbox>", bbox=[7]), "no box of four numbers: 7"),
        (row_of("?", "<bbox>", bbox=[[1, 2, 3, 4]], image_id=[1]), "boxes of a second picture"),
        ({"messages": [{"role": "user", "content": None}], "objects": {"bbox": [[1, 2, 3, 4]]}}, "is no text"),
        ({"objects": {"bbox": [[1, 2, 3, 4]]}}, "0 times <bbox>"),
    ],
)
def test_a_row_that_cannot_be_filled_raises_its_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        object_rows.filled(row, QWEN2, SIZE)


def test_texts_that_contain_a_placeholder_by_chance_are_refused() -> None:
    with pytest.raises(ValueError, match="2 times <bbox> in the text, and 1 for it"):
        object_rows.placed("7.jpg", "<image>Write <bbox>", "<bbox>", [("", PERSON)], QWEN2)


def test_a_family_whose_template_writes_no_boxes_gets_the_able_ones() -> None:
    with pytest.raises(UsageError) as caught:
        object_rows.check(dialects.get("paligemma"))
    assert caught.value.hint == f"Write its rows as text. The form is there for: {', '.join(ABLE)}."
    for name in ABLE:
        object_rows.check(dialects.get(name))
