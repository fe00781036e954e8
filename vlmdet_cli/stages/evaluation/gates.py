"""Gates: conditions that a report must meet, for CI. A measure by dotted path, or a baseline report."""

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.errors import UsageError
from vlmdet_cli.stages.evaluation.compare import read_report, require_same_protocol
from vlmdet_cli.stages.evaluation.evaluate import Report

BASELINE_MEASURES = ("f1", "macro_f1", "coco.AP")


class Gate(msgspec.Struct, frozen=True):
    """A condition on a report: the measure ``name`` must be at least ``minimum``. An undefined value fails."""

    name: str
    value: float | None
    minimum: float
    passed: bool


def gates(report: Report, conditions: Sequence[str]) -> list[Gate]:
    """Each ``METRIC=VALUE`` applied to the report; a bare name is looked up in ``overall``, others are dotted paths.

    Raises ``UsageError`` for a condition without a number and for a measure that the report does not have.
    """
    tree: dict[str, Any] = msgspec.to_builtins(report)
    return [_gate(tree, condition) for condition in conditions]


def not_worse(report: Report, baseline: Path, tolerance: float) -> Iterator[Gate]:
    """The headline measures against those of a baseline report, each allowed to be lower by ``tolerance``.

    Raises ``UsageError`` where their protocols differ. What the baseline does not define is no gate.
    """
    if tolerance < 0:
        raise UsageError(f"The tolerance must not be negative: {tolerance:g}")
    before = read_report(baseline)
    require_same_protocol((str(baseline), "this report"), (before, report))
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(report)
    for name in BASELINE_MEASURES:
        floor, value = (look_up(_scope(tree, name), name, name) for tree in (old, new))
        if floor is not None:
            minimum = floor - tolerance
            yield Gate(name, value, minimum, passed=value is not None and value >= minimum - 1e-12)


def _gate(tree: dict[str, Any], condition: str) -> Gate:
    name, _, number = condition.rpartition("=")
    try:
        minimum = float(number)
    except ValueError:
        minimum = math.nan
    if not name or math.isnan(minimum):
        raise UsageError(f"Not a gate: {condition}", hint="A gate is METRIC=VALUE, such as f1=0.5.")
    value = look_up(_scope(tree, name), name, condition)
    return Gate(name, value, minimum, passed=value is not None and value >= minimum)


def _scope(tree: dict[str, Any], name: str) -> Any:
    return tree["overall"] if name in tree["overall"] else tree


def look_up(tree: Any, path: str, condition: str) -> float | None:
    """The number at a dotted path. Keys may hold dots themselves, so the longest key that fits is taken."""
    if not path:
        if tree is None or (isinstance(tree, int | float) and not isinstance(tree, bool)):
            return tree
        raise UsageError(f"Not a number in the report: {condition}", hint="Name a measure, such as f1 or coco.AP50.")
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        key = ".".join(parts[:end])
        if isinstance(tree, dict) and key in tree:
            return look_up(tree[key], ".".join(parts[end:]), condition)
    known = [*tree.get("overall", ()), *tree] if isinstance(tree, dict) else []
    near = difflib.get_close_matches(parts[0], known, n=3) or known[:8]
    raise UsageError(f"The report has no such measure: {condition}", hint=f"Known here: {', '.join(near)}.")
