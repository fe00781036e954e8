"""Merging across tiles: boxes of several tiles of a picture that show the same object become one.

Two tiles see the same object if they agree about what both of them see. So two boxes of a class from different tiles
are cut to the part that the tiles have in common, and are one object where these cuts have an IoU of at least ``SAME``:

    tile A |-----------|            an object that the border cuts: A has its left part, B its right part,
    tile B         |-----------|    and in the common part, between the bars, both have the same

The box with the higher score stays, without scores the first one; a side of the other box is taken over where it lies
beyond all that the tiles of the first could see. Two parts become the whole, and a part disappears in the whole. Boxes
of the same tile are never merged: they are the model's own word that there are two objects. Without an overlap, tiles
share nothing, and a cut object stays two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection

SAME = 0.5
_NOTHING: Box = (0.0, 0.0, 0.0, 0.0)


class TileDetection(NamedTuple):
    """A detection in pixels of the picture, and the tile that it was made in, xyxy."""

    detection: Detection
    tile: Box


class _Object:
    """Detections that show one object; ``box`` and ``first`` as they stand after all that were added."""

    def __init__(self, first: int, member: TileDetection) -> None:
        self.first = first
        self.box = member.detection.box
        self._members = [member]
        self._tiles = {member.tile}
        self._seen = member.tile  # the smallest box around all tiles of the members

    def shares_tile(self, other: "_Object") -> bool:
        return not self._tiles.isdisjoint(other._tiles)

    def agreement(self, other: "_Object") -> float:
        """The greatest IoU of a detection of each, in what their tiles both see."""
        return max(_iou_in_common(member, another) for member in self._members for another in other._members)

    def add(self, other: "_Object") -> None:
        seen, box = self._seen, other.box
        self.box = (
            box[0] if box[0] < seen[0] else self.box[0],
            box[1] if box[1] < seen[1] else self.box[1],
            box[2] if box[2] > seen[2] else self.box[2],
            box[3] if box[3] > seen[3] else self.box[3],
        )
        self._members += other._members
        self._tiles |= other._tiles
        self._seen = _around(seen, other._seen)


def merged(detections: Sequence[TileDetection]) -> dict[int, Detection]:
    """The objects that the detections of all tiles show, by the index of the detection that stays, ascending."""
    by_label: dict[str, list[_Object]] = {}
    for index in sorted(range(len(detections)), key=lambda number: -(detections[number].detection.score or 0.0)):
        objects = by_label.setdefault(detections[index].detection.label, [])
        _add(objects, _Object(index, detections[index]))
    kept = sorted((known.first, known.box) for objects in by_label.values() for known in objects)
    return {index: msgspec.structs.replace(detections[index].detection, box=box) for index, box in kept}


def _add(objects: list[_Object], new: _Object) -> None:
    """Add a detection to the object that it shows, or as a new one; it may join objects that no tile sees whole."""
    joined: list[_Object] = []
    agreements = [0.0 if known.shares_tile(new) else known.agreement(new) for known in objects]
    for index in sorted(range(len(objects)), key=lambda number: -agreements[number]):
        if agreements[index] >= SAME and not any(objects[index].shares_tile(other) for other in joined):
            joined.append(objects[index])
    if not joined:
        objects.append(new)
        return
    best, *others = sorted(joined, key=objects.index)
    for other in (new, *others):
        best.add(other)
    objects[:] = [known for known in objects if known not in others]


def _iou_in_common(first: TileDetection, second: TileDetection) -> float:
    common = _common(first.tile, second.tile)
    cuts = _common(first.detection.box, common), _common(second.detection.box, common)
    intersection = _area(_common(*cuts))
    return intersection / (_area(cuts[0]) + _area(cuts[1]) - intersection) if intersection else 0.0


def _common(first: Box, second: Box) -> Box:
    """The box that two boxes have in common; one without area where they have none."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    return (left, top, right, bottom) if left < right and top < bottom else _NOTHING


def _around(first: Box, second: Box) -> Box:
    return (*map(min, first[:2], second[:2]), *map(max, first[2:], second[2:]))  # type: ignore[return-value]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
