"""compare: reports beside each other. Only numbers of one protocol on the same pictures may stand in one table.

Differences are to the first report, with 95 % intervals of a paired bootstrap: the same pictures are drawn for both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.files import read_json
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.metrics import bootstrap
from vlmdet_cli.stages.evaluate import Report

# of the protocol, what must be equal: the rest tells of the predictions, not of how they were measured
SAME = (
    "truth_hash", "prompt", "classes", "categories", "matching", "duplicates", "iou", "f1_thresholds", "score_source",
)  # fmt: skip
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
RESAMPLED = {"F1": "f1", "precision": "precision", "recall": "recall", "mean IoU": "mean_iou"}


class Row(msgspec.Struct, frozen=True):
    """One measure: a value a report, and for each but the first its difference to the first with its interval."""

    values: list[float | None]
    differences: list[float | None]
    intervals: list[list[float] | None]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``per_class`` is F1 of the classes that have objects, the biggest change first; ``settings``: keys in which the
    runs differ, a value a report.
    """

    names: tuple[str, ...]
    protocol: dict[str, Any]
    differs: tuple[str, ...]
    measures: dict[str, Row]
    per_class: dict[str, Row]
    settings: dict[str, list[Any]]


def compare(files: Sequence[Path], *, force: bool = False) -> Comparison:
    """Reports of ``vlmdet eval``. Raises ``UsageError`` for less than two or for different protocols, unless forced."""
    if len(files) < 2:
        raise UsageError("Nothing to compare", hint="Name two reports or more: vlmdet compare base.json tuned.json")
    reports = [read_report(path) for path in files]
    if not force:
        require_same_protocol(files, reports)
    trees = [msgspec.to_builtins(one) for one in reports]
    intervals = _intervals(reports)
    tasks = dict.fromkeys(kind for one in reports for kind in one.tasks)
    paths = {**MEASURES, **{f"question: {kind}": ("tasks", kind, "accuracy") for kind in tasks}}
    return Comparison(
        names=_short_names(files),
        protocol={name: reports[0].protocol[name] for name in (*SAME, "truth", "pictures", "objects")},
        differs=tuple(_differences(files, reports)),
        measures={name: _row(trees, path, intervals.get(name, [])) for name, path in paths.items()},
        per_class=_per_class(trees),
        settings=_settings(reports),
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
    missing = [name for name in (*SAME, "pictures", "objects") if name not in report.protocol]
    if report.schema != 1 or missing:
        why = f"Schema {report.schema}; its protocol lacks {', '.join(missing) or 'nothing'}."
        raise DataError(f"A report of another version: {path}", why=why, hint="Run `vlmdet eval` again.")
    return report


def require_same_protocol(files: Sequence[Path], reports: Sequence[Report]) -> None:
    """Raise ``UsageError`` with every difference to the first report's protocol."""
    differ = list(_differences(files, reports))
    if differ:
        raise UsageError(
            "The reports were not measured alike",
            why=differ,
            hint="Evaluate all against the same truth with the same settings, or see them all the same with --force.",
        )


def _differences(files: Sequence[Path], reports: Sequence[Report]) -> Iterator[str]:
    first = reports[0].protocol
    for path, one in zip(files[1:], reports[1:], strict=True):
        for name in SAME:
            if one.protocol[name] == first[name]:
                continue
            if name == "truth_hash":
                yield f"pictures or objects: {_truth(first)} in {files[0]}, {_truth(one.protocol)} in {path}"
            else:
                yield f"{name}: {_plain(first[name])} in {files[0]}, {_plain(one.protocol[name])} in {path}"


def _truth(protocol: dict[str, Any]) -> str:
    return f"{protocol['pictures']:,} pictures, {protocol['objects']:,} objects ({protocol['truth_hash'][:8]})"


def _plain(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _intervals(reports: Sequence[Report]) -> dict[str, list[list[float] | None]]:
    """For each resampled measure the intervals of the differences to the first; nothing where pictures differ."""
    columns = [one.pictures for one in reports]
    whole = all(set(one) == set(bootstrap.COLUMNS) for one in columns)
    sizes = {len(one["tp"]) for one in columns} if whole else set()
    if len(sizes) != 1 or sizes == {0} or len({one.protocol["truth_hash"] for one in reports}) != 1:
        return {}
    counts = [np.column_stack([one[name] for name in bootstrap.COLUMNS]) for one in columns]
    seed = int(reports[0].intervals.get("seed", 0))
    drawn = [bootstrap.measures(sums) for sums in bootstrap.resampled(counts, seed)]
    return {
        name: [bootstrap.interval(one[key] - drawn[0][key]) for one in drawn[1:]] for name, key in RESAMPLED.items()
    }


def _row(trees: Sequence[Any], path: Sequence[str], intervals: list[list[float] | None]) -> Row:
    values = [_at(tree, path) for tree in trees]
    differences = [None if None in {one, values[0]} else one - values[0] for one in values[1:]]  # type: ignore[operator]
    return Row(values, differences, intervals or [None] * len(differences))


def _at(tree: Any, path: Sequence[str]) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree  # type: ignore[no-any-return]


def _per_class(trees: Sequence[Any]) -> dict[str, Row]:
    classes = [pair for tree in trees for pair in tree["per_class"].items()]
    names = dict.fromkeys(name for name, one in classes if one["tp"] + one["fn"])
    rows = {name: _row(trees, ("per_class", name, "f1"), []) for name in names}
    return dict(sorted(rows.items(), key=lambda pair: -max((abs(d or 0.0) for d in pair[1].differences), default=0)))


def _settings(reports: Sequence[Report]) -> dict[str, list[Any]]:
    """Dotted keys of the reports' settings whose values are not all the same."""
    flat = [dict(_flat(one.config or {})) for one in reports]
    rows = {key: [one.get(key) for one in flat] for key in dict.fromkeys(key for one in flat for key in one)}
    return {key: values for key, values in rows.items() if any(one != values[0] for one in values)}


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short_names(files: Sequence[Path]) -> tuple[str, ...]:
    """File names without ending where they tell the reports apart, else the paths."""
    stems = tuple(path.stem for path in files)
    return stems if len(set(stems)) == len(stems) else tuple(map(str, files))
