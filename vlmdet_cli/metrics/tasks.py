"""How well the augmentation questions are answered: known sentences and boxes are read, anything else is ``unparsed``.

    count    right if every category has its number; absolute error, bias and exact share by category too
    full     right if the area is said to contain fully, with the right category
    partial  right if it is said to contain partly, with the right category and a percent within ten
    none     right if it is said to contain nothing
    class    right if the category is
    left     right if the number and the category are; absolute error, bias and exact share of the number too
    region   right if the boxes are those of the true answer: one to one, equal labels, IoU of at least 0.5
    largest  right if its one box is, in the same way

``said`` counts the kinds of answers given; ``unparsed`` is a text of none of the forms. ``confusion`` counts, by true
category, what was answered: a category, or the kind of another sentence in brackets. Boxes are pixels, or the frame's
own numbers where the picture's size is unknown; precision, recall and F1 are those of all boxes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmdet_cli.core.answers import Answer, Detection, ParsedDetections
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.core.settings import Duplicates
from vlmdet_cli.metrics.counting import errors
from vlmdet_cli.metrics.detection import score
from vlmdet_cli.metrics.matching import Bools, ObjectBoxes, PredictedBoxes, match, overlapping
from vlmdet_cli.metrics.repeats import with_repeats
from vlmdet_cli.metrics.sentences import ParsedAnswer, name, read, read_expected
from vlmdet_cli.models import dialects

BOX_KINDS: tuple[Kind, ...] = ("region", "largest")
IOU = 0.5
PERCENT = 10  # a percent may be off by so much
Pairs = Sequence[tuple[ParsedAnswer, ParsedAnswer]]  # the true answer, and the one given


def tasks(answers: Iterable[Answer], duplicates: Duplicates = "count") -> dict[str, dict[str, Any]]:
    """Accuracy by kind, of the answers whose truth is known."""
    rows: dict[Kind, list[tuple[Answer, str]]] = defaultdict(list)
    for answer in answers:
        if answer.kind != "detection" and answer.expected is not None:
            rows[answer.kind].append((answer, answer.expected))
    return {
        kind: _boxes(given, duplicates) if kind in BOX_KINDS else _sentences(kind, given)
        for kind, given in rows.items()
    }


def _sentences(kind: Kind, rows: Sequence[tuple[Answer, str]]) -> dict[str, Any]:
    truths = [read_expected(expected, kind) for _, expected in rows]
    labels = {truth.label for truth in truths}
    pairs = [(truth, read(answer.text, labels, kind)) for truth, (answer, _) in zip(truths, rows, strict=True)]
    summary = _summary([_right(kind, *pair) for pair in pairs], [answer.kind for _, answer in pairs])
    if kind in {"full", "partial"}:
        summary["category_accuracy"] = sum(_same_category(kind, *pair) for pair in pairs) / len(pairs)
    if kind in {"full", "partial", "class"}:
        summary["confusion"] = _confusion(pairs)
    if kind == "partial":
        summary["percent_within_ten"] = sum(_close(kind, *pair) for pair in pairs) / len(pairs)
    if kind == "left":
        summary |= _number_errors(pairs)
    return summary | (_count_errors(pairs) if kind == "count" else {})


def _summary(right: Sequence[bool], kinds: Iterable[str]) -> dict[str, Any]:
    return {"n": len(right), "accuracy": sum(right) / len(right), "said": dict(Counter(kinds).most_common())}


def _confusion(pairs: Pairs) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, answer in pairs:
        table[truth.label][answer.label if answer.kind == truth.kind else f"({answer.kind})"] += 1
    return {label: dict(counts.most_common()) for label, counts in sorted(table.items())}


def _right(kind: Kind, truth: ParsedAnswer, answer: ParsedAnswer) -> bool:
    """A true answer that cannot be read as its kind makes no answer right."""
    if not kind == truth.kind == answer.kind:
        return False
    if kind == "count":
        return {entry for entry in truth.counts if entry[1]} == {entry for entry in answer.counts if entry[1]}
    return (truth.label, truth.number) == (answer.label, answer.number) and _close(kind, truth, answer)


def _same_category(kind: Kind, truth: ParsedAnswer, answer: ParsedAnswer) -> bool:
    return kind == truth.kind == answer.kind and truth.label == answer.label


def _close(kind: Kind, truth: ParsedAnswer, answer: ParsedAnswer) -> bool:
    return kind == truth.kind == answer.kind and abs(truth.percent - answer.percent) <= PERCENT


def _count_errors(pairs: Pairs) -> dict[str, Any]:
    """Errors over the categories that either side names: answered minus true."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for truth, answer in pairs:
        true, given = dict(truth.counts), dict(answer.counts)
        for label in {**true, **given}:
            by_class[label].append(given.get(label, 0) - true.get(label, 0))
    return _without_n(errors(by_class))


def _number_errors(pairs: Pairs) -> dict[str, Any]:
    """Errors of the numbers that are given for the right category: answered minus true."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for truth, answer in pairs:
        if answer.kind == truth.kind == "left" and answer.label == truth.label:
            by_class[truth.label].append(answer.number - truth.number)
    return _without_n(errors(by_class))


def _without_n(measures: dict[str, Any]) -> dict[str, Any]:
    """``n`` of a task is its number of questions."""
    return {key: measures[key] for key in ("mean_absolute_error", "bias", "exact", "per_class")}


class _BoxAnswer(NamedTuple):
    """What kind of answer was given, and its boxes."""

    kind: str
    boxes: Sequence[Detection] = ()


def _boxes(rows: Sequence[tuple[Answer, str]], duplicates: Duplicates) -> dict[str, Any]:
    answers = [_box_answer(answer, duplicates) for answer, _ in rows]
    labels: dict[str, int] = {}
    predicted = PredictedBoxes.from_rows(list(_rows([answer.boxes for answer in answers], labels)))
    expected = _rows([_parsed(answer, text).detections for answer, text in rows], labels)
    targets = ObjectBoxes.from_rows([(*row, False) for row in expected])
    hit = match(overlapping(predicted, targets), IOU).hit
    hits = int(np.count_nonzero(hit))
    total = score(hits, len(hit) - hits, len(targets.label) - hits)
    return {
        **_summary(_all_matched(predicted, targets, hit, len(rows)), [answer.kind for answer in answers]),
        "precision": total.precision,
        "recall": total.recall,
        "f1": total.f1,
    }


def _box_answer(answer: Answer, duplicates: Duplicates) -> _BoxAnswer:
    """Sentences first: an area that is named in one is no box of the answer."""
    kind = read(answer.text).kind
    if answer.finish == "error" or kind not in {"count", "unparsed"}:
        return _BoxAnswer(kind)
    parsed = _parsed(answer, answer.text)
    if parsed.health == "empty":
        return _BoxAnswer("no boxes")
    boxes = with_repeats(parsed) if duplicates == "count" else parsed.detections
    return _BoxAnswer("boxes", boxes) if boxes else _BoxAnswer(kind)


def _parsed(answer: Answer, text: str) -> ParsedDetections:
    dialect = dialects.get(answer.dialect, max_pixels=answer.max_pixels or None)
    return dialect.parse(text, answer.size if all(answer.size) else None)


def _rows(boxes: Sequence[Sequence[Detection]], labels: dict[str, int]) -> Iterable[tuple[int, int, Any]]:
    """(question, label's number, box) of the boxes of each question; ``labels``, name to number, gets the new ones."""
    for question, detections in enumerate(boxes):
        for detection in detections:
            yield question, labels.setdefault(name(detection.label), len(labels)), detection.box


def _all_matched(predicted: PredictedBoxes, targets: ObjectBoxes, hit: Bools, questions: int) -> list[bool]:
    """For each question whether all boxes of both sides have a partner. A true answer has a box at least."""
    hits = np.bincount(predicted.picture[hit], minlength=questions)
    given = np.bincount(predicted.picture, minlength=questions)
    true = np.bincount(targets.picture, minlength=questions)
    right: list[bool] = ((hits == given) & (hits == true) & (true > 0)).tolist()
    return right
