"""The parts of all tables: rows, cells, lines, paths, the ledger. Pure functions to Rich renderables; prints nothing.

They fit any terminal (``layout``) and read the same without colour. Names from files pass through ``safe``.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.layout import FittingTable, Line
from vlmdet_cli.console import safe

Views = Iterator[RenderableType]


def table(*columns: str, title: str = "", text: Collection[str] = ()) -> FittingTable:
    """A table whose first column and those in ``text`` are text; its others are right-aligned numbers."""
    result = FittingTable(title)
    for number, name in enumerate(columns):
        result.add_column(name, justify="left" if number == 0 or name in text else "right")
    return result


def cell(value: Any) -> Text:
    """A table cell: counts with separators, fractions with three digits, a dash for an undefined value."""
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.3f}")
    return Text(f"{value:,}" if isinstance(value, int) else safe(value))


def change(difference: float | None, interval: list[float] | None) -> Text:
    """A difference and its interval; bold where the interval does not hold 0."""
    if difference is None:
        return cell(None)
    if interval is None:
        return Text(f"{difference:+.3f}")
    low, high = interval
    return Text(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", "bold" if low > 0 or high < 0 else "")


def row(target: Table, *values: Any) -> None:
    """Add a row of cells to ``target``."""
    target.add_row(*map(cell, values))


def short_path(path: str | Path) -> str:
    """A path relative to the current folder where it lies below it, else as it is."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def line(name: str, value: object) -> Line:
    """``name  value``, where a table would be too much."""
    return Line(name, value)


def ledger(accounts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """The accounts of each name: in = kept + dropped, with the reasons of the dropped."""
    result = table("ledger", "in", "kept", "dropped", "why", text=("why",))
    for name, account in accounts.items():
        for unit, counts in account.items():
            reasons = ", ".join(f"{count:,} {safe(reason)}" for reason, count in counts["dropped"].items())
            values = (f"{name} {unit}".strip(), counts["in"], counts["kept"], sum(counts["dropped"].values()))
            result.add_row(*map(cell, values), Text(reasons))
    return result
