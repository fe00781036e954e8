"""Exact repeats: boxes of one picture with the same label and the same corners."""

import numpy as np

from vlmdet_cli.core.answers import Detection, ParsedDetections
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
