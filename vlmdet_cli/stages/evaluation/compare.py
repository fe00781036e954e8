"""compare: reports side by side. Only numbers of one protocol on the same pictures may stand in one table.

Differences are to the first report, with 95 % intervals of a paired bootstrap: the same pictures are drawn for both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.core.files import read_json
from vlmdet_cli.core.settings import dotted_items
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.metrics import bootstrap
from vlmdet_cli.project import GetProject, Project, convert, runs
from vlmdet_cli.project.config import plain
from vlmdet_cli.stages.evaluation.evaluate import Report

# of the protocol, what must be equal: the rest describes the predictions, not the measurement
SAME = (
    "truth_hash", "prompt", "asked", "tiles", "classes", "categories", "matching", "duplicates", "iou", "f1_thresholds",
    "score_source", "score_rule", "dedupe",
)  # fmt: skip
# of logprob scores in reports of versions that had this rule alone and did not name it
EARLIER_SCORE_RULE = "label_times_mean"
MEASURES = {
    "F1": ("overall", "f1"),
    "precision": ("overall", "precision"),
    "recall": ("overall", "recall"),
    "mean IoU": ("overall", "mean_iou"),
    "macro F1": ("overall", "macro_f1"),
    "F1 over 0.50:0.95": ("overall", "f1_50_95"),
    "COCO AP": ("coco", "AP"),
    "COCO AP50": ("coco", "AP50"),
}
CALIBRATION_ERROR = ("scores", "calibration", "expected_calibration_error")
RESAMPLED = {"F1": "f1", "precision": "precision", "recall": "recall", "mean IoU": "mean_iou"}


class ReportFile(NamedTuple):
    """A report on disk. ``label`` is how messages call it; ``name`` stands over its column."""

    label: str
    name: str
    path: Path


class Row(msgspec.Struct, frozen=True):
    """One measure: a value a report, and for each but the first its difference to the first with its interval."""

    values: list[float | None]
    differences: list[float | None]
    intervals: list[list[float] | None]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``per_class`` is F1 of the classes that have objects, the biggest change first; ``settings``: keys in which the
    runs differ, a value a report. ``notes``: which differences are left out, and why, in sentences.
    """

    names: tuple[str, ...]
    protocol: dict[str, Any]
    differs: tuple[str, ...]
    measures: dict[str, Row]
    per_class: dict[str, Row]
    settings: dict[str, list[Any]]
    notes: tuple[str, ...] = ()


def find_reports(project: GetProject, given: Sequence[str], name: str = "") -> list[ReportFile]:
    """The report of each of ``given``: a file, a run's name, or the name of a report of a model that is no run.

    ``name`` is that of the runs' report, by default ``infer.split``. The project is loaded where something is neither a
    file nor a path. Raises ``UsageError`` for a name that is neither, and for a run without such a report.
    """
    return [_file(Path(text)) if _is_path(text) else _by_name(project(), text, name) for text in given]


def _is_path(text: str) -> bool:
    return Path(text).is_file() or Path(text).suffix == ".json" or len(Path(text).parts) != 1


def _file(path: Path) -> ReportFile:
    return ReportFile(str(path), path.stem, path)


def _by_name(project: Project, text: str, name: str) -> ReportFile:
    """The report of the run that ``text`` names, else the report of that name beside the runs."""
    beside = project.results.report(text)
    if beside.is_file() and text not in {run.name for run in runs.runs(project.runs)}:
        return ReportFile(text, text, beside)
    return _of_run(project, text, name)


def _of_run(project: Project, run: str, name: str) -> ReportFile:
    path = project.run(run).report(name or project.config.infer.answers_name())
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.json"))
        raise UsageError(
            f"The run {run} has no report {path.stem}: {path}",
            why=f"It has: {', '.join(names) or 'none'}.",
            hint=f"Name one of them with --name, or run `vlmdet eval --run {run}`.",
        )
    return ReportFile(run, run, path)


def compare(files: Sequence[ReportFile], *, force: bool = False) -> Comparison:
    """Reports of ``vlmdet eval``. Raises ``UsageError`` for less than two or for different protocols, unless forced."""
    if len(files) < 2:
        raise UsageError("Nothing to compare", hint="Name two runs or more: vlmdet compare run-001 run-002")
    labels = [file.label for file in files]
    reports = [read_report(file.path) for file in files]
    if not force:
        require_same_protocol(labels, reports)
    trees = [msgspec.to_builtins(report) for report in reports]
    intervals = _intervals(reports)
    tasks = dict.fromkeys(kind for report in reports for kind in report.tasks)
    paths = {**MEASURES, **{f"question: {kind}": ("tasks", kind, "accuracy") for kind in tasks}}
    measures = {name: _row(trees, path, intervals.get(name, [])) for name, path in paths.items()}
    error, notes = _calibration_errors(trees, labels)
    return Comparison(
        names=_column_names(files),
        protocol={name: reports[0].protocol[name] for name in (*SAME, "truth", "pictures", "objects")},
        differs=tuple(protocol_differences(labels, reports)),
        measures={**measures, **error},
        per_class=_per_class(trees),
        settings=_settings(reports),
        notes=notes,
    )


def read_report(path: Path) -> Report:
    """A report that ``eval`` wrote. Raises ``DataError`` for anything else."""
    try:
        report = msgspec.convert(read_json(path, "report"), Report)
    except msgspec.ValidationError as error:
        raise DataError(
            f"Not a report of `vlmdet eval`: {path}",
            why=f"{error}.",
            hint="Reports are written to reports/, and by `vlmdet eval --json`.",
        ) from None
    rule = EARLIER_SCORE_RULE if report.protocol.get("score_source") == "logprob" else None
    earlier = {"score_rule": rule, "dedupe": 0.0, "tiles": None}  # of versions that had no choice
    report = msgspec.structs.replace(report, protocol=earlier | report.protocol)
    missing = [name for name in (*SAME, "pictures", "objects") if name not in report.protocol]
    if report.schema != 1 or missing:
        why = f"Schema {report.schema}; its protocol lacks {', '.join(missing) or 'nothing'}."
        raise DataError(f"A report of another version: {path}", why=why, hint="Run `vlmdet eval` again.")
    return report


def require_same_protocol(labels: Sequence[str], reports: Sequence[Report]) -> None:
    """Raise ``UsageError`` with every difference to the first report's protocol; ``labels`` name the reports."""
    differences = list(protocol_differences(labels, reports))
    if differences:
        raise UsageError(
            "The reports have different protocols",
            why=differences,
            hint="Evaluate all against the same truth with the same settings, or compare them anyway with --force.",
        )


def protocol_differences(labels: Sequence[str], reports: Sequence[Report]) -> Iterator[str]:
    """Every difference of a report's protocol to the first one's, in words; ``labels`` name the reports."""
    first = reports[0].protocol
    for label, report in zip(labels[1:], reports[1:], strict=True):
        for name in SAME:
            here, there = first[name], report.protocol[name]
            if here == there:
                continue
            if name == "truth_hash":
                yield f"pictures or objects: {_truth(first)} in {labels[0]}, {_truth(report.protocol)} in {label}"
            else:
                yield f"{name}: {_plain(here)} in {labels[0]}, {_plain(there)} in {label}"


def _truth(protocol: dict[str, Any]) -> str:
    return f"{protocol['pictures']:,} pictures, {protocol['objects']:,} objects ({protocol['truth_hash'][:8]})"


def _plain(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _intervals(reports: Sequence[Report]) -> dict[str, list[list[float] | None]]:
    """For each resampled measure the intervals of the differences to the first; nothing where pictures differ."""
    columns = [report.pictures for report in reports]
    whole = all(set(table) == set(bootstrap.COLUMNS) for table in columns)
    sizes = {len(table["tp"]) for table in columns} if whole else set()
    if len(sizes) != 1 or sizes == {0} or len({report.protocol["truth_hash"] for report in reports}) != 1:
        return {}
    counts = [np.column_stack([table[name] for name in bootstrap.COLUMNS]) for table in columns]
    seed = int(reports[0].intervals.get("seed", 0))
    drawn = [bootstrap.measures(sums) for sums in bootstrap.resampled(counts, seed)]
    return {
        name: [bootstrap.interval(values[key] - drawn[0][key]) for values in drawn[1:]]
        for name, key in RESAMPLED.items()
    }


def _row(trees: Sequence[Any], path: Sequence[str], intervals: list[list[float] | None]) -> Row:
    values = [_at(tree, path) for tree in trees]
    first = values[0]
    differences = [None if value is None or first is None else value - first for value in values[1:]]
    return Row(values, differences, intervals or [None] * len(differences))


def _calibration_errors(trees: Sequence[Any], labels: Sequence[str]) -> tuple[dict[str, Row], tuple[str, ...]]:
    """The row of calibration errors where a report has one.

    It has no differences where scores are calibrated differently; no other measure depends on that.
    """
    row, calibrations = _row(trees, CALIBRATION_ERROR, []), [_calibrated(tree["protocol"]) for tree in trees]
    if row.values.count(None) == len(row.values):
        return {}, ()
    if len(set(calibrations)) == 1:
        return {"calibration error": row}, ()
    stated = ", ".join(f"{name} in {label}" for name, label in zip(calibrations, labels, strict=True))
    blank: list[Any] = [None] * len(row.differences)
    note = f"calibration: {stated}; calibration errors have no difference"
    return {"calibration error": Row(row.values, blank, blank)}, (note,)


def _calibrated(protocol: dict[str, Any]) -> str:
    stated = protocol.get("calibration")
    return f"{stated['method']} on {stated['split']}" if stated else "none"


def _at(tree: Any, path: Sequence[str]) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree  # type: ignore[no-any-return]


def _per_class(trees: Sequence[Any]) -> dict[str, Row]:
    classes = [pair for tree in trees for pair in tree["per_class"].items()]
    names = dict.fromkeys(name for name, score in classes if score["tp"] + score["fn"])
    rows = {name: _row(trees, ("per_class", name, "f1"), []) for name in names}
    return dict(sorted(rows.items(), key=lambda pair: -max((abs(d or 0.0) for d in pair[1].differences), default=0)))


def _settings(reports: Sequence[Report]) -> dict[str, list[Any]]:
    """Dotted keys of the reports' settings whose values are not all the same.

    A key that a report lacks came later, with a default that changes nothing.
    """
    defaults = _defaults()
    flat = [defaults | dict(dotted_items(report.config)) if report.config else {} for report in reports]
    rows = {
        key: [settings.get(key) for settings in flat] for key in dict.fromkeys(key for keys in flat for key in keys)
    }
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _defaults() -> dict[str, Any]:
    smallest = {"project": {"output": "-"}, "data": {"train": {"annotations": "-"}}}
    return dict(dotted_items(plain(convert(smallest))))


def _column_names(files: Sequence[ReportFile]) -> tuple[str, ...]:
    """Names of runs, and file names without ending; the whole paths where those do not tell the reports apart."""
    names = tuple(file.name for file in files)
    return names if len(set(names)) == len(names) else tuple(file.label for file in files)
