"""evaluate: a truth file and a predictions file to a report.

The report states its protocol beside the numbers; docs/metrics.md explains every field.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.settings import Classes, ScoreSource
from vlmdet_cli.data import ground_truth
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import UsageError, first_few
from vlmdet_cli.metrics import bootstrap, counting
from vlmdet_cli.metrics.coco_ap import coco_ap
from vlmdet_cli.metrics.detection import THRESHOLDS, DetectionMetrics, detection
from vlmdet_cli.metrics.matching import Flat, Floats, flat
from vlmdet_cli.metrics.sweep import sweep
from vlmdet_cli.metrics.tasks import tasks
from vlmdet_cli.stages import predictions as reader
from vlmdet_cli.stages.predictions import Predictions

MATCHING = "greedy by descending IoU, per picture and class; crowds ignored"
ABSENT = "class absent from the picture"
NOT_ASKED = "class not asked for"
PROMPTS = 5  # of an evaluation, that are shown


class EvalProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """The protocol: IoU threshold, which classes count in a picture, where scores come from, and the seed of the
    bootstrap. ``config`` is what the report keeps of the project's settings.
    """

    iou: float = 0.5
    classes: Classes = "all"
    scores: ScoreSource = "auto"
    seed: int = 0
    config: dict[str, Any] | None = None


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


def evaluate(truth_file: Path, predictions_file: Path, how: EvalProtocol | None = None) -> Report:
    """All measures. Raises ``DataError`` for either file, ``UsageError`` for a threshold out of 0…1."""
    how = how or EvalProtocol()
    if not 0 < how.iou <= 1:
        raise UsageError(f"The IoU threshold must lie above 0 and up to 1: {how.iou}")
    truth = ground_truth.read(truth_file)
    found = reader.read(predictions_file, truth, how.scores)
    names = _names(truth, found)
    everything = _flat_objects(truth, names)
    counted = _asked_for(everything, found, names)
    theirs = _part(everything, counted)
    mine, scores, left_out = _flat_predictions(found, names, theirs, how)
    areas = np.array(truth.areas, dtype=np.float64)[counted] if truth.areas is not None else None
    protocol, ledger = _protocol(truth, found, theirs, names, how), _ledger(truth, found, left_out, counted)
    answered, health, pictures, source = tasks(found.answers), _health(found), len(truth.pictures), found.score_source
    del truth, found  # hundreds of thousands of small objects, not needed beside the arrays
    measured = detection(mine, theirs, names, how.iou, areas)
    coco = coco_ap(mine, scores, theirs, areas, names, pictures)
    counts = bootstrap.per_picture(mine, theirs, measured.at, ~theirs.crowd, pictures)
    return Report(
        protocol=protocol,
        overall=_overall(measured),
        intervals=bootstrap.intervals(counts, how.seed),
        per_class={
            name: {**msgspec.to_builtins(one), "ap": coco.per_class.get(name)}
            for name, one in measured.per_class.items()
        },
        sizes=msgspec.to_builtins(measured.sizes),
        coco={**coco.measures, "score_source": source},
        errors=coco.errors,
        confusion=coco.confusion,
        counting=counting.from_detections(mine, ~measured.at.ignored, theirs, names),
        scores=_scores(mine, scores, theirs, how, coco.calibration, source),
        tasks=answered,
        answers=health,
        ledger=ledger,
        config=how.config,
        pictures={name: values.round(6).tolist() for name, values in zip(bootstrap.COLUMNS, counts.T, strict=True)},
    )


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


def _scores(
    mine: Flat, scores: Floats, theirs: Flat, how: EvalProtocol, calibration: dict[str, Any], source: str
) -> dict[str, Any]:
    """What scores are worth, where there are any."""
    if source == "constant":
        return {}
    swept = sweep(mine, scores, theirs, how.iou)
    return {"source": source, **swept, "calibration": calibration} if swept else {}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _names(truth: Truth, found: Predictions) -> list[str]:
    """The truth's categories, then labels that only predictions have: those are false under their own name."""
    return list(dict.fromkeys([*truth.categories, *sorted({one.label for one in found.found})]))


def _part(whole: Flat, mask: npt.NDArray[np.bool_]) -> Flat:
    return Flat(whole.picture[mask], whole.label[mask], whole.box[mask], whole.crowd[mask])


def _asked_for(objects: Flat, found: Predictions, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """``(N,)``: the objects that count. Where prompts named classes, those of others could not be found."""
    if found.asked is None:
        return np.ones(len(objects.label), bool)
    pairs = zip(objects.picture.tolist(), objects.label.tolist(), strict=True)
    nothing: set[str] = set(names)  # a picture without an answer: all of its objects are missed
    return np.array([names[label] in found.asked.get(picture, nothing) for picture, label in pairs], bool)


def _flat_predictions(
    found: Predictions, names: Sequence[str], theirs: Flat, how: EvalProtocol
) -> tuple[Flat, Floats, int]:
    """Boxes and scores that count, and how many do not: with ``present``, those of classes the picture lacks."""
    place = {name: number for number, name in enumerate(names)}
    mine = flat([(one.picture, place[one.label], one.box, False) for one in found.found])
    scores = np.array([one.score for one in found.found], dtype=np.float64)
    if how.classes == "all":
        return mine, scores, 0
    keys = theirs.picture * len(names) + theirs.label
    there = np.isin(mine.picture * len(names) + mine.label, keys)
    return _part(mine, there), scores[there], int(np.count_nonzero(~there))


def _flat_objects(truth: Truth, names: Sequence[str]) -> Flat:
    place = {name: number for number, name in enumerate(names)}
    pictures = enumerate(truth.pictures)
    return flat([(index, place[one.label], one.box, one.crowd) for index, p in pictures for one in p.objects])


def _protocol(
    truth: Truth, found: Predictions, theirs: Flat, names: Sequence[str], how: EvalProtocol
) -> dict[str, Any]:
    asked = Counter(row.prompt for row in found.answers if row.kind == "detection")
    return {
        "truth": truth.path.name,
        "truth_hash": _truth_hash(truth, theirs, names),
        "predictions_file": found.path.name,
        "form": found.form,
        "prompt": first_few([prompt.replace("<image>", "").strip() for prompt in asked], PROMPTS) or None,
        "classes": how.classes,
        "asked": "all classes" if found.asked is None else "classes named in each prompt",
        "categories": len(truth.categories),
        "matching": MATCHING,
        "iou": how.iou,
        "f1_thresholds": [THRESHOLDS[0], THRESHOLDS[-1]],
        "score_source": found.score_source,
        "pictures": len(truth.pictures),
        "objects": int(np.count_nonzero(~theirs.crowd)),
        "crowds": int(np.count_nonzero(theirs.crowd)),
        "predictions": len(found.found),
    }


def _truth_hash(truth: Truth, theirs: Flat, names: Sequence[str]) -> str:
    """The same for the same pictures and objects, wherever their file lies and whatever it is called."""
    made = hashlib.blake2b(digest_size=16)
    labels = [names[number] for number in theirs.label.tolist()]
    made.update(msgspec.json.encode([[one.image_id for one in truth.pictures], labels]))
    for column in (theirs.picture, theirs.box, theirs.crowd):
        made.update(column.tobytes())
    return made.hexdigest()


def _health(found: Predictions) -> dict[str, Any]:
    """How the answers to the detection prompt are, where they are raw text."""
    rows = [row for row in found.answers if row.kind == "detection"]
    if not rows:
        return {}
    problems = Counter(problem.kind for one in found.parsed for problem in one.problems)
    boxes = sum(len(one.detections) for one in found.parsed)
    repeated = problems["duplicate"] + problems["loop"]
    return {
        "n": len(rows),
        "health": dict(Counter(
            "error" if row.finish == "error" else one.health for row, one in zip(rows, found.parsed, strict=True)
        ).most_common()),
        "finish": dict(Counter(row.finish for row in rows).most_common()),
        "problems": dict(problems.most_common()),
        "duplicate_rate": repeated / (boxes + repeated) if boxes + repeated else 0.0,
    }  # fmt: skip


def _ledger(
    truth: Truth, found: Predictions, left_out: int, counted: npt.NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Pictures of the truth with and without an answer, and every predicted box."""
    ledger = Ledger()
    ledger.keep("pictures", len(found.answered))
    ledger.drop("pictures", "no answer, their objects count as missed", len(truth.pictures) - len(found.answered))
    if found.asked is not None:
        ledger.keep("objects", int(np.count_nonzero(counted)))
        ledger.drop("objects", NOT_ASKED, int(np.count_nonzero(~counted)))
    ledger.keep("predicted boxes", len(found.found) - left_out)
    ledger.drop("predicted boxes", ABSENT, left_out)
    for kind in ("unparsed", "truncated", "degenerate", "duplicate", "loop"):
        count = sum(problem.kind == kind for one in found.parsed for problem in one.problems)
        # a cut box may have been kept all the same; the ledger counts text that gave no box
        ledger.drop("predicted boxes", kind, count)
    return ledger.as_dict()
