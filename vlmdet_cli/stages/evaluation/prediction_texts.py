"""Predictions that are raw text: answers as ``infer`` writes them, and the rows of a swift infer result file.

    answers      {"image": …, "image_id": …, "size": [w, h], "kind": …, "prompt": …, "text": …, "dialect": …}
    swift infer  {"response": …, "messages": […], "images": […]}

A row of swift's does not say its dialect. Where none is named, the file's is the one that reads its detection answers
with the fewest problems, then with the most boxes, then with the smallest frame that holds them (numbers that fit into
a small frame would rarely do so by chance), then the first of ``dialects.names``. The truth's boxes take no part.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from vlmdet_cli.core.answers import Answer, ParsedDetections, PredictedBox, Token, is_answer
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, ScoreRule
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.engines.answers import AnswersMeta, read_meta
from vlmdet_cli.errors import DataError, first_few
from vlmdet_cli.metrics.repeats import with_repeats
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts.asking import classes_by_prompt
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.stages.evaluation.prediction_files import (
    WHAT,
    Predictions,
    locate,
    refuse_repeated,
    repeated_rows,
    unknown_form,
)
from vlmdet_cli.stages.inference.answer_reading import ReadingRules, put_together, read_answer, reading_rules

SAMPLE = 200  # answers that tell a file's dialect
Size = tuple[int, int]


def read_lines(
    path: Path, data: bytes, truth: Truth, dialect: str = "", rule: ScoreRule = DEFAULT_SCORE_RULE
) -> Predictions:
    """Predictions of a file with a row a line; ``dialect`` is used in place of the rows' own where it is named."""
    lines = data.splitlines()
    rows = [_json(path, line, number, len(lines)) for number, line in enumerate(lines, 1) if line.strip()]
    return read_rows(path, rows, truth, dialect, rule)


def _json(path: Path, line: bytes, number: int, lines: int) -> tuple[int, Any]:
    try:
        return number, orjson.loads(line)
    except orjson.JSONDecodeError as error:
        last = ", the last one" if number == lines else ""
        raise DataError(
            f"The {WHAT} has a line that is not valid JSON: {path}",
            why=f"Line {number}{last}, column {error.colno}: {error.msg}.",
            hint="Run `vlmdet infer` again: it goes on where it was." if last else "Was it edited by hand?",
        ) from None


def read_rows(
    path: Path,
    numbered: Sequence[tuple[int, Any]],
    truth: Truth,
    dialect: str = "",
    rule: ScoreRule = DEFAULT_SCORE_RULE,
) -> Predictions:
    """Predictions of rows with their numbers. Raises ``DataError``, and ``UsageError`` for an unknown dialect.

    ``rule``: of the scores of boxes whose answers have log-probabilities.
    """
    rows = [_answer(path, row, number) for number, row in numbered]
    if not rows:
        raise DataError(f"The {WHAT} has no rows: {path}")
    swift = all("response" in row for _, row in numbered)
    detection = [row for row in rows if row.kind == "detection"]
    indices = locate(path, [(row.image_id or None, row.image) for row in detection], truth)
    _refuse_repeated(path, detection, indices)
    sizes = [_size(path, row, truth, index) for row, index in zip(detection, indices, strict=True)]
    source, notes = _source(dialect, swift=swift), list[str]()
    if source == "content":
        dialect, notes = _dialect_by_content(detection, sizes, truth.categories)
    if dialect:
        dialects.get(dialect)
        rows = [msgspec.structs.replace(row, dialect=dialect) for row in rows]
        detection = [row for row in rows if row.kind == "detection"]
    meta = None if swift else read_meta(path)
    rules = reading_rules(meta, truth.categories, rule)
    scored = _scored(path, detection)
    parsed = [read_answer(row, rules, size) for row, size in zip(detection, sizes, strict=True)]
    boxes, removed = _boxes(detection, parsed, indices, sizes, rules)
    return Predictions(
        path=path,
        form="swift infer" if swift else "answers",
        boxes=boxes,
        removed=removed,
        answered=set(indices),
        score_source="logprob" if scored else "constant",
        score_rule=rule if scored else None,
        answers=rows,
        parsed=parsed,
        dialect=", ".join(dict.fromkeys(row.dialect for row in rows)),
        dialect_source=source,
        ask=rules.ask,
        dedupe=rules.dedupe,
        tiles=meta.tiles if meta else None,
        asked=_asked(detection, indices) if rules.ask == "rows" else None,
        missing=_missing(meta, truth, indices),
        notes=notes,
    )


def _refuse_repeated(path: Path, rows: Sequence[Answer], indices: Sequence[int]) -> None:
    """Raise for a second answer to a prompt for all classes in all of a picture."""
    whole = [number for number, row in enumerate(rows) if row.asked is None and row.crop is None]
    repeated = repeated_rows([indices[number] for number in whole])
    refuse_repeated(path, [rows[whole[number]].image for number in repeated])


def _source(dialect: str, *, swift: bool) -> Literal["answers", "content", "named"]:
    if dialect:
        return "named"
    return "content" if swift else "answers"


# --- rows ----------------------------------------------------------------------------------------------------


def _answer(path: Path, row: Any, number: int) -> Answer:
    if not isinstance(row, dict) or not ("response" in row or is_answer(row)):
        raise unknown_form(path)
    try:
        answer = _of_swift(row) if "response" in row else msgspec.convert(row, Answer)
    except (msgspec.ValidationError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise DataError(f"The {WHAT} has a wrong row: {path}, line {number}", why=f"{error}.") from None
    return msgspec.structs.replace(answer, tokens=_fitting(answer.tokens, answer.text))


def _of_swift(row: dict[str, Any]) -> Answer:
    """A row of swift infer's file: pictures are paths, or objects with a path."""
    image = row["images"][0]
    prompt = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
    text = msgspec.convert(row["response"], str)
    tokens = [(token["token"], token["logprob"]) for token in (row.get("logprobs") or {}).get("content") or ()]
    return Answer(
        image=image["path"] if isinstance(image, dict) else image,
        prompt=prompt,
        text=text,
        kind=kind_of(prompt),
        expected=row.get("labels"),
        tokens=tokens,
    )


def _fitting(tokens: list[Token], text: str) -> list[Token]:
    """Tokens that put together are the text, but for an end of turn behind it; else none."""
    whole = "".join(token for token, _ in tokens)
    return tokens if whole.startswith(text) else []


def _asked(rows: Sequence[Answer], indices: Sequence[int]) -> dict[int, set[str]] | None:
    """The classes that the prompts named, by picture; None where some prompt asked for all."""
    if not rows or any(row.asked is None for row in rows):
        return None
    named: dict[int, set[str]] = {}
    for row, index in zip(rows, indices, strict=True):
        named.setdefault(index, set()).update(row.asked or ())
    return named


def _missing(meta: AnswersMeta | None, truth: Truth, indices: Sequence[int]) -> int:
    """Prompts about the truth's pictures that have no answer; 0 where it is not known which there should be."""
    if meta is None or meta.ask == "rows":
        return 0
    given, images = Counter(indices), truth.data.images
    expected = [len(prompts) for prompts in classes_by_prompt(truth.data, meta.ask)]
    if meta.tiles is not None:
        tiles = [len(meta.tiles.crops((image.width, image.height))) for image in images]
        expected = [count * parts for count, parts in zip(expected, tiles, strict=True)]
    return sum(max(count - given[number], 0) for number, count in enumerate(expected))


def _scored(path: Path, rows: Sequence[Answer]) -> bool:
    """Whether the answers carry log-probabilities; some with and some without is an error."""
    texts = [row for row in rows if row.finish != "error" and row.text]
    without = [row.image for row in texts if not row.tokens]
    if without and len(without) < len(texts):
        raise DataError(
            f"{len(without):,} of {len(texts):,} answers lack log-probabilities: {path}",
            why=first_few(without),
            hint="Answer all in one run with infer.scores = true.",
        )
    return bool(texts) and not without


# --- boxes ---------------------------------------------------------------------------------------------------


def _size(path: Path, row: Answer, truth: Truth, index: int) -> Size:
    """The picture's width and height; (0, 0) for an answer that has no text."""
    image = truth.data.images[index]
    size = (image.width, image.height) if image.width else row.size
    if not all(size) and row.finish != "error":
        raise DataError(
            f"The size of a picture is not known: {row.image}",
            why=f"Neither {truth.path} nor {path} has it, and answers are in thousandths of it.",
            hint="Give the truth as COCO instances JSON.",
        )
    return size


def _boxes(
    rows: Sequence[Answer],
    parsed: Sequence[ParsedDetections],
    indices: Sequence[int],
    sizes: Sequence[Size],
    rules: ReadingRules,
) -> tuple[list[PredictedBox], dict[str, int]]:
    """The boxes of all pictures, and how many were taken out by the rules, by reason."""
    groups: dict[int, list[int]] = {}
    for number, index in enumerate(indices):
        groups.setdefault(index, []).append(number)
    boxes, removed = list[PredictedBox](), Counter[str]()
    for index, numbers in groups.items():
        size = max(sizes[n] for n in numbers)  # (0, 0) for an answer without text
        picture = put_together([rows[n] for n in numbers], [parsed[n] for n in numbers], rules, size)
        removed.update(picture.removed)
        boxes += [
            PredictedBox(index, d.label, d.box, 1.0 if d.score is None else d.score)
            for d in with_repeats(picture.whole)
        ]
    return boxes, dict(removed)


def _dialect_by_content(
    rows: Sequence[Answer], sizes: Sequence[Size], categories: Sequence[str]
) -> tuple[str, list[str]]:
    """The dialect that reads the answers best, and a note where another one reads them as well but differently."""
    sample = [(row.text, size) for row, size in zip(rows, sizes, strict=True) if row.text and all(size)][:SAMPLE]
    read = {
        name: [dialects.get(name).parse(text, size, categories) for text, size in sample] for name in dialects.names()
    }
    quality = {
        name: (
            sum(len(answer.problems) for answer in answers),
            -sum(len(answer.detections) for answer in answers),
            sum(
                math.prod(dialects.get(name).frame(size))
                for (_, size), answer in zip(sample, answers, strict=True)
                if answer.detections
            ),
        )
        for name, answers in read.items()
    }
    best = min(quality, key=lambda name: quality[name])  # the first of equal ones
    equal = [name for name in quality if quality[name][:2] == quality[best][:2] and read[name] != read[best]]
    note = (
        f"The answers read equally well as {best} and as {', '.join(equal)}; taken as {best}. Name it with --dialect."
    )
    return best, [note] if equal else []
