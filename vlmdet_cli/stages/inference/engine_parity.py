"""doctor --engines: the same pictures asked of each engine, and the share of equal answers.

An engine that is not here is no failure, unless it is asked for by its name. The engine transformers, or else the first
that answers, is the reference. Answers are kept nowhere.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from vlmdet_cli import engines
from vlmdet_cli.engines import Completion
from vlmdet_cli.engines.choice import Situation, obstacle
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.errors import UsageError, VlmdetError, nearest
from vlmdet_cli.models import dialects
from vlmdet_cli.project import GetProject, Project
from vlmdet_cli.stages.inference.infer_inputs import InferJob, infer_job, project_and_settings
from vlmdet_cli.stages.inference.infer_model import InferRequest, asked_as, choose_model
from vlmdet_cli.stages.inference.text_differences import excerpts, likely_cause

REFERENCE = "transformers"
LINE = 200  # characters of a reason's line
Progress = Callable[[str, int, int], None]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first answer that differs: both texts whole, and around the place where they part."""

    image: str
    prompt: str
    text: str
    reference: str
    excerpt: str
    reference_excerpt: str
    cause: str


class EngineResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine answered. ``seconds`` include loading. ``reason``: why it is absent, or has failed.

    ``equal``: answers with the reference's text; ``share``: of all, None where there is nothing to compare.
    """

    engine: str
    state: Literal["answered", "absent", "failed"]
    seconds: float = 0.0
    answers: int = 0
    equal: int | None = None
    share: float | None = None
    reason: str = ""
    difference: Difference | None = None


class ParityResult(msgspec.Struct, frozen=True, kw_only=True):
    """``reference``: the engine that the others are compared with, None where none answered."""

    reference: str | None
    model: str
    pictures: int
    engines: list[EngineResult]

    @property
    def is_good(self) -> bool:
        """Whether no engine failed, and one at least answered."""
        return self.reference is not None and all(result.state != "failed" for result in self.engines)


class _Answered(NamedTuple):
    rows: list[InferRow]
    completions: list[Completion]
    seconds: float


def engine_parity(
    project: GetProject,
    request: InferRequest,
    names: Sequence[str],
    pictures: int,
    on_progress: Progress = lambda _name, _done, _total: None,
) -> ParityResult:
    """Ask ``pictures`` of the rows that ``request`` means of each engine in ``names``, or of every one.

    Raises ``UsageError`` for a name that is no engine, and for a model or a split that is not there.
    """
    _check(names)
    situation, model = _situation(project, request)
    order = sorted(names or engines.names(), key=lambda name: name != REFERENCE)
    outcomes: dict[str, EngineResult | _Answered] = {}
    for name in order:
        reason = obstacle(name, _naming(name, situation) if names else situation)
        if reason:
            outcomes[name] = EngineResult(engine=name, state="failed" if names else "absent", reason=reason)
        else:
            outcomes[name] = _answers(project, request, name, pictures, on_progress)
            _free_memory()
    answered = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, _Answered)}
    reference = next(iter(answered), None)
    return ParityResult(
        reference=reference,
        model=model,
        pictures=len(answered[reference].rows) if reference else 0,
        engines=[
            _compared(name, outcome, answered[str(reference)]) if isinstance(outcome, _Answered) else outcome
            for name, outcome in outcomes.items()
        ],
    )


def _situation(project: GetProject, request: InferRequest) -> tuple[Situation, str]:
    """What engines are chosen for, and the model's name."""
    loaded, settings = project_and_settings(project, request)
    local = msgspec.structs.replace(settings, engine=REFERENCE)
    choice = choose_model(loaded, request, local)
    return Situation(settings, asked_as(loaded, choice, local).family, choice.adapter), choice.name


def _naming(name: str, situation: Situation) -> Situation:
    return situation._replace(settings=msgspec.structs.replace(situation.settings, engine=name))


def _answers(
    project: GetProject, request: InferRequest, name: str, pictures: int, on_progress: Progress
) -> "EngineResult | _Answered":
    try:
        return _ask(_job(project, request, name), name, pictures, on_progress)
    except VlmdetError as error:
        return EngineResult(engine=name, state="failed", reason=_reason(error))


def _check(names: Sequence[str]) -> None:
    known = engines.names()
    for name in names:
        if name not in known:
            raise UsageError(f"No such engine: {nearest(name, known)}", hint=f"Known engines: {', '.join(known)}.")


def _job(project: GetProject, request: InferRequest, name: str) -> InferJob:
    """The inference that ``infer`` would run with that engine, in this process and of detection alone."""

    def with_engine() -> Project:
        loaded = project()
        infer = msgspec.structs.replace(loaded.config.infer, engine=name, executor="local", questions=False)
        return msgspec.structs.replace(loaded, config=msgspec.structs.replace(loaded.config, infer=infer))

    sets = (*request.sets, f"infer.engine={name}", "infer.executor=local")
    return infer_job(with_engine, msgspec.structs.replace(request, sets=sets))


def _reason(error: VlmdetError) -> str:
    """What failed and why, in a few lines: the end of a log says more than its beginning."""
    return "\n".join([error.what, *(line.strip()[:LINE] for line in error.why[-2:])])


def _ask(job: InferJob, name: str, pictures: int, on_progress: Progress) -> _Answered:
    rows = [job.rows[key] for key in spread(list(job.rows), pictures)]
    requests = [row.request(str(number)) for number, row in enumerate(rows)]
    loops = LoopRule(dialects.get(job.file.meta.dialect), job.file.meta.stop_loops)
    started, completions = time.monotonic(), dict[str, Completion]()
    on_progress(name, 0, len(rows))
    for completion in map(loops.cut, job.engine.answer(requests, job.file.meta.max_tokens)):
        completions[completion.key] = completion
        on_progress(name, len(completions), len(rows))
    return _Answered(rows, [completions[request.key] for request in requests], time.monotonic() - started)


def spread(keys: Sequence[str], count: int) -> list[str]:
    """``count`` of the keys at equal distances; all where there are fewer."""
    step = max(len(keys) / count, 1.0)
    return [keys[int(number * step)] for number in range(min(count, len(keys)))]


def _compared(name: str, other: _Answered, reference: _Answered) -> EngineResult:
    differences = list(_differences(other, reference))
    equal = len(other.rows) - len(differences)
    return EngineResult(
        engine=name,
        state="answered",
        seconds=round(other.seconds, 1),
        answers=len(other.rows),
        equal=equal,
        share=equal / len(other.rows),
        difference=_difference(*differences[0]) if differences else None,
    )


def _differences(other: _Answered, reference: _Answered) -> Iterator[tuple[InferRow, Completion, Completion]]:
    for row, completion, expected in zip(other.rows, other.completions, reference.completions, strict=True):
        if (completion.text, completion.finish == "error") != (expected.text, expected.finish == "error"):
            yield row, completion, expected


def _difference(row: InferRow, completion: Completion, expected: Completion) -> Difference:
    around = excerpts(expected.text, completion.text)
    return Difference(
        image=row.image,
        prompt=row.prompt,
        text=completion.text,
        reference=expected.text,
        excerpt=around[1],
        reference_excerpt=around[0],
        cause=likely_cause(expected, completion),
    )


def _free_memory() -> None:
    """What the last engine held is free for the next one, on a GPU too."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
