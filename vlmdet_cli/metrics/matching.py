"""Matching of predictions to objects without scores.

Within a picture and a class, the candidate pairs with an IoU of at least the threshold are taken by descending IoU
(ties: lower prediction, then lower object); each prediction and each object is used once. Some predictions that find
no object are left out of account, neither right nor false:

- those with at least the threshold's share of their own area inside a crowd of their class;
- those of a category that was not searched for in the picture (LVIS's rule for federated data sets);
- those that match an ignored object, one to one, by the same rule of descending IoU.

All pictures are matched at once on columns: overlaps are computed once, for any number of thresholds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.boxes import Boxes, area, as_boxes, elementwise_intersection

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# why a prediction is left out of account, by ``Match.left_out``
LEFT_OUT_REASONS = (
    "",
    "in a crowd",
    "category not searched for in the picture",
    "matches an object that is ignored",
)
COUNTS, IN_CROWD, NOT_SEARCHED, MATCHES_IGNORED = range(4)


class BoxColumns(Protocol):
    """What predictions and objects have in common."""

    @property
    def picture(self) -> Ints: ...
    @property
    def label(self) -> Ints: ...
    @property
    def box(self) -> Boxes: ...


class PredictedBoxes(NamedTuple):
    """Predictions as columns of length N: picture index, class index, xyxy pixels ``(N, 4)``.

    ``searched``: whether objects of the box's class were searched for, and all annotated, in its picture.
    """

    picture: Ints
    label: Ints
    box: Boxes
    searched: Bools

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, int, Box]]) -> "PredictedBoxes":
        """Columns of (picture, class, box) rows; all classes were searched for."""
        return cls(_column(rows, 0), _column(rows, 1), as_boxes([row[2] for row in rows]), np.ones(len(rows), bool))

    def where(self, mask: Bools) -> "PredictedBoxes":
        return PredictedBoxes(self.picture[mask], self.label[mask], self.box[mask], self.searched[mask])


class ObjectBoxes(NamedTuple):
    """Objects as columns of length N: picture index, class index, xyxy pixels ``(N, 4)``.

    ``crowd``: regions of several objects; ``ignored``: single objects that are neither found nor missed.
    """

    picture: Ints
    label: Ints
    box: Boxes
    crowd: Bools
    ignored: Bools

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, int, Box, bool]]) -> "ObjectBoxes":
        """Columns of (picture, class, box, crowd) rows; none is ignored."""
        crowd = np.array([row[3] for row in rows], dtype=bool)
        boxes = as_boxes([row[2] for row in rows])
        return cls(_column(rows, 0), _column(rows, 1), boxes, crowd, np.zeros(len(rows), bool))

    def where(self, mask: Bools) -> "ObjectBoxes":
        return ObjectBoxes(self.picture[mask], self.label[mask], self.box[mask], self.crowd[mask], self.ignored[mask])

    @property
    def targets(self) -> Bools:
        """``(N,)``: the objects that are found or missed."""
        return ~self.crowd & ~self.ignored


class Pairs(NamedTuple):
    """Overlapping pairs of one picture and class: prediction ``(P,)``, object ``(P,)``, overlap ``(P,)``."""

    prediction: Ints
    object: Ints
    overlap: Floats

    def where(self, index: Bools | Ints) -> "Pairs":
        return Pairs(self.prediction[index], self.object[index], self.overlap[index])


class Overlaps(NamedTuple):
    """All pairs that overlap at all. ``targets`` and ``ignored``: by IoU with objects of that kind; ``crowds``: by the
    share of the prediction's own area. ``searched``: of each prediction, see ``PredictedBoxes``.
    """

    targets: Pairs
    ignored: Pairs
    crowds: Pairs
    searched: Bools


class Match(NamedTuple):
    """For each prediction: the object that it finds (-1: none), their IoU (0), and why the prediction is left out of
    account (an index of ``LEFT_OUT_REASONS``).
    """

    object: Ints
    iou: Floats
    left_out: npt.NDArray[np.int8]

    @property
    def hit(self) -> Bools:
        matched: Bools = self.object >= 0
        return matched

    @property
    def ignored(self) -> Bools:
        ignored: Bools = self.left_out != COUNTS
        return ignored

    @property
    def false(self) -> Bools:
        return ~self.hit & ~self.ignored


def _column(rows: Sequence[tuple[Any, ...]], index: int) -> Ints:
    return np.array([row[index] for row in rows], dtype=np.int64)


def overlapping(predictions: PredictedBoxes, objects: ObjectBoxes) -> Overlaps:
    """The pairs of one picture and class that have something in common."""
    first, second = _same_group(predictions, objects)
    common = elementwise_intersection(predictions.box[first], objects.box[second])
    touch = common > 0
    first, second, common = first[touch], second[touch], common[touch]
    own, other = area(predictions.box)[first], area(objects.box)[second]
    crowd, ignored = objects.crowd[second], (objects.ignored & ~objects.crowd)[second]
    pairs = Pairs(first, second, common / (own + other - common))
    in_crowds = Pairs(first, second, common / own)
    return Overlaps(pairs.where(~crowd & ~ignored), pairs.where(ignored), in_crowds.where(crowd), predictions.searched)


def _same_group(predictions: BoxColumns, objects: BoxColumns) -> tuple[Ints, Ints]:
    """Index pairs (prediction, object) of the same picture and class, ordered by prediction, then object."""
    classes = int(max(predictions.label.max(initial=0), objects.label.max(initial=0))) + 1
    groups, keys = predictions.picture * classes + predictions.label, objects.picture * classes + objects.label
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    start, end = np.searchsorted(keys, groups, "left"), np.searchsorted(keys, groups, "right")
    count = end - start
    prediction = np.repeat(np.arange(len(groups)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return prediction, order[np.repeat(start, count) + within]


def match(overlaps: Overlaps, threshold: float) -> Match:
    """Greedy matching at one threshold, by descending IoU."""
    partner, iou = _one_to_one(overlaps.targets, len(overlaps.searched), threshold)
    return Match(partner, iou, left_out(overlaps, partner < 0, threshold))


def raised(lower: Match, overlaps: Overlaps, threshold: float) -> Match:
    """The same matching at a higher threshold: pairs are taken by descending IoU, so the better ones stay."""
    partner = np.where(lower.iou >= threshold, lower.object, -1)
    iou = np.where(partner >= 0, lower.iou, 0.0)
    return Match(partner, iou, left_out(overlaps, partner < 0, threshold))


def _one_to_one(pairs: Pairs, predictions: int, threshold: float) -> tuple[Ints, Floats]:
    """Each prediction's object (-1: none) and their IoU: ``(predictions,)`` each."""
    good = np.flatnonzero(pairs.overlap >= threshold)
    order = good[np.lexsort((pairs.object[good], pairs.prediction[good], -pairs.overlap[good]))]
    partner, iou = np.full(predictions, -1, dtype=np.int64), np.zeros(predictions)
    taken: set[int] = set()
    triples = zip(
        pairs.prediction[order].tolist(), pairs.object[order].tolist(), pairs.overlap[order].tolist(), strict=True
    )
    for prediction, target, overlap in triples:
        if partner[prediction] < 0 and target not in taken:
            partner[prediction], iou[prediction] = target, overlap
            taken.add(target)
    return partner, iou


def left_out(overlaps: Overlaps, free: Bools, threshold: float) -> npt.NDArray[np.int8]:
    """Why each of the predictions that find nothing (``free``) is left out of account; 0 for those that count."""
    reason = np.where(overlaps.searched, COUNTS, NOT_SEARCHED).astype(np.int8)
    reason[overlaps.crowds.prediction[overlaps.crowds.overlap >= threshold]] = IN_CROWD
    if len(overlaps.ignored.prediction):
        candidates = free & (reason == COUNTS)
        pairs = overlaps.ignored.where(candidates[overlaps.ignored.prediction])
        partner, _ = _one_to_one(pairs, len(free), threshold)
        reason[partner >= 0] = MATCHES_IGNORED
    reason[~free] = COUNTS
    return reason
