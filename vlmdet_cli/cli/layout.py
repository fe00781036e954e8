"""A table and a line that keep to the width of the terminal and cut nothing. Renderables of Rich; print nothing.

Columns of numbers are as wide as they need. Columns of text give way, and break between words. Where all columns do not
fit beside each other, the table goes on below, with the first column again.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from vlmdet_cli.console import safe

LONGEST_NAME, LONGEST_WORD = 16, 32  # columns of the terminal; what is longer is broken where there is no room
LEAST_TEXT = 14  # of a column of text behind the first
EASY_TEXT = 24  # of any column of text, where the table goes on below anyway
_GAP, _EDGES = 3, 2  # between two columns, and around all
NAME = 12  # of a line's name and the space behind it


class FittingTable(Table):
    """A table of numbers (columns to the right) and text (to the left); the first column names the rows."""

    def __init__(self, title: str = "") -> None:
        super().__init__(title=title or None)
        self._joined = set[int]()

    def add_joined_column(self, name: str, **options: Any) -> None:
        """Add a column that stays beside the one before it."""
        self._joined.add(len(self.columns))
        self.add_column(name, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if self.title:
            yield Text(str(self.title), "bold")
        natural = [_natural(column) for column in self.columns]
        least = [_least(column, is_first=number == 0) for number, column in enumerate(self.columns)]
        if sum(least) + _GAP * (len(least) - 1) + _EDGES > options.max_width:
            easy = [0 if column.justify == "right" else EASY_TEXT for column in self.columns]
            least = [max(a, min(b, c)) for a, b, c in zip(least, easy, natural, strict=True)]
        for chosen in self._blocks(least, options.max_width):
            room = options.max_width - _EDGES - _GAP * (len(chosen) - 1)
            part = self._part(chosen, _fitted([least[n] for n in chosen], [natural[n] for n in chosen], room))
            for segments in console.render_lines(part, options, pad=False):
                yield from _stripped(segments)
                yield Segment.line()
        if self.caption:
            yield Text(str(self.caption), "dim")

    def _blocks(self, least: Sequence[int], width: int) -> Iterator[list[int]]:
        """The columns of each table, by number."""
        groups = list[list[int]]()
        for number in range(1, len(least)):
            fits = (
                number in self._joined and LEAST_TEXT + least[number - 1] + least[number] + 2 * _GAP + _EDGES <= width
            )
            groups = [*groups[:-1], [*groups[-1], number]] if fits else [*groups, [number]]
        block, used = [0], least[0] + _EDGES
        for group in groups:
            needed = sum(least[number] + _GAP for number in group)
            if len(block) > 1 and used + needed > width:
                yield block
                block, used = [0], least[0] + _EDGES
            block += group
            used += needed
        yield block

    def _part(self, chosen: Iterable[int], widths: Iterable[int]) -> Table:
        part = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        columns = [self.columns[number] for number in chosen]
        for column, width in zip(columns, widths, strict=True):
            part.add_column(column.header, justify=column.justify, overflow="fold", width=width)
        for cells in zip(*(column.cells for column in columns), strict=True):
            part.add_row(*cells)
        return part


def _longest(texts: Iterable[object], separator: str) -> int:
    """The width of the longest part of the texts."""
    return max((cell_len(part) for text in texts for part in str(text).split(separator)), default=0)


def _natural(column: Column) -> int:
    """The width without any break."""
    width = _longest((column.header, *column.cells), "\n")
    return max(min(width, column.max_width or width), column.min_width or 1)


def _least(column: Column, *, is_first: bool) -> int:
    natural = _natural(column)
    if column.justify == "right" or column.no_wrap:
        return min(natural, max(_longest(column.cells, "\n"), column.min_width or 1, LONGEST_NAME))
    words = " ".join(map(str, (column.header, *column.cells))).split()
    limit, least = (LONGEST_NAME, 1) if is_first else (LONGEST_WORD, LEAST_TEXT)
    return min(natural, max(min(_longest(words, " "), limit), least))


def _fitted(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths that fill ``room``: the first column grows to what is easy to read, then that which lacks most."""
    widths = list(least)
    numbers = range(len(widths))
    widths[0] += max(min(natural[0], EASY_TEXT, widths[0] + room - sum(widths)) - widths[0], 0)
    while sum(widths) < room and (lacking := max(natural[n] - widths[n] for n in numbers)) > 0:
        widths[next(n for n in numbers if natural[n] - widths[n] == lacking)] += 1
    while sum(widths) > max(room, len(widths)):
        widths[0 if widths[0] > LEAST_TEXT // 2 else max(numbers, key=widths.__getitem__)] -= 1
    return widths


def _stripped(line: list[Segment]) -> list[Segment]:
    """A line without the spaces at its end."""
    while line and not line[-1].text.rstrip():
        line = line[:-1]
    return [*line[:-1], Segment(line[-1].text.rstrip(), line[-1].style)] if line else []


class Line:
    """A name, dimmed unless it has a style of its own, and a value, where a table would be too much. The value breaks
    between words, and goes on below its beginning; a path is never broken.
    """

    def __init__(self, name: "Text | str", value: object, width: int = NAME) -> None:
        self.name = Text(name, "dim") if isinstance(name, str) else name
        self.value, self.width = safe(value), width

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        name = self.name.copy()
        name.pad_right(max(self.width - name.cell_len, 1))
        for text in _broken(self.value, options.max_width - name.cell_len):
            yield Text.assemble(name, text, no_wrap=True, overflow="ignore")
            name = Text(" " * name.cell_len)


def _broken(text: str, width: int) -> Iterator[str]:
    """The lines of a text, broken between words."""
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and cell_len(f"{line} {word}") > width:
                yield line
                line = word
            else:
                line = f"{line} {word}" if line else word
        yield line
