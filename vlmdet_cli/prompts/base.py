"""What all kinds of questions share: the record of a picture that admits none, and the geometry of single boxes.

A box is xyxy pixels. A *flat* box has no area: its intersection with any box is 0, but it touches what it lies in.

The functions on single boxes repeat some of ``core.boxes`` for plain tuples, because ``object_tasks`` judges a few
boxes of one picture at a time: the IoU of an area with seven boxes takes 4.5 µs here and 17 µs with numpy arrays, and
a ``region`` question tests up to 60 areas.
"""

from typing import NamedTuple

from vlmdet_cli.core.annotations import Box

MAX_ATTEMPTS = 60  # areas that are drawn before a picture is given up


class NoQuestion(NamedTuple):
    """Why a picture admits no true question of a kind; a line of the ledger."""

    reason: str


def is_flat(box: Box) -> bool:
    """Whether the box has no area."""
    return box[2] <= box[0] or box[3] <= box[1]


def area_of(box: Box) -> float:
    """The area in square pixels; 0 of a flat box."""
    return 0.0 if is_flat(box) else (box[2] - box[0]) * (box[3] - box[1])


def iou(first: Box, second: Box) -> float:
    """Intersection over union; 0 where the boxes have no common area."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    common = area_of((left, top, min(first[2], second[2]), min(first[3], second[3])))
    return common / (area_of(first) + area_of(second) - common) if common else 0.0


def contains(area: Box, box: Box) -> bool:
    """Whether all of the box lies in the area; a common border is allowed."""
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def touches(box: Box, area: Box) -> bool:
    """Whether the box has a point in common with the area; a common border counts for flat boxes alone."""
    if is_flat(box):
        return box[0] <= area[2] and area[0] <= box[2] and box[1] <= area[3] and area[1] <= box[3]
    return box[0] < area[2] and area[0] < box[2] and box[1] < area[3] and area[1] < box[3]
