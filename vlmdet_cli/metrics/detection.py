"""Precision, recall, F1 and mean IoU of matched detections: overall, per class, by size, over thresholds.

Micro counts add up all pictures and classes; macro is the mean over the classes that have objects. Precision is
None where nothing was predicted, recall where there is nothing to find, F1 (2 tp / (2 tp + fp + fn)) only where
both hold. In a macro mean an undefined precision counts as 0: a class that is never predicted is no success.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.metrics.matching import Bools, Flat, Floats, Match, match, overlapping, raised

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
# COCO's areas in square pixels; both ends belong to a range, as in pycocotools
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and what follows from them. ``ignored``: predictions left out of account in crowds."""

    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    tp: int
    fp: int
    fn: int
    ignored: int = 0


class DetectionMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at the headline threshold with its matching, and F1 over 0.50:0.05:0.95."""

    at: Match
    overall: Score
    macro: dict[str, float | None]
    per_class: dict[str, Score]
    sizes: dict[str, Score]
    f1_by_iou: dict[str, float | None]
    fp_in_empty_pictures: int
    fp_of_absent_classes: int


def score(tp: int, fp: int, fn: int, iou_sum: float = 0.0, ignored: int = 0) -> Score:
    return Score(
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        mean_iou=_ratio(iou_sum, tp),
        tp=tp,
        fp=fp,
        fn=fn,
        ignored=ignored,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def detection(
    predictions: Flat, objects: Flat, names: Sequence[str], iou: float = 0.5, areas: Floats | None = None
) -> DetectionMetrics:
    """Measures of flat predictions against flat objects; ``names`` are the classes by index.

    ``areas``: the objects' areas in square pixels as annotated (COCO sorts sizes by them), else their boxes'.
    """
    pairs, crowd_pairs = overlapping(predictions, objects)
    count = len(predictions.picture)
    lowest = match(pairs, crowd_pairs, count, min(iou, THRESHOLDS[0]))
    at = raised(lowest, crowd_pairs, iou)
    targets = ~objects.crowd
    per_class = _by_group(predictions.label, objects.label, at, targets, len(names))
    scores = {name: one for name, one in zip(names, per_class, strict=True) if one.tp + one.fp + one.fn + one.ignored}
    return DetectionMetrics(
        at=at,
        overall=_overall(at, targets),
        macro=_macro([one for one in scores.values() if one.tp + one.fn]),
        per_class=scores,
        sizes=_sizes(predictions, objects, at, areas),
        f1_by_iou={
            f"{threshold:.2f}": _overall(raised(lowest, crowd_pairs, threshold), targets).f1 for threshold in THRESHOLDS
        },
        fp_in_empty_pictures=_false_where(predictions, at, ~np.isin(predictions.picture, objects.picture[targets])),
        fp_of_absent_classes=_false_where(predictions, at, ~_class_present(predictions, objects)),
    )


def _overall(at: Match, targets: Bools) -> Score:
    tp = int(np.count_nonzero(at.object >= 0))
    fp = int(np.count_nonzero((at.object < 0) & ~at.ignored))
    fn = int(np.count_nonzero(targets)) - tp
    return score(tp, fp, fn, float(at.iou.sum()), int(np.count_nonzero(at.ignored)))


def _by_group(mine: Any, theirs: Any, at: Match, targets: Bools, groups: int) -> list[Score]:
    """A score for each of ``groups``: predictions by ``mine``, objects by ``theirs``."""
    hit = at.object >= 0
    tp = np.bincount(mine[hit], minlength=groups)
    fp = np.bincount(mine[~hit & ~at.ignored], minlength=groups)
    ignored = np.bincount(mine[at.ignored], minlength=groups)
    sums = np.bincount(mine[hit], weights=at.iou[hit], minlength=groups)
    fn = np.bincount(theirs[targets], minlength=groups) - tp
    rows = zip(tp.tolist(), fp.tolist(), fn.tolist(), sums.tolist(), ignored.tolist(), strict=True)
    return [score(*row) for row in rows]


def _macro(scores: Sequence[Score]) -> dict[str, float | None]:
    """Means over the classes that have objects."""
    return {
        name: sum(getattr(one, name) or 0.0 for one in scores) / len(scores) if scores else None
        for name in ("precision", "recall", "f1")
    }


def _sizes(predictions: Flat, objects: Flat, at: Match, areas: Floats | None) -> dict[str, Score]:
    """By the object's size; a false positive counts in the range of its own area."""
    their = _box_areas(objects) if areas is None else areas
    mine = _box_areas(predictions)
    hit = at.object >= 0
    mine[hit] = their[at.object[hit]]
    out: dict[str, Score] = {}
    for name, (low, high) in SIZES.items():
        inside, wanted = (mine >= low) & (mine <= high), (their >= low) & (their <= high) & ~objects.crowd
        tp = int(np.count_nonzero(hit & inside))
        fp = int(np.count_nonzero(~hit & ~at.ignored & inside))
        out[name] = score(tp, fp, int(np.count_nonzero(wanted)) - tp, float(at.iou[hit & inside].sum()))
    return out


def _box_areas(boxes: Flat) -> Floats:
    areas: Floats = (boxes.box[:, 2] - boxes.box[:, 0]) * (boxes.box[:, 3] - boxes.box[:, 1])
    return areas


def _false_where(predictions: Flat, at: Match, where: Bools) -> int:
    del predictions
    return int(np.count_nonzero((at.object < 0) & ~at.ignored & where))


def _class_present(predictions: Flat, objects: Flat) -> Bools:
    """For each prediction whether its picture has an object of its class."""
    classes = int(max(predictions.label.max(initial=0), objects.label.max(initial=0))) + 1
    there = (objects.picture * classes + objects.label)[~objects.crowd]
    return np.isin(predictions.picture * classes + predictions.label, there)
