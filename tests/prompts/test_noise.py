"""Invented boxes behind the true ones."""

from random import Random

import pytest

from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts.noise import NOISE_LABEL, number_of_boxes, objects_of, with_noise

TRUE = [("cat", (100, 100, 300, 400)), ("dog", (500, 20, 999, 900))]


@pytest.mark.parametrize(
    ("setting", "true_boxes", "count"), [(0, 5, 0), (3, 1, 3), (0.5, 5, 2), (0.5, 1, 1), (2.0, 3, 6), (0.0, 3, 0)]
)
def test_a_whole_number_is_a_count_and_a_fraction_a_share_of_the_true_boxes(
    setting: float, true_boxes: int, count: int
) -> None:
    assert number_of_boxes(setting, true_boxes) == count


def test_noise_stands_behind_the_true_boxes_inside_the_frame_and_meets_none_of_them() -> None:
    drawn = [with_noise(TRUE, (1000, 900), 8, Random(seed)) for seed in range(50)]  # noqa: S311
    assert all(objects[:2] == TRUE and len(objects) == 10 for objects in drawn)
    noise = [box for objects in drawn for label, box in objects[2:] if label == NOISE_LABEL]
    assert len(noise) == 400
    assert all(0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 900 for x1, y1, x2, y2 in noise)
    assert pairwise_iou(noise, [box for _, box in TRUE]).max() < 0.5
    sizes = {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in noise}
    assert {(200, 300), (499, 880)} <= sizes  # half of them are true boxes elsewhere
    assert drawn[0] == with_noise(TRUE, (1000, 900), 8, Random(0))  # noqa: S311


def test_where_the_true_boxes_leave_no_room_there_are_fewer() -> None:
    whole = [("wall", (0, 0, 2, 1))]
    assert all(len(with_noise(whole, (2, 1), 4, Random(seed))) < 5 for seed in range(20))  # noqa: S311


@pytest.mark.parametrize("name", dialects.names())
def test_the_objects_of_an_answer_are_read_back_or_none(name: str) -> None:
    dialect = dialects.get(name)
    for group in (False, True):
        answer = dialect.write(TRUE, group=group)
        assert objects_of(answer, dialect, group=group) == TRUE
        assert objects_of(f"Some {answer}", dialect, group=group) != TRUE
    assert objects_of(dialect.empty, dialect, group=False) is None
