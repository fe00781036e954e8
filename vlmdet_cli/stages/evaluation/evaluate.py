"""evaluate: a truth file and a predictions file to a report.

The report states its protocol beside the numbers; docs/metrics.md explains every field.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, Classes, Duplicates, ScoreRule, ScoreSource
from vlmdet_cli.data import ground_truth
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.engines.answers import read_meta
from vlmdet_cli.errors import UsageError, first_few
from vlmdet_cli.metrics import bootstrap, counting
from vlmdet_cli.metrics.coco_ap import CocoInput, CocoResult, coco_ap
from vlmdet_cli.metrics.detection import THRESHOLDS, DetectionMetrics, detection, group_counts
from vlmdet_cli.metrics.matching import IN_CROWD, LEFT_OUT_REASONS, Match
from vlmdet_cli.metrics.tasks import tasks
from vlmdet_cli.stages.evaluation import predictions as reader
from vlmdet_cli.stages.evaluation.answers_fit import require_fit
from vlmdet_cli.stages.evaluation.asked_classes import asked_in_words, notes, without_prompts
from vlmdet_cli.stages.evaluation.eval_boxes import EvalBoxes, eval_boxes
from vlmdet_cli.stages.evaluation.eval_scores import (
    Calibration,
    CalibrationFiles,
    fitted,
    require_all_answered,
    require_other_pictures,
    score_quality,
)
from vlmdet_cli.stages.evaluation.prediction_files import Predictions
from vlmdet_cli.stages.inference.answer_reading import NOT_ASKED

MATCHING = "greedy by descending IoU, per picture and class; crowds ignored"
CLASS_NOT_ASKED = "class not asked for"
PROMPTS = 5  # of an evaluation, that are shown


class EvalProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """IoU threshold, which classes count in a picture, whether exact repeats count, where scores come from and by
    which rule from log-probabilities, the dialect of raw text (empty: as the file says or shows), and the seed of the
    bootstrap.

    ``calibrate_on``: the answers that scores are calibrated on, None for scores as they are. ``config`` is what the
    report keeps of the project's settings. ``rows_must_fit``: whether what the rows of answers
    hold of the truth must fit it, see ``answers_fit``.
    """

    iou: float = 0.5
    classes: Classes = "all"
    duplicates: Duplicates = "count"
    scores: ScoreSource = "auto"
    score_rule: ScoreRule = DEFAULT_SCORE_RULE
    dialect: str = ""
    calibrate_on: CalibrationFiles | None = None
    seed: int = 0
    config: dict[str, Any] | None = None
    rows_must_fit: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``eval --json`` prints. ``pictures``: counts of each picture in the truth's order, for paired comparison."""

    schema: int = 1
    protocol: dict[str, Any]
    overall: dict[str, Any]
    intervals: dict[str, Any] = {}
    per_class: dict[str, dict[str, Any]]
    sizes: dict[str, dict[str, Any]]
    coco: dict[str, Any]
    errors: dict[str, Any] = {}
    confusion: dict[str, Any] = {}
    counting: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]]
    answers: dict[str, Any]
    ledger: dict[str, dict[str, Any]]
    config: dict[str, Any] | None = None
    pictures: dict[str, list[float]] = {}
    notes: list[str] = []


def evaluate(truth_file: Path, predictions_file: Path, settings: EvalProtocol | None = None) -> Report:
    """All measures. Raises ``DataError`` for either file, ``UsageError`` for a threshold out of 0…1."""
    settings = settings or EvalProtocol()
    truth = ground_truth.read(truth_file)
    return report_on(truth, read_predictions(predictions_file, truth, settings), settings)


def report_on(truth: Truth, predictions: Predictions, settings: EvalProtocol) -> Report:
    """All measures of predictions that are read. Raises as ``evaluate`` does."""
    if not 0 < settings.iou <= 1:
        raise UsageError(f"The IoU threshold must lie above 0 and up to 1: {settings.iou}")
    boxes = eval_boxes(truth, predictions, settings.classes, settings.duplicates)
    calibrated = _calibration(settings, predictions, _truth_hash(truth, boxes))
    predictions = msgspec.structs.replace(predictions, boxes=[])  # hundreds of thousands of records, now in columns
    measured = detection(boxes.predictions, boxes.objects, boxes.names, settings.iou, boxes.areas)
    coco = _coco(truth, boxes, measured.match)
    counts = group_counts(
        boxes.predictions.picture,
        boxes.objects.picture[boxes.objects.targets],
        measured.match,
        len(truth.data.images),
    )
    return Report(
        protocol={
            **_protocol(truth, predictions, boxes, settings),
            "calibration": calibrated.described() if calibrated else None,
        },
        overall=_overall(measured),
        intervals=bootstrap.intervals(counts, settings.seed),
        per_class={
            name: {**msgspec.to_builtins(score), "ap": coco.per_class.get(name)}
            for name, score in measured.per_class.items()
        },
        sizes=msgspec.to_builtins(measured.sizes),
        coco={**coco.measures, "score_source": predictions.score_source, "score_rule": predictions.score_rule},
        errors=coco.errors,
        confusion=coco.confusion,
        counting=_counting(truth, boxes, measured.match),
        scores=score_quality(boxes, settings.iou, predictions, calibrated),
        tasks=tasks(predictions.answers, settings.duplicates),
        answers=_health(predictions, boxes.given),
        ledger=_ledger(truth, predictions, boxes, measured.match),
        config=settings.config,
        pictures={name: values.round(6).tolist() for name, values in zip(bootstrap.COLUMNS, counts.T, strict=True)},
        notes=notes(truth, predictions),
    )


def read_predictions(file: Path, truth: Truth, settings: EvalProtocol) -> Predictions:
    """Predictions as the protocol says. Raises ``DataError`` where rows of answers must fit the truth and do not."""
    predictions = reader.read(file, truth, settings.scores, settings.dialect, settings.score_rule)
    if settings.rows_must_fit:
        require_fit(predictions, truth)
    return predictions


def _coco(truth: Truth, boxes: EvalBoxes, match: Match) -> CocoResult:
    given = CocoInput(
        predictions=boxes.predictions,
        scores=boxes.scores,
        objects=boxes.objects,
        areas=boxes.areas,
        names=boxes.names,
        image_ids=[image.id for image in truth.data.images],
        federated=truth.federated,
    )
    # the analysis of errors knows crowds by itself
    return coco_ap(given, ~match.ignored | (match.left_out == IN_CROWD))


def _overall(measured: DetectionMetrics) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(measured.overall),
        "macro_precision": measured.macro["precision"],
        "macro_recall": measured.macro["recall"],
        "macro_f1": measured.macro["f1"],
        "f1_by_iou": measured.f1_by_iou,
        "f1_50_95": _mean(measured.f1_by_iou.values()),
        "fp_in_empty_pictures": measured.fp_in_empty_pictures,
        "fp_of_absent_classes": measured.fp_of_absent_classes,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _counting(truth: Truth, boxes: EvalBoxes, match: Match) -> dict[str, Any]:
    """Only where all objects of the class are annotated: elsewhere their number is not known."""
    objects = boxes.objects
    known = objects.targets & truth.searched(objects.picture, objects.label, boxes.names)
    predicted = ~match.ignored & boxes.predictions.searched
    return counting.from_detections(boxes.predictions.where(predicted), objects.where(known), boxes.names)


def _calibration(settings: EvalProtocol, predictions: Predictions, truth_hash: str) -> Calibration | None:
    """The map of scores, fitted on other answers as these are evaluated; None where none is asked for."""
    files = settings.calibrate_on
    if files is None:
        return None
    if predictions.score_source == "constant":
        raise UsageError(
            f"There are no scores to calibrate: {predictions.path}",
            hint='Answer with infer.scores = true, and evaluate with eval.scores = "auto".',
        )
    truth = ground_truth.read(files.truth)
    answers = read_predictions(files.predictions, truth, settings)
    boxes = eval_boxes(truth, answers, settings.classes, settings.duplicates)
    fitted_hash = _truth_hash(truth, boxes)
    require_other_pictures(files, fitted_hash, truth_hash)
    require_all_answered(files, len(answers.answered), len(truth.data.images))
    return fitted(files, boxes, settings.iou, fitted_hash)


def _protocol(truth: Truth, predictions: Predictions, boxes: EvalBoxes, settings: EvalProtocol) -> dict[str, Any]:
    asked = Counter(row.prompt for row in predictions.answers if row.kind == "detection")
    return {
        "truth": truth.path.name,
        "truth_hash": _truth_hash(truth, boxes),
        "predictions_file": predictions.path.name,
        "form": predictions.form,
        "engine": _engine(predictions.path),
        "dialect": predictions.dialect,
        "dialect_source": predictions.dialect_source,
        "prompt": first_few([prompt.replace("<image>", "").strip() for prompt in asked], PROMPTS) or None,
        "classes": settings.classes,
        "asked": asked_in_words(predictions),
        "tiles": str(predictions.tiles) if predictions.tiles else None,
        "categories": len(truth.categories),
        "federated": truth.federated,
        "matching": MATCHING,
        "duplicates": settings.duplicates,
        "repeats": boxes.repeats,
        "dedupe": predictions.dedupe,
        "iou": settings.iou,
        "f1_thresholds": [THRESHOLDS[0], THRESHOLDS[-1]],
        "score_source": predictions.score_source,
        "score_rule": predictions.score_rule,
        "pictures": len(truth.data.images),
        "objects": int(np.count_nonzero(boxes.objects.targets)),
        "crowds": int(np.count_nonzero(boxes.objects.crowd)),
        "ignored_objects": int(np.count_nonzero(boxes.objects.ignored)),
        "predictions": boxes.given,
    }


def _engine(predictions: Path) -> str | None:
    """The name of the engine that answered, where ``infer`` has recorded it beside the file."""
    meta = read_meta(predictions)
    return meta.engine.get("name") if meta else None


def _truth_hash(truth: Truth, boxes: EvalBoxes) -> str:
    """The same for the same pictures and objects, wherever their file lies and whatever it is called."""
    digest, objects = hashlib.blake2b(digest_size=16), boxes.objects
    labels = [boxes.names[number] for number in objects.label[~objects.ignored].tolist()]
    digest.update(msgspec.json.encode([[image.id for image in truth.data.images], labels]))
    counted = objects.where(~objects.ignored)
    for column in (counted.picture, counted.box, counted.crowd):
        digest.update(column.tobytes())
    if objects.ignored.any():
        ignored = objects.where(objects.ignored)
        digest.update(msgspec.json.encode([boxes.names[number] for number in ignored.label.tolist()]))
        digest.update(ignored.picture.tobytes() + ignored.box.tobytes())
    if truth.federated:
        digest.update(msgspec.json.encode([image.exhaustive_categories for image in truth.data.images]))
    return digest.hexdigest()


def _health(predictions: Predictions, given: int) -> dict[str, Any]:
    """How the answers to the detection prompt are, where they are raw text."""
    rows = [row for row in predictions.answers if row.kind == "detection"]
    if not rows:
        return {}
    problems = Counter(problem.kind for parsed in predictions.parsed for problem in parsed.problems)
    health = [
        "error" if row.finish == "error" else parsed.health
        for row, parsed in zip(rows, predictions.parsed, strict=True)
    ]
    repeats = sum(sum(parsed.repeats) for parsed in predictions.parsed)
    return {
        "n": len(rows),
        "missing": predictions.missing,
        "health": dict(Counter(health).most_common()),
        "finish": dict(Counter(row.finish for row in rows).most_common()),
        "problems": dict(problems.most_common()),
        "duplicate_rate": repeats / (given + sum(predictions.removed.values())) if repeats else 0.0,
    }


def _ledger(truth: Truth, predictions: Predictions, boxes: EvalBoxes, match: Match) -> dict[str, dict[str, Any]]:
    """Pictures of the truth with and without an answer, and every predicted box."""
    ledger, pictures = Ledger(), len(truth.data.images)
    nothing_to_ask = without_prompts(truth, predictions)
    ledger.keep("pictures", len(predictions.answered))
    ledger.drop("pictures", "no object, so that there is no class to ask for", nothing_to_ask)
    unanswered = pictures - len(predictions.answered) - nothing_to_ask
    ledger.drop("pictures", "no answer, their objects count as missed", unanswered)
    if predictions.asked is not None:
        ledger.keep("objects", int(np.count_nonzero(boxes.objects.targets)))
        ledger.drop("objects", CLASS_NOT_ASKED, boxes.not_asked)
    ledger.keep("predicted boxes", int(np.count_nonzero(~match.ignored)))
    for reason, count in zip(LEFT_OUT_REASONS[1:], np.bincount(match.left_out, minlength=4)[1:].tolist(), strict=True):
        ledger.drop("predicted boxes", reason, count)
    for reason, count in (predictions.removed | boxes.removed).items():
        ledger.drop("predicted boxes", reason, count)
    for kind in ("unparsed", "truncated", "degenerate", NOT_ASKED):
        # a cut box may have been kept all the same; the ledger counts text that gave no box
        count = sum(problem.kind == kind for parsed in predictions.parsed for problem in parsed.problems)
        ledger.drop("predicted boxes", kind, count)
    return ledger.as_dict()
