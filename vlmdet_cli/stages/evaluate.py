"""evaluate: a truth file and a predictions file to a report, and the gates that a report must pass.

The report states its protocol beside the numbers; docs/metrics.md explains every field.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli import predictions as reader
from vlmdet_cli import truth as truth_reader
from vlmdet_cli.errors import UsageError
from vlmdet_cli.metrics.coco_ap import coco_ap
from vlmdet_cli.metrics.detection import THRESHOLDS, detection
from vlmdet_cli.metrics.matching import Flat, flat
from vlmdet_cli.metrics.tasks import tasks
from vlmdet_cli.predictions import Predictions
from vlmdet_cli.records import Ledger
from vlmdet_cli.truth import Truth

MATCHING = "greedy by descending IoU, per picture and class; crowds ignored"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``eval --json`` prints."""

    schema: int = 1
    protocol: dict[str, Any]
    overall: dict[str, Any]
    per_class: dict[str, dict[str, Any]]
    sizes: dict[str, dict[str, Any]]
    coco: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    answers: dict[str, Any]
    ledger: dict[str, dict[str, Any]]


class Gate(msgspec.Struct, frozen=True):
    """One wish on a report: the value of a measure must not be under ``wanted``."""

    name: str
    value: float | None
    wanted: float
    passed: bool


def evaluate(truth_file: Path, predictions_file: Path, *, iou: float = 0.5) -> Report:
    """All measures at ``iou``. Raises ``DataError`` for either file, ``UsageError`` for a threshold out of 0…1."""
    if not 0 < iou <= 1:
        raise UsageError(f"The IoU threshold must lie above 0 and up to 1: {iou}")
    truth = truth_reader.read(truth_file)
    found = reader.read(predictions_file, truth)
    names = _names(truth, found)
    mine, scores = _flat_predictions(found, names)
    theirs = _flat_objects(truth, names)
    areas = np.array(truth.areas, dtype=np.float64) if truth.areas is not None else None
    measured = detection(mine, theirs, names, iou, areas)
    measures, per_class_ap = coco_ap(mine, scores, theirs, areas, truth.categories, len(truth.pictures))
    per_class = {
        name: {**msgspec.to_builtins(one), "ap": per_class_ap.get(name)} for name, one in measured.per_class.items()
    }
    return Report(
        protocol=_protocol(truth, found, iou),
        overall={
            **msgspec.to_builtins(measured.overall),
            "macro_precision": measured.macro["precision"],
            "macro_recall": measured.macro["recall"],
            "macro_f1": measured.macro["f1"],
            "f1_by_iou": measured.f1_by_iou,
            "f1_50_95": _mean(measured.f1_by_iou.values()),
            "fp_in_empty_pictures": measured.fp_in_empty_pictures,
            "fp_of_absent_classes": measured.fp_of_absent_classes,
        },
        per_class=per_class,
        sizes=msgspec.to_builtins(measured.sizes),
        coco={**measures, "score_source": found.score_source},
        tasks=tasks(found.answers),
        answers=_health(found),
        ledger=_ledger(truth, found),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _names(truth: Truth, found: Predictions) -> list[str]:
    """The truth's categories, then labels that only predictions have: those are false under their own name."""
    return list(dict.fromkeys([*truth.categories, *sorted({one.label for one in found.found})]))


def _flat_predictions(found: Predictions, names: Sequence[str]) -> tuple[Flat, Any]:
    place = {name: number for number, name in enumerate(names)}
    rows = [(one.picture, place[one.label], one.box, False) for one in found.found]
    return flat(rows), np.array([one.score for one in found.found], dtype=np.float64)


def _flat_objects(truth: Truth, names: Sequence[str]) -> Flat:
    place = {name: number for number, name in enumerate(names)}
    pictures = enumerate(truth.pictures)
    return flat([(index, place[one.label], one.box, one.crowd) for index, p in pictures for one in p.objects])


def _protocol(truth: Truth, found: Predictions, iou: float) -> dict[str, Any]:
    asked = Counter(row.prompt for row in found.answers if row.kind == "detection")
    return {
        "truth": truth.path.name,
        "form": found.form,
        "prompt": [prompt.replace("<image>", "").strip() for prompt in asked] or None,
        "classes": "all",
        "categories": len(truth.categories),
        "matching": MATCHING,
        "iou": iou,
        "f1_thresholds": [THRESHOLDS[0], THRESHOLDS[-1]],
        "score_source": found.score_source,
        "pictures": len(truth.pictures),
        "objects": sum(len(one.targets) for one in truth.pictures),
        "crowds": sum(len(one.objects) - len(one.targets) for one in truth.pictures),
        "predictions": len(found.found),
    }


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


def _ledger(truth: Truth, found: Predictions) -> dict[str, dict[str, Any]]:
    """Pictures of the truth with and without an answer, and every predicted box."""
    ledger = Ledger()
    ledger.keep("pictures", len(found.answered))
    ledger.drop("pictures", "no answer, their objects count as missed", len(truth.pictures) - len(found.answered))
    ledger.keep("predicted boxes", len(found.found))
    for kind in ("unparsed", "truncated", "degenerate", "duplicate", "loop"):
        count = sum(problem.kind == kind for one in found.parsed for problem in one.problems)
        # a cut box may have been kept all the same; the ledger counts text that gave no box
        ledger.drop("predicted boxes", kind, count)
    return ledger.as_dict()


def gates(report: Report, wishes: Sequence[str]) -> list[Gate]:
    """Each ``METRIC=VALUE`` against the report; a bare name stands in ``overall``, others are dotted paths.

    Raises ``UsageError`` for a wish without a number and for a measure that the report does not have.
    """
    tree: dict[str, Any] = msgspec.to_builtins(report)
    return [_gate(tree, wish) for wish in wishes]


def _gate(tree: dict[str, Any], wish: str) -> Gate:
    name, _, number = wish.rpartition("=")
    try:
        wanted = float(number)
    except ValueError:
        wanted = math.nan
    if not name or math.isnan(wanted):
        raise UsageError(f"Not a gate: {wish}", hint="A gate is METRIC=VALUE, such as f1=0.5.")
    scope = tree["overall"] if name in tree["overall"] else tree
    value = _look_up(scope, name, wish)
    return Gate(name, value, wanted, passed=value is not None and value >= wanted)


def _look_up(tree: Any, path: str, wish: str) -> float | None:
    """The number at a dotted path; keys may hold dots themselves, so the longest that fits is taken."""
    if not path:
        if tree is None or (isinstance(tree, int | float) and not isinstance(tree, bool)):
            return tree
        raise UsageError(f"Not a number in the report: {wish}", hint="Name a measure, such as f1 or coco.AP50.")
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        key = ".".join(parts[:end])
        if isinstance(tree, dict) and key in tree:
            return _look_up(tree[key], ".".join(parts[end:]), wish)
    known = list(tree) if isinstance(tree, dict) else []
    near = difflib.get_close_matches(parts[0], known, n=3) or known[:8]
    raise UsageError(f"The report has no such measure: {wish}", hint=f"Known here: {', '.join(near)}.")
