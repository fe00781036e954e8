"""What a threshold on the scores would do: precision, recall and F1 along it, and the best F1.

Predictions are matched in order of descending score, each to the free object of its class with the highest IoU, as
COCO does: so what lies above a threshold does not depend on what lies below it, and one pass gives all of them.
"""

from typing import Any, NamedTuple

import numpy as np

from vlmdet_cli.metrics.matching import COUNTS, Bools, Floats, ObjectBoxes, PredictedBoxes, left_out, overlapping

POINTS = 101


class ScoredMatch(NamedTuple):
    """Of predictions matched in order of their scores, ``(N,)`` each: ``right``, and ``counted``, not left out."""

    right: Bools
    counted: Bools


def sweep(scores: Floats, matched: ScoredMatch, targets: int) -> dict[str, Any]:
    """``best`` threshold by F1, and ``curve``: at most 101 points of threshold, precision, recall and F1.

    ``targets`` is the number of objects to find. Empty where nothing is predicted or there is nothing to find.
    """
    order = np.argsort(-scores, kind="stable")
    counted = order[matched.counted[order]]
    if not len(counted) or not targets:
        return {}
    right, predicted = np.cumsum(matched.right[counted]), np.arange(1, len(counted) + 1)
    ends = np.flatnonzero(np.diff(scores[counted], append=-np.inf))  # equal scores stand or fall together
    right, predicted, thresholds = right[ends], predicted[ends], scores[counted][ends]
    best = int(np.argmax(2 * right / (predicted + targets)))
    shown = np.unique(np.linspace(0, len(ends) - 1, POINTS).round().astype(int)).tolist()
    points = {n: _point(thresholds[n], right[n], predicted[n], targets) for n in [best, *shown]}
    return {"best": points[best], "curve": [points[n] for n in shown]}


def _point(threshold: float, right: int, predicted: int, targets: int) -> dict[str, float]:
    return {
        "threshold": float(threshold),
        "precision": float(right / predicted),
        "recall": float(right / targets),
        "f1": float(2 * right / (predicted + targets)),
    }


def match_by_score(predictions: PredictedBoxes, scores: Floats, objects: ObjectBoxes, iou: float) -> ScoredMatch:
    """Which predictions find an object, and which count."""
    order = np.argsort(-scores, kind="stable")
    overlaps = overlapping(predictions, objects)
    pairs = overlaps.targets.where(overlaps.targets.overlap >= iou)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    pairs = pairs.where(np.lexsort((-pairs.overlap, rank[pairs.prediction])))
    hit, taken = np.zeros(len(order), dtype=bool), set[int]()
    for prediction, target in zip(pairs.prediction.tolist(), pairs.object.tolist(), strict=True):
        if not hit[prediction] and target not in taken:
            hit[prediction] = True
            taken.add(target)
    return ScoredMatch(hit, left_out(overlaps, ~hit, iou) == COUNTS)
