"""Matching of predictions to objects without scores.

Within a picture and a class: candidate pairs with IoU of at least the threshold, taken by descending IoU (ties:
lower prediction, then lower object), each prediction and each object used once. A crowd is neither found nor
missed; a prediction that finds no object and has at least the threshold's share of its own area inside a crowd
of its class is left out of account.

All pictures are matched at once on flat arrays: overlaps are computed once, for any number of thresholds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Flat(NamedTuple):
    """Boxes of many pictures: picture index ``(N,)``, class index ``(N,)``, xyxy ``(N, 4)``, crowd ``(N,)``."""

    picture: Ints
    label: Ints
    box: Boxes
    crowd: Bools


class Pairs(NamedTuple):
    """Overlapping pairs of one picture and class: prediction ``(P,)``, object ``(P,)``, overlap ``(P,)``."""

    prediction: Ints
    object: Ints
    overlap: Floats


class Match(NamedTuple):
    """For each prediction the object it found (-1: none) and the IoU (0), and whether it is left out of account."""

    object: Ints
    iou: Floats
    ignored: Bools


def flat(rows: Sequence[tuple[int, int, Sequence[float], bool]]) -> Flat:
    """Arrays of (picture, class, box, crowd) rows."""
    return Flat(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[3] for row in rows], dtype=bool),
    )


def overlapping(predictions: Flat, objects: Flat) -> tuple[Pairs, Pairs]:
    """All pairs that overlap at all: with objects by IoU, and with crowds by share of the prediction's own area."""
    one, two = _same_group(predictions, objects)
    common = _intersection(predictions.box[one], objects.box[two])
    touch = common > 0
    one, two, common = one[touch], two[touch], common[touch]
    own, other = _area(predictions.box)[one], _area(objects.box)[two]
    crowd = objects.crowd[two]
    iou = common / (own + other - common)
    return Pairs(one[~crowd], two[~crowd], iou[~crowd]), Pairs(one[crowd], two[crowd], (common / own)[crowd])


def _same_group(predictions: Flat, objects: Flat) -> tuple[Ints, Ints]:
    """Indices of every (prediction, object) pair of one picture and class."""
    classes = int(max(predictions.label.max(initial=0), objects.label.max(initial=0))) + 1
    left, right = predictions.picture * classes + predictions.label, objects.picture * classes + objects.label
    order = np.argsort(right, kind="stable")
    right = right[order]
    start, end = np.searchsorted(right, left, "left"), np.searchsorted(right, left, "right")
    count = end - start
    one = np.repeat(np.arange(len(left)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return one, order[np.repeat(start, count) + within]


def _intersection(one: Boxes, two: Boxes) -> Floats:
    """Areas of overlap of boxes pair by pair, ``(P,)``."""
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    product: Floats = np.prod(np.maximum(sides, 0), axis=1)
    return product


def _area(boxes: Boxes) -> Floats:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    product: Floats = sides[:, 0] * sides[:, 1]
    return product


def match(pairs: Pairs, crowd_pairs: Pairs, predictions: int, threshold: float) -> Match:
    """Greedy matching at one threshold, by descending IoU; ``predictions`` is their number."""
    good = np.flatnonzero(pairs.overlap >= threshold)
    order = good[np.lexsort((pairs.object[good], pairs.prediction[good], -pairs.overlap[good]))]
    found, iou = np.full(predictions, -1, dtype=np.int64), np.zeros(predictions)
    taken: set[int] = set()
    triples = zip(
        pairs.prediction[order].tolist(), pairs.object[order].tolist(), pairs.overlap[order].tolist(), strict=True
    )
    for prediction, one, overlap in triples:
        if found[prediction] < 0 and one not in taken:
            found[prediction], iou[prediction] = one, overlap
            taken.add(one)
    return Match(found, iou, in_crowds(crowd_pairs, found < 0, threshold))


def raised(at: Match, crowd_pairs: Pairs, threshold: float) -> Match:
    """The same matching at a higher threshold: pairs are taken by descending IoU, so the better ones stay."""
    found = np.where(at.iou >= threshold, at.object, -1)
    return Match(found, np.where(found >= 0, at.iou, 0.0), in_crowds(crowd_pairs, found < 0, threshold))


def in_crowds(crowd_pairs: Pairs, free: Bools, threshold: float) -> Bools:
    """Of the predictions that find nothing (``free``), those that lie in a crowd."""
    ignored = np.zeros(len(free), dtype=bool)
    ignored[crowd_pairs.prediction[crowd_pairs.overlap >= threshold]] = True
    return ignored & free
