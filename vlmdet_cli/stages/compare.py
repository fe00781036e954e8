"""compare: reports beside each other. Only numbers of one protocol on the same truth may stand in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.records import read_json
from vlmdet_cli.stages.evaluate import Report

# of the protocol, what must be equal: the rest tells of the predictions, not of how they were measured
SAME = ("truth", "pictures", "objects", "crowds", "categories", "classes", "prompt", "matching", "iou", "f1_thresholds")
MEASURES = {
    "precision": ("overall", "precision"),
    "recall": ("overall", "recall"),
    "F1": ("overall", "f1"),
    "mean IoU": ("overall", "mean_iou"),
    "macro F1": ("overall", "macro_f1"),
    "F1 over 0.50:0.95": ("overall", "f1_50_95"),
    "COCO AP": ("coco", "AP"),
    "COCO AP50": ("coco", "AP50"),
}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``measures`` and ``per_class`` (F1): a value a report, in the order of ``names``; None where undefined."""

    names: tuple[str, ...]
    protocol: dict[str, Any]
    measures: dict[str, list[float | None]]
    per_class: dict[str, list[float | None]]


def compare(files: Sequence[Path], *, force: bool = False) -> Comparison:
    """Reports of ``vlmdet eval``. Raises ``UsageError`` for less than two or for different protocols, unless forced."""
    if len(files) < 2:
        raise UsageError("Nothing to compare", hint="Name two reports or more: vlmdet compare base.json tuned.json")
    reports = [_read(path) for path in files]
    if not force:
        _same_protocol(files, reports)
    trees = [msgspec.to_builtins(one) for one in reports]
    measures = {name: [_at(tree, path) for tree in trees] for name, path in MEASURES.items()}
    tasks = dict.fromkeys(kind for one in reports for kind in one.tasks)
    measures |= {f"question: {kind}": [_at(tree, ("tasks", kind, "accuracy")) for tree in trees] for kind in tasks}
    classes = dict.fromkeys(name for one in reports for name in one.per_class)
    return Comparison(
        names=_short_names(files),
        protocol={name: reports[0].protocol[name] for name in SAME},
        measures=measures,
        per_class={name: [_at(tree, ("per_class", name, "f1")) for tree in trees] for name in classes},
    )


def _read(path: Path) -> Report:
    try:
        report = msgspec.convert(read_json(path, "report"), Report)
    except msgspec.ValidationError as error:
        raise DataError(f"Not a report of `vlmdet eval`: {path}", why=f"{error}.") from None
    missing = [name for name in SAME if name not in report.protocol]
    if report.schema != 1 or missing:
        why = f"Schema {report.schema}; its protocol lacks {', '.join(missing) or 'nothing'}."
        raise DataError(f"A report of another version: {path}", why=why, hint="Run `vlmdet eval` again.")
    return report


def _same_protocol(files: Sequence[Path], reports: Sequence[Report]) -> None:
    first = reports[0].protocol
    differ = [
        f"{name}: {first[name]} in {files[0]}, {one.protocol[name]} in {path}"
        for path, one in zip(files[1:], reports[1:], strict=True)
        for name in SAME
        if one.protocol[name] != first[name]
    ]
    if differ:
        raise UsageError(
            "The reports were not measured alike",
            why=differ,
            hint="Evaluate both against the same truth with the same settings, or see it all the same with --force.",
        )


def _at(tree: Any, path: Sequence[str]) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree  # type: ignore[no-any-return]


def _short_names(files: Sequence[Path]) -> tuple[str, ...]:
    """File names without ending where they tell the reports apart, else the paths."""
    stems = tuple(path.stem for path in files)
    return stems if len(set(stems)) == len(stems) else tuple(map(str, files))
