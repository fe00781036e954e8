"""Texts to boxes and back: the rules by example, the inverse by property, and no text that makes it fail."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects.base import Dialect, Ints
from vlmdet_cli.models.dialects.qwen2_vl import BOX, BOX_END, REF, REF_END

QWEN2 = dialects.get("qwen2_vl")
CASES_FILE = SHARED / "answers" / "cases.jsonl"
CASES = [json.loads(line) for line in CASES_FILE.read_text().splitlines()] if CASES_FILE.is_file() else []


def kinds(parsed: ParsedDetections) -> list[str]:
    return [problem.kind for problem in parsed.problems]


def one(label: str, *numbers: int) -> str:
    x1, y1, x2, y2 = numbers
    return f"{REF}{label}{REF_END}{BOX}({x1},{y1}),({x2},{y2}){BOX_END}"


@pytest.mark.skipif(not CASES, reason="the collected answers are not at hand")
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c["name"]) for c in CASES if c["dialect"] in dialects.names()] or [None]
)
def test_collected_answers_mean_what_they_are_said_to(case: dict[str, Any]) -> None:
    size = tuple(case["size"]) if case["size"] else None
    parsed = dialects.get(case["dialect"]).parse(case["text"], size, case.get("categories"))
    assert set(kinds(parsed)) == set(case["problems"])
    found = parsed.by_label()
    assert list(found) == list(case["object"])
    for label, boxes in case["object"].items():
        for mine, theirs in zip(found[label], boxes, strict=True):
            assert mine == (pytest.approx(theirs, abs=0.01) if size else theirs)


@pytest.mark.parametrize(
    ("text", "found", "problems", "health"),
    [
        (one("person", 531, 61, 771, 896), {"person": [[531, 61, 771, 896]]}, [], "ok"),
        ("person(531,61),(771,896)", {"person": [[531, 61, 771, 896]]}, [], "ok"),
        ("stop sign (1,2),(3,4) hot dog (5,6),(7,8)", {"stop sign": [[1, 2, 3, 4]], "hot dog": [[5, 6, 7, 8]]},
         [], "ok"),
        (one("cat", 1, 2, 3, 4) + f"{BOX}(5,6),(7,8){BOX_END}", {"cat": [[1, 2, 3, 4], [5, 6, 7, 8]]}, [], "ok"),
        (one("cat", 30, 2, 3, 4), {"cat": [[3, 2, 30, 4]]}, ["inverted"], "partial"),
        (one("cat", 900, 2, 1200, 4), {"cat": [[900, 2, 1000, 4]]}, ["out_of_range"], "partial"),
        (one("cat", 1100, 2, 1200, 4), {}, ["degenerate"], "unparsed"),
        (one("cat", 1, 2, 3, 4) * 2, {"cat": [[1, 2, 3, 4]]}, ["duplicate"], "partial"),
        (one("cat", 1, 2, 3, 4) * 6, {"cat": [[1, 2, 3, 4]]}, ["loop"], "partial"),
        (one("cat", 1, 2, 3, 4) + f"{REF}dog{REF_END}{BOX}(5,", {"cat": [[1, 2, 3, 4]]}, ["truncated"], "partial"),
        (f"{REF}cat{REF_END}{BOX}(1,2),(3,4)", {"cat": [[1, 2, 3, 4]]}, ["truncated"], "partial"),
        (f"{REF}cat{REF_END}{BOX}(1,2){BOX_END}", {}, ["unparsed"], "unparsed"),
        (f"{BOX}(1,2),(3,4){BOX_END}", {}, ["unparsed"], "unparsed"),
        ("I see nothing of the kind.", {}, ["unparsed"], "unparsed"),
        ("No objects.", {}, [], "empty"),
        ("[]", {}, [], "empty"),
        ("", {}, [], "empty"),
    ],
)  # fmt: skip
def test_rules_by_example(text: str, found: dict[str, Any], problems: list[str], health: str) -> None:
    parsed = QWEN2.parse(text, None)
    made = {label: [list(box) for box in boxes] for label, boxes in parsed.by_label().items()}
    assert (made, kinds(parsed), parsed.health) == (found, problems, health)


def test_labels_get_the_categorys_spelling_and_unknown_ones_stay() -> None:
    parsed = QWEN2.parse(one(" Traffic  LIGHT ", 1, 2, 3, 4) + one("ufo", 1, 2, 3, 4), None, ["traffic light"])
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
    read = sorted((one.label, one.box) for one in parsed.detections)
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
def written(draw: st.DrawFn, dialect: Dialect, size: tuple[int, int]) -> list[tuple[str, Ints]]:
    """Boxes with area in whole numbers of the frame, none twice."""
    sides = [int(min(side, dialect.last)) for side in dialect.frame(size)]
    spans = [st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True).map(sorted) for side in sides]
    made: dict[tuple[str, Ints], None] = {}
    for label, (x1, x2), (y1, y2) in draw(st.lists(st.tuples(labels, *spans), max_size=5)):
        made[(label, (x1, y1, x2, y2))] = None
    return list(made)


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
    assert sorted((one.label, one.box) for one in parsed.detections) == expected
    again = dialect.to_frames(places, [size] * len(objects))
    assert [tuple(box) for box in again.tolist()] == [box for _, box in objects]
    assert dialect.render([(label, tuple(box)) for (label, _), box in zip(objects, places, strict=True)], size,
                          group=group) == text  # fmt: skip


# edges that make rounding hard: halves, borders, thin and empty boxes
shares = st.floats(-0.1, 1.1) | st.integers(0, 2000).map(lambda n: n / 2000) | st.sampled_from([0.0, 1.0])


@st.composite
def many(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[float]]]:
    """Sizes of pictures, and a box in pixels of each."""
    made = draw(st.lists(st.tuples(sizes, shares, shares, st.sampled_from([0, 1e-6, 0.0004, 0.3])), max_size=8))
    boxes = [[x * w, y * h, (x + thin) * w, (y + thin / 2) * h] for (w, h), x, y, thin in made]
    return [size for size, *_ in made], boxes


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(many(), limits)
def test_many_boxes_at_once_are_what_each_is_alone(
    name: str, made: tuple[list[tuple[int, int]], list[list[float]]], limit: int | None
) -> None:
    (sizes, boxes), dialect = made, dialects.get(name, limit)
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
    found = names["BRACKETS"]
    assert isinstance(found, Dialect)
    return found


@settings(deadline=None)
@given(scenes(), st.booleans())
def test_the_documented_example_of_a_dialect_reads_what_it_writes(
    scene: tuple[tuple[int, int], list[tuple[str, Box]]], group: bool
) -> None:
    (size, objects), dialect = scene, example()
    expected = {(label, dialect.as_written(box, size)) for label, box in objects}
    parsed = dialect.parse(dialect.render(objects, size, group=group), size)
    assert {(one.label, one.box) for one in parsed.detections} == expected
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
        "qwen2_vl": one("hot dog", 100, 100, 500, 500) + one("cat", 0, 0, 1000, 1000) + one("cat", 0, 0, 100, 100),
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
    }  # fmt: skip
    grouped = dialects.get("internvl").render(objects, (640, 480), group=True)
    assert grouped.endswith("<ref>cat</ref><box>[[0, 0, 1000, 1000], [0, 0, 100, 100]]</box>")
    quoted = dialects.get("qwen3_vl").render([('a "b" {c}', (0, 0, 64, 48))], (640, 480))
    assert dialects.get("qwen3_vl").write([("猫", (0, 0, 1, 2))]) == '[{"bbox_2d": [0, 0, 1, 2], "label": "猫"}]'
    assert [d.label for d in dialects.get("qwen3_vl").parse(quoted, None).detections] == ['a "b" {c}']


@pytest.mark.parametrize(
    ("name", "text", "found", "problems"),
    [
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"',
         {"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}, ["truncated"]),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"},', {"a": [[1, 2, 3, 4]]}, ["truncated"]),
        ("qwen3_vl", "I see a cat.", {}, ["unparsed"]),
        ("qwen3_vl", "```json\n[]\n```", {}, []),
        ("qwen3_vl", '{"bbox_2d": [1, 2, 3000, 4], "label": "a"}', {"a": [[1, 2, 1000, 4]]}, ["out_of_range"]),
        ("internvl", "<ref>a</ref><box>[[1, 2, 3, 4]]</box><ref>b</ref><box>[[5, 6", {"a": [[1, 2, 3, 4]]},
         ["truncated"]),
        ("internvl", "<ref>a</ref><box>[[1, 2, 3]]</box><ref>b</ref><box>[[5, 6, 7, 8]]</box>", {"b": [[5, 6, 7, 8]]},
         ["unparsed"]),
        ("internvl", "<ref>a</ref><ref>b</ref><box>[[5, 6, 7, 8]]</box>", {"b": [[5, 6, 7, 8]]}, ["unparsed"]),
        ("internvl", "nothing here", {}, ["unparsed"]),
        ("paligemma", "<loc0001><loc0002><loc0003><loc0004> a ; <loc0001><loc0002>", {"a": [[2, 1, 4, 3]]},
         ["truncated"]),
        ("paligemma", "<loc0001><loc0002><loc0003> a ; <loc0001><loc0002><loc0003><loc0004> b", {"b": [[2, 1, 4, 3]]},
         ["unparsed"]),
        ("paligemma", "no such thing", {}, ["unparsed"]),
        ("florence2", "a<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>",
         {"a": [[1, 2, 3, 4], [5, 6, 7, 8]]}, []),
        ("florence2", "a<loc_1><loc_2><loc_3><loc_4>b<loc_5><loc_", {"a": [[1, 2, 3, 4]]}, ["truncated"]),
        ("florence2", "<loc_1><loc_2><loc_3><loc_4>", {}, ["unparsed"]),
    ],
)  # fmt: skip
def test_rules_hold_in_every_family(name: str, text: str, found: dict[str, Any], problems: list[str]) -> None:
    parsed = dialects.get(name).parse(text, None)
    made = {label: [list(box) for box in boxes] for label, boxes in parsed.by_label().items()}
    assert (made, sorted(set(kinds(parsed)))) == (found, problems)


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
        for one, other in zip(quick.detections, slow.detections, strict=True):
            assert one.box == pytest.approx(other.box)
        assert (quick.problems, quick.health) == (slow.problems, slow.health)


pieces = st.sampled_from([
    REF, REF_END, BOX, BOX_END, "(", ")", ",", "1", "999", "-3", "1e9", ".", "cat", "<|",
    "<|im_end|>", "```json", '"', "[", "]", "\n", " ", "(1,2),(3,4)",
    "<ref>", "</ref>", "<box>", "</box>", "[[1, 2, 3, 4]]", "<loc0001>", "<loc_1>", "<lo",
    '{"bbox_2d": [1, 2, 3, 4], "label": "a"}', '{"bbox_2d":', "{", "}", "NaN", "1e999", "٣", "\ud800", "\x00",
])  # fmt: skip


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None, max_examples=200)
@given(st.lists(pieces, max_size=30).map("".join))
def test_no_text_makes_it_fail_and_what_is_kept_is_sound(name: str, text: str) -> None:
    parsed = dialects.get(name).parse(text, (640, 480))
    for found in parsed.detections:
        x1, y1, x2, y2 = found.box
        assert 0 <= x1 < x2 <= 640 + 1e-9
        assert 0 <= y1 < y2 <= 480 + 1e-9
        assert found.label
    empty = parsed.health == "empty"
    assert empty == (not parsed.detections and not parsed.problems)


def test_a_long_answer_is_read_in_linear_time() -> None:
    """A model that never stops: fifty thousand brackets, and a label without end."""
    for text in ("(" * 50_000, "(1," * 50_000, one("cat", 1, 2, 3, 4) * 20_000, REF + "a" * 200_000):
        assert QWEN2.parse(text, None).problems


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None)
@given(scenes())
def test_the_short_cut_for_very_many_objects_writes_what_write_does(
    name: str, scene: tuple[tuple[int, int], list[tuple[str, Box]]]
) -> None:
    (size, objects), dialect = scene, dialects.get(name)
    written = [(label, dialect.to_frame(box, size)) for label, box in objects]
    ints = np.array([box for _, box in written], np.int64).reshape(-1, 4)
    texts = dialect.objects([label for label, _ in objects], ints)
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
