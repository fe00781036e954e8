"""The result of ``experiment`` as tables. Pure."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.tables import Views, cell, change, line, row, table
from vlmdet_cli.console import safe

if TYPE_CHECKING:
    from vlmdet_cli.stages.experiments.experiment import PlannedVariant
    from vlmdet_cli.stages.experiments.experiment_result import ExperimentResult


def plan(planned: "Iterable[PlannedVariant]") -> Views:
    result = table("run", "state", "settings", text=("settings",))
    for variant in planned:
        result.add_row(cell(variant.name), cell(variant.state or "new"), Text(in_words(variant.settings)))
    yield result


def result(result: "ExperimentResult") -> Views:
    yield _measures(result)
    if result.means:
        yield _means(result)
    kinds = dict.fromkeys(kind for entry in result.rows for kind in entry.tasks)
    if kinds:
        tasks = table("questions right", *kinds)
        for entry in result.rows:
            row(tasks, entry.name, *(entry.tasks.get(kind) for kind in kinds))
        yield tasks
    yield _settings(result)
    for search, name in result.best.items():
        yield line(f"best of {search}", name)
    for entry in result.rows:
        if entry.error:
            yield line("failed", f"{entry.name}: {entry.error}")
    for note in result.notes:
        yield line("note", note)


def _measures(result: "ExperimentResult") -> Table:
    splits = ", ".join(dict.fromkeys(entry.split for entry in result.rows if entry.split))
    measures = table("run", "F1", "95 %", "change", "AP", "loss", "min", title=f"Measured on {splits or 'nothing'}")
    for entry in result.rows:
        interval = Text("failed", "bold red") if entry.error else _interval(entry.f1_interval)
        minutes = Text("–" if entry.seconds is None else f"{entry.seconds / 60:.1f}")
        values = (cell(entry.name), cell(entry.f1), interval, change(entry.change, entry.change_interval))
        measures.add_row(*values, cell(entry.ap), cell(entry.loss), minutes)
    return measures


def _means(result: "ExperimentResult") -> Table:
    means = table("over seeds", "seeds", "F1", "95 %", "change")
    for mean in result.means:
        values = (cell(mean.name), cell(mean.seeds), cell(mean.f1), _interval(mean.f1_interval))
        means.add_row(*values, change(mean.change, mean.change_interval))
    return means


def _settings(result: "ExperimentResult") -> Table:
    settings = table("run", "settings", text=("settings",))
    for entry in result.rows:
        settings.add_row(cell(entry.name), Text(in_words(entry.settings)))
    return settings


def in_words(settings: Mapping[str, Any]) -> str:
    return safe(", ".join(f"{key}={value}" for key, value in settings.items()))


def _interval(interval: "list[float] | None") -> Text:
    return cell(None) if interval is None else Text(f"{interval[0]:.3f} – {interval[1]:.3f}")
