"""runs: the project's runs in a table, with what tells them apart; and the move of an old layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.settings import dotted_items
from vlmdet_cli.project import Project, old_layout
from vlmdet_cli.project import runs as project_runs
from vlmdet_cli.project.run_record import RunRecord
from vlmdet_cli.training import arguments

TABLES = ("data", "subset", "format", "augment", "train")  # of the settings, what a training depends on
ELSEWHERE = ("train.gpus", "train.device", "data.workers")  # where it runs, not what it is


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the list. ``f1``: of its report on the split ``infer.split``, None where there is none.

    ``differs``: the settings, and the hashes of data and base model, that are not the same in all runs.
    """

    name: str
    state: str
    started: str
    steps: int
    loss: float | None
    seconds: float | None
    exit_code: int | None
    merged: bool
    f1: float | None
    differs: dict[str, Any]


class RunsResult(msgspec.Struct, frozen=True, kw_only=True):
    """``moved``: with ``--migrate``, folders from and to, relative to the output folder."""

    folder: str
    runs: list[RunRow]
    moved: list[tuple[str, str]] = []


def list_runs(project: Project, *, migrate: bool = False) -> RunsResult:
    """All runs, oldest first. Raises ``UsageError`` for an old layout that is not to be moved."""
    moved = old_layout.migrate(project.output) if migrate else []
    project_runs.refuse_old_layout(project.runs)
    runs = project_runs.runs(project.runs)
    records = [run.record for run in runs]
    differences = _differences(records)
    rows = [_row(project, *entry) for entry in zip(runs, records, differences, strict=True)]
    return RunsResult(folder=str(project.runs), runs=rows, moved=moved)


def _row(project: Project, run: project_runs.Run, record: RunRecord, differs: dict[str, Any]) -> RunRow:
    return RunRow(
        name=run.name,
        state=run.state,
        started=record.started,
        steps=record.steps,
        loss=record.loss,
        seconds=record.seconds,
        exit_code=record.exit_code,
        merged=run.merged.is_dir(),
        f1=report_f1(run.report(project.config.infer.answers_name())),
        differs=differs,
    )


def report_f1(report: Path) -> float | None:
    """The F1 of a report, None where there is none."""
    try:
        value = orjson.loads(report.read_bytes())["overall"]["f1"]
    except (OSError, ValueError, KeyError, TypeError):  # a list of runs is shown with whatever is there
        return None
    return value if isinstance(value, float) else None


def _differences(records: list[RunRecord]) -> list[dict[str, Any]]:
    """For each run, its values of the keys that do not have the same value in all runs."""
    flat = [dict(_values(record)) for record in records]
    keys = dict.fromkeys(key for values in flat for key in values)
    varied = [key for key in keys if _varies(key, flat)]
    return [{key: values[key] for key in varied if key in values} for values in flat]


def _varies(key: str, runs: list[dict[str, Any]]) -> bool:
    """A key that another version of vlmdet did not have does not tell two runs apart; an absent swift flag does."""
    values = [run[key] for run in runs if key in run]
    return any(value != values[0] for value in values) or ("swift." in key and len(values) < len(runs))


def _values(record: RunRecord) -> Iterator[tuple[str, Any]]:
    """What a run's model depends on, by dotted key. Flags after ``--`` count as keys of [train] or [train.swift]."""
    settings: dict[str, Any] = {table: record.settings[table] for table in TABLES if table in record.settings}
    values = dict(dotted_items(settings))
    for name, value in arguments.parse(record.arguments).items():
        values[f"train.{name}" if f"train.{name}" in values else f"train.swift.{name}"] = value
    yield from ((key, value) for key, value in values.items() if key not in ELSEWHERE)
    yield "method", record.method
    yield "dataset", record.dataset.hash[:8]
    if record.model.hash:
        yield "base model", record.model.hash[:8]
    if record.parent:
        yield "parent", record.parent.run
