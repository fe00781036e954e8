"""What the scores of an evaluation are worth, and their calibration: a map fitted on the answers to another split.

``eval_inputs`` says which answers; a map is never fitted on the pictures that it is applied to.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.metrics.calibration import PlattMap, fit_platt, reliability
from vlmdet_cli.metrics.matching import Floats
from vlmdet_cli.metrics.sweep import ScoredMatch, match_by_score, sweep
from vlmdet_cli.stages.evaluation.eval_boxes import EvalBoxes
from vlmdet_cli.stages.evaluation.prediction_files import Predictions


class CalibrationFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The split to fit on, its ground truth, and the same model's answers to it."""

    split: str
    truth: Path
    predictions: Path


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted map. ``boxes``: that it was fitted on, of which ``right`` matched an object at an IoU of ``iou``;
    ``truth_hash``: of the pictures and objects.
    """

    method: str = "platt"
    split: str
    iou: float
    boxes: int
    right: int
    truth_hash: str
    platt: PlattMap

    def described(self) -> dict[str, Any]:
        """As the protocol of a report states it."""
        stated = msgspec.to_builtins(self)
        return {**stated.pop("platt"), **stated}


def fitted(files: CalibrationFiles, boxes: EvalBoxes, iou: float, truth_hash: str) -> Calibration:
    """The map of the boxes that were read from files.

    Raises ``DataError`` where the boxes are all right or all false, or the scores rank false ones above right ones.
    """
    matched = match_by_score(boxes.predictions, boxes.scores, boxes.objects, iou)
    scores, right = boxes.scores[matched.counted], matched.right[matched.counted]
    num_right = int(np.count_nonzero(right))
    why = f"{files.predictions} has {len(right):,} boxes that count, {num_right:,} of them right at IoU {iou:g}."
    if not 0 < num_right < len(right):
        raise DataError(
            f"The scores cannot be calibrated on {files.split}: boxes of both kinds are needed, right and false",
            why=why,
            hint="Take more pictures into the split, or evaluate without --calibrate.",
        )
    platt = fit_platt(scores, right)
    if platt.slope <= 0:
        raise DataError(
            f"The scores cannot be calibrated on {files.split}: they rank false boxes above right ones",
            why=why,
            hint="Choose another eval.score_rule, or take more pictures into the split.",
        )
    return Calibration(
        split=files.split, iou=iou, boxes=len(right), right=num_right, truth_hash=truth_hash, platt=platt
    )


def require_other_pictures(files: CalibrationFiles, fitted_hash: str, applied_hash: str) -> None:
    """Raise ``UsageError`` where the map would be applied to the pictures that it is fitted on."""
    if fitted_hash == applied_hash:
        raise UsageError(
            f"The scores would be calibrated on the pictures that are evaluated: {files.truth}",
            hint=f"Evaluate another split than {files.split}: vlmdet eval --split test --calibrate",
        )


def require_all_answered(files: CalibrationFiles, answered: int, pictures: int) -> None:
    """Raise ``DataError`` where pictures of the split have no answer, as after an interrupted ``infer``."""
    if answered < pictures:
        raise DataError(
            f"The answers to {files.split} are not complete: {files.predictions}",
            why=f"{answered:,} of {pictures:,} pictures are answered.",
            hint=f"Run `vlmdet infer --split {files.split}` again: it goes on where it was.",
        )


def score_quality(
    boxes: EvalBoxes, iou: float, predictions: Predictions, calibration: Calibration | None
) -> dict[str, Any]:
    """The curve and the reliability of scores, after calibration where there is any; nothing where there are no scores.

    AP is of the scores as they are: a strictly increasing map leaves it what it is.
    """
    if predictions.score_source == "constant":
        return {}
    matched = match_by_score(boxes.predictions, boxes.scores, boxes.objects, iou)
    scores = calibration.platt(boxes.scores) if calibration else boxes.scores
    swept = sweep(scores, matched, int(np.count_nonzero(boxes.objects.targets)))
    if not swept:
        return {}
    before = {"before_calibration": _reliability(boxes.scores, matched)} if calibration else {}
    return {
        "source": predictions.score_source,
        "rule": predictions.score_rule,
        **swept,
        "calibration": _reliability(scores, matched),
        **before,
    }


def _reliability(scores: Floats, matched: ScoredMatch) -> dict[str, Any]:
    """Of the boxes that count; nothing for scores that are no probabilities."""
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    return reliability(scores[matched.counted], matched.right[matched.counted]) if inside else {}
