"""The questions about objects: exact texts, and truths checked by an independent reading of the written area."""

import re
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import object_tasks
from vlmdet_cli.prompts.base import NoQuestion

AREA = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
CATEGORIES = ("cat", "dog", "traffic light")
SIZE = (640, 480)


def box(x: float, y: float, width: float, height: float) -> Box:
    return (x, y, min(x + width, 640.0), min(y + height, 480.0))


def objects(
    labels: Sequence[str], crowds: Sequence[bool] = (False,), max_size: int = 6
) -> st.SearchStrategy[list[Object]]:
    sides = st.one_of(st.just(0.0), st.floats(4, 60), st.floats(4, 300))
    boxes = st.builds(box, st.floats(0, 636), st.floats(0, 476), sides, sides)
    return st.lists(st.builds(Object, st.sampled_from(labels), boxes, st.sampled_from(crowds)), max_size=max_size)


def picture(
    annotated: Sequence[Object], ignored: Sequence[Object] = (), exhaustive_categories: tuple[str, ...] | None = None
) -> Picture:
    return Picture(
        image_id=1, image="a.jpg", width=640, height=480,
        objects=tuple(annotated), ignored=tuple(ignored), exhaustive_categories=exhaustive_categories,
    )  # fmt: skip


PICTURES = st.builds(
    picture,
    objects(CATEGORIES, [False] * 9 + [True], max_size=9),
    objects([*CATEGORIES, "tree"], max_size=1),
    st.sampled_from([None, None, CATEGORIES, CATEGORIES[:2], ()]),
)


def ask(kind: QuestionKind, scene: Picture, seed: int = 0, dialect: str = "qwen2_vl") -> InstructionRow | NoQuestion:
    return object_tasks.GENERATORS[kind](scene, CATEGORIES, dialects.get(dialect), Random(seed))  # noqa: S311  (a draw)


def asked(kind: QuestionKind, scene: Picture, seed: int = 0, dialect: str = "qwen2_vl") -> InstructionRow:
    row = ask(kind, scene, seed, dialect)
    assert isinstance(row, InstructionRow)
    return row


def pixels(numbers: Sequence[str]) -> Box:
    x1, y1, x2, y2 = (int(value) for value in numbers)
    assert 0 <= x1 < x2 <= 1000
    assert 0 <= y1 < y2 <= 1000
    return (x1 * 0.64, y1 * 0.48, x2 * 0.64, y2 * 0.48)


def written(text: str) -> Box:
    """The only area of a text, in pixels."""
    (numbers,) = AREA.findall(text)
    return pixels(numbers)


def drawn(answer: str) -> list[tuple[str, Box]]:
    """Labels and boxes, in pixels, of a detection text."""
    parts = re.findall(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>" + AREA.pattern, answer)
    return [(label, pixels(numbers)) for label, *numbers in parts]


def near(first: Box, second: Box) -> bool:
    """Whether a written box is that of an object: the frame's unit is 0.64 pixels or less."""
    return all(abs(a - b) <= 0.65 for a, b in zip(first, second, strict=True))


def size(first: Box) -> float:
    return (first[2] - first[0]) * (first[3] - first[1])


def common(first: Box, second: Box) -> float:
    return max(0.0, min(first[2], second[2]) - max(first[0], second[0])) * max(
        0.0, min(first[3], second[3]) - max(first[1], second[1])
    )


def countable(scene: Picture, label: str) -> list[Object]:
    """The objects of a category that may be counted: none of them is a crowd, ignored or without area."""
    annotated_objects = [o for o in (*scene.objects, *scene.ignored) if o.label == label]
    assert not any(o.crowd or not size(o.box) for o in annotated_objects)
    assert not any(o.label == label for o in scene.ignored)
    assert scene.exhaustive_categories is None or label in scene.exhaustive_categories
    return annotated_objects


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_a_region_holds_its_answer_and_cuts_nothing(scene: Picture, seed: int) -> None:
    row = ask("region", scene, seed)
    if isinstance(row, NoQuestion):
        return
    area, slack = written(row.prompt), 1e-9
    inside = []
    for o in (*scene.objects, *scene.ignored):
        x1, y1, x2, y2 = o.box
        if area[0] - slack <= x1 and area[1] - slack <= y1 and x2 <= area[2] + slack and y2 <= area[3] + slack:
            inside.append(o)
        else:
            assert common(o.box, area) <= 640 * slack
    assert inside
    assert not any(o.crowd or o in scene.ignored or not size(o.box) for o in inside)
    answer = drawn(row.answer)
    assert len(answer) == len(inside)
    for o in inside:
        assert any(label == o.label and near(written_box, o.box) for label, written_box in answer)
    corners = [(written_box[1], written_box[0]) for _, written_box in answer]
    assert corners == sorted(corners)
    assert scene.exhaustive_categories is None or set(CATEGORIES) <= set(scene.exhaustive_categories)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_a_named_category_is_that_of_the_only_object_with_that_box(scene: Picture, seed: int) -> None:
    row = ask("class", scene, seed)
    if isinstance(row, NoQuestion):
        return
    area, label = written(row.prompt), row.answer.split('"')[1]
    assert written(row.answer) == area
    assert any(o.label == label and near(area, o.box) for o in scene.targets)
    for o in (*scene.objects, *scene.ignored):
        shared = common(o.box, area)
        assert o.label == label or shared < 0.5 * (size(o.box) + size(area) - shared) * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_the_largest_is_clearly_larger_than_all_others_of_its_category(scene: Picture, seed: int) -> None:
    row = ask("largest", scene, seed)
    if isinstance(row, NoQuestion):
        return
    ((label, written_box),) = drawn(row.answer)
    assert row.prompt.split('"')[1] == label
    second, first = sorted(countable(scene, label), key=lambda o: size(o.box))[-2:]
    assert size(first.box) >= 1.2 * size(second.box)
    assert near(written_box, first.box)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_what_lies_left_is_counted_and_nothing_crosses_the_border(scene: Picture, seed: int) -> None:
    row = ask("left", scene, seed)
    if isinstance(row, NoQuestion):
        return
    label, border = row.prompt.split('"')[1], written(row.prompt)[0]
    number = re.match(r"(\d+) objects", row.answer)
    assert number
    annotated_objects = countable(scene, label)
    assert annotated_objects
    assert int(number[1]) == sum(o.box[2] <= border + 1e-9 for o in annotated_objects)
    own = [o for o in scene.targets if near(written(row.prompt), o.box)]
    assert own
    crossing = [o for o in annotated_objects if o.box[0] < border - 1e-9 and o.box[2] > border + 1e-9]
    assert len(crossing) <= (1 if any(o.label == label for o in own) else 0)
    assert all(o in own for o in crossing)


@settings(max_examples=50, deadline=None)
@given(PICTURES, st.integers(0, 99), st.sampled_from(list(object_tasks.GENERATORS)))
def test_the_same_draw_gives_the_same_question(scene: Picture, seed: int, kind: QuestionKind) -> None:
    assert ask(kind, scene, seed) == ask(kind, scene, seed)


SPREAD = [
    Object("cat", (64, 48, 128, 96)),
    Object("dog", (320, 240, 384, 288)),
    Object("cat", (512, 384, 640, 480)),
]  # fmt: skip
FIRST, DOG, LAST = (
    f"<|box_start|>({text})<|box_end|>" for text in ("100,100),(200,200", "500,500),(600,600", "800,800),(1000,1000")
)


def test_the_texts_of_a_category_question_are_exact() -> None:
    row = asked("class", picture([SPREAD[1]]))
    assert row.kind == "class"
    assert row.prompt == f"<image> Please name the category of the object in the area {DOG}."
    assert row.answer == f'The object in the area {DOG} is a "dog".'


def test_the_texts_of_a_largest_question_are_exact() -> None:
    row = asked("largest", picture(SPREAD))
    assert row.kind == "largest"
    assert row.prompt == '<image> Please draw the bounding box of the largest "cat".'
    assert row.answer == f"<|object_ref_start|>cat<|object_ref_end|>{LAST}"


def test_the_texts_of_a_left_question_are_exact_and_have_one_form_for_every_number() -> None:
    rows = [asked("left", picture(SPREAD), seed) for seed in range(40)]
    assert {row.kind for row in rows} == {"left"}
    expected = {
        (
            f'<image> Please count how many objects of the category "{label}" lie left of the area {area}.',
            f'{number} objects of the category "{label}" lie left of the area {area}.',
        )
        for area, cats, dogs in ((FIRST, 0, 0), (DOG, 1, 0), (LAST, 1, 1))
        for label, number in (("cat", cats), ("dog", dogs))
    }
    assert {(row.prompt, row.answer) for row in rows} == expected


def test_the_texts_of_a_region_question_are_exact() -> None:
    row = asked("region", picture([SPREAD[1]]))
    assert row.kind == "region"
    area = AREA.search(row.prompt)
    assert area
    assert row.prompt == f"<image> Please draw the bounding box of each object inside the area {area[0]}."
    assert row.answer == f"<|object_ref_start|>dog<|object_ref_end|>{DOG}"


def test_a_regions_annotated_objectsstand_from_top_to_bottom_then_from_left_to_right() -> None:
    boxes = [(300, 100, 340, 140), (200, 200, 240, 240), (100, 300, 140, 340), (90, 200, 130, 240)]
    overall = Object("dog", (90, 100, 340, 340))  # no area leaves it out, so all are asked for
    row = asked("region", picture([*(Object("cat", small_box) for small_box in boxes), overall]), 1)
    tops = [(round(drawn_box[1]), round(drawn_box[0])) for _, drawn_box in drawn(row.answer)]
    assert tops == [(100, 90), (100, 300), (200, 90), (200, 200), (300, 100)]


def test_regions_are_drawn_around_one_object_and_around_several() -> None:
    rows = [asked("region", picture(SPREAD), seed) for seed in range(60)]
    assert {len(drawn(row.answer)) for row in rows} == {1, 2, 3}
    assert len({row.prompt for row in rows}) == 60


def test_annotated_objectsthat_overlap_are_asked_for_together() -> None:
    pair = [
        Object("cat", (100, 100, 200, 200)),
        Object("dog", (150, 150, 250, 250)),
        Object("cat", (500, 400, 520, 420)),
    ]
    answers = {asked("region", picture(pair), seed).answer for seed in range(40)}
    assert {len(drawn(answer)) for answer in answers} == {1, 2, 3}
    assert not any(len(drawn(answer)) == 1 and drawn(answer)[0][1][0] < 300 for answer in answers)


@pytest.mark.parametrize("name", dialects.names())
@pytest.mark.parametrize("kind", ["region", "largest"])
def test_every_dialect_reads_the_boxes_that_it_wrote(name: str, kind: QuestionKind) -> None:
    spread = [Object(o.label, (o.box[0], o.box[1], o.box[2] - 30, o.box[3] - 30)) for o in SPREAD]
    parsed = dialects.get(name).parse(asked(kind, picture(spread), 1, name).answer, SIZE, CATEGORIES)
    assert parsed.health == "ok"
    assert parsed.detections
    for detection in parsed.detections:
        boxes = [o.box for o in spread if o.label == detection.label]
        assert any(np.allclose(detection.box, box, atol=1.5) for box in boxes), detection  # a thousandth is 0.64 pixels


CAT, OVER = Object("cat", (100, 100, 200, 200)), Object("dog", (100, 100, 200, 180))
FLAT = Object("cat", (100, 100, 100, 200))
TWO_CATS = [CAT, Object("cat", (300, 100, 390, 200))]


@pytest.mark.parametrize(
    ("kind", "scene", "reason"),
    [
        ("region", picture([]), "no object"),
        ("region", picture([FLAT]), "no object"),
        ("region", picture([CAT], exhaustive_categories=("cat",)), "not every category was looked for"),
        ("region", picture([CAT], [OVER]), "no area parts targets from all else"),
        ("region", picture([CAT, Object("cat", OVER.box, crowd=True)]), "no area parts targets from all else"),
        ("class", picture([], [CAT]), "no object"),
        ("class", picture([Object("cat", CAT.box, crowd=True)]), "no object"),
        ("class", picture([CAT, OVER]), "another category's object in the same place"),
        ("class", picture([CAT], [OVER]), "another category's object in the same place"),
        ("class", picture([CAT, Object("dog", OVER.box, crowd=True)]), "another category's object in the same place"),
        ("largest", picture([CAT]), "no category has a clearly largest object"),
        ("largest", picture(TWO_CATS), "no category has a clearly largest object"),
        ("largest", picture(SPREAD, [CAT]), "no category has a clearly largest object"),
        ("largest", picture([*SPREAD, FLAT]), "no category has a clearly largest object"),
        ("largest", picture(SPREAD, exhaustive_categories=("dog",)), "no category has a clearly largest object"),
        ("largest", picture(SPREAD, exhaustive_categories=()), "no category has a clearly largest object"),
        ("left", picture([]), "no category can be counted"),
        ("left", picture([CAT], [CAT]), "no category can be counted"),
        ("left", picture([Object("cat", OVER.box, crowd=True), CAT]), "no category can be counted"),
        ("left", picture([CAT], exhaustive_categories=("dog",)), "no category can be counted"),
    ],
)  # fmt: skip
def test_a_picture_that_admits_no_true_question_says_why(kind: QuestionKind, scene: Picture, reason: str) -> None:
    assert ask(kind, scene) == NoQuestion(reason)


def test_a_border_that_an_object_crosses_is_not_asked_about() -> None:
    scene = picture([Object("dog", (150, 0, 160, 10)), Object("cat", (100, 0, 200, 10))], [Object("dog", (1, 1, 2, 2))])
    rows = [asked("left", scene, seed) for seed in range(30)]
    assert {row.answer for row in rows} == {
        '0 objects of the category "cat" lie left of the area <|box_start|>(156,0),(312,21)<|box_end|>.'
    }


@pytest.mark.parametrize(("right", "number"), [(63.9, "1"), (64.0, "1"), (64.1, None)])
def test_an_object_lies_left_if_it_ends_at_the_border_at_the_latest(right: float, number: str | None) -> None:
    scene = picture([Object("cat", (0, 0, right, 10)), Object("dog", (64, 0, 128, 10))])
    answers = [asked("left", scene, seed).answer for seed in range(40)]
    assert {text[0] for text in answers if '"cat"' in text and "(100,0)" in text} == ({number} if number else set())


def test_an_object_does_not_cross_its_own_border() -> None:
    assert asked("left", picture([Object("cat", (100.3, 0, 200, 10))])).answer.startswith("0 objects")


def test_where_every_border_is_crossed_the_question_is_refused() -> None:
    # both are written from 157 on, 100.48 pixels, and begin before that
    same = [Object("cat", (100.3, 0, 200, 10)), Object("cat", (100.3, 50, 200, 60))]
    assert ask("left", picture(same)) == NoQuestion("an object crosses every border drawn")


@pytest.mark.parametrize(("bottom", "has_question"), [(143.9, True), (144.1, False)])
def test_another_category_has_nearly_the_same_box_from_an_iou_of_one_half_on(bottom: float, has_question: bool) -> None:
    scene = picture([Object("cat", (64, 48, 128, 240))], [Object("dog", (64, 48, 128, bottom))])
    assert isinstance(ask("class", scene), InstructionRow) == has_question


@pytest.mark.parametrize("flat_box", [(50, 150, 300, 150), (0, 120, 0, 150), (0, 150, 0, 150)])
def test_a_line_or_a_point_in_an_area_prevents_the_question_too(flat_box: Box) -> None:
    scene = picture([Object("cat", (0, 100, 100, 200))], [Object("tree", flat_box)])
    assert ask("region", scene) == NoQuestion("no area parts targets from all else")


def test_the_largest_is_at_least_a_fifth_larger_than_the_second() -> None:
    enough = [Object("cat", (0, 0, 120, 10)), Object("cat", (0, 100, 100, 110))]
    assert isinstance(ask("largest", picture(enough)), InstructionRow)
    assert isinstance(ask("largest", picture([Object("cat", (0, 0, 119, 10)), enough[1]])), NoQuestion)


def test_each_question_has_the_mark_of_its_own_kind_alone() -> None:
    for kind in object_tasks.GENERATORS:
        prompt = asked(kind, picture(SPREAD)).prompt
        assert [of for mark, of in object_tasks.PHRASES if mark in prompt] == [kind]
    for prompt in ("<image>Draw the bounding box of objects", "Draw the bounding box of the largest objects"):
        assert not [of for mark, of in object_tasks.PHRASES if mark in prompt]
