"""The result of ``experiment``: a row a variant, differences to the first, and means over seeds.

A row's interval is a bootstrap over pictures, and the interval of its difference a paired one: they tell how far the
numbers would move with other pictures. Means over seeds have Student's t intervals, which tell how far they would move
with other seeds of training; differences are taken seed by seed.
"""

import math
import statistics
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project.experiments import Variant
from vlmdet_cli.project.run_record import RunRecord
from vlmdet_cli.stages.evaluation.compare import ReportFile, compare, protocol_differences, read_report
from vlmdet_cli.stages.evaluation.evaluate import Report

# the 97.5 % quantile of Student's t distribution for 1, 2, … degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_T_BEYOND = 2.262  # the quantile falls with more seeds: the interval is then a little too wide
Change = tuple[float | None, list[float] | None]  # the difference of F1 to the first variant, and its interval


class Outcome(NamedTuple):
    """What became of a variant: its report's path, its run's record and the split measured, or an error."""

    variant: Variant
    report: str = ""
    record: RunRecord | None = None
    split: str = ""
    error: VlmdetError | None = None


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A variant's measures. ``change``: of F1 to the first variant. ``seconds``: of training."""

    name: str
    experiment: str
    settings: dict[str, Any]
    seed: int | None
    state: str
    error: str = ""
    split: str = ""
    f1: float | None = None
    f1_interval: list[float] | None = None
    change: float | None = None
    change_interval: list[float] | None = None
    ap: float | None = None
    loss: float | None = None
    steps: int = 0
    seconds: float | None = None
    tasks: dict[str, float | None] = {}


class SeedMean(msgspec.Struct, frozen=True, kw_only=True):
    """F1 over the seeds of a variant, with its interval over seeds, None for a single seed.

    ``change``: the mean of the differences to the first variant with the same seeds.
    """

    name: str
    seeds: int
    f1: float
    f1_interval: list[float] | None
    change: float | None = None
    change_interval: list[float] | None = None


class ExperimentResult(msgspec.Struct, frozen=True, kw_only=True):
    """``best``: the run with the highest F1 of each search. ``exit_code``: of the first variant that failed, else 0."""

    rows: list[VariantRow]
    means: list[SeedMean]
    notes: list[str]
    best: dict[str, str] = {}
    exit_code: int = 0


def summarize(outcomes: Sequence[Outcome], searches: Sequence[str] = ()) -> ExperimentResult:
    """The result of variants in their order; ``searches``: the experiments that are searches.

    A variant that was measured by another protocol than the first has no difference, and a note says why.
    """
    measured = [outcome for outcome in outcomes if outcome.error is None]
    reports = {outcome.variant.name: read_report(Path(outcome.report)) for outcome in measured}
    changes, notes = _changes(measured, reports)
    if measured and outcomes[0].error:
        notes.append(f"changes are to {measured[0].variant.name}: {outcomes[0].variant.name} failed.")
    rows = [_row(o, reports.get(o.variant.name), changes.get(o.variant.name, (None, None))) for o in outcomes]
    errors = [outcome.error for outcome in outcomes if outcome.error]
    return ExperimentResult(
        rows=rows,
        means=list(_means(rows, changes)),
        notes=notes,
        best=dict(_best(rows, searches)),
        exit_code=errors[0].exit_code if errors else 0,
    )


def _best(rows: Sequence[VariantRow], searches: Sequence[str]) -> Iterator[tuple[str, str]]:
    for search in searches:
        measured = [row for row in rows if row.experiment == search and row.f1 is not None]
        if measured:
            yield search, max(measured, key=lambda row: row.f1 or 0.0).name


def _changes(measured: Sequence[Outcome], reports: Mapping[str, Report]) -> tuple[dict[str, Change], list[str]]:
    """The difference of F1 to the first variant, by name, of those that were measured as it was; a note on others."""
    if not measured:
        return {}, []
    (first, baseline), *_ = reports.items()
    differences = {
        name: list(protocol_differences([first, name], [baseline, report])) for name, report in reports.items()
    }
    others, notes = [name for name in reports if differences[name]], list[str]()
    if others:
        notes = [f"no change is shown of {', '.join(others)}: the protocol differs.", *differences[others[0]]]
    files = [
        ReportFile(outcome.variant.name, outcome.variant.name, Path(outcome.report))
        for outcome in measured
        if not differences[outcome.variant.name]
    ]
    changes: list[Change] = [(None, None)]
    if len(files) > 1:
        row = compare(files).measures["F1"]
        changes += zip(row.differences, row.intervals, strict=True)
    return dict(zip([file.name for file in files], changes, strict=True)), notes


def _row(outcome: Outcome, report: Report | None, change: Change) -> VariantRow:
    variant = outcome.variant
    known: dict[str, Any] = {
        "name": variant.name,
        "experiment": variant.experiment,
        "settings": variant.values,
        "seed": variant.seed,
    }
    record = outcome.record
    if report is None or record is None:
        return VariantRow(**known, state="failed", error=str(outcome.error))
    return VariantRow(
        **known,
        state="done",
        split=outcome.split,
        f1=report.overall["f1"],
        f1_interval=report.intervals.get("f1"),
        change=change[0],
        change_interval=change[1],
        ap=report.coco.get("AP"),
        loss=record.loss,
        steps=record.steps,
        seconds=record.seconds,
        tasks={kind: task["accuracy"] for kind, task in report.tasks.items()},
    )


def _means(rows: Sequence[VariantRow], comparable: Container[str]) -> Iterator[SeedMean]:
    """A mean for each variant that was repeated with seeds; ``comparable`` names the rows that have a difference."""
    groups: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.seed is not None and row.f1 is not None:
            groups.setdefault(row.name.removesuffix(f"-seed{row.seed}"), {})[row.seed] = row.f1
    first = next(iter(groups.values()), {})
    for number, (name, by_seed) in enumerate(groups.items()):
        compared = [seed for seed in by_seed if number and seed in first and f"{name}-seed{seed}" in comparable]
        shared = [by_seed[seed] - first[seed] for seed in compared]
        yield SeedMean(
            name=name,
            seeds=len(by_seed),
            f1=statistics.fmean(by_seed.values()),
            f1_interval=t_interval(list(by_seed.values())),
            change=statistics.fmean(shared) if shared else None,
            change_interval=t_interval(shared),
        )


def t_interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % interval of the mean by Student's t distribution; None for fewer than two values."""
    if len(values) < 2:
        return None
    quantile = _T[len(values) - 2] if len(values) - 2 < len(_T) else _T_BEYOND
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return [mean - half, mean + half]
