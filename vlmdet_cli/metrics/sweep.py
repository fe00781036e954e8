"""What a threshold on the scores would do: precision, recall and F1 along it, and the best F1.

Predictions are matched in order of descending score, each to the free object of its class with the highest IoU, as
COCO does: so what stands above a threshold does not depend on what lies below it, and one pass gives all of them.
"""

from typing import Any

import numpy as np

from vlmdet_cli.metrics.matching import Bools, Flat, Floats, in_crowds, overlapping

POINTS = 101


def sweep(predictions: Flat, scores: Floats, objects: Flat, iou: float) -> dict[str, Any]:
    """``best`` threshold by F1, and ``curve``: at most 101 points of threshold, precision, recall and F1."""
    order = np.argsort(-scores, kind="stable")
    hit, ignored = _matched(predictions, objects, order, iou)
    keep = order[~ignored[order]]
    targets = int(np.count_nonzero(~objects.crowd))
    if not len(keep) or not targets:
        return {}
    found = np.cumsum(hit[keep])
    said = np.arange(1, len(keep) + 1)
    ends = np.flatnonzero(np.diff(scores[keep], append=-np.inf))  # equal scores stand or fall together
    found, said, at = found[ends], said[ends], scores[keep][ends]
    f1 = 2 * found / (said + targets)
    some = np.unique(np.linspace(0, len(at) - 1, POINTS).round().astype(int))
    rows = [_point(at[n], found[n], said[n], targets) for n in some]
    best = int(np.argmax(f1))
    return {"best": _point(at[best], found[best], said[best], targets), "curve": rows}


def _point(threshold: float, found: int, said: int, targets: int) -> dict[str, float]:
    return {
        "threshold": float(threshold),
        "precision": float(found / said),
        "recall": float(found / targets),
        "f1": float(2 * found / (said + targets)),
    }


def _matched(predictions: Flat, objects: Flat, order: Any, iou: float) -> tuple[Bools, Bools]:
    """For each prediction whether it finds an object, and whether it is left out of account in a crowd."""
    pairs, crowd_pairs = overlapping(predictions, objects)
    good = np.flatnonzero(pairs.overlap >= iou)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    good = good[np.lexsort((-pairs.overlap[good], rank[pairs.prediction[good]]))]
    hit, taken = np.zeros(len(order), dtype=bool), set[int]()
    for one, other in zip(pairs.prediction[good].tolist(), pairs.object[good].tolist(), strict=True):
        if not hit[one] and other not in taken:
            hit[one] = True
            taken.add(other)
    return hit, in_crowds(crowd_pairs, ~hit, iou)
