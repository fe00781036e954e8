"""What the kinds of questions share: the refusal, and plain geometry on single boxes.

A box is (left, top, right, bottom) in pixels. One without area, a *flat* box, overlaps nothing by measure; it touches
what it lies in all the same.
"""

from typing import NamedTuple

from vlmdet_cli.core.annotations import Box

TRIES = 60  # draws before a picture is given up


class Refused(NamedTuple):
    """Why a picture admits no question of a kind."""

    reason: str


def is_flat(box: Box) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]


def size_of(box: Box) -> float:
    """The area in square pixels; 0 of a flat box."""
    return 0.0 if is_flat(box) else (box[2] - box[0]) * (box[3] - box[1])


def overlap(one: Box, two: Box) -> float:
    """The common area in square pixels."""
    return size_of((max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])))


def iou(one: Box, two: Box) -> float:
    """Intersection over union; 0 where nothing is common."""
    common = overlap(one, two)
    return common / (size_of(one) + size_of(two) - common) if common else 0.0


def holds(area: Box, box: Box) -> bool:
    """Whether all of the box lies in the area, its border included."""
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def touches(box: Box, area: Box) -> bool:
    """Whether the box has something in common with the area; a mere common border counts for flat boxes alone."""
    if is_flat(box):
        return box[0] <= area[2] and area[0] <= box[2] and box[1] <= area[3] and area[1] <= box[3]
    return box[0] < area[2] and area[0] < box[2] and box[1] < area[3] and area[1] < box[3]
