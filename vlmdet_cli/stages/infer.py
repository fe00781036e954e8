"""infer: ask a model, append its raw answers as they come, then parse them.

What is answered already is not asked again; ``engines.answers`` says how the file is kept. A stopped inference goes on
where it was and ends with the same texts as an undisturbed one; its log-probabilities may differ in the last digit,
since a row may be answered in the company of others. A picture that cannot be used gets an answer with
``finish: error`` and the reason; ``retry_failed`` asks those rows again.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.core.files import write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.engines import Engine
from vlmdet_cli.engines.answers import AnswersFile, InferRow, Resumed, detections_path, keys
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models import dialects
from vlmdet_cli.stages.infer_progress import InferProgress, OnProgress, health_of, is_looped


class InferResult(msgspec.Struct, frozen=True, kw_only=True):
    """``asked``: rows asked now. ``failed``: rows whose picture was bad. ``looped``: answers of detection that repeat
    themselves. ``refreshed``: answers whose truth changed.
    ``set_aside``: earlier answers that are kept under another name. ``shards``: the number of answers files that these
    were collected from, 0 where they were asked for.
    """

    answers: str
    detections: str
    rows: int
    asked: int
    failed: int
    refreshed: int
    set_aside: int
    seconds: float
    finish: dict[str, int]
    health: dict[str, int]
    looped: int
    ledger: dict[str, dict[str, Any]]
    shards: int = 0


def infer(
    rows: Sequence[InferRow],
    engine: Engine,
    file: AnswersFile,
    *,
    categories: Sequence[str] | None = None,
    retry_failed: bool = False,
    on_progress: OnProgress = lambda _progress: None,
) -> InferResult:
    """Answer the rows that have no answer yet. ``categories``: the labels that answers are read by, None for any.

    Raises ``EngineError`` where the engine fails.
    """
    started = time.monotonic()
    by_key = dict(zip(keys(rows), rows, strict=True))
    with lock(file.path.parent, f".{file.path.name}.lock"):
        resumed = file.resume(by_key, retry_failed=retry_failed)
        new = _ask(by_key, resumed.answers, engine, file, _Reporter(categories, on_progress))
        known = resumed.answers | new
        answers = [known[key] for key in by_key]
        return conclude(file, answers, categories, Work(started=started, resumed=resumed, asked=len(new)))


class Work(NamedTuple):
    """What was done before all answers were there: ``started`` is a time of ``time.monotonic``."""

    started: float
    resumed: Resumed
    asked: int = 0
    shards: int = 0


def conclude(file: AnswersFile, answers: Sequence[Answer], categories: Sequence[str] | None, work: Work) -> InferResult:
    """Write the answers in their order, and their detections. The caller holds the file's lock."""
    file.write(answers)
    parsed = [(answer, parse(answer, categories)) for answer in answers if answer.kind == "detection"]
    _write_detections(detections_path(file.path), parsed)
    return InferResult(
        answers=str(file.path),
        detections=str(detections_path(file.path)),
        rows=len(answers),
        asked=work.asked,
        failed=sum(answer.finish == "error" for answer in answers),
        refreshed=work.resumed.refreshed,
        set_aside=work.resumed.set_aside,
        seconds=round(time.monotonic() - work.started, 1),
        finish=dict(Counter(answer.finish for answer in answers)),
        health=dict(Counter(health_of(answer, detections) for answer, detections in parsed)),
        looped=sum(is_looped(answer, detections) for answer, detections in parsed),
        ledger=_ledger(answers),
        shards=work.shards,
    )


class _Reporter(NamedTuple):
    """Reads each answer as it comes, for those who watch. ``categories``: the labels that answers are read by."""

    categories: Sequence[str] | None
    on_progress: OnProgress

    def report(self, progress: InferProgress, answer: Answer, num_tokens: int) -> None:
        parsed = parse(answer, self.categories) if answer.kind == "detection" else None
        progress.add(answer, parsed, num_tokens)
        self.on_progress(progress)


def _ask(
    rows: Mapping[str, InferRow],
    known: Mapping[str, Answer],
    engine: Engine,
    file: AnswersFile,
    reporter: _Reporter,
) -> dict[str, Answer]:
    """The answers to the rows that are not known yet, by key, each appended to the file as it comes."""
    requests = [row.request(key) for key, row in rows.items() if key not in known]
    answers: dict[str, Answer] = {}
    if not requests:
        return answers
    progress = InferProgress(len(known), len(rows))
    with file:
        for completion in engine.answer(requests, file.meta.max_tokens):
            answer = rows[completion.key].answer(completion, file.meta)
            answers[completion.key] = answer
            file.append(answer)
            reporter.report(progress, answer, completion.num_tokens)
    if len(answers) < len(requests):
        raise EngineError(
            f"The engine answered {len(answers):,} of {len(requests):,} rows", hint="Run the same command again."
        )
    return answers


def parse(answer: Answer, categories: Sequence[str] | None = None) -> ParsedDetections:
    """The detections of an answer, in pixels of its picture."""
    if answer.finish == "error":
        return ParsedDetections((), (), "empty")
    size = answer.size if all(answer.size) else None
    return dialects.get(answer.dialect, answer.max_pixels or None).parse(answer.text, size, categories, answer.tokens)


def _ledger(answers: Iterable[Answer]) -> dict[str, dict[str, Any]]:
    ledger = Ledger()
    for answer in answers:
        if answer.finish == "error":
            ledger.drop("rows", "picture could not be read")
        else:
            ledger.keep("rows")
    return ledger.as_dict()


def _write_detections(path: Path, parsed: Iterable[tuple[Answer, ParsedDetections]]) -> None:
    """Detection JSON: the boxes of each picture, those of several detection rows together."""
    objects: dict[str, dict[str, list[list[float]]]] = {}
    for answer, detections in parsed:
        by_label = objects.setdefault(answer.image, {})
        for label, boxes in detections.by_label().items():
            by_label[label] = by_label.get(label, []) + boxes
    write_json(path, [{"image_path": image, "object": by_label} for image, by_label in objects.items()])
