"""Single rows and answers as ``show`` prints them. Pure functions to Rich renderables; prints nothing."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.tables import Views, cell, table
from vlmdet_cli.console import safe
from vlmdet_cli.errors import counted

if TYPE_CHECKING:
    from vlmdet_cli.stages.data.show import Shown

MAX_BOXES, MAX_LETTERS = 30, 800  # of an answer that are shown
_MARKS = {
    "<|object_ref_start|>": "‹",
    "<|object_ref_end|>": "›",
    "<|box_start|>": "[",
    "<|box_end|>": "] ",  # so that lines break between boxes
}
_SPECIAL = re.compile(r"(<\|\w{1,40}\|>|<image>|</?(?:ref|box)>|<loc_?\d{1,4}>)")


def show(rows: "Iterable[Shown]") -> Views:
    """Each row as a block: its head, the texts, and the boxes of its answer."""
    for index, shown in enumerate(rows):
        if index:
            yield Text()
        yield _head(shown)
        yield _texts(shown)
        if shown.boxes:
            yield _boxes(shown)


def _head(shown: "Shown") -> Text:
    parts = [f"row {shown.number:,}", shown.kind]
    return Text(" · ".join(parts), "bold")


def _texts(shown: "Shown") -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    size = f"  {shown.size[0]} x {shown.size[1]}" if all(shown.size) else ""
    grid.add_row("picture", Text.assemble(safe(shown.image) or "none", (size, "dim")))
    grid.add_row("question", readable(shown.question))
    grid.add_row("answer", readable(shown.answer))
    if shown.expected is not None:
        grid.add_row("expected", readable(shown.expected))
    for box in shown.areas:
        grid.add_row("area", Text(_corners(box)))
    for problem in shown.problems:
        grid.add_row("problem", Text.assemble((problem.kind, "yellow"), f": {safe(problem.text)}"))
    if shown.finish == "length":
        grid.add_row("problem", Text("cut by the token limit", "yellow"))
    if shown.remark:
        grid.add_row("problem", Text(safe(shown.remark), "yellow"))
    return grid


def _corners(box: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in box)


def _boxes(shown: "Shown") -> Table:
    """The answer's boxes, in pixels where the picture's size is known."""
    has_scores = any(box.score is not None for box in shown.boxes)
    columns = ["label", "left", "top", "right", "bottom", *(["score"] if has_scores else [])]
    title = "" if all(shown.size) else "numbers as written: the picture's size is not known"
    result = table(*columns, title=title)
    for box in shown.boxes[:MAX_BOXES]:
        corners = [Text(f"{value:.1f}") for value in box.box]
        result.add_row(cell(box.label), *corners, *([cell(box.score)] if has_scores else []))
    if (rest := len(shown.boxes) - MAX_BOXES) > 0:
        result.add_row(Text(f"… {rest:,} more", "dim"))
    return result


def readable(text: str) -> Text:
    """A text with its special tokens as short marks, or dimmed; ``‹person›[(1,2),(3,4)]``. A long one is cut."""
    result = Text()
    for index, piece in enumerate(_SPECIAL.split(text)):
        result.append(_MARKS.get(piece, safe(piece)), "dim" if index % 2 else None)
    if (rest := len(result) - MAX_LETTERS) > 0:
        result.truncate(MAX_LETTERS)
        result.append(f" … {counted(rest, 'more character')}", "dim")
    return result
