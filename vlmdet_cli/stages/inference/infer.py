"""infer: ask a model, append its raw answers as they come, then parse them.

What is answered already is not asked again; ``engines.answers`` says how the file is kept. A stopped inference goes on
where it was and ends with the same texts as an undisturbed one; its log-probabilities may differ in the last digit,
since a row may be answered in the company of others. A picture that cannot be used gets an answer with
``finish: error`` and the reason; ``retry_failed`` asks those rows again.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.engines import Engine
from vlmdet_cli.engines.answers import AnswersFile, Resumed, detections_path
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.stages.inference.answer_reading import ReadingRules, health_of, read_answer
from vlmdet_cli.stages.inference.asking_order import asking_order
from vlmdet_cli.stages.inference.infer_detections import CompletePictures, detections_file
from vlmdet_cli.stages.inference.infer_progress import InferProgress, OnProgress, is_looped

_REASONS, _REASON_LENGTH = 4, 80  # that the ledger names


class InferResult(msgspec.Struct, frozen=True, kw_only=True):
    """``asked``: rows asked now. ``failed``: rows whose picture was bad. ``looped``: answers of detection that repeat
    themselves. ``refreshed``: answers whose truth changed.
    ``set_aside``: earlier answers that are kept under another name. ``shards``: the number of answers files that these
    were collected from, 0 where they were asked for. ``engine``: the name of the one that answered.
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
    engine: str = ""


def infer(
    rows: Mapping[str, InferRow],
    engine: Engine,
    file: AnswersFile,
    *,
    rules: ReadingRules | None = None,
    retry_failed: bool = False,
    on_progress: OnProgress = lambda _progress: None,
) -> InferResult:
    """Answer the rows, by key, that have no answer yet. ``rules``: how answers are read.

    Raises ``EngineError`` where the engine fails.
    """
    rules = rules or ReadingRules()
    started = time.monotonic()
    with lock(file.path.parent, f".{file.path.name}.lock"):
        resumed = file.resume(rows, retry_failed=retry_failed)
        asked = _ask(rows, engine, file, _Reporter(rules, on_progress))
        work = Work(started=started, resumed=resumed, asked=asked)
        return conclude(file, rows, file.stored.items(rows), rules, work)


class Work(NamedTuple):
    """What was done before all answers were there: ``started`` is a time of ``time.monotonic``."""

    started: float
    resumed: Resumed
    asked: int = 0
    shards: int = 0


def conclude(
    file: AnswersFile,
    rows: Mapping[str, InferRow],
    answers: Iterable[tuple[str, Answer]],
    rules: ReadingRules,
    work: Work,
) -> InferResult:
    """Write all answers in the order of the rows, and their detections. The caller holds the file's lock.

    ``answers``: those to the rows, by key, in the same order; they are taken one at a time.
    """
    finish, health, errors, looped = Counter[str](), Counter[str](), Counter[str](), 0
    pictures = CompletePictures(rows.values(), rules)
    with detections_file(detections_path(file.path)) as detections:

        def counted() -> Iterator[tuple[str, Answer]]:
            nonlocal looped
            for key, answer in answers:
                finish[answer.finish] += 1
                errors[answer.error] += answer.finish == "error"
                for picture in pictures.add(answer):
                    health.update(map(health_of, picture.answers, picture.parsed))
                    looped += sum(map(is_looped, picture.answers, picture.parsed))
                    detections.add(picture)
                yield key, answer

        file.write(counted())
    return InferResult(
        answers=str(file.path),
        detections=str(detections_path(file.path)),
        rows=len(rows),
        asked=work.asked,
        failed=finish["error"],
        refreshed=work.resumed.refreshed,
        set_aside=work.resumed.set_aside,
        seconds=round(time.monotonic() - work.started, 1),
        finish=dict(finish),
        health=dict(health),
        looped=looped,
        ledger=_ledger(finish.total() - finish["error"], errors),
        shards=work.shards,
        engine=str(file.meta.engine.get("name", "")),
    )


class _Reporter(NamedTuple):
    """Reads each answer as it comes, for those who watch."""

    rules: ReadingRules
    on_progress: OnProgress

    def report(self, progress: InferProgress, answer: Answer, num_tokens: int) -> None:
        parsed = read_answer(answer, self.rules) if answer.kind == "detection" else None
        progress.add(answer, parsed, num_tokens)
        self.on_progress(progress)


def _ask(rows: Mapping[str, InferRow], engine: Engine, file: AnswersFile, reporter: _Reporter) -> int:
    """Ask the rows that have no answer yet; each answer is appended to the file as it comes. How many were asked."""
    unanswered = [key for key in rows if key not in file.stored]
    answered = 0
    if not unanswered:
        return answered
    progress = InferProgress(len(rows) - len(unanswered), len(rows))
    order = asking_order(unanswered, rows, registry.get(file.meta.family), file.meta.max_pixels)
    requests = (rows[key].request(key) for key in order)
    loops = LoopRule(dialects.get(file.meta.dialect), file.meta.stop_loops)
    with file:
        for completion in map(loops.cut, engine.answer(requests, file.meta.max_tokens)):
            answer = rows[completion.key].answer(completion, file.meta)
            file.append(completion.key, answer)
            answered += 1
            reporter.report(progress, answer, completion.num_tokens)
    if answered < len(unanswered):
        raise EngineError(
            f"The engine answered {answered:,} of {len(unanswered):,} rows", hint="Run the same command again."
        )
    return answered


def _ledger(answered: int, errors: Counter[str]) -> dict[str, dict[str, Any]]:
    """``errors``: rows by what was wrong with them; the rarer of many reasons are put together."""
    ledger = Ledger()
    ledger.keep("rows", answered)
    for number, (reason, count) in enumerate(errors.most_common()):
        named = reason if len(reason) <= _REASON_LENGTH else f"{reason[: _REASON_LENGTH - 1]}…"
        ledger.drop("rows", named if number < _REASONS else "other errors, which their answers name", count)
    return ledger.as_dict()
