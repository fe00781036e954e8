"""status: which steps of the project and of each run are done, stale or missing. Reads files; changes nothing.

A step is stale where what it was made from has changed since:

    prepare   an annotation file is newer than the rows
    augment   the rows of train are other ones than the train file was made of
    train     the train file has other content than the run was trained on
    merge     the run keeps another checkpoint than the merged model's
    infer     the answers are another model's than the merged one's, or to a split that was prepared anew
    eval      the answers are newer than the report
    viz       the report is newer than the drawings
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from vlmdet_cli.core.files import file_hash, read_json
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines.answers import read_meta
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project import SPLITS, Project
from vlmdet_cli.project import runs as project_runs
from vlmdet_cli.project.run_record import RunState
from vlmdet_cli.stages.merging.merged_model import merged_model
from vlmdet_cli.stages.training.runs import report_f1

StepName = Literal["prepare", "augment", "train", "merge", "infer", "eval", "viz"]
State = RunState | Literal["stale", "missing", "partial"]


class StepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``detail``: a number or two. ``reason``: why it is stale or partial."""

    name: StepName
    state: State
    detail: str = ""
    reason: str = ""


class RunSteps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of a run, from ``train`` on. ``answers``: the name of the answers that are meant."""

    name: str
    answers: str
    steps: list[StepStatus]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """``next``: the step that comes first of those not done, of the data and of the latest run; "" for none."""

    project: str
    data: list[StepStatus]
    runs: list[RunSteps]
    next: StepName | Literal[""]


def status(project: Project) -> Status:
    """The state of the data and of all runs, oldest first. Raises ``UsageError`` for an old layout."""
    project_runs.refuse_old_layout(project.runs)
    hash_of.cache_clear()  # files may have changed since an earlier call
    data = [_prepare(project)]
    if project.config.augment.questions:
        data.append(_augment(project))
    runs = [_run_steps(project, run) for run in project_runs.runs(project.runs)]
    latest = runs[-1].steps if runs else [StepStatus(name="train", state="missing")]
    open_steps = (step.name for step in [*data, *latest] if step.state not in ("done", "running"))
    return Status(project=str(project.root), data=data, runs=runs, next=next(open_steps, ""))


hash_of = functools.cache(file_hash)  # of a file for all runs: that of a large data set takes seconds


def _prepare(project: Project) -> StepStatus:
    rows = {split: project.rows(split) for split in SPLITS if project.rows(split).is_file()}
    if "train" not in rows:
        return StepStatus(name="prepare", state="missing")
    detail = ", ".join(f"{split} {_lines(path):,}" for split, path in rows.items()) + " rows"
    sources = [project.path(source.annotations) for split in SPLITS for source in project.config.data.sources(split)]
    newer = [path for path in sources if path.is_file() and _is_newer(path, rows["train"])]
    if newer:
        return StepStatus(name="prepare", state="stale", detail=detail, reason=f"{newer[0].name} has changed since")
    return StepStatus(name="prepare", state="done", detail=detail)


def _augment(project: Project) -> StepStatus:
    file, rows = project.texts / "augment" / "train.jsonl", project.rows("train")
    if not file.is_file():
        return StepStatus(name="augment", state="missing")
    detail, ledger = f"train {_lines(file):,} rows", file.with_name("ledger.json")
    source = read_json(ledger, "ledger of augment").get("source") if ledger.is_file() else None
    if rows.is_file() and (source != hash_of(rows) if source else _is_newer(rows, file)):
        return StepStatus(name="augment", state="stale", detail=detail, reason="the rows were prepared anew")
    return StepStatus(name="augment", state="done", detail=detail)


def _run_steps(project: Project, run: project_runs.Run) -> RunSteps:
    project = project.with_data_of(run)
    name = project.config.infer.answers_name()
    steps = [_train(project, run), _merge(run)]
    return RunSteps(name=run.name, answers=name, steps=[*steps, *_results(project, run, name)])


def _train(project: Project, run: project_runs.Run) -> StepStatus:
    record, state = run.record, run.state
    loss = "" if record.loss is None else f", loss {record.loss:.3f}"
    detail, file = f"{record.steps:,} steps{loss}", project.output / record.dataset.file
    if state == "done" and file.is_file() and hash_of(file) != record.dataset.hash:
        return StepStatus(name="train", state="stale", detail=detail, reason=f"{file.name} has changed since")
    return StepStatus(name="train", state=state, detail=detail)


def _merge(run: project_runs.Run) -> StepStatus:
    try:
        warning = merged_model(run)[1]
    except VlmdetError:
        return StepStatus(name="merge", state="missing")
    return StepStatus(name="merge", state="stale" if warning else "done", reason=warning)


def _results(project: Project, run: project_runs.Run, name: str) -> Iterator[StepStatus]:
    answers, report, drawings = run.answers(name), run.report(name), run.viz(name) / "index.html"
    yield _infer(project, run, answers)
    f1 = report_f1(report)
    yield _derived("eval", report, answers, "the answers are newer", "" if f1 is None else f"F1 {f1:.3f}")
    yield _derived("viz", drawings, report, "the report is newer")


def _infer(project: Project, run: project_runs.Run, answers: Path) -> StepStatus:
    meta = read_meta(answers)
    if meta is None or not answers.is_file():
        return StepStatus(name="infer", state="missing")
    split, done = meta.split or project.config.infer.split, _lines(answers)
    detail = f"{split} {done:,} answers"
    truth = project.subset(split)
    if run.merged.is_dir() and meta.engine.get("model") not in (None, model_folder_hash(run.merged)):
        return StepStatus(name="infer", state="stale", detail=detail, reason="they are another model's")
    if truth.is_file() and meta.data not in (None, hash_of(truth)):
        return StepStatus(name="infer", state="stale", detail=detail, reason=f"{split} was prepared anew")
    questions = project.questions(split)
    total = _lines(project.rows(split)) + (_lines(questions) if project.config.infer.questions else 0)
    if meta.ask == "rows" and meta.tiles is None and done < total:
        return StepStatus(name="infer", state="partial", detail=detail, reason=f"{total - done:,} rows have no answer")
    return StepStatus(name="infer", state="done", detail=detail)


def _derived(name: StepName, file: Path, source: Path, reason: str, detail: str = "") -> StepStatus:
    if not file.is_file():
        return StepStatus(name=name, state="missing")
    if source.is_file() and _is_newer(source, file):
        return StepStatus(name=name, state="stale", detail=detail, reason=reason)
    return StepStatus(name=name, state="done", detail=detail)


def _is_newer(path: Path, other: Path) -> bool:
    return path.stat().st_mtime_ns > other.stat().st_mtime_ns


def _lines(path: Path) -> int:
    """The lines of a file, 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
