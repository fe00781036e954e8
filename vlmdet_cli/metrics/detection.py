"""Precision, recall, F1 and mean IoU of matched detections: overall, per class, by size, over thresholds.

Micro counts add up all pictures and classes; macro is the mean over the classes that have objects. Precision is
None where nothing was predicted, recall where there is nothing to find, F1 (2 tp / (2 tp + fp + fn)) only where
both hold. In a macro mean an undefined precision counts as 0: a class that is never predicted is no success.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.boxes import area
from vlmdet_cli.metrics.matching import (
    Bools,
    Floats,
    Ints,
    Match,
    ObjectBoxes,
    PredictedBoxes,
    match,
    overlapping,
    raised,
)

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
# COCO's areas in square pixels; both ends belong to a range, as in pycocotools
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and what follows from them. ``ignored``: predictions that are left out of account."""

    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    tp: int
    fp: int
    fn: int
    ignored: int = 0


class DetectionMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at the headline threshold with its ``match``, and F1 over 0.50:0.05:0.95."""

    match: Match
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
    predictions: PredictedBoxes,
    objects: ObjectBoxes,
    names: Sequence[str],
    iou: float = 0.5,
    areas: Floats | None = None,
) -> DetectionMetrics:
    """Measures of predictions against objects; ``names`` are the classes by index.

    ``areas``: the objects' areas in square pixels as annotated (COCO sorts sizes by them), else their boxes'.
    """
    overlaps = overlapping(predictions, objects)
    lowest = match(overlaps, min(iou, THRESHOLDS[0]))
    matched = raised(lowest, overlaps, iou)
    scores = dict(zip(names, _per_class(predictions, objects, matched, len(names)), strict=True))
    per_class = {name: value for name, value in scores.items() if value.tp + value.fp + value.fn + value.ignored}
    return DetectionMetrics(
        match=matched,
        overall=_overall(matched, objects.targets),
        macro=_macro([value for value in per_class.values() if value.tp + value.fn]),
        per_class=per_class,
        sizes=_sizes(predictions, objects, matched, area(objects.box) if areas is None else areas),
        f1_by_iou={
            f"{threshold:.2f}": _overall(raised(lowest, overlaps, threshold), objects.targets).f1
            for threshold in THRESHOLDS
        },
        fp_in_empty_pictures=_count(matched.false & ~np.isin(predictions.picture, objects.picture[objects.targets])),
        fp_of_absent_classes=_count(matched.false & ~_class_present(predictions, objects)),
    )


def group_counts(predicted: Ints, targets: Ints, matched: Match, groups: int) -> Floats:
    """Counts by group, ``(groups, 4)``: true positives, false positives, false negatives, sum of IoU of the matched.

    ``predicted``: the group of each prediction; ``targets``: the group of each object that is found or missed.
    """
    hit = matched.hit
    tp = np.bincount(predicted[hit], minlength=groups)
    fp = np.bincount(predicted[matched.false], minlength=groups)
    fn = np.bincount(targets, minlength=groups) - tp
    iou = np.bincount(predicted[hit], weights=matched.iou[hit], minlength=groups)
    return np.column_stack([tp, fp, fn, iou]).astype(np.float64)


def _overall(matched: Match, targets: Bools) -> Score:
    tp = _count(matched.hit)
    return score(tp, _count(matched.false), _count(targets) - tp, float(matched.iou.sum()), _count(matched.ignored))


def _count(mask: Bools) -> int:
    return int(np.count_nonzero(mask))


def _per_class(predictions: PredictedBoxes, objects: ObjectBoxes, matched: Match, classes: int) -> list[Score]:
    counts = group_counts(predictions.label, objects.label[objects.targets], matched, classes)
    ignored = np.bincount(predictions.label[matched.ignored], minlength=classes).tolist()
    return [
        score(int(tp), int(fp), int(fn), iou, left_out)
        for (tp, fp, fn, iou), left_out in zip(counts.tolist(), ignored, strict=True)
    ]


def _macro(scores: Sequence[Score]) -> dict[str, float | None]:
    """Means over the classes that have objects."""
    return {
        name: sum(getattr(value, name) or 0.0 for value in scores) / len(scores) if scores else None
        for name in ("precision", "recall", "f1")
    }


def _sizes(predictions: PredictedBoxes, objects: ObjectBoxes, matched: Match, areas: Floats) -> dict[str, Score]:
    """By the object's size; a false positive counts in the range of its own area."""
    hit, targets = matched.hit, objects.targets
    predicted = area(predictions.box)
    predicted[hit] = areas[matched.object[hit]]
    sizes: dict[str, Score] = {}
    for name, (low, high) in SIZES.items():
        inside = (predicted >= low) & (predicted <= high)
        present = _count((areas >= low) & (areas <= high) & targets)
        tp = _count(hit & inside)
        sizes[name] = score(tp, _count(matched.false & inside), present - tp, float(matched.iou[hit & inside].sum()))
    return sizes


def _class_present(predictions: PredictedBoxes, objects: ObjectBoxes) -> Any:
    """For each prediction whether its picture has an object of its class."""
    classes = int(max(predictions.label.max(initial=0), objects.label.max(initial=0))) + 1
    present = (objects.picture * classes + objects.label)[objects.targets]
    return np.isin(predictions.picture * classes + predictions.label, present)
