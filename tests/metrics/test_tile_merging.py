"""Merging across tiles: what becomes one object, and with which box."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection
from vlmdet_cli.core.tiles import Crop, cut
from vlmdet_cli.metrics.tile_merging import TileDetection, merged

LEFT, RIGHT, WHOLE = (0, 0, 60, 100), (40, 0, 100, 100), (0, 0, 100, 100)


def boxes(*detections: tuple[Box, Box], label: str = "cat") -> list[Box]:
    """The boxes that stay of (box, tile) pairs of one class."""
    return [d.box for d in merged([TileDetection(Detection(label, box), tile) for box, tile in detections]).values()]


def test_two_parts_of_an_object_that_the_border_cuts_become_the_whole() -> None:
    assert boxes(((10, 20, 60, 40), LEFT), ((40, 21, 90, 40), RIGHT)) == [(10, 20, 90, 40)]


def test_a_part_disappears_in_the_whole_whichever_comes_first() -> None:
    part, whole = ((45, 20, 60, 40), LEFT), ((44, 20, 90, 40), RIGHT)
    assert boxes(whole, part) == [(44, 20, 90, 40)]
    assert boxes(part, whole) == [(45, 20, 90, 40)]
    assert boxes(((10, 20, 60, 40), LEFT), ((10, 20, 90, 41), WHOLE)) == [(10, 20, 90, 40)]


def test_an_object_over_four_tiles_is_one() -> None:
    tiles = cut((100, 100), 2, 2, 0.25)
    assert tiles == [(0, 0, 57, 57), (43, 0, 100, 57), (0, 43, 57, 100), (43, 43, 100, 100)]
    assert boxes(*(((max(20, t[0]), max(10, t[1]), min(80, t[2]), min(90, t[3])), t) for t in tiles)) == [
        (20, 10, 80, 90)
    ]


def test_objects_side_by_side_stay_two() -> None:
    """They meet in the common part of the tiles, and lie apart there."""
    assert len(boxes(((10, 20, 49, 40), LEFT), ((51, 20, 90, 40), RIGHT))) == 2
    assert len(boxes(((10, 20, 60, 40), LEFT), ((40, 60, 90, 80), RIGHT))) == 2
    assert len(boxes(((10, 20, 30, 40), LEFT), ((70, 20, 90, 40), RIGHT))) == 2


def test_boxes_of_one_tile_are_never_merged() -> None:
    assert len(boxes(((45, 20, 55, 40), LEFT), ((45, 20, 55, 41), LEFT))) == 2
    assert len(boxes(((45, 20, 55, 40), LEFT), ((45, 20, 55, 40), RIGHT), ((45, 20, 55, 41), LEFT))) == 2


def test_boxes_of_two_classes_are_never_merged() -> None:
    pair = [TileDetection(Detection(label, (45, 20, 55, 40)), tile) for label, tile in (("cat", LEFT), ("dog", RIGHT))]
    assert len(merged(pair)) == 2


def test_the_higher_score_stays_and_the_order_is_kept() -> None:
    given_detections = [
        TileDetection(Detection("cat", (45, 20, 55, 40), 0.2), LEFT),
        TileDetection(Detection("cat", (1, 1, 9, 9), 0.9), LEFT),
        TileDetection(Detection("cat", (45, 20, 55, 41), 0.7), RIGHT),
    ]
    assert list(merged(given_detections).items()) == [
        (1, Detection("cat", (1, 1, 9, 9), 0.9)), (2, Detection("cat", (45, 20, 55, 41), 0.7)),
    ]  # fmt: skip


# --- tiles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((100, 50), [(0, 0, 50, 50), (50, 0, 100, 50)]),
        ((101, 3), [(0, 0, 50, 3), (50, 0, 101, 3)]),
        ((2, 1), [(0, 0, 1, 1), (1, 0, 2, 1)]),
        ((1, 1), []),
    ],
)
def test_a_row_of_two_tiles_without_overlap(size: tuple[int, int], tiles: list[Crop]) -> None:
    assert cut(size, 1, 2, 0.0) == tiles


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0, 0.95),
)
def test_tiles_cover_the_picture_lie_in_it_and_have_one_size(
    size: tuple[int, int], rows: int, columns: int, overlap: float
) -> None:
    tiles = cut(size, rows, columns, overlap)
    if size[0] < columns or size[1] < rows or rows * columns == 1:
        assert not tiles
        return
    assert len(tiles) == rows * columns
    for axis, count in ((0, columns), (1, rows)):
        intervals = sorted({(tile[axis], tile[axis + 2]) for tile in tiles})
        assert intervals[0][0] == 0
        assert max(end for _, end in intervals) == size[axis]
        assert all(start < end for start, end in intervals)
        assert all(later[0] <= earlier[1] for earlier, later in itertools.pairwise(intervals))
        lengths = [end - start for start, end in intervals]
        assert max(lengths) - min(lengths) <= 1
        assert len(intervals) <= count


OBJECT = st.builds(
    lambda left, top, width, height: (left, top, left + width, top + height),
    st.integers(0, 70), st.integers(0, 70), st.integers(12, 60), st.integers(12, 60),
)  # fmt: skip


@given(OBJECT, st.integers(2, 3), st.integers(1, 3), st.permutations(range(10)))
def test_what_perfect_tiles_see_of_an_object_is_the_object(
    found: tuple[int, int, int, int], rows: int, columns: int, order: list[int]
) -> None:
    """Whatever the order of the tiles, and with the whole picture among them."""
    x1, y1, x2, y2 = found[0], found[1], min(found[2], 100), min(found[3], 100)
    tiles = [*cut((100, 100), rows, columns, 0.2), WHOLE]
    parts = [
        ((max(x1, t[0]), max(y1, t[1]), min(x2, t[2]), min(y2, t[3])), t)
        for t in (tiles[n] for n in order if n < len(tiles))
        if x1 < t[2] and t[0] < x2 and y1 < t[3] and t[1] < y2
    ]
    assert boxes(*parts) == [(x1, y1, x2, y2)]
