"""The data of the report page: the boxes that ``eval`` counts, as columns, with answers and the report (see
``drawing.page`` for their form).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.metrics.matching import Floats, Ints, ObjectBoxes
from vlmdet_cli.stages.evaluation.eval_boxes import EvalBoxes, object_columns
from vlmdet_cli.stages.evaluation.evaluate import Report
from vlmdet_cli.stages.evaluation.prediction_files import Predictions, locate


class Evaluated(NamedTuple):
    """Predictions, their boxes as they are counted, and the report on them."""

    predictions: Predictions
    boxes: EvalBoxes
    report: Report


class Compared(NamedTuple):
    """Two evaluations on the same truth, the earlier first, and what a reader calls them."""

    names: tuple[str, str]
    before: Evaluated
    after: Evaluated


def page_data(
    truth: Truth, evaluated: Evaluated | None, chosen: Sequence[int], compared: Compared | None = None
) -> dict[str, Any]:
    """All but ``images``, of the pictures whose indices are ``chosen``; without predictions, the truth alone.

    ``compared`` is with ``evaluated`` as its later one.
    """
    position = np.full(len(truth.data.images), -1, dtype=np.int64)
    position[list(chosen)] = np.arange(len(chosen))
    data = _data(truth, evaluated, chosen, position)
    return data | (_comparison(truth, compared, chosen, position, data["names"]) if compared else {})


def _comparison(
    truth: Truth, compared: Compared, chosen: Sequence[int], position: Ints, names: Sequence[str]
) -> dict[str, Any]:
    """The earlier evaluation as ``other``; its classes are numbered as in ``names``, which gets those it alone has."""
    before = compared.before
    joint = list(dict.fromkeys([*names, *before.boxes.names]))
    number = np.array([joint.index(name) for name in before.boxes.names], dtype=np.int64)
    predictions = before.boxes.predictions
    renamed = before.boxes.predictions._replace(label=number[predictions.label])
    renumbered = before._replace(boxes=msgspec.structs.replace(before.boxes, predictions=renamed))
    pictures = _pictures(truth, before, chosen)
    scores = np.concatenate([before.boxes.scores, compared.after.boxes.scores])
    return {
        "names": joint,
        "runs": list(compared.names),
        "score_range": _score_range(scores),
        "other": {
            "predictions": _prediction_columns(renumbered, position),
            "report": _report(before.report),
            "answers": pictures["answers"],
            "answered": pictures["answered"],
        },
    }


def _score_range(scores: Floats) -> list[float]:
    return [float(np.floor(scores.min(initial=0))), float(np.ceil(scores.max(initial=1)))]


def _data(truth: Truth, evaluated: Evaluated | None, chosen: Sequence[int], position: Ints) -> dict[str, Any]:
    names, objects, areas = _objects(truth, evaluated)
    scores = evaluated.boxes.scores if evaluated else np.zeros(0)
    report = _report(evaluated.report) if evaluated else None
    return {
        "compared": evaluated is not None,
        "scored": evaluated is not None and evaluated.predictions.score_source != "constant",
        "score_range": _score_range(scores),
        "iou": report["protocol"]["iou"] if report else 0.5,
        "names": names,
        "pictures": _pictures(truth, evaluated, chosen),
        "objects": _object_columns(objects, areas, position),
        "predictions": _prediction_columns(evaluated, position),
        "report": report,
        "left_out": len(truth.data.images) - len(chosen),
        "notes": list(evaluated.report.notes) if evaluated else [],
    }


def _objects(truth: Truth, evaluated: Evaluated | None) -> tuple[list[str], ObjectBoxes, Any]:
    if evaluated:
        return evaluated.boxes.names, evaluated.boxes.objects, evaluated.boxes.areas
    return list(truth.categories), *object_columns(truth)


def _report(report: Report) -> dict[str, Any]:
    """What the page shows of it: not the project's settings, which may name the machine, and no counts by picture."""
    document: dict[str, Any] = msgspec.to_builtins(report)
    return {key: value for key, value in document.items() if key not in {"config", "pictures", "confusion", "errors"}}


def _pictures(truth: Truth, evaluated: Evaluated | None, chosen: Sequence[int]) -> dict[str, list[Any]]:
    images = [truth.data.images[index] for index in chosen]
    answers = _answers(truth, evaluated.predictions) if evaluated else {}
    answered = evaluated.predictions.answered if evaluated else set[int]()
    return {
        "name": [image.file_name for image in images],
        "size": [[image.width, image.height] for image in images],
        "answered": [int(index in answered) for index in chosen],
        "answers": [answers.get(index, []) for index in chosen],
    }


def _answers(truth: Truth, predictions: Predictions) -> dict[int, list[dict[str, Any]]]:
    """The raw answers to the detection prompt by picture."""
    rows = [row for row in predictions.answers if row.kind == "detection"]
    indices = locate(predictions.path, [(row.image_id or None, row.image) for row in rows], truth)
    answers: dict[int, list[dict[str, Any]]] = {}
    for index, row, parsed in zip(indices, rows, predictions.parsed, strict=True):
        answers.setdefault(index, []).append(_answer(row, parsed))
    return answers


def _answer(row: Answer, parsed: ParsedDetections) -> dict[str, Any]:
    problems = [[problem.kind, problem.text] for problem in parsed.problems]
    return {
        "text": row.text,
        "prompt": row.prompt.replace("<image>", "").strip(),
        "finish": row.finish,
        "health": "error" if row.finish == "error" else parsed.health,
        "problems": problems + ([["error", row.error]] if row.error else []),
    }


def _object_columns(objects: ObjectBoxes, areas: Any, position: Ints) -> dict[str, list[Any]]:
    order = _order(position[objects.picture])
    kind = np.where(objects.crowd, 1, np.where(objects.ignored, 2, 0))
    return {
        "picture": position[objects.picture][order].tolist(),
        "label": objects.label[order].tolist(),
        "box": objects.box[order].ravel().tolist(),
        "kind": kind[order].tolist(),
        "area": areas[order].tolist(),
    }


def _prediction_columns(evaluated: Evaluated | None, position: Ints) -> dict[str, list[Any]]:
    if evaluated is None:
        return {name: [] for name in ("picture", "label", "box", "score", "searched")}
    boxes = evaluated.boxes.predictions
    order = _order(position[boxes.picture])
    return {
        "picture": position[boxes.picture][order].tolist(),
        "label": boxes.label[order].tolist(),
        "box": boxes.box[order].ravel().tolist(),
        "score": evaluated.boxes.scores[order].tolist(),
        "searched": boxes.searched[order].astype(int).tolist(),
    }


def _order(position: Ints) -> Ints:
    """The boxes of chosen pictures, picture by picture, each in the order of the file."""
    order: Ints = np.argsort(position, kind="stable")
    return order[position[order] >= 0]
