"""How well the augmentation questions are answered: known sentences and boxes are read, the rest is said so.

    count    right if every category has its number; absolute error, bias and exact share by category beside it
    full     right if the area is said to contain fully, with the right category
    partial  right if it is said to contain partly, with the right category and a percent within ten
    none     right if it is said to contain nothing
    class    right if the category is
    left     right if the number and the category are; absolute error, bias and exact share of the number beside it
    region   right if the boxes are those of the true answer: one to one, equal labels, IoU of at least 0.5
    largest  right if its one box is, in the same way

``said`` counts what kind of answer was given; ``unparsed`` is a text of none of the forms. ``confusion`` tells, by
true category, what was said in its place: a category, or the kind of another sentence in brackets. Boxes are pixels,
or the frame's own numbers where the picture's size is unknown; how good they are one by one stands beside as
precision, recall and F1.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmdet_cli.core.answers import Answer, Detection, ParsedDetections
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.metrics.counting import errors
from vlmdet_cli.metrics.detection import score
from vlmdet_cli.metrics.matching import Bools, Flat, flat, match, overlapping
from vlmdet_cli.metrics.sentences import ParsedAnswer, name, read
from vlmdet_cli.models import dialects

BOX_KINDS: tuple[Kind, ...] = ("region", "largest")
IOU = 0.5


def tasks(answers: Iterable[Answer]) -> dict[str, dict[str, Any]]:
    """Accuracy by kind, of the answers whose truth is known."""
    rows: dict[Kind, list[tuple[Answer, str]]] = defaultdict(list)
    for one in answers:
        if one.kind != "detection" and one.expected is not None:
            rows[one.kind].append((one, one.expected))
    return {kind: _boxes(given) if kind in BOX_KINDS else _sentences(kind, given) for kind, given in rows.items()}


def _sentences(kind: Kind, rows: Sequence[tuple[Answer, str]]) -> dict[str, Any]:
    pairs = [(read(expected), read(one.text)) for one, expected in rows]
    out = _summary([_right(truth, said) for truth, said in pairs], [said.kind for _, said in pairs])
    if kind in {"full", "partial"}:
        same = [(truth, said) for truth, said in pairs if said.kind == kind and truth.label == said.label]
        out["category_accuracy"] = len(same) / len(pairs)
    if kind in {"full", "partial", "class"}:
        out["confusion"] = _confusion(pairs)
    if kind == "partial":
        close = [abs(truth.percent - said.percent) <= 10 for truth, said in pairs if said.kind == kind]
        out["percent_within_ten"] = sum(close) / len(pairs)
    if kind == "left":
        out |= _number_errors(pairs)
    return out | (_count_errors(pairs) if kind == "count" else {})


def _summary(right: Sequence[bool], said: Iterable[str]) -> dict[str, Any]:
    return {"n": len(right), "accuracy": sum(right) / len(right), "said": dict(Counter(said).most_common())}


def _confusion(pairs: list[tuple[ParsedAnswer, ParsedAnswer]]) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, said in pairs:
        table[truth.label][said.label if said.kind == truth.kind else f"({said.kind})"] += 1
    return {label: dict(counts.most_common()) for label, counts in sorted(table.items())}


def _right(truth: ParsedAnswer, said: ParsedAnswer) -> bool:
    if truth.kind != said.kind:
        return False
    if truth.kind == "count":
        return {(name, number) for name, number in truth.counts if number} == {(n, c) for n, c in said.counts if c}
    same = (truth.label, truth.number) == (said.label, said.number)
    return same and abs(truth.percent - said.percent) <= 10


def _count_errors(pairs: list[tuple[ParsedAnswer, ParsedAnswer]]) -> dict[str, Any]:
    """Errors over the categories that either side names: said minus true."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for truth, said in pairs:
        true, told = dict(truth.counts), dict(said.counts)
        for label in {**true, **told}:
            by_class[label].append(told.get(label, 0) - true.get(label, 0))
    return _without_n(errors(by_class))


def _number_errors(pairs: list[tuple[ParsedAnswer, ParsedAnswer]]) -> dict[str, Any]:
    """Errors of the numbers that are said of the right category: said minus true. Silence is no number."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for truth, said in pairs:
        if said.kind == truth.kind and said.label == truth.label:
            by_class[truth.label].append(said.number - truth.number)
    return _without_n(errors(by_class))


def _without_n(made: dict[str, Any]) -> dict[str, Any]:
    """``n`` of a task is its number of questions."""
    return {key: made[key] for key in ("mean_absolute_error", "bias", "exact", "per_class")}


class _Drawn(NamedTuple):
    """What kind of answer was given, and its boxes."""

    said: str
    boxes: tuple[Detection, ...] = ()


def _boxes(rows: Sequence[tuple[Answer, str]]) -> dict[str, Any]:
    drawn = [_drawn(one) for one, _ in rows]
    places: dict[str, int] = {}
    mine = _flat([one.boxes for one in drawn], places)
    theirs = _flat([_parsed(one, expected).detections for one, expected in rows], places)
    found = match(*overlapping(mine, theirs), len(mine.label), IOU).object >= 0
    hits = int(np.count_nonzero(found))
    total = score(hits, len(mine.label) - hits, len(theirs.label) - hits)
    return {
        **_summary(_all_found(mine, theirs, found, len(rows)), [one.said for one in drawn]),
        "precision": total.precision,
        "recall": total.recall,
        "f1": total.f1,
    }


def _drawn(answer: Answer) -> _Drawn:
    """Sentences first: an area that is named in one is no box of the answer."""
    sentence = read(answer.text).kind
    if answer.finish == "error" or sentence not in {"count", "unparsed"}:
        return _Drawn(sentence)
    parsed = _parsed(answer, answer.text)
    if parsed.health == "empty":
        return _Drawn("no boxes")
    return _Drawn("boxes", parsed.detections) if parsed.detections else _Drawn(sentence)


def _parsed(answer: Answer, text: str) -> ParsedDetections:
    dialect = dialects.get(answer.dialect, max_pixels=answer.max_pixels or None)
    return dialect.parse(text, answer.size if all(answer.size) else None)


def _flat(boxes: Sequence[Sequence[Detection]], places: dict[str, int]) -> Flat:
    """Boxes of the questions one after the other; ``places``, the number of each label, grows by new ones."""
    return flat([
        (question, places.setdefault(name(one.label), len(places)), one.box, False)
        for question, found in enumerate(boxes)
        for one in found
    ])  # fmt: skip


def _all_found(mine: Flat, theirs: Flat, found: Bools, questions: int) -> list[bool]:
    """For each question whether all of its boxes, of both sides, have a partner. A true answer has a box at least."""
    hits = np.bincount(mine.picture[found], minlength=questions)
    said, true = np.bincount(mine.picture, minlength=questions), np.bincount(theirs.picture, minlength=questions)
    right: list[bool] = ((hits == said) & (hits == true) & (true > 0)).tolist()
    return right
