"""The questions that point: exact texts, and truths checked by an independent reading of the written area."""

import re
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, Kind
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import object_tasks as pointing
from vlmdet_cli.prompts.base import NoQuestion

AREA = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
CATEGORIES = ("cat", "dog", "traffic light")
SIZE = (640, 480)
KINDS: dict[Kind, pointing.Generator] = {
    "region": pointing.region,
    "class": pointing.category,
    "largest": pointing.largest,
    "left": pointing.left,
}


def box(x: float, y: float, wide: float, high: float) -> Box:
    return (x, y, min(x + wide, 640.0), min(y + high, 480.0))


def objects(labels: Sequence[str], crowds: Sequence[bool] = (False,), most: int = 6) -> st.SearchStrategy[list[Object]]:
    sides = st.one_of(st.just(0.0), st.floats(4, 60), st.floats(4, 300))
    boxes = st.builds(box, st.floats(0, 636), st.floats(0, 476), sides, sides)
    return st.lists(st.builds(Object, st.sampled_from(labels), boxes, st.sampled_from(crowds)), max_size=most)


def picture(
    some: Sequence[Object], ignored: Sequence[Object] = (), exhaustive_categories: tuple[str, ...] | None = None
) -> Picture:
    return Picture(
        image_id=1, image="a.jpg", width=640, height=480,
        objects=tuple(some), ignored=tuple(ignored), exhaustive_categories=exhaustive_categories,
    )  # fmt: skip


PICTURES = st.builds(
    picture,
    objects(CATEGORIES, [False] * 9 + [True], most=9),
    objects([*CATEGORIES, "tree"], most=1),
    st.sampled_from([None, None, CATEGORIES, CATEGORIES[:2], ()]),
)


def ask(kind: Kind, one: Picture, seed: int = 0, dialect: str = "qwen2_vl") -> InstructionRow | NoQuestion:
    return KINDS[kind](one, CATEGORIES, dialects.get(dialect), Random(seed))  # noqa: S311  (a draw)


def asked(kind: Kind, one: Picture, seed: int = 0, dialect: str = "qwen2_vl") -> InstructionRow:
    made = ask(kind, one, seed, dialect)
    assert isinstance(made, InstructionRow)
    return made


def pixels(numbers: Sequence[str]) -> Box:
    x1, y1, x2, y2 = (int(value) for value in numbers)
    assert 0 <= x1 < x2 <= 1000
    assert 0 <= y1 < y2 <= 1000
    return (x1 * 0.64, y1 * 0.48, x2 * 0.64, y2 * 0.48)


def written(text: str) -> Box:
    """The one area of a text, in pixels."""
    (numbers,) = AREA.findall(text)
    return pixels(numbers)


def drawn(answer: str) -> list[tuple[str, Box]]:
    """Labels and boxes, in pixels, of a detection text."""
    parts = re.findall(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>" + AREA.pattern, answer)
    return [(label, pixels(numbers)) for label, *numbers in parts]


def near(one: Box, two: Box) -> bool:
    """Whether a written box is that of an object: the frame's unit is 0.64 pixels or less."""
    return all(abs(a - b) <= 0.65 for a, b in zip(one, two, strict=True))


def size(one: Box) -> float:
    return (one[2] - one[0]) * (one[3] - one[1])


def common(one: Box, two: Box) -> float:
    return max(0.0, min(one[2], two[2]) - max(one[0], two[0])) * max(0.0, min(one[3], two[3]) - max(one[1], two[1]))


def counted(one: Picture, label: str) -> list[Object]:
    """The objects of a category that may be counted: none of them is a crowd, ignored or without area."""
    every = [o for o in (*one.objects, *one.ignored) if o.label == label]
    assert not any(o.crowd or not size(o.box) for o in every)
    assert not any(o.label == label for o in one.ignored)
    assert one.exhaustive_categories is None or label in one.exhaustive_categories
    return every


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_a_region_holds_its_answer_and_cuts_nothing(one: Picture, seed: int) -> None:
    made = ask("region", one, seed)
    if isinstance(made, NoQuestion):
        return
    area, slack = written(made.prompt), 1e-9
    inside = []
    for o in (*one.objects, *one.ignored):
        x1, y1, x2, y2 = o.box
        if area[0] - slack <= x1 and area[1] - slack <= y1 and x2 <= area[2] + slack and y2 <= area[3] + slack:
            inside.append(o)
        else:
            assert common(o.box, area) <= 640 * slack
    assert inside
    assert not any(o.crowd or o in one.ignored or not size(o.box) for o in inside)
    answer = drawn(made.answer)
    assert len(answer) == len(inside)
    for o in inside:
        assert any(label == o.label and near(place, o.box) for label, place in answer)
    places = [(place[1], place[0]) for _, place in answer]
    assert places == sorted(places)
    assert one.exhaustive_categories is None or set(CATEGORIES) <= set(one.exhaustive_categories)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_a_named_category_is_that_of_the_only_object_there(one: Picture, seed: int) -> None:
    made = ask("class", one, seed)
    if isinstance(made, NoQuestion):
        return
    area, label = written(made.prompt), made.answer.split('"')[1]
    assert written(made.answer) == area
    assert any(o.label == label and near(area, o.box) for o in one.targets)
    for o in (*one.objects, *one.ignored):
        shared = common(o.box, area)
        assert o.label == label or shared < 0.5 * (size(o.box) + size(area) - shared) * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_the_largest_is_clearly_so_among_all_of_its_category(one: Picture, seed: int) -> None:
    made = ask("largest", one, seed)
    if isinstance(made, NoQuestion):
        return
    ((label, place),) = drawn(made.answer)
    assert made.prompt.split('"')[1] == label
    second, first = sorted(counted(one, label), key=lambda o: size(o.box))[-2:]
    assert size(first.box) >= 1.2 * size(second.box)
    assert near(place, first.box)


@settings(max_examples=200, deadline=None)
@given(PICTURES, st.integers(0, 99))
def test_what_lies_left_is_counted_and_nothing_crosses_the_border(one: Picture, seed: int) -> None:
    made = ask("left", one, seed)
    if isinstance(made, NoQuestion):
        return
    label, border = made.prompt.split('"')[1], written(made.prompt)[0]
    said = re.match(r"(\d+) objects", made.answer)
    assert said
    every = counted(one, label)
    assert every
    assert int(said[1]) == sum(o.box[2] <= border + 1e-9 for o in every)
    own = [o for o in one.targets if near(written(made.prompt), o.box)]
    assert own
    crossing = [o for o in every if o.box[0] < border - 1e-9 and o.box[2] > border + 1e-9]
    assert len(crossing) <= (1 if any(o.label == label for o in own) else 0)
    assert all(o in own for o in crossing)


@settings(max_examples=50, deadline=None)
@given(PICTURES, st.integers(0, 99), st.sampled_from(list(KINDS)))
def test_the_same_draw_gives_the_same_question(one: Picture, seed: int, kind: Kind) -> None:
    assert ask(kind, one, seed) == ask(kind, one, seed)


SPREAD = [
    Object("cat", (64, 48, 128, 96)),
    Object("dog", (320, 240, 384, 288)),
    Object("cat", (512, 384, 640, 480)),
]  # fmt: skip
FIRST, DOG, LAST = (
    f"<|box_start|>({text})<|box_end|>" for text in ("100,100),(200,200", "500,500),(600,600", "800,800),(1000,1000")
)


def test_the_texts_of_a_category_question_are_exact() -> None:
    made = asked("class", picture([SPREAD[1]]))
    assert made.kind == "class"
    assert made.prompt == f"<image> Please name the category of the object in the area {DOG}."
    assert made.answer == f'The object in the area {DOG} is a "dog".'


def test_the_texts_of_a_largest_question_are_exact() -> None:
    made = asked("largest", picture(SPREAD))
    assert made.kind == "largest"
    assert made.prompt == '<image> Please draw the bounding box of the largest "cat".'
    assert made.answer == f"<|object_ref_start|>cat<|object_ref_end|>{LAST}"


def test_the_texts_of_a_left_question_are_exact_and_have_one_form_for_every_number() -> None:
    made = [asked("left", picture(SPREAD), seed) for seed in range(40)]
    assert {one.kind for one in made} == {"left"}
    expected = {
        (
            f'<image> Please count how many objects of the category "{label}" lie left of the area {area}.',
            f'{number} objects of the category "{label}" lie left of the area {area}.',
        )
        for area, cats, dogs in ((FIRST, 0, 0), (DOG, 1, 0), (LAST, 1, 1))
        for label, number in (("cat", cats), ("dog", dogs))
    }
    assert {(one.prompt, one.answer) for one in made} == expected


def test_the_texts_of_a_region_question_are_exact() -> None:
    made = asked("region", picture([SPREAD[1]]))
    assert made.kind == "region"
    area = AREA.search(made.prompt)
    assert area
    assert made.prompt == f"<image> Please draw the bounding box of each object inside the area {area[0]}."
    assert made.answer == f"<|object_ref_start|>dog<|object_ref_end|>{DOG}"


def test_a_regions_objects_stand_from_top_to_bottom_then_from_left_to_right() -> None:
    boxes = [(300, 100, 340, 140), (200, 200, 240, 240), (100, 300, 140, 340), (90, 200, 130, 240)]
    overall = Object("dog", (90, 100, 340, 340))  # no area leaves it out, so all are asked for
    made = asked("region", picture([*(Object("cat", place) for place in boxes), overall]), 1)
    tops = [(round(place[1]), round(place[0])) for _, place in drawn(made.answer)]
    assert tops == [(100, 90), (100, 300), (200, 90), (200, 200), (300, 100)]


def test_regions_are_drawn_around_one_object_and_around_several() -> None:
    made = [asked("region", picture(SPREAD), seed) for seed in range(60)]
    assert {len(drawn(one.answer)) for one in made} == {1, 2, 3}
    assert len({one.prompt for one in made}) == 60


def test_objects_that_overlap_are_asked_for_together() -> None:
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
def test_every_dialect_reads_the_boxes_that_it_wrote(name: str, kind: Kind) -> None:
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
    ("kind", "one", "reason"),
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
def test_a_picture_that_admits_no_true_question_says_why(kind: Kind, one: Picture, reason: str) -> None:
    assert ask(kind, one) == NoQuestion(reason)


def test_a_border_that_an_object_crosses_is_not_asked_about() -> None:
    one = picture([Object("dog", (150, 0, 160, 10)), Object("cat", (100, 0, 200, 10))], [Object("dog", (1, 1, 2, 2))])
    made = [asked("left", one, seed) for seed in range(30)]
    assert {one.answer for one in made} == {
        '0 objects of the category "cat" lie left of the area <|box_start|>(156,0),(312,21)<|box_end|>.'
    }


@pytest.mark.parametrize(("right", "number"), [(63.9, "1"), (64.0, "1"), (64.1, None)])
def test_an_object_lies_left_if_it_ends_at_the_border_at_the_latest(right: float, number: str | None) -> None:
    one = picture([Object("cat", (0, 0, right, 10)), Object("dog", (64, 0, 128, 10))])
    made = [asked("left", one, seed).answer for seed in range(40)]
    assert {text[0] for text in made if '"cat"' in text and "(100,0)" in text} == ({number} if number else set())


def test_an_object_does_not_cross_its_own_border() -> None:
    assert asked("left", picture([Object("cat", (100.3, 0, 200, 10))])).answer.startswith("0 objects")


def test_where_every_border_is_crossed_the_question_is_refused() -> None:
    # both are written from 157 on, 100.48 pixels, and begin before that
    same = [Object("cat", (100.3, 0, 200, 10)), Object("cat", (100.3, 50, 200, 60))]
    assert ask("left", picture(same)) == NoQuestion("an object crosses every border drawn")


@pytest.mark.parametrize(("bottom", "there"), [(143.9, True), (144.1, False)])
def test_another_category_is_in_the_same_place_from_half_the_union_on(bottom: float, there: bool) -> None:
    one = picture([Object("cat", (64, 48, 128, 240))], [Object("dog", (64, 48, 128, bottom))])
    assert isinstance(ask("class", one), InstructionRow) == there


@pytest.mark.parametrize("place", [(50, 150, 300, 150), (0, 120, 0, 150), (0, 150, 0, 150)])
def test_a_line_or_a_point_in_an_area_is_in_the_way_too(place: Box) -> None:
    one = picture([Object("cat", (0, 100, 100, 200))], [Object("tree", place)])
    assert ask("region", one) == NoQuestion("no area parts targets from all else")


def test_the_largest_may_be_just_so_much_larger() -> None:
    enough = [Object("cat", (0, 0, 120, 10)), Object("cat", (0, 100, 100, 110))]
    assert isinstance(ask("largest", picture(enough)), InstructionRow)
    assert isinstance(ask("largest", picture([Object("cat", (0, 0, 119, 10)), enough[1]])), NoQuestion)


def test_each_question_has_the_mark_of_its_own_kind_alone() -> None:
    for kind in KINDS:
        prompt = asked(kind, picture(SPREAD)).prompt
        assert [of for mark, of in pointing.PHRASES if mark in prompt] == [kind]
    for prompt in ("<image>Draw the bounding box of objects", "Draw the bounding box of the largest objects"):
        assert not [of for mark, of in pointing.PHRASES if mark in prompt]
