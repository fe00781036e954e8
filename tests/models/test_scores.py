"""Scores from log-probabilities: each rule is its formula over the tokens that write a box, in every dialect."""

import math
import re
import time
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.answers import Token
from vlmdet_cli.core.settings import ScoreRule
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects.base import FrameBox

RULES: tuple[ScoreRule, ...] = get_args(ScoreRule)
LABEL_BEHIND = {"qwen2_5_vl", "qwen3_vl", "paligemma"}
SIZE = (640, 480)


def reference(name: str, text: str, tokens: list[Token], labels: list[str]) -> list[dict[ScoreRule, float]]:
    """The scores of the boxes of a well-formed text, in its order, from the tokens of each character."""
    owners, waiting = list[set[int]](), set[int]()
    for number, (piece, _) in enumerate(tokens):
        waiting.add(number)  # without text it belongs to the next character
        for _ in piece:
            owners.append(waiting)
            waiting = {number}
        waiting = set() if piece else waiting
    numbers = [match.span() for match in re.finditer(r"\d+", text.replace("bbox_2d", "bbox_xd"))]
    boxes = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]

    def total(*groups: set[int]) -> float:
        return sum(tokens[number][1] for number in set().union(*groups))

    scores = []
    for box, label in zip(boxes, labels, strict=True):
        start = text.index(label, box[-1][1]) if name in LABEL_BEHIND else text.rindex(label, 0, box[0][0])
        written = set().union(*owners[start : start + len(label)])
        sides = [set().union(*owners[first : end + 1]) for first, end in box]
        by_rule: dict[ScoreRule, float] = {
            "product": math.exp(total(written, *sides)),
            "geometric_mean": math.exp(total(written, *sides) / len(written.union(*sides))),
            "label": math.exp(total(written)),
            "min_coordinate": min(math.exp(total(side)) for side in sides),
            "label_times_mean": math.exp(total(written) + total(*sides) / 4),
            "label_times_token_mean": math.exp(total(written) + total(*sides) / len(set().union(*sides))),
            "label_times_min": math.exp(total(written) + min(map(total, sides))),
        }
        scores.append(by_rule)
    return scores


boxes = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(401, 999), st.integers(401, 999))
scenes = st.lists(st.tuples(st.sampled_from(["cat", "hot dog", "zebra", "猫"]), boxes), min_size=1, unique=True)


def cut(text: str, data: st.DataObject) -> list[Token]:
    """A text cut into tokens anywhere, with any log-probabilities; a token may be empty."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=60)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    return [(piece, data.draw(st.floats(-2, 0))) for piece in pieces]


@pytest.mark.parametrize("name", dialects.names())
@settings(deadline=None, max_examples=25)
@given(st.data(), scenes, st.booleans(), st.sampled_from(["", "<|im_end|>", "</s>"]))
def test_each_rule_is_its_formula_over_the_tokens_of_label_and_coordinates(
    name: str, data: st.DataObject, scene: list[tuple[str, FrameBox]], group: bool, end: str
) -> None:
    dialect = dialects.get(name)
    text = dialect.write(scene, group=group)
    tokens = cut(text + end, data)
    for rule in RULES:
        detections = dialect.parse(text + end, SIZE, None, tokens, rule).detections
        expected = reference(name, text, tokens, [detection.label for detection in detections])
        assert [detection.score for detection in detections] == pytest.approx([entry[rule] for entry in expected])
        assert all(0 <= (detection.score or 0) <= 1 for detection in detections)


@pytest.mark.parametrize("name", dialects.names())
def test_the_certainty_of_one_box_is_no_other_boxs(name: str) -> None:
    """Two boxes behind one label, where the dialect has such a form: the second one's numbers are the unsure ones."""
    dialect = dialects.get(name)
    text = dialect.write([("cat", (101, 102, 903, 904)), ("cat", (205, 206, 807, 808))], group=True)
    tokens = [(piece, -1.0 if "205" in piece or "807" in piece else 0.0) for piece in re.split(r"(\d\d\d\d?)", text)]
    for rule in RULES:
        first, second = dialect.parse(text, None, None, tokens, rule).detections
        assert first.score == 1
        assert (second.score == 1) == (rule == "label")


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("paligemma", [("<loc0001><loc0002><loc0003><loc0004>", 0.0), (" cat", 0.0), (" ;", -9.0), (" ", -9.0),
                       ("<loc0005><loc0006><loc0007><loc0008>", 0.0), (" cat", 0.0)]),
        ("qwen3_vl", [('[{"', -9.0), ("bbox_2d", -9.0), ('": [', -9.0), ("1, 2, 3, 4]", 0.0), (', "label": "', -9.0),
                      ("cat", 0.0), ('"}]', -9.0)]),
        ("qwen2_vl", [("cat", 0.0), (" ", -9.0), ("(", -9.0), ("1,2),(3,4)", 0.0), (", ", -9.0), ("cat", 0.0),
                      ("(5,6),(7,8)", 0.0)]),
    ],
)  # fmt: skip
def test_what_stands_between_labels_and_numbers_has_no_part_in_a_score(name: str, tokens: list[Token]) -> None:
    text = "".join(piece for piece, _ in tokens)
    parsed = dialects.get(name).parse(text, None, None, tokens)
    assert {(detection.label, detection.score) for detection in parsed.detections} == {("cat", 1.0)}


def test_the_character_that_ends_a_number_is_a_part_of_it() -> None:
    text, tokens = "cat(1,2),(3,4)", [("cat", 0.0), ("(1", 0.0), (",", -0.5), ("2),(3,4)", 0.0)]
    (detection,) = dialects.get("qwen2_vl").parse(text, None, None, tokens, "min_coordinate").detections
    assert detection.score == pytest.approx(math.exp(-0.5))


def test_a_box_that_the_tokens_do_not_reach_has_no_score() -> None:
    text = "cat(1,2),(3,4)dog(5,6),(7,8)"
    detections = dialects.get("qwen2_vl").parse(text, None, None, [("cat(1,2),(3,4)", -1.0)]).detections
    assert [detection.score is None for detection in detections] == [False, True]


def test_thousands_of_boxes_behind_a_long_label_are_scored_in_linear_time() -> None:
    times = []
    for count in (500, 4000):
        label = "word " * count
        text = label + "".join(f"({n % 900},1),({n % 900 + 5},{n // 900 + 2})" for n in range(count))
        tokens = [(text[start : start + 3], -0.1) for start in range(0, len(text), 3)]
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            assert len(dialects.get("qwen2_vl").parse(text, None, None, tokens).detections) == count
            best = min(best, time.process_time() - start)
        times.append(best)
    assert times[1] < 24 * times[0]
