"""How a report on data and single rows look to a person: pure functions, as in ``views``. Prints nothing.

Bars are of block characters, an eighth of a column the finest step; a bar is never empty where there is something.
Each split's bars have a scale of their own, its largest row the whole width, so that splits of different sizes can be
compared by their shapes. All fits 80 columns and reads the same without colour.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.tables import Views, cell, line, row, table
from vlmdet_cli.console import safe
from vlmdet_cli.errors import counted

if TYPE_CHECKING:
    from vlmdet_cli.stages.data_report import DataReport, DuplicatesReport, Histogram, SplitReport
    from vlmdet_cli.stages.show import Shown

Counts = Mapping[str, int]

CLASSES = 15  # that are shown one by one
BOXES, LETTERS = 30, 800  # of an answer that are shown
_NAME, _COUNT = 20, 7  # columns, at least
_WIDTH, _GAP = 80, 3  # of a table, and between two columns of it
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int) -> str:
    """A horizontal bar of ``width`` columns for a share of 1; what is more than nothing is seen."""
    eighths = min(max(round(share * width * 8), int(share > 0)), width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


# --- the report on data --------------------------------------------------------------------------------------


def report(made: "DataReport") -> Views:
    """Counts, classes, histograms, questions, what is alike, and the warnings, which stand last to be seen."""
    yield _counts(made.splits)
    yield from (one for one in _tables(made) if one.row_count)
    if made.likeness:
        yield from _alike(made.likeness)
    for text in made.warnings:
        yield Text.assemble(("warning: ", "bold yellow"), safe(text))


def _tables(made: "DataReport") -> Iterator[Table]:
    splits = made.splits
    yield _classes(splits)
    yield _histogram("boxes a picture", {name: one.boxes_a_picture for name, one in splits.items()}, _whole)
    yield _bars("box size by COCO", {name: one.coco_sizes for name, one in splits.items()})
    yield _histogram("box side / picture", {name: one.box_sides for name, one in splits.items()}, _percent)
    yield _bars("picture size", {name: _sizes(one) for name, one in splits.items()})
    yield _histogram("width / height", {name: one.aspects for name, one in splits.items()}, _plain)
    tokens = {name: one.tokens.histogram for name, one in splits.items() if one.tokens}
    yield _histogram("tokens a row" if made.exact else "tokens, at most", tokens, _whole)
    yield _bars("rows of kind", {"train file": made.mix} if made.mix else {})


def _counts(splits: "Mapping[str, SplitReport]") -> Table:
    made = _aligned("data", *splits)
    ones = splits.values()
    row(made, "pictures", *(one.pictures for one in ones))
    row(made, "  without objects", *(one.empty for one in ones))
    row(made, "boxes", *(one.boxes for one in ones))
    row(made, "  a picture", *(f"{one.boxes / max(one.pictures, 1):.1f}" for one in ones))
    row(made, "crowds", *(one.crowds for one in ones))
    for reason in dict.fromkeys(reason for one in ones for reason in one.left_out):
        row(made, f"left out: {reason}", *(one.left_out.get(reason, 0) for one in ones))
    if any(one.tokens for one in ones):
        row(made, "rows", *(one.tokens.rows if one.tokens else None for one in ones))
        row(made, "  longest, tokens", *(one.tokens.longest if one.tokens else None for one in ones))
        row(made, "  over the limit", *(one.tokens.over if one.tokens else None for one in ones))
    return made


def _classes(splits: "Mapping[str, SplitReport]") -> Table:
    """Boxes by class, most frequent first, the tail as one line."""
    total: dict[str, int] = {}
    for one in splits.values():
        for name, count in one.classes.items():
            total[name] = total.get(name, 0) + count.boxes
    order = sorted(total, key=lambda name: -total[name])
    many = min(CLASSES, sum(count > 0 for count in total.values()))
    groups = {safe(name): [name] for name in order[:many]}
    if rest := order[many:]:
        groups[f"… {counted(len(rest), 'more class', 'more classes')}"] = rest
    columns = {
        split: {shown: sum(one.classes[n].boxes for n in names if n in one.classes) for shown, names in groups.items()}
        for split, one in splits.items()
    }
    return _bars("boxes of class", columns)


def _sizes(one: "SplitReport") -> dict[str, int]:
    return {**one.sizes, **({"other sizes": one.other_sizes} if one.other_sizes else {})}


def _histogram(title: str, splits: "Mapping[str, Histogram]", name: Callable[[float, float], str]) -> Table:
    """Rows from the first bin to the last in which any split has something."""
    first = next(iter(splits.values()), None)
    if first is None:
        return _bars(title, {})
    used = [n for n in range(len(first.counts)) if any(one.counts[n] for one in splits.values())]
    bins = range(used[0], used[-1] + 1) if used else range(0)
    names = {n: name(first.edges[n], first.edges[n + 1]) for n in bins}
    return _bars(title, {split: {names[n]: one.counts[n] for n in bins} for split, one in splits.items()})


def _whole(low: float, high: float) -> str:
    """A bin of whole numbers by its first and last one."""
    return f"{low:,.0f}" if high - low <= 1 else f"{low:,.0f} – {high - 1:,.0f}"


def _percent(low: float, high: float) -> str:
    return f"{low * 100:g} – {high * 100:g} %"


def _plain(low: float, high: float) -> str:
    return f"{low:g} – {high:.3g}"


def _bars(title: str, splits: Mapping[str, Counts]) -> Table:
    """A row a name, a count and a bar a split."""
    made = _aligned(title)
    most = {split: max(counts.values(), default=0) or 1 for split, counts in splits.items()}
    width = _bar_width(splits)
    for split in splits:
        made.add_column(safe(split), justify="right", min_width=_COUNT)
        made.add_column("", min_width=width, no_wrap=True)
    for name in dict.fromkeys(name for counts in splits.values() for name in counts):
        cells = []
        for split, counts in splits.items():
            count = counts.get(name, 0)
            cells += [cell(count), Text(bar(count / most[split], width), "cyan")]
        made.add_row(Text(name), *cells)
    return made


def _bar_width(splits: Mapping[str, Counts]) -> int:
    """What 80 columns leave for each bar beside the names and the counts."""
    counts = [len(f"{count:,}") for split in splits.values() for count in split.values()]
    room = (_WIDTH - 1 - _NAME) // max(len(splits), 1) - max([_COUNT, *counts]) - 2 * _GAP
    return min(max(room, 3), 30)


def _aligned(title: str, *columns: str) -> Table:
    """A table whose columns stand under those of the others."""
    made = table(title, *columns)
    for number, one in enumerate(made.columns):
        one.min_width, one.max_width = (_COUNT, None) if number else (_NAME, _NAME)
    return made


def _alike(made: "DuplicatesReport") -> Views:
    """How much is alike, and the first cases; leaks between splits stand first."""
    counts = made.counts
    shown = table("alike", "all", "across splits")
    row(shown, "identical files, groups", counts.get("same", 0), counts.get("same across splits", 0))
    row(shown, "alike to the eye, pairs", counts.get("near", 0), counts.get("near across splits", 0))
    yield shown
    for case in made.cases:
        names = [f"{split}/{name}" for split, name in case.pictures]
        more = f" and {case.more:,} more" if case.more else ""
        where = "leak" if case.crosses else "within"
        yield line(f"{where} {case.what}", (" = " if case.what == "same" else " ~ ").join(names) + more)


# --- rows ----------------------------------------------------------------------------------------------------


def show(rows: "Iterable[Shown]") -> Views:
    """Each row as a block: its head, the texts, and the boxes of its answer."""
    for number, one in enumerate(rows):
        if number:
            yield Text()
        yield _head(one)
        yield _texts(one)
        if one.boxes:
            yield _boxes(one)


def _head(one: "Shown") -> Text:
    parts = [f"row {one.number:,}", one.kind]
    if one.tokens is not None:
        parts.append(f"{'' if one.exact else 'at most '}{counted(one.tokens, 'token')}")
    return Text(" · ".join(parts), "bold")


def _texts(one: "Shown") -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    size = f"  {one.size[0]} x {one.size[1]}" if all(one.size) else ""
    made.add_row("picture", Text.assemble(safe(one.image) or "none", (size, "dim")))
    made.add_row("question", readable(one.question))
    made.add_row("answer", readable(one.answer))
    if one.expected is not None:
        made.add_row("expected", readable(one.expected))
    for box in one.areas:
        made.add_row("area", Text(_corners(box)))
    for problem in one.problems:
        made.add_row("problem", Text.assemble((problem.kind, "yellow"), f": {safe(problem.text)}"))
    if one.finish == "length":
        made.add_row("problem", Text("cut by the token limit", "yellow"))
    if one.remark:
        made.add_row("problem", Text(safe(one.remark), "yellow"))
    return made


def _corners(box: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in box)


def _boxes(one: "Shown") -> Table:
    """The answer's boxes, in pixels where these are known."""
    scored = any(found.score is not None for found in one.boxes)
    columns = ["label", "left", "top", "right", "bottom", *(["score"] if scored else [])]
    made = table(*columns, title="" if all(one.size) else "numbers as written: the picture's size is not known")
    for found in one.boxes[:BOXES]:
        corners = [Text(f"{value:.1f}") for value in found.box]
        made.add_row(cell(found.label), *corners, *([cell(found.score)] if scored else []))
    if (rest := len(one.boxes) - BOXES) > 0:
        made.add_row(Text(f"… {rest:,} more", "dim"))
    return made


_MARKS = {
    "<|object_ref_start|>": "‹",
    "<|object_ref_end|>": "›",
    "<|box_start|>": "[",
    "<|box_end|>": "] ",  # so that lines break between boxes
}
_SPECIAL = re.compile(r"(<\|\w{1,40}\|>|<image>|</?(?:ref|box)>|<loc_?\d{1,4}>)")


def readable(text: str) -> Text:
    """A text with its special tokens as short marks, or dimmed; ``‹person›[(1,2),(3,4)]``. A long one is cut."""
    made = Text()
    for number, piece in enumerate(_SPECIAL.split(text)):
        made.append(_MARKS.get(piece, safe(piece)), "dim" if number % 2 else None)
    if (rest := len(made) - LETTERS) > 0:
        made.truncate(LETTERS)
        made.append(f" … {counted(rest, 'more character')}", "dim")
    return made
