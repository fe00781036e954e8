"""Repeats: boxes of one picture with the same label that are the same (exact), or nearly (by IoU)."""

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np

from vlmdet_cli.core.answers import Detection, ParsedDetections
from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.metrics.matching import Bools, Floats, PredictedBoxes


def with_repeats(parsed: ParsedDetections) -> list[Detection]:
    """An answer's boxes as often as its text has them: each once in the order of the text, then the repeats."""
    again = zip(parsed.detections, parsed.repeats or [0] * len(parsed.detections), strict=True)
    return [*parsed.detections, *(detection for detection, times in again for _ in range(times))]


def repeated(boxes: PredictedBoxes, scores: Floats) -> Bools:
    """``(N,)``: the boxes that repeat another one; of equal boxes all but the first of the highest score."""
    columns = [*boxes.box.T, boxes.label, boxes.picture]
    order = np.lexsort([-scores, *columns])
    same = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    mask = np.zeros(len(order), bool)
    mask[order[1:][same]] = True
    return mask


def without_near_repeats(parsed: ParsedDetections, iou: float) -> ParsedDetections:
    """Without the boxes that have an IoU of at least ``iou`` with a better one of their label that stays, and without
    exact repeats.

    Better is the higher score; of equal scores, or without scores, the earlier one. The order is kept.
    """
    detections, by_label = parsed.detections, dict[str, list[int]]()
    for index in sorted(range(len(detections)), key=lambda number: -(detections[number].score or 0.0)):
        by_label.setdefault(detections[index].label, []).append(index)
    kept = {index for indices in by_label.values() for index in _suppress(detections, indices, iou)}
    staying = tuple(detection for index, detection in enumerate(detections) if index in kept)
    return msgspec.structs.replace(parsed, detections=staying, repeats=())


def without_label(parsed: ParsedDetections, label: str) -> ParsedDetections:
    """Without the boxes of that label and their repeats."""
    kept = [detection.label != label for detection in parsed.detections]
    repeats = tuple(itertools.compress(parsed.repeats, kept))
    detections = tuple(itertools.compress(parsed.detections, kept))
    return msgspec.structs.replace(parsed, detections=detections, repeats=repeats if any(repeats) else ())


def _suppress(detections: Sequence[Detection], indices: Sequence[int], iou: float) -> list[int]:
    """Of indices, the better first, those that are no near repeat of an earlier one that stays."""
    boxes = [detections[index].box for index in indices]
    near = pairwise_iou(boxes, boxes) >= iou  # (N, N)
    alive = np.ones(len(indices), bool)
    for number in range(len(indices)):
        if alive[number]:
            alive[number + 1 :] &= ~near[number, number + 1 :]
    return [index for index, stays in zip(indices, alive.tolist(), strict=True) if stays]
