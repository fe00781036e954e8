"""Predictions that are boxes already: detection JSON and COCO results.

detection JSON   [{"image_path": …, "object": {label: [[x1, y1, x2, y2]]}}]
COCO results     [{"image_id": …, "category_id": …, "bbox": [x, y, w, h], "score": …}]
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import Box, ImageId
from vlmdet_cli.core.answers import PredictedBox
from vlmdet_cli.core.boxes import as_boxes
from vlmdet_cli.data.formats.detections import DetectionRow
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import DataError, counted, first_few
from vlmdet_cli.stages.evaluation.prediction_files import WHAT, Predictions, locate, refuse_repeated, repeated_rows


class CocoResult(msgspec.Struct, gc=False):
    image_id: ImageId
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float | None = None


def read_detections(path: Path, rows: Sequence[DetectionRow], truth: Truth) -> Predictions:
    """Boxes of detection JSON; one row a picture."""
    indices = locate(path, [(None, row.image_path) for row in rows], truth)
    refuse_repeated(path, [rows[number].image_path for number in repeated_rows(indices)])
    boxes = [
        PredictedBox(index, label, box) for index, row in zip(indices, rows, strict=True) for label, box in row.boxes()
    ]

    def name(number: int) -> str:
        wrong = boxes[number]
        return f"{truth.data.images[wrong.picture].file_name} {wrong.label} {list(wrong.box)}"

    _check_boxes(path, [box.box for box in boxes], name)
    return Predictions(path=path, form="detection JSON", boxes=boxes, answered=set(indices))


def read_coco_results(path: Path, rows: Sequence[CocoResult], truth: Truth) -> Predictions:
    """Boxes of COCO results. Such a file does not name pictures without boxes: all of the truth's count as answered."""
    indices = locate(path, [(row.image_id, "") for row in rows], truth)
    names = truth.data.category_ids
    unknown = [f"category_id {row.category_id}" for row in rows if row.category_id not in names]
    if unknown:
        raise DataError(
            f"The {WHAT} has {counted(len(unknown), 'box', 'boxes')} of unknown categories: {path}",
            why=first_few(list(dict.fromkeys(unknown))),
        )
    corners = [(x, y, x + w, y + h) for x, y, w, h in (row.bbox for row in rows)]
    _check_boxes(path, corners, lambda number: f"row {number}: bbox {list(rows[number].bbox)}")
    scores = _scores(path, rows)
    boxes = [
        PredictedBox(index, names[row.category_id], box, score)
        for index, row, box, score in zip(indices, rows, corners, scores or [1.0] * len(rows), strict=True)
    ]
    source: Literal["constant", "file"] = "file" if scores else "constant"
    everything = set(range(len(truth.data.images)))
    return Predictions(path=path, form="COCO results", boxes=boxes, answered=everything, score_source=source)


def _scores(path: Path, rows: Sequence[CocoResult]) -> list[float]:
    """The scores of all rows, or none where no row has one; only some, or one that is no number, is an error."""
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return []
    bad = [f"row {number}: no score" for number, row in enumerate(rows) if row.score is None]
    bad += [f"row {number}: score {score}" for number, score in enumerate(scores) if not math.isfinite(score)]
    if bad:
        raise DataError(
            f"The {WHAT} has {counted(len(bad), 'row')} without a number as score: {path}", why=first_few(bad)
        )
    return scores


def _check_boxes(path: Path, boxes: Sequence[Box], name: Callable[[int], str]) -> None:
    """Boxes must be numbers with left <= right and top <= bottom."""
    array = as_boxes(boxes)
    sound = np.isfinite(array).all(axis=1) & (array[:, 2:] >= array[:, :2]).all(axis=1)
    bad = [name(number) for number in np.flatnonzero(~sound).tolist()]
    if bad:
        raise DataError(
            f"The {WHAT} has {counted(len(bad), 'wrong box', 'wrong boxes')}: {path}",
            why=first_few(bad),
            hint="A box needs finite numbers and no negative side.",
        )
