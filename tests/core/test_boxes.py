"""Areas and overlaps of boxes against a count of unit squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdet_cli.core import boxes

CELLS = st.integers(0, 8)
WHOLE_BOXES = st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=5)  # corners may be swapped


def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    """The unit squares that a box with whole corners covers."""
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(WHOLE_BOXES)
def test_the_area_is_the_number_of_unit_squares(rows: list[tuple[int, int, int, int]]) -> None:
    assert boxes.area(rows).tolist() == [len(cells(row)) for row in rows]


@given(WHOLE_BOXES, WHOLE_BOXES)
def test_intersection_and_iou_are_those_of_the_sets_of_unit_squares(
    first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]]
) -> None:
    common = [[len(cells(one) & cells(two)) for two in second] for one in first]
    union = [[len(cells(one) | cells(two)) for two in second] for one in first]
    shape = (len(first), len(second))
    assert boxes.pairwise_intersection(first, second).tolist() == np.reshape(common, shape).tolist()
    expected = np.reshape(common, shape) / np.maximum(np.reshape(union, shape), 1)
    assert boxes.pairwise_iou(first, second).tolist() == expected.tolist()
    count = min(shape)
    diagonal = [common[n][n] for n in range(count)]
    assert boxes.elementwise_intersection(first[:count], second[:count]).tolist() == diagonal


@given(WHOLE_BOXES)
def test_xywh_and_xyxy_are_inverses(rows: list[tuple[int, int, int, int]]) -> None:
    assert boxes.xyxy_to_xywh(boxes.xywh_to_xyxy(rows)).tolist() == boxes.as_boxes(rows).tolist()


def test_a_box_of_another_frame_keeps_its_shares_of_width_and_height() -> None:
    assert boxes.rescale([(1, 2, 3, 4)], (10, 20), (100, 50)).tolist() == [[10, 5, 30, 10]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.5, 1.5, 2.5, 99.9), [0, 2, 2, 100]),  # half to even, as ms-swift rounds
        ((3.1, 5, 3.2, 9), [3, 5, 4, 9]),  # a box that would lose its width keeps one unit
        ((100, 0, 100, 5), [100, 0, 100, 5]),  # a line stays a line
        ((99.8, 0, 99.9, 5), [99, 0, 100, 5]),  # at the border it grows inwards
    ],
)
def test_pixels_become_whole_numbers_of_the_frame(box: tuple[float, ...], expected: list[int]) -> None:
    assert boxes.to_frames([box], [(100, 100)], [(100, 100)], 1000).tolist() == [expected]


def test_no_number_is_above_the_last_one_of_the_frame() -> None:
    written = boxes.to_frames([(50, 0, 100, 100)], [(100, 100)], [(1000, 1000)], 999)
    assert written.tolist() == [[500, 0, 999, 999]]
    assert boxes.from_frames([(500, 0, 1000, 1000)], [(100, 50)], [(1000, 1000)]).tolist() == [[50, 0, 100, 50]]
