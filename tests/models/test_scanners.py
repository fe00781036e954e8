"""Answers are read by the same rules in every dialect, in linear time, and no text makes reading fail."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED
from tests.models.test_dialects import kinds, object_text
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects.qwen2_vl import BOX, BOX_END, REF, REF_END

QWEN2 = dialects.get("qwen2_vl")
CASES_FILE = SHARED / "answers" / "cases.jsonl"
CASES = [json.loads(line) for line in CASES_FILE.read_text().splitlines()] if CASES_FILE.is_file() else []
END_TOKENS = ("", "<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "<pad>", " <|im_end|>\n<|endoftext|>")


@pytest.mark.skipif(not CASES, reason="the collected answers are not at hand")
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in CASES if case["dialect"] in dialects.names()] or [None]
)
def test_collected_answers_have_the_recorded_meaning(case: dict[str, Any]) -> None:
    size = tuple(case["size"]) if case["size"] else None
    parsed = dialects.get(case["dialect"]).parse(case["text"], size, case.get("categories"))
    assert set(kinds(parsed)) == set(case["problems"])
    objects = parsed.by_label()
    assert list(objects) == list(case["object"])
    for label, expected_boxes in case["object"].items():
        for box, expected in zip(objects[label], expected_boxes, strict=True):
            assert box == (pytest.approx(expected, abs=0.01) if size else expected)


@pytest.mark.parametrize(
    ("text", "objects", "problems", "health"),
    [
        (object_text("person", 531, 61, 771, 896), {"person": [[531, 61, 771, 896]]}, [], "ok"),
        ("person(531,61),(771,896)", {"person": [[531, 61, 771, 896]]}, [], "ok"),
        ("stop sign (1,2),(3,4) hot dog (5,6),(7,8)", {"stop sign": [[1, 2, 3, 4]], "hot dog": [[5, 6, 7, 8]]},
         [], "ok"),
        (object_text("cat", 1, 2, 3, 4) + f"{BOX}(5,6),(7,8){BOX_END}", {"cat": [[1, 2, 3, 4], [5, 6, 7, 8]]},
         [], "ok"),
        (object_text("cat", 30, 2, 3, 4), {"cat": [[3, 2, 30, 4]]}, ["inverted"], "partial"),
        (object_text("cat", 900, 2, 1200, 4), {"cat": [[900, 2, 1000, 4]]}, ["out_of_range"], "partial"),
        (object_text("cat", 1100, 2, 1200, 4), {}, ["degenerate"], "unparsed"),
        (object_text("cat", 1, 2, 3, 4) * 2, {"cat": [[1, 2, 3, 4]]}, ["duplicate"], "partial"),
        (object_text("cat", 1, 2, 3, 4) * 6, {"cat": [[1, 2, 3, 4]]}, ["loop"], "partial"),
        (object_text("cat", 1, 2, 3, 4) + f"{REF}dog{REF_END}{BOX}(5,", {"cat": [[1, 2, 3, 4]]}, ["truncated"],
         "partial"),
        (f"{REF}cat{REF_END}{BOX}(1,2),(3,4)", {"cat": [[1, 2, 3, 4]]}, ["truncated"], "partial"),
        (f"{REF}cat{REF_END}{BOX}(1,2){BOX_END}", {}, ["unparsed"], "unparsed"),
        (f"{REF}cat{REF_END}{REF}do", {}, ["unparsed", "truncated"], "unparsed"),
        (f"{BOX}(1,2),(3,4){BOX_END}", {}, ["unparsed"], "unparsed"),
        ("I see nothing of the kind.", {}, ["unparsed"], "unparsed"),
        ("No objects.", {}, [], "empty"),
        ("[]", {}, [], "empty"),
        ("", {}, [], "empty"),
    ],
)  # fmt: skip
def test_rules_by_example(text: str, objects: dict[str, Any], problems: list[str], health: str) -> None:
    parsed = QWEN2.parse(text, None)
    read = {label: [list(box) for box in boxes] for label, boxes in parsed.by_label().items()}
    assert (read, kinds(parsed), parsed.health) == (objects, problems, health)


@pytest.mark.parametrize(
    ("name", "text", "objects", "problems"),
    [
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"',
         {"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}, ["truncated"]),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"},', {"a": [[1, 2, 3, 4]]}, ["truncated"]),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bb', {"a": [[1, 2, 3, 4]]}, ["truncated"]),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {bbox: 1}, {"label": "b"}]', {"a": [[1, 2, 3, 4]]},
         ["unparsed"]),
        ("qwen3_vl", '{"objects": [{"label": "a } {", "bbox": [1, 2, 3, 4]}]}', {"a } {": [[1, 2, 3, 4]]}, []),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a 5" disk"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]',
         {"a 5": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}, []),
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
        ("florence2", "</s><s>a<loc_1><loc_2><loc_3><loc_4></s><pad>", {"a": [[1, 2, 3, 4]]}, []),
        ("florence2", "a<loc_1><loc_2><loc_3><loc_4>b<loc_5><loc_", {"a": [[1, 2, 3, 4]]}, ["truncated"]),
        ("florence2", "<loc_1><loc_2><loc_3><loc_4>", {}, ["unparsed"]),
    ],
)  # fmt: skip
def test_rules_hold_in_every_dialect(name: str, text: str, objects: dict[str, Any], problems: list[str]) -> None:
    parsed = dialects.get(name).parse(text, None)
    read = {label: [list(box) for box in boxes] for label, boxes in parsed.by_label().items()}
    assert (read, sorted(set(kinds(parsed)))) == (objects, problems)


@pytest.mark.parametrize("end", END_TOKENS)
@pytest.mark.parametrize("name", dialects.names())
def test_an_answer_without_objects_is_empty_whatever_token_ends_it(name: str, end: str) -> None:
    for text in (dialects.get(name).empty, "No objects.", " no objects ", "[]", ""):
        parsed = dialects.get(name).parse(text + end, None)
        assert (parsed.health, parsed.problems) == ("empty", ())


@pytest.mark.parametrize("end", END_TOKENS)
@pytest.mark.parametrize("name", dialects.names())
def test_an_end_token_and_what_follows_it_are_no_part_of_an_answer(name: str, end: str) -> None:
    dialect = dialects.get(name)
    text = dialect.write([("cat", (1, 2, 30, 40))])
    parsed = dialect.parse(f"{text}{end}{text if end else ''}", None)
    assert (parsed.by_label(), parsed.health) == ({"cat": [[1, 2, 30, 40]]}, "ok")


pieces = st.sampled_from([
    REF, REF_END, BOX, BOX_END, "(", ")", ",", "1", "999", "-3", "1e9", ".", "cat", "<|", "<", "_",
    "<|im_end|>", "```json", '"', '\\"', "[", "]", "\n", " ", "(1,2),(3,4)", "<s>", "</s>",
    "<ref>", "</ref>", "<box>", "</box>", "[[1, 2, 3, 4]]", "<loc0001>", "<loc_1>", "<lo",
    '{"bbox_2d": [1, 2, 3, 4], "label": "a"}', '{"bbox_2d":', '"label":', "{", "}", '{"', '{\\"', "NaN", "1e999", "٣",
    "\ud800", "\x00",
])  # fmt: skip


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None, max_examples=200)
@given(st.lists(pieces, max_size=30).map("".join))
def test_no_text_makes_reading_fail_and_the_boxes_kept_are_sound(name: str, text: str) -> None:
    parsed = dialects.get(name).parse(text, (640, 480))
    for detection in parsed.detections:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 < x2 <= 640 + 1e-9
        assert 0 <= y1 < y2 <= 480 + 1e-9
        assert detection.label
    empty = parsed.health == "empty"
    assert empty == (not parsed.detections and not parsed.problems)


few_pieces = st.lists(pieces, max_size=2).map("".join)
SMALL, LARGE = 2000, 16_000  # characters
FACTOR = 3 * LARGE // SMALL  # linear time gives LARGE / SMALL = 8, quadratic time 64


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None, max_examples=25)
@given(few_pieces, st.lists(pieces, min_size=1, max_size=4).map("".join), few_pieces)
@example("", "a", "")
@example("", "<", "")
@example("", "[", "")
@example("", "{", "")
@example("", "(", "")
@example("", "(1,", "")
@example("", "(1,2),", "x")
@example("", '"', "")
@example('{"', '{\\"', "")
@example("", "7", "")
@example("", " ", "x")
@example("", "\\", "")
@example("", "<loc_1>", "")
@example("", "<loc0001>", "")
@example("", "a<loc_1>", "")
@example("a", "<loc_1><loc_2><loc_3><loc_4>", "")
@example("", "cat ", "")
@example("", f"{REF}cat{REF_END}", "")
@example("", object_text("cat", 1, 2, 3, 4), "")
@example(REF, "a", "")
@example("", "<ref>a</ref><box>[[1, 2, 3, 4]]</box>", "")
@example("<ref>a</ref><box>[", "[1, 2, 3, 4], ", "]")
@example("[", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}, ', "]")
@example("[", '{"bbox_2d": [1, 2, 3, 4], "label": "a', "")
@example("", '{"a":', "")
def test_the_time_to_read_an_answer_grows_in_proportion_to_its_length(
    name: str, before: str, unit: str, after: str
) -> None:
    texts = [before + unit * (length // len(unit)) + after for length in (SMALL, LARGE)]
    assert_linear(name, *texts)


@pytest.mark.parametrize("name", dialects.names())
def test_a_very_long_label_with_thousands_of_boxes_is_read_in_linear_time(name: str) -> None:
    dialect = dialects.get(name)
    box = dialect.write_box((1, 2, 30, 40))
    texts = []
    for length in (SMALL, LARGE):
        labelled = dialect.write([("word " * (length // 10), (1, 2, 30, 41))])
        texts.append(labelled + box * (length // len(box) // 2))
    assert_linear(name, *texts)


def assert_linear(name: str, small: str, large: str) -> None:
    """The ratio of the times of two texts is below ``FACTOR``; a busy machine gets several attempts."""
    times = [float("inf")] * 2
    for _ in range(6):
        for index, text in enumerate((small, large)):
            start = time.process_time()
            dialects.get(name).parse(text, (640, 480), ["cat", "dog"])
            times[index] = min(times[index], time.process_time() - start)
        if times[1] < FACTOR * times[0]:
            return
    raise AssertionError(f"{times[1] / times[0]:.0f} times as long for {len(large) / len(small):.0f} times the text")
