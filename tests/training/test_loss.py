"""Which parts of an answer weigh how much in the loss."""

import pytest

from vlmdet_cli.models import dialects
from vlmdet_cli.training.loss import LossSettings, weighted_parts

OBJECTS = [("cat 7", (1, 22, 333, 444)), ("dog", (5, 6, 7, 8))]


@pytest.mark.parametrize("name", [*dialects.names()])
def test_the_parts_are_the_answer_and_the_heavy_ones_its_coordinates(name: str) -> None:
    dialect = dialects.get(name)
    for group in (False, True):
        text = dialect.write(OBJECTS, group=group)
        parts, weights = weighted_parts(text, dialect, LossSettings(dialect=name, coordinate_weight=3.0))
        assert "".join(parts) == text
        heavy = [int(part.strip("<loc_>")) for part, weight in zip(parts, weights, strict=True) if weight == 3.0]
        assert sorted(heavy) == sorted(value for _, box in OBJECTS for value in box)
        assert set(weights) == {1.0, 3.0}


@pytest.mark.parametrize("name", dialects.names())
def test_a_text_without_boxes_is_a_part_of_its_own(name: str) -> None:
    settings = LossSettings(dialect=name, coordinate_weight=3.0)
    for text in ("person: 12\ncat: 3", "No objects.", "[]", "none"):
        assert weighted_parts(text, dialects.get(name), settings) == ([text], [1.0])


def test_the_coordinates_of_noise_count_nothing() -> None:
    dialect = dialects.get("qwen2_vl")
    text = dialect.write([("cat", (1, 2, 3, 4)), ("noise", (5, 6, 7, 8))])
    parts, weights = weighted_parts(text, dialect, LossSettings(dialect="qwen2_vl", noise_label="noise"))
    assert [part for part, weight in zip(parts, weights, strict=True) if not weight] == ["5", "6", "7", "8"]
    assert set(weights) == {0.0, 1.0}
