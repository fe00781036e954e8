"""Labels: none over another, all inside the canvas, near their boxes or tied to them, most wanted words first."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.drawing.lettering import font, label_size
from vlmdet_cli.drawing.outline import Rect
from vlmdet_cli.drawing.placement import Label, place_labels

RELAXED = settings(max_examples=60, deadline=None)
SIZE = (960, 720)
CORNERS = st.tuples(*[st.integers(0, 959), st.integers(0, 719)] * 2)
RECTS = st.lists(
    CORNERS.map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))), max_size=40
)


def overlap(first: Rect, second: Rect) -> int:
    """The area that two rectangles share, in pixels."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def place(rects: list[Rect], *words: str, size: tuple[int, int] = SIZE) -> list[Label]:
    return place_labels(rects, [words] * len(rects), size, font(16))


def assert_apart(labels: list[Label]) -> None:
    for first, second in itertools.combinations(labels, 2):
        assert overlap(first.rect, second.rect) == 0


@given(RECTS, st.sampled_from(["cat", "missed: traffic light", "a category with a name of forty letters.."]))
@RELAXED
def test_no_label_covers_another_or_leaves_the_canvas(rects: list[Rect], text: str) -> None:
    labels = place(rects, text)
    assert_apart(labels)
    for label in labels:
        left, top, right, bottom = label.rect
        assert 0 <= left < right <= SIZE[0]
        assert 0 <= top < bottom <= SIZE[1]


@given(RECTS)
@RELAXED
def test_a_label_touches_its_box_or_has_a_leader_from_its_border_to_the_box(rects: list[Rect]) -> None:
    for label in place(rects, "wine glass"):
        box = rects[label.index]
        near = (label.rect[0] - 1, label.rect[1] - 1, label.rect[2] + 1, label.rect[3] + 1)
        if label.leader is None:
            assert overlap(near, (box[0], box[1], box[2] + 1, box[3] + 1)) > 0
        else:
            (x1, y1), (x2, y2) = label.leader
            assert label.rect[0] <= x1 < label.rect[2]
            assert label.rect[1] <= y1 < label.rect[3]
            assert box[0] <= x2 <= box[2]
            assert box[1] <= y2 <= box[3]


@given(RECTS)
@RELAXED
def test_the_same_boxes_give_the_same_positions(rects: list[Rect]) -> None:
    assert place(rects, "dog") == place(rects, "dog")


@pytest.mark.parametrize("size", [(960, 960), (564, 376), (4000, 3000), (160, 960)])
def test_a_label_is_drawn_wherever_its_box_is(size: tuple[int, int]) -> None:
    corners = [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.9), (0.4, 0.4)]
    shares = [(x, y, x + 0.1, y + 0.1) for x, y in corners]
    rects = [(int(a * size[0]), int(b * size[1]), int(c * size[0]), int(d * size[1])) for a, b, c, d in shares]
    labels = place(rects, "a rather long category", size=size)
    assert [label.index for label in labels] == [0, 1, 2, 3, 4]
    assert_apart(labels)


def test_labels_of_49_boxes_are_all_drawn() -> None:
    rects = [(x, y, x + 120, y + 90) for x in range(50, 900, 130) for y in range(20, 650, 100)]
    assert len(place(rects, "dog IoU 0.50")) == len(rects) == 49


def test_boxes_in_a_pile_get_leaders_and_shorter_words_and_the_last_ones_no_label() -> None:
    pile = [(470, 350, 480, 360)] * 60
    labels = place(pile, "dog IoU 0.50", "dog")
    assert_apart(labels)
    assert 10 < len(labels) < 60
    assert labels[0].leader is None
    assert all(label.leader for label in labels[20:])
    assert [label.index for label in labels] == sorted(label.index for label in labels)


def test_a_free_position_is_preferred_to_another_boxs_inside() -> None:
    small = (300, 300, 340, 330)
    wide, high = label_size("dog", font(16))
    above = (300, 300 - high, 300 + wide, 300)
    assert place([small], "dog")[0].rect == above
    covered = place_labels([small, above], [("dog",), ("cat",)], SIZE, font(16))[0]
    assert overlap(covered.rect, above) == 0


def test_many_labels_drop_words_and_never_cover_more_than_a_third_of_the_picture() -> None:
    rects = [(x, y, x + 40, y + 30) for x in range(0, 900, 60) for y in range(0, 680, 40)]
    labels = place(rects, "wine glass IoU 0.50", "wine glass")
    assert {label.text for label in labels} == {"wine glass"}
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in (label.rect for label in labels))
    assert 0.2 < covered / (SIZE[0] * SIZE[1]) < 1 / 3


def test_words_wider_than_the_picture_end_in_an_ellipsis() -> None:
    assert place([(0, 0, 99, 99)], "a category with a long name", size=(100, 100))[0].text.endswith("…")
    assert place([(0, 0, 9, 9)], "cat", size=(10, 10)) == []
