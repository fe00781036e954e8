"""Predictions of any form, recognised by content, as boxes in pixels for the pictures of a truth.

    answers, swift infer           raw text      prediction_texts
    detection JSON, COCO results   boxes         prediction_boxes

Nothing is guessed: a row for a picture that the truth does not have, a picture answered twice, a broken row, a wrong
box is each an error that counts all of them and names the first.
"""

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import parse_json, read_bytes
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, ScoreRule, ScoreSource
from vlmdet_cli.data.formats.detections import DetectionRow
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.stages.evaluation import prediction_texts as texts
from vlmdet_cli.stages.evaluation.prediction_boxes import CocoResult, read_coco_results, read_detections
from vlmdet_cli.stages.evaluation.prediction_files import WHAT, Predictions, convert, unknown_form

_COCO_RESULTS = msgspec.json.Decoder(list[CocoResult])


def read(
    path: Path,
    truth: Truth,
    scores: ScoreSource = "auto",
    dialect: str = "",
    rule: ScoreRule = DEFAULT_SCORE_RULE,
) -> Predictions:
    """Predictions of a file for a truth's pictures. Raises ``DataError``, ``UsageError`` for scores that are not there.

    ``scores``: ``auto`` takes what the file has; ``constant`` counts every box as 1. ``dialect``: of raw text, in place
    of what the file says or shows. ``rule``: how log-probabilities become a score.
    """
    predictions = _read(path, truth, dialect, rule)
    if scores == "constant":
        boxes = [msgspec.structs.replace(box, score=1.0) for box in predictions.boxes]
        return msgspec.structs.replace(predictions, score_source="constant", score_rule=None, boxes=boxes)
    if scores not in {"auto", predictions.score_source}:
        raise UsageError(
            f"The {WHAT} has no scores of the kind {scores}: {path}",
            why=f"Its form is {predictions.form}, its scores are {predictions.score_source}.",
            hint="Log-probabilities are kept with infer.scores = true.",
        )
    return predictions


def _read(path: Path, truth: Truth, dialect: str, rule: ScoreRule) -> Predictions:
    data = read_bytes(path, WHAT)
    first = data.lstrip()[:1]
    if not first:
        raise DataError(f"The {WHAT} is empty: {path}", hint="Did the run that writes it end early?")
    if first == b"[":
        with contextlib.suppress(msgspec.DecodeError):  # the common form at its fastest; anything else says why below
            if rows := _COCO_RESULTS.decode(data):
                return read_coco_results(path, rows, truth)
        return _document(path, parse_json(data, str(path), WHAT), truth, dialect, rule)
    return texts.read_lines(path, data, truth, dialect, rule)


def _document(path: Path, document: Any, truth: Truth, dialect: str, rule: ScoreRule) -> Predictions:
    keys = set(document[0]) if document and isinstance(document[0], dict) else set()
    if "bbox" in keys:
        return read_coco_results(path, convert(path, document, list[CocoResult]), truth)
    if not document or "object" in keys:
        return read_detections(path, convert(path, document, list[DetectionRow]), truth)
    if keys & {"response", "text", "prompt"}:
        return texts.read_rows(path, list(enumerate(document, 1)), truth, dialect, rule)
    raise unknown_form(path)
