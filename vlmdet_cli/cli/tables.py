"""The parts of all tables: rows, cells, lines, paths, the ledger. Pure functions to Rich renderables; prints nothing.

Tables fit 80 columns and read the same without colour. Names from files pass through ``safe``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmdet_cli.console import safe

Views = Iterator[RenderableType]


def table(*columns: str, title: str = "") -> Table:
    """A table whose first column is text and whose others are right-aligned numbers."""
    result = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        result.add_column(name, justify="right" if number else "left", overflow="fold" if number == 0 else "ellipsis")
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


def line(name: str, value: object) -> Text:
    """``name  value``, where a table would be too much."""
    return Text.assemble((f"{name:<12}", "dim"), safe(value))


def ledger(accounts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """The accounts of each name: in = kept + dropped, with the reasons of the dropped."""
    result = table("ledger", "in", "kept", "dropped")
    result.add_column("why", overflow="fold")
    for name, account in accounts.items():
        for unit, counts in account.items():
            reasons = ", ".join(f"{count:,} {safe(reason)}" for reason, count in counts["dropped"].items())
            values = (f"{name} {unit}".strip(), counts["in"], counts["kept"], sum(counts["dropped"].values()))
            result.add_row(*map(cell, values), Text(reasons))
    return result
