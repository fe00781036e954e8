"""The four documented questions: exact texts, and truths checked by an independent reading of the written area."""

import re
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data import dataset
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion

AREA = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
CATEGORIES = ("cat", "dog", "traffic light")
SIZE = (640, 480)
FOUR: tuple[QuestionKind, ...] = ("count", "full", "partial", "none")
ROUNDING = 1e-9  # of floats, in pixels


def area_of(row: InstructionRow) -> Box:
    """The area in pixels, as the question writes it; the answer must name the same one."""
    asked, answered = AREA.search(row.prompt), AREA.search(row.answer)
    assert asked
    assert answered
    assert asked[0] == answered[0]
    x1, y1, x2, y2 = (int(value) for value in asked.groups())
    assert 0 <= x1 < x2 <= 1000
    assert 0 <= y1 < y2 <= 1000
    return (x1 * SIZE[0] / 1000, y1 * SIZE[1] / 1000, x2 * SIZE[0] / 1000, y2 * SIZE[1] / 1000)


def label_of(row: InstructionRow) -> str:
    return row.answer.split('"')[1]


def common_area(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def share_inside(box: Box, area: Box) -> float:
    return common_area(box, area) / ((box[2] - box[0]) * (box[3] - box[1]))


def is_inside(box: Box, area: Box) -> bool:
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def distance(box: Box, area: Box) -> float:
    """The gap in pixels along the axis where it is larger; 0 where the boxes overlap."""
    across = max(box[0] - area[2], area[0] - box[2])
    down = max(box[1] - area[3], area[1] - box[3])
    return max(across, down, 0.0)


def check_truth(row: InstructionRow, objects: Sequence[Object]) -> None:
    """Asserts that the question is true of all annotated objects, one by one."""
    area = area_of(row)
    if row.kind == "full":
        inside = [o for o in objects if is_inside(o.box, area)]
        assert [o.label for o in inside] == [label_of(row)]
        assert all(share_inside(o.box, area) < 0.9 + ROUNDING for o in objects if o is not inside[0])
    elif row.kind == "partial":
        touching = [o for o in objects if common_area(o.box, area) > 0]
        assert [o.label for o in touching] == [label_of(row)]
        share = share_inside(touching[0].box, area)
        assert 0.1 <= share <= 0.9
        percent = re.search(r"about (\d+)%", row.answer)
        assert percent
        assert int(percent[1]) % 10 == 0
        assert abs(int(percent[1]) - 100 * share) <= 5 + 1e-6
    else:
        assert row.kind == "none"
        assert all(distance(o.box, area) > 1 - ROUNDING for o in objects)


def box(x: float, y: float, width: float, height: float) -> Box:
    return (x, y, min(x + width, 640.0), min(y + height, 480.0))


def picture(objects: Sequence[Object], ignored: Sequence[Object] = (), image_id: int = 1) -> Picture:
    return Picture(
        image_id=image_id, image="a.jpg", width=SIZE[0], height=SIZE[1], objects=tuple(objects), ignored=tuple(ignored)
    )


def ask_all(kind: QuestionKind, pictures: Sequence[Picture], seed: int = 0) -> Sequence[InstructionRow | NoQuestion]:
    data = dataset.from_pictures(pictures, CATEGORIES)
    keys = dataset.image_hashes(data.images, seed, "test")
    return questions.generate_questions(kind, data, keys, dialects.get("qwen2_vl"))


def ask(kind: QuestionKind, *pictures: Picture, seed: int) -> InstructionRow | NoQuestion:
    """The question about the first picture, asked in one go with the others."""
    return ask_all(kind, pictures, seed)[0]


def rows_of(kind: QuestionKind, scene: Sequence[Object], count: int) -> list[InstructionRow]:
    """Questions about ``count`` pictures with the same objects; draws differ, since they depend on the id."""
    pictures = [picture(scene, image_id=number) for number in range(count)]
    return [row for row in ask_all(kind, pictures) if isinstance(row, InstructionRow)]


OBJECTS = st.lists(
    st.builds(
        Object,
        st.sampled_from(CATEGORIES),
        st.builds(box, st.floats(0, 600), st.floats(0, 440), st.floats(4, 300), st.floats(4, 300)),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, OBJECTS, st.integers(0, 1000))
def test_every_area_is_true_of_all_objects_crowds_and_ignored_ones_included(
    objects: list[Object], ignored: list[Object], seed: int
) -> None:
    for kind in FOUR[1:]:
        row = ask(kind, picture(objects, ignored), seed=seed)
        if isinstance(row, InstructionRow):
            check_truth(row, [*objects, *ignored])


def crowded_scene(seed: int) -> list[Object]:
    """Objects close to each other and inside each other, as a person with a racket or a shelf of bottles."""
    random, objects = Random(seed), list[Object]()  # noqa: S311  (a scene)
    for _ in range(random.randint(1, 7)):
        x, y, width, height = (
            random.uniform(0, 560),
            random.uniform(0, 400),
            random.uniform(20, 300),
            random.uniform(20, 300),
        )
        objects.append(Object(random.choice(CATEGORIES), box(x, y, width, height)))
        if random.random() < 0.6:  # a second object that ends within some pixels of the first one's right border
            end = objects[-1].box[2] + random.uniform(-3, 12)
            objects.append(Object(random.choice(CATEGORIES), box(max(end - 60, 0), y, end - max(end - 60, 0), 15)))
    return objects


def test_areas_are_true_in_crowded_scenes() -> None:
    scenes = [crowded_scene(seed) for seed in range(1500)]
    pictures = [picture(scene, image_id=number) for number, scene in enumerate(scenes)]
    for kind in FOUR[1:]:
        rows = [(row, scene) for row, scene in zip(ask_all(kind, pictures), scenes, strict=True)
                if isinstance(row, InstructionRow)]  # fmt: skip
        assert len(rows) > 500
        for row, scene in rows:
            check_truth(row, scene)


def test_the_area_of_a_full_question_never_holds_nine_tenths_of_a_second_object() -> None:
    person, racket = Object("cat", (200, 150, 300, 250)), Object("dog", (210, 160, 320, 240))
    shares = [share_inside(racket.box, area_of(row)) for row in rows_of("full", [person, racket], 400)
              if label_of(row) == "cat"]  # fmt: skip
    assert len(shares) > 50
    assert max(shares) < 0.9
    assert max(shares) > 0.85  # less than that is allowed


def test_an_area_without_objects_keeps_a_pixel_away_from_all_of_them() -> None:
    shelf = [Object("cat", box(40 * n, 0, 39, 300)) for n in range(16)]
    line = Object("dog", (0, 420, 640, 420))  # an annotation without area
    gaps = [distance(o.box, area_of(row)) for row in rows_of("none", [*shelf, line], 3000) for o in (*shelf, line)]
    assert 1 - ROUNDING < min(gaps) < 1.5


def test_the_texts_are_exact() -> None:
    scene = [Object("dog", (100, 100, 200, 200)), Object("cat", (300, 300, 400, 400)), Object("dog", (500, 0, 600, 99))]
    asked = {kind: ask(kind, picture(scene), seed=3) for kind in FOUR}
    rows = {kind: row for kind, row in asked.items() if isinstance(row, InstructionRow)}
    assert len(rows) == 4
    assert rows["count"].prompt == "<image> Please count how many objects of each category are in the image."
    assert rows["count"].answer == "cat: 1\ndog: 2"
    expected: tuple[tuple[QuestionKind, str, str], ...] = (
        ("full", "and describe if it fully contains any object from the COCO categories.",
         r'The area A fully contains a "(dog|cat)"\.'),
        ("partial", "and describe the category and degree of inclusion.",
         r'The area A partially contains a "(dog|cat)", about \d0% is visible\.'),
        ("none", "and determine if any object is present.",
         r"The area A does not contain any object from the COCO categories\."),
    )  # fmt: skip
    for kind, question, answer in expected:
        area = AREA.search(rows[kind].prompt)
        assert area
        assert rows[kind].prompt == f"<image> Please check the area {area[0]} {question}"
        assert re.fullmatch(answer, rows[kind].answer.replace(area[0], "A"))


def test_areas_vary_and_depend_on_seed_and_picture_alone() -> None:
    cat = picture([Object("cat", (200, 200, 300, 300))])
    rows = [ask("full", cat, seed=seed) for seed in range(20)]
    assert len({row.prompt for row in rows if isinstance(row, InstructionRow)}) == 20
    assert ask("full", cat, seed=5) == rows[5]


def test_a_picture_gets_the_same_questions_alone_and_among_others() -> None:
    first = picture([Object("cat", (200, 200, 300, 300)), Object("dog", (10, 10, 90, 90))])
    others = [msgspec.structs.replace(first, image_id=n, objects=first.objects[: n % 3]) for n in range(2, 20)]
    for kind in FOUR:
        assert ask(kind, first, seed=4) == ask(kind, first, *others, seed=4)


SAME_BOX = [Object("cat", (10, 10, 90, 90)), Object("dog", (10, 10, 90, 90))]


@pytest.mark.parametrize(
    ("kind", "objects", "ignored", "reason"),
    [
        ("count", [Object("cat", (0, 0, 9, 9), crowd=True)], [], "a crowd or left-out object cannot be counted"),
        ("count", [], [Object("cat", (0, 0, 2, 2))], "a crowd or left-out object cannot be counted"),
        ("full", [], [], "no object"),
        ("partial", [], [], "no object"),
        ("full", SAME_BOX, [], "no area holds exactly one object"),
        ("full", [SAME_BOX[0], Object("dog", (10, 10, 90, 91))], [], "no area holds exactly one object"),
        ("partial", SAME_BOX, [], "no area cuts exactly one object"),
        ("none", [Object("cat", (0, 0, 640, 480))], [], "no free area"),
    ],
)  # fmt: skip
def test_a_picture_that_admits_no_true_question_says_why(
    kind: QuestionKind, objects: list[Object], ignored: list[Object], reason: str
) -> None:
    assert ask(kind, picture(objects, ignored), seed=0) == NoQuestion(reason)


def test_an_empty_picture_counts_to_no_objects() -> None:
    row = ask("count", picture([]), seed=0)
    assert isinstance(row, InstructionRow)
    assert row.answer == "No objects."


def test_kinds_are_told_apart_by_their_questions() -> None:
    for kind in FOUR:
        row = ask(kind, picture([Object("cat", (200, 200, 300, 300))]), seed=1)
        assert isinstance(row, InstructionRow)
        assert questions.kind_of(row.prompt) == kind
    assert questions.kind_of("<image>Draw the bounding box of objects") == "detection"
