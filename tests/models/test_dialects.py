"""Dialects write boxes, and read back what they wrote; each rule of writing by example or as a property."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects.base import Dialect, FrameBox
from vlmdet_cli.models.dialects.qwen2_vl import BOX, BOX_END, REF, REF_END

QWEN2 = dialects.get("qwen2_vl")


def kinds(parsed: ParsedDetections) -> list[str]:
    return [problem.kind for problem in parsed.problems]


def object_text(label: str, *numbers: int) -> str:
    x1, y1, x2, y2 = numbers
    return f"{REF}{label}{REF_END}{BOX}({x1},{y1}),({x2},{y2}){BOX_END}"


def test_labels_get_the_categorys_spelling_and_unknown_ones_stay() -> None:
    parsed = QWEN2.parse(
        object_text(" Traffic  LIGHT ", 1, 2, 3, 4) + object_text("ufo", 1, 2, 3, 4), None, ["traffic light"]
    )
    assert list(parsed.by_label()) == ["traffic light", "ufo"]
    assert kinds(parsed) == ["unknown_label"]


def test_an_unknown_dialect_gets_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        dialects.get("qwen2")
    assert "qwen2_vl" in str(caught.value)


# what any family can write as a label: no tags, brackets or separators of its own syntax
letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"], exclude_characters="<>|;,:.()[]{}\"'\\")
labels = st.lists(st.text(letters, min_size=1, max_size=6), min_size=1, max_size=3).map(" ".join)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[str, Box]]]:
    width, height = draw(st.integers(20, 5000)), draw(st.integers(20, 5000))
    edge = st.floats(0, 1)
    objects = []
    for label in draw(st.lists(labels, max_size=6)):
        (x1, x2), (y1, y2) = (sorted([draw(edge), draw(edge)]) for _ in range(2))
        if x2 - x1 > 0.002 and y2 - y1 > 0.002:
            objects.append((label, (x1 * width, y1 * height, x2 * width, y2 * height)))
    return (width, height), objects


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(scenes(), st.booleans())
def test_what_is_rendered_reads_back_to_the_frames_resolution(
    name: str, scene: tuple[tuple[int, int], list[tuple[str, Box]]], group: bool
) -> None:
    (size, objects), dialect = scene, dialects.get(name)
    written = [(label, dialect.to_frame(box, size)) for label, box in objects]
    if len(set(written)) < len(written):
        return  # the same thing twice is a duplicate, and read so
    parsed = dialect.parse(dialect.render(objects, size, group=group), size)
    assert kinds(parsed) == []
    assert parsed.health == ("ok" if objects else "empty")
    read = sorted((detection.label, detection.box) for detection in parsed.detections)
    original = sorted(objects, key=lambda pair: (pair[0], dialect.as_written(pair[1], size)))
    frame = dialect.frame(size)
    for (label, box), (expected, true_box) in zip(read, original, strict=True):
        assert label == expected
        extents = (true_box[2] - true_box[0], true_box[3] - true_box[1]) * 2
        for value, true, side, units, extent in zip(
            box, true_box, (*size, *size), (*frame, *frame), extents, strict=True
        ):
            # half a unit; more at the far border, which some families cannot write, and where a thin box keeps a unit
            plain = true < side * 0.99 and extent > side / units
            assert abs(value - true) <= side / units * (0.5 if plain else 1.5) + 1e-6


@st.composite
def written(draw: st.DrawFn, dialect: Dialect, size: tuple[int, int]) -> list[tuple[str, FrameBox]]:
    """Boxes with area in whole numbers of the frame, none twice."""
    sides = [int(min(side, dialect.last)) for side in dialect.frame(size)]
    spans = [st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True).map(sorted) for side in sides]
    objects: dict[tuple[str, FrameBox], None] = {}
    for label, (x1, x2), (y1, y2) in draw(st.lists(st.tuples(labels, *spans), max_size=5)):
        objects[(label, (x1, y1, x2, y2))] = None
    return list(objects)


sizes = st.tuples(st.integers(20, 5000), st.integers(20, 5000))
limits = st.none() | st.integers(1, 3_000_000)


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(st.data(), sizes, limits, st.booleans())
def test_whole_numbers_of_the_frame_survive_writing_and_reading(
    name: str, data: st.DataObject, size: tuple[int, int], limit: int | None, group: bool
) -> None:
    dialect = dialects.get(name, limit)
    objects = data.draw(written(dialect, size))
    text = dialect.write(objects, group=group)
    parsed = dialect.parse(text, size)
    assert kinds(parsed) == []
    places = dialect.from_frames([box for _, box in objects], [size] * len(objects))
    expected = sorted((label, tuple(box)) for (label, _), box in zip(objects, places.tolist(), strict=True))
    assert sorted((detection.label, detection.box) for detection in parsed.detections) == expected
    again = dialect.to_frames(places, [size] * len(objects))
    assert [tuple(box) for box in again.tolist()] == [box for _, box in objects]
    assert dialect.render([(label, tuple(box)) for (label, _), box in zip(objects, places, strict=True)], size,
                          group=group) == text  # fmt: skip


# edges that make rounding hard: halves, borders, thin and empty boxes
shares = st.floats(-0.1, 1.1) | st.integers(0, 2000).map(lambda n: n / 2000) | st.sampled_from([0.0, 1.0])


@st.composite
def edge_cases(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[float]]]:
    """Sizes of pictures, and a box in pixels of each."""
    drawn = draw(st.lists(st.tuples(sizes, shares, shares, st.sampled_from([0, 1e-6, 0.0004, 0.3])), max_size=8))
    boxes = [[x * w, y * h, (x + thin) * w, (y + thin / 2) * h] for (w, h), x, y, thin in drawn]
    return [size for size, *_ in drawn], boxes


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(edge_cases(), limits)
def test_an_array_of_boxes_has_the_results_of_its_boxes_alone(
    name: str, pictures: tuple[list[tuple[int, int]], list[list[float]]], limit: int | None
) -> None:
    (sizes, boxes), dialect = pictures, dialects.get(name, limit)
    pairs = [((x1, y1, x2, y2), size) for (x1, y1, x2, y2), size in zip(boxes, sizes, strict=True)]
    whole = dialect.to_frames(boxes, sizes)
    assert whole.shape == (len(boxes), 4)
    assert whole.dtype == np.dtype("int64")
    assert [tuple(row) for row in whole.tolist()] == [dialect.to_frame(box, size) for box, size in pairs]
    assert [tuple(row) for row in dialect.frames(sizes).tolist()] == [dialect.frame(size) for size in sizes]
    places = [dialect.as_written(box, size) for box, size in pairs]
    assert [tuple(row) for row in dialect.from_frames(whole, sizes).tolist()] == places


def test_a_pixel_limit_changes_the_frame_of_qwen2_5_vl_alone() -> None:
    size = (1280, 720)
    frames = {name: dialects.get(name, 200_000).frame(size) for name in dialects.names()}
    fixed = {name: dialects.get(name).frame(size) for name in dialects.names()}
    assert (fixed["qwen2_5_vl"], frames.pop("qwen2_5_vl")) == ((1288, 728), (588, 336))
    assert frames.items() <= fixed.items()
    assert dialects.get("qwen2_5_vl", 0) is dialects.get("qwen2_5_vl")
    assert dialects.get("qwen2_5_vl", 200_000) is dialects.get("qwen2_5_vl", 200_000)
    assert dialects.get("qwen2_vl", 200_000) is QWEN2


def example() -> Dialect:
    """The dialect that CONTRIBUTING shows."""
    document = Path(__file__).parents[2] / "CONTRIBUTING.md"
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL)[0], names)  # noqa: S102
    dialect = names["BRACKETS"]
    assert isinstance(dialect, Dialect)
    return dialect


@settings(deadline=None)
@given(scenes(), st.booleans())
def test_the_documented_example_of_a_dialect_reads_what_it_writes(
    scene: tuple[tuple[int, int], list[tuple[str, Box]]], group: bool
) -> None:
    (size, objects), dialect = scene, example()
    expected = {(label, dialect.as_written(box, size)) for label, box in objects}
    parsed = dialect.parse(dialect.render(objects, size, group=group), size)
    assert {(detection.label, detection.box) for detection in parsed.detections} == expected
    assert set(kinds(parsed)) <= {"duplicate", "loop"}
    cut = dialect.parse("cat[1 2 3 4]dog[5 6", None)
    assert (cut.by_label(), kinds(cut)) == ({"cat": [[1, 2, 3, 4]]}, ["unparsed"])


def test_answers_for_a_picture_without_objects() -> None:
    empty = {name: dialects.get(name).render([], (640, 480)) for name in dialects.names()}
    assert empty == {name: "[]" if name in {"qwen2_5_vl", "qwen3_vl"} else "No objects." for name in dialects.names()}


def test_each_family_writes_its_own_form() -> None:
    objects: list[tuple[str, Box]] = [
        ("hot dog", (64, 48, 320, 240)),
        ("cat", (0, 0, 640, 480)),
        ("cat", (0, 0, 64, 48)),
    ]
    texts = {name: dialects.get(name).render(objects, (640, 480)) for name in dialects.names()}
    assert texts == {
        "qwen2_vl": object_text("hot dog", 100, 100, 500, 500) + object_text("cat", 0, 0, 1000, 1000)
                    + object_text("cat", 0, 0, 100, 100),
        # 640 x 480 becomes 644 x 476
        "qwen2_5_vl": '[{"bbox_2d": [64, 48, 322, 238], "label": "hot dog"}, {"bbox_2d": [0, 0, 644, 476], '
                      '"label": "cat"}, {"bbox_2d": [0, 0, 64, 48], "label": "cat"}]',
        "qwen3_vl": '[{"bbox_2d": [100, 100, 500, 500], "label": "hot dog"}, {"bbox_2d": [0, 0, 1000, 1000], '
                    '"label": "cat"}, {"bbox_2d": [0, 0, 100, 100], "label": "cat"}]',
        "internvl": "<ref>hot dog</ref><box>[[100, 100, 500, 500]]</box><ref>cat</ref><box>[[0, 0, 1000, 1000]]</box>"
                    "<ref>cat</ref><box>[[0, 0, 100, 100]]</box>",
        "paligemma": "<loc0102><loc0102><loc0512><loc0512> hot dog ; <loc0000><loc0000><loc1023><loc1023> cat ; "
                     "<loc0000><loc0000><loc0102><loc0102> cat",
        "florence2": "hot dog<loc_100><loc_100><loc_500><loc_500>cat<loc_0><loc_0><loc_999><loc_999>"
                     "cat<loc_0><loc_0><loc_100><loc_100>",
        "swift": "hot dog[(100,100),(500,500)]cat[(0,0),(1000,1000)]cat[(0,0),(100,100)]",
    }  # fmt: skip
    grouped = dialects.get("internvl").render(objects, (640, 480), group=True)
    assert grouped.endswith("<ref>cat</ref><box>[[0, 0, 1000, 1000], [0, 0, 100, 100]]</box>")
    quoted = dialects.get("qwen3_vl").render([('a "b" {c}', (0, 0, 64, 48))], (640, 480))
    assert dialects.get("qwen3_vl").write([("猫", (0, 0, 1, 2))]) == '[{"bbox_2d": [0, 0, 1, 2], "label": "猫"}]'
    assert [d.label for d in dialects.get("qwen3_vl").parse(quoted, None).detections] == ['a "b" {c}']


@settings(deadline=None)
@given(scenes(), st.booleans(), st.booleans())
def test_the_short_cut_gives_what_the_scanner_gives(
    scene: tuple[tuple[int, int], list[tuple[str, Box]]], group: bool, sized: bool
) -> None:
    size, objects = scene
    objects = [(label if number % 3 else "traffic light", box) for number, (label, box) in enumerate(objects)]
    text, given_size = QWEN2.render(objects, size, group=group), size if sized else None
    for categories in (None, ["traffic light"], [label for label, _ in objects]):
        quick = QWEN2.parse(text, given_size, categories)
        slow = QWEN2.parse(text, given_size, categories, [(text, -1.0)])
        assert [d.label for d in quick.detections] == [d.label for d in slow.detections]
        for detection, scanned in zip(quick.detections, slow.detections, strict=True):
            assert detection.box == pytest.approx(scanned.box)
        assert (quick.problems, quick.health) == (slow.problems, slow.health)


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(scenes())
def test_the_texts_of_objects_put_together_are_what_write_gives(
    name: str, scene: tuple[tuple[int, int], list[tuple[str, Box]]]
) -> None:
    (size, objects), dialect = scene, dialects.get(name)
    written = [(label, dialect.to_frame(box, size)) for label, box in objects]
    ints = np.array([box for _, box in written], np.int64).reshape(-1, 4)
    texts = dialect.object_texts([label for label, _ in objects], ints)
    assert name != "qwen2_vl" or texts is not None
    if texts is not None:
        assert len(texts) == len(objects)
        assert ("".join(texts) or dialect.empty) == dialect.write(written)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_the_far_border_reads_back_to_the_bit_whatever_the_size(name: str) -> None:
    dialect = dialects.get(name)
    sizes = np.array([(side, 6001 - side) for side in range(100, 5900)], np.float64)
    whole = np.hstack([np.zeros_like(sizes), sizes])
    back = dialect.from_frames(dialect.to_frames(whole, sizes), sizes)
    assert (back == whole).all()
    for side in (1001, 1003, 640):
        size = (side, 3000 - side)
        assert dialect.as_written((0, 0, *size), size) == (0, 0, *size)


@pytest.mark.parametrize(
    ("text", "labels", "problems"),
    [
        ("cat[(1,2),(3,4)], dog: [ ( 5, 6 ) , (7, 8) ][(9,9),(20,20)].", ["cat", "dog", "dog"], []),
        ("cat[(1,2),(3,4)]dog[(5,6),(7", ["cat"], ["truncated"]),
        ("cat[(1,2),(3,4)]do", ["cat"], ["truncated"]),
        ("cat[(1,2),(3)]dog[(1,2),(3,4)]", ["dog"], ["unparsed"]),
        ("[(1,2),(3,4)]", [], ["unparsed"]),
        ("There is a cat.", [], ["unparsed"]),
    ],
)
def test_the_form_of_swifts_plain_templates_is_read(text: str, labels: list[str], problems: list[str]) -> None:
    parsed = dialects.get("swift").parse(text, None)
    assert [detection.label for detection in parsed.detections] == labels
    assert kinds(parsed) == problems
