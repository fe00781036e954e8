"""The comparison of engines as a table, and the first answers that differ. Pure; prints nothing."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.tables import Views, cell, short_path, table
from vlmdet_cli.console import safe
from vlmdet_cli.errors import counted

if TYPE_CHECKING:
    from vlmdet_cli.stages.inference.engine_parity import EngineResult, ParityResult


def parity(result: "ParityResult") -> Views:
    """A row for each engine; then, for each that differs, the first answer of both, and the likely cause."""
    title = f"{counted(result.pictures, 'answer')} of {safe(short_path(result.model))}" if result.reference else ""
    engines = table("engine", "answers", "equal", "share", "seconds", "", title=title, text=("",))
    for engine in result.engines:
        engines.add_row(*_row(engine, result.reference))
    yield engines
    for engine in result.engines:
        if engine.difference is not None:
            yield _difference(engine, str(result.reference))


def _row(engine: "EngineResult", reference: str | None) -> tuple[Text, ...]:
    if engine.state != "answered":
        style = "bold red" if engine.state == "failed" else "dim"
        word = "failed" if engine.state == "failed" else "not here"
        return (cell(engine.engine), *[cell(None)] * 4, Text(f"{word}: {safe(engine.reason)}", style))
    share = Text("–" if engine.share is None else f"{engine.share:.1%}")
    seconds = Text(f"{engine.seconds:.1f}")
    remark = Text("the reference" if engine.engine == reference else "", "dim")
    return (cell(engine.engine), cell(engine.answers), cell(engine.equal), share, seconds, remark)


def _difference(engine: "EngineResult", reference: str) -> Table:
    difference = engine.difference
    assert difference is not None  # noqa: S101  (for the types)
    grid = Table(box=None, show_header=False, pad_edge=False, title=f"{engine.engine} differs", title_justify="left",
                 title_style="bold")  # fmt: skip
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, text in (
        ("picture", difference.image),
        (reference, difference.reference_excerpt),
        (engine.engine, difference.excerpt),
        ("likely", difference.cause),
    ):
        grid.add_row(name, Text(safe(text)))
    return grid
