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

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.files import write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.engines import Engine
from vlmdet_cli.engines.answers import AnswersFile, InferRow, Resumed, detections_path, keys
from vlmdet_cli.errors import EngineError
from vlmdet_cli.stages.answer_reading import PictureAnswers, ReadingRules, by_picture, health_of, read_answer
from vlmdet_cli.stages.infer_progress import InferProgress, OnProgress, is_looped


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
    rules: ReadingRules | None = None,
    retry_failed: bool = False,
    on_progress: OnProgress = lambda _progress: None,
) -> InferResult:
    """Answer the rows that have no answer yet. ``rules``: how answers are read.

    Raises ``EngineError`` where the engine fails.
    """
    rules = rules or ReadingRules()
    started = time.monotonic()
    by_key = dict(zip(keys(rows), rows, strict=True))
    with lock(file.path.parent, f".{file.path.name}.lock"):
        resumed = file.resume(by_key, retry_failed=retry_failed)
        new = _ask(by_key, resumed.answers, engine, file, _Reporter(rules, on_progress))
        known = resumed.answers | new
        answers = [known[key] for key in by_key]
        return conclude(file, answers, rules, Work(started=started, resumed=resumed, asked=len(new)))


class Work(NamedTuple):
    """What was done before all answers were there: ``started`` is a time of ``time.monotonic``."""

    started: float
    resumed: Resumed
    asked: int = 0
    shards: int = 0


def conclude(file: AnswersFile, answers: Sequence[Answer], rules: ReadingRules, work: Work) -> InferResult:
    """Write the answers in their order, and their detections. The caller holds the file's lock."""
    file.write(answers)
    pictures = by_picture((answer for answer in answers if answer.kind == "detection"), rules)
    _write_detections(detections_path(file.path), pictures)
    parsed = [pair for picture in pictures for pair in zip(picture.answers, picture.parsed, strict=True)]
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
    """Reads each answer as it comes, for those who watch."""

    rules: ReadingRules
    on_progress: OnProgress

    def report(self, progress: InferProgress, answer: Answer, num_tokens: int) -> None:
        parsed = read_answer(answer, self.rules) if answer.kind == "detection" else None
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


def _ledger(answers: Iterable[Answer]) -> dict[str, dict[str, Any]]:
    ledger = Ledger()
    for answer in answers:
        if answer.finish == "error":
            ledger.drop("rows", "picture could not be read")
        else:
            ledger.keep("rows")
    return ledger.as_dict()


def _write_detections(path: Path, pictures: Iterable[PictureAnswers]) -> None:
    """Detection JSON: the boxes of each picture, those of several answers together."""
    write_json(
        path, [{"image_path": picture.answers[0].image, "object": picture.whole.by_label()} for picture in pictures]
    )
