"""Predictions of any form, recognised by content, as boxes in pixels for the pictures of a truth.

    answers          JSONL of raw answers, as ``infer`` writes them
    swift infer      JSONL with ``response``, ``messages`` and ``images``
    detection JSON   [{"image_path": …, "object": {label: [[x1, y1, x2, y2]]}}]
    COCO results     [{"image_id": …, "category_id": …, "bbox": [x, y, w, h], "score": …}]

Nothing is guessed: a row for a picture that the truth does not have, a picture answered twice, a broken row, a
box that is none, each is an error that counts all and names the first.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import orjson

from vlmdet_cli.core.annotations import Box, ImageId
from vlmdet_cli.core.answers import Answer, ParsedDetections, PredictedBox, Problem, Token
from vlmdet_cli.core.boxes import as_boxes
from vlmdet_cli.core.files import parse_json, read_bytes
from vlmdet_cli.core.settings import ScoreSource
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import DataError, UsageError, counted, first_few
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts.questions import kind_of

WHAT = "predictions file"
Form = Literal["answers", "swift infer", "detection JSON", "COCO results"]


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """All boxes; ``answered``: indices of the truth's pictures that have an answer, empty or not. ``parsed`` and
    ``answers`` are there for raw text; ``asked``: the classes that prompts named, by picture, where all named some.
    """

    path: Path
    form: Form
    found: list[PredictedBox]
    answered: set[int]
    score_source: Literal["constant", "file", "logprob"] = "constant"
    answers: list[Answer] = []
    parsed: list[ParsedDetections] = []
    asked: dict[int, set[str]] | None = None


def read(path: Path, truth: Truth, scores: ScoreSource = "auto") -> Predictions:
    """Predictions of a file for a truth's pictures. Raises ``DataError``, ``UsageError`` for scores that are not there.

    ``scores``: ``auto`` takes what the file has; ``constant`` counts every box as 1.
    """
    made = _read(path, truth)
    if scores == "constant":
        return msgspec.structs.replace(
            made, score_source="constant", found=[msgspec.structs.replace(one, score=1.0) for one in made.found]
        )
    if scores not in {"auto", made.score_source}:
        raise UsageError(
            f"The {WHAT} has no scores of the kind {scores}: {path}",
            why=f"Its form is {made.form}, its scores are {made.score_source}.",
            hint="Log-probabilities are kept with infer.scores = true.",
        )
    return made


def _read(path: Path, truth: Truth) -> Predictions:
    data = read_bytes(path, WHAT)
    first = data.lstrip()[:1]
    if not first:
        raise DataError(f"The {WHAT} is empty: {path}", hint="Did the run that writes it end early?")
    if first == b"[":
        with contextlib.suppress(msgspec.DecodeError):  # the common form at its fastest; anything else says why below
            if rows := _RESULTS.decode(data):
                return _coco_results(path, rows, truth)
        return _document(path, parse_json(data, str(path), WHAT), truth)
    return _lines(path, data, truth)


def _document(path: Path, document: Any, truth: Truth) -> Predictions:
    if document and isinstance(document[0], dict) and "bbox" in document[0]:
        return _coco_results(path, _convert(path, document, list[_Result]), truth)
    if not document or (isinstance(document[0], dict) and "object" in document[0]):
        return _detections(path, _convert(path, document, list[_Detections]), truth)
    if isinstance(document[0], dict) and ("response" in document[0] or "text" in document[0]):
        return _answers(path, [_answer(path, row, number) for number, row in enumerate(document, 1)], truth)
    raise _unknown(path)


def _unknown(path: Path) -> DataError:
    return DataError(
        f"The {WHAT} has none of the known forms: {path}",
        hint="Known are answers (JSONL), swift infer's result file, detection JSON and COCO results.",
    )


def _convert(path: Path, document: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"The {WHAT} has a wrong entry: {path}", why=f"{error}.") from None


# --- raw text ------------------------------------------------------------------------------------------------


def _lines(path: Path, data: bytes, truth: Truth) -> Predictions:
    rows: list[Answer] = []
    lines = data.splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_answer(path, _line(path, line, number, len(lines)), number))
    return _answers(path, rows, truth)


def _line(path: Path, line: bytes, number: int, lines: int) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        last = ", the last one" if number == lines else ""
        raise DataError(
            f"The {WHAT} has a line that is not valid JSON: {path}",
            why=f"Line {number}{last}, column {error.colno}: {error.msg}.",
            hint="Run `vlmdet infer` again: it goes on where it was." if last else "Was it edited by hand?",
        ) from None


def _answer(path: Path, row: Any, number: int) -> Answer:
    if not isinstance(row, dict) or not {"response", "text", "finish"} & set(row):
        raise _unknown(path)
    try:
        return _of_swift(row) if "response" in row else msgspec.convert(row, Answer)
    except (msgspec.ValidationError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"The {WHAT} has a wrong row: {path}, line {number}", why=f"{error}.") from None


def _of_swift(row: dict[str, Any]) -> Answer:
    """A row of swift infer's file: pictures are paths, or objects with a path."""
    image = row["images"][0]
    prompt = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
    text = msgspec.convert(row["response"], str)
    tokens = [(one["token"], one["logprob"]) for one in (row.get("logprobs") or {}).get("content") or ()]
    return Answer(
        image=image["path"] if isinstance(image, dict) else image,
        prompt=prompt,
        text=text,
        kind=kind_of(prompt),
        expected=row.get("labels"),
        tokens=_fitting(tokens, text),
    )


def _fitting(tokens: list[Token], text: str) -> list[Token]:
    """Tokens that put together are the text, but for an end of turn behind it; else none."""
    whole = "".join(token for token, _ in tokens)
    return tokens if whole.startswith(text) else []


def _answers(path: Path, rows: list[Answer], truth: Truth) -> Predictions:
    if not rows:
        raise DataError(f"The {WHAT} has no rows: {path}")
    detection = [row for row in rows if row.kind == "detection"]
    places = _places(path, [(row.image_id or None, row.image) for row in detection], truth)
    _only_once(path, [detection[n].image for n in _repeated(places) if detection[n].asked is None])
    parsed = [_parse(path, row, truth, place) for row, place in zip(detection, places, strict=True)]
    scored = _scored(path, detection)
    found = [
        PredictedBox(place, d.label, d.box, d.score if scored and d.score is not None else 1.0)
        for place, one in zip(places, parsed, strict=True)
        for d in one.detections
    ]
    return Predictions(
        path=path,
        form="answers" if any(row.image_id or any(row.size) for row in rows) else "swift infer",
        found=found,
        answered=set(places),
        score_source="logprob" if scored else "constant",
        answers=rows,
        parsed=parsed,
        asked=_asked(detection, places),
    )


def _asked(rows: Sequence[Answer], places: Sequence[int]) -> dict[int, set[str]] | None:
    """The classes that the prompts named, by picture; None where some prompt asked for all."""
    if not rows or any(row.asked is None for row in rows):
        return None
    named: dict[int, set[str]] = {}
    for row, place in zip(rows, places, strict=True):
        named.setdefault(place, set()).update(row.asked or ())
    return named


def _scored(path: Path, rows: Sequence[Answer]) -> bool:
    """Whether the answers carry log-probabilities; some with and some without is an error."""
    said = [row for row in rows if row.finish != "error" and row.text]
    without = [row.image for row in said if not row.tokens]
    if without and len(without) < len(said):
        raise DataError(
            f"{len(without):,} of {len(said):,} answers lack log-probabilities: {path}",
            why=first_few(without),
            hint="Answer all in one run with infer.scores = true.",
        )
    return bool(said) and not without


def _parse(path: Path, row: Answer, truth: Truth, place: int) -> ParsedDetections:
    if row.finish == "error":
        return ParsedDetections((), (Problem("error", row.error),), "unparsed")
    picture = truth.pictures[place]
    size = (picture.width, picture.height) if picture.width else row.size
    if not all(size):
        raise DataError(
            f"The size of a picture is not known: {row.image}",
            why=f"Neither {truth.path} nor {path} has it, and answers are in thousandths of it.",
            hint="Give the truth as COCO instances JSON.",
        )
    return dialects.get(row.dialect, row.max_pixels or None).parse(row.text, size, truth.categories, row.tokens)


# --- boxes ---------------------------------------------------------------------------------------------------


class _Detections(msgspec.Struct):
    image_path: str
    object: dict[str, list[tuple[float, float, float, float]]]


class _Result(msgspec.Struct, gc=False):
    image_id: ImageId
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float | None = None


_RESULTS = msgspec.json.Decoder(list[_Result])


def _detections(path: Path, rows: Sequence[_Detections], truth: Truth) -> Predictions:
    places = _places(path, [(None, row.image_path) for row in rows], truth)
    _only_once(path, [rows[n].image_path for n in _repeated(places)])
    found = [
        PredictedBox(place, label, box)
        for place, row in zip(places, rows, strict=True)
        for label, boxes in row.object.items()
        for box in boxes
    ]

    def name(number: int) -> str:
        one = found[number]
        return f"{truth.pictures[one.picture].image} {one.label} {list(one.box)}"

    _sound(path, [one.box for one in found], name)
    return Predictions(path=path, form="detection JSON", found=found, answered=set(places))


def _coco_results(path: Path, rows: Sequence[_Result], truth: Truth) -> Predictions:
    places = _places(path, [(row.image_id, "") for row in rows], truth)
    unknown = [f"category_id {row.category_id}" for row in rows if row.category_id not in truth.category_ids]
    if unknown:
        raise DataError(
            f"The {WHAT} has {counted(len(unknown), 'box', 'boxes')} of unknown categories: {path}",
            why=first_few(list(dict.fromkeys(unknown))),
        )
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (row.bbox for row in rows)]
    _sound(path, boxes, lambda number: f"row {number}: bbox {list(rows[number].bbox)}")
    scores = _scores_of(path, rows)
    found = [
        PredictedBox(place, truth.category_ids[row.category_id], box, score)
        for place, row, box, score in zip(places, rows, boxes, scores or [1.0] * len(rows), strict=True)
    ]
    # such a file names no picture without boxes: all of the truth's count as answered
    everything = set(range(len(truth.pictures)))
    source: Literal["constant", "file"] = "file" if scores else "constant"
    return Predictions(path=path, form="COCO results", found=found, answered=everything, score_source=source)


def _scores_of(path: Path, rows: Sequence[_Result]) -> list[float]:
    """The scores of all rows, or none where no row has one; only some, or one that is no number, is an error."""
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return []
    bad = [f"row {number}: no score" for number, row in enumerate(rows) if row.score is None]
    bad += [f"row {number}: score {s}" for number, s in enumerate(scores) if not math.isfinite(s)]
    if bad:
        raise DataError(
            f"The {WHAT} has {counted(len(bad), 'row')} without a number as score: {path}", why=first_few(bad)
        )
    return scores


def _places(path: Path, keys: Iterable[tuple[ImageId | None, str]], truth: Truth) -> list[int]:
    """Indices of the truth's pictures; those that it does not have are an error."""
    finder, places, unknown = truth.finder(), list[int](), list[str]()
    for image_id, image in keys:
        place = finder.by_id(image_id) if image_id is not None else None
        place = finder.by_path(image) if place is None and image else place
        if place is None:
            unknown.append(image or f"image_id {image_id!r}")
        else:
            places.append(place)
    if unknown:
        raise DataError(
            f"The {WHAT} has {counted(len(unknown), 'answer')} for pictures that the truth does not have: {path}",
            why=[*first_few(list(dict.fromkeys(unknown))), f"Truth: {truth.path}"],
            hint="Are both of the same split?",
        )
    return places


def _repeated(places: Sequence[int]) -> list[int]:
    """Row numbers of the second and later rows of a picture."""
    seen, again = set[int](), list[int]()
    for number, place in enumerate(places):
        if place in seen:
            again.append(number)
        seen.add(place)
    return again


def _only_once(path: Path, images: Sequence[str]) -> None:
    if images:
        count = Counter(images)
        raise DataError(
            f"The {WHAT} has {counted(len(images), 'answer')} to a picture that is answered already: {path}",
            why=first_few([f"{image}, {number + 1} times" for image, number in count.items()]),
            hint="Keep one answer a picture.",
        )


def _sound(path: Path, boxes: Sequence[Box], name: Callable[[int], str]) -> None:
    """Boxes must be numbers with left <= right and top <= bottom."""
    array = as_boxes(boxes)
    sound = np.isfinite(array).all(axis=1) & (array[:, 2:] >= array[:, :2]).all(axis=1)
    bad = [name(number) for number in np.flatnonzero(~sound).tolist()]
    if bad:
        raise DataError(
            f"The {WHAT} has {counted(len(bad), 'box that is', 'boxes that are')} none: {path}",
            why=first_few(bad),
            hint="A box needs finite numbers and no negative side.",
        )
