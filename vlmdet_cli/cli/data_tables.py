"""Tables of the report on prepared data. Pure functions to Rich renderables; prints nothing.

Bars are of block characters, an eighth of a column the finest step; a bar is never empty where the count is not 0. Each
split's bars have a scale of their own, its largest row the whole width, so that splits of different sizes can be
compared by their shapes. All fits 80 columns and reads the same without colour.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.layout import FittingTable
from vlmdet_cli.cli.tables import Views, cell, row, table
from vlmdet_cli.console import safe
from vlmdet_cli.errors import counted

if TYPE_CHECKING:
    from vlmdet_cli.stages.data.data_report import DataReport, DuplicatesReport, Histogram, SplitReport

Counts = Mapping[str, int]
Splits = Mapping[str, "SplitReport"]

MAX_CLASSES = 15  # classes with a row of their own
_NAME_WIDTH, _COUNT_WIDTH = 20, 7  # of columns, at least
_WIDTH, _GAP = 80, 3  # of a table, and between two columns of it
_EIGHTHS = " ▏▎▍▌▋▊▉"
_KINDS = {"same": ("identical", " = "), "near": ("near-duplicate", " ~ ")}


def bar(share: float, width: int) -> str:
    """A horizontal bar of ``width`` columns for a share of 1; a share above 0 is at least an eighth of a column."""
    eighths = min(max(round(share * width * 8), int(share > 0)), width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def report(data_report: "DataReport") -> Views:
    """Counts, classes, histograms, questions and duplicates; warnings come last, where they are seen."""
    yield _counts(data_report.splits)
    yield from (view for view in _tables(data_report) if view.row_count)
    if data_report.duplicates:
        yield from _duplicates(data_report.duplicates)
    for text in data_report.warnings:
        yield Text.assemble(("warning: ", "bold yellow"), safe(text))


def _tables(data_report: "DataReport") -> Iterator[Table]:
    splits = data_report.splits
    yield _classes(splits)
    boxes_a_picture = {name: split.boxes_a_picture for name, split in splits.items()}
    yield _histogram("boxes a picture", boxes_a_picture, _whole_numbers)
    yield _bars("box size by COCO", {name: split.coco_sizes for name, split in splits.items()})
    yield _histogram("box side / picture", {name: split.box_sides for name, split in splits.items()}, _percent)
    yield _bars("picture size", {name: _picture_sizes(split) for name, split in splits.items()})
    yield _histogram("width / height", {name: split.aspects for name, split in splits.items()}, _decimals)
    tokens = {name: split.tokens.histogram for name, split in splits.items() if split.tokens}
    yield _histogram("tokens a row" if data_report.exact else "tokens, at most", tokens, _whole_numbers)
    yield _bars("rows of kind", {"train file": data_report.rows_by_kind} if data_report.rows_by_kind else {})


def _counts(splits: Splits) -> Table:
    result = _aligned("data", *splits)
    reports = list(splits.values())
    row(result, "pictures", *(split.pictures for split in reports))
    row(result, "  without objects", *(split.empty for split in reports))
    row(result, "boxes", *(split.boxes for split in reports))
    row(result, "  a picture", *(f"{split.boxes / max(split.pictures, 1):.1f}" for split in reports))
    row(result, "crowds", *(split.crowds for split in reports))
    for reason in dict.fromkeys(reason for split in reports for reason in split.left_out):
        row(result, f"left out: {reason}", *(split.left_out.get(reason, 0) for split in reports))
    if any(split.tokens for split in reports):
        row(result, "rows", *(split.tokens.rows if split.tokens else None for split in reports))
        row(result, "  longest, tokens", *(split.tokens.longest if split.tokens else None for split in reports))
        row(result, "  over the limit", *(split.tokens.over if split.tokens else None for split in reports))
    return result


def _classes(splits: Splits) -> Table:
    """Boxes by class, most frequent first, the rarer classes as one row."""
    total: dict[str, int] = {}
    for split in splits.values():
        for name, count in split.classes.items():
            total[name] = total.get(name, 0) + count.boxes
    order = sorted(total, key=lambda name: -total[name])
    num_shown = min(MAX_CLASSES, sum(count > 0 for count in total.values()))
    rows = {safe(name): [name] for name in order[:num_shown]}
    if rest := order[num_shown:]:
        rows[f"… {counted(len(rest), 'more class', 'more classes')}"] = rest
    columns = {
        split_name: {
            title: sum(split.classes[name].boxes for name in names if name in split.classes)
            for title, names in rows.items()
        }
        for split_name, split in splits.items()
    }
    return _bars("boxes of class", columns)


def _picture_sizes(split: "SplitReport") -> dict[str, int]:
    return {**split.sizes, **({"other sizes": split.other_sizes} if split.other_sizes else {})}


def _histogram(title: str, splits: "Mapping[str, Histogram]", bin_name: Callable[[float, float], str]) -> Table:
    """Rows from the first bin to the last in which any split has a value."""
    first = next(iter(splits.values()), None)
    if first is None:
        return _bars(title, {})
    used = [n for n in range(len(first.counts)) if any(histogram.counts[n] for histogram in splits.values())]
    bins = range(used[0], used[-1] + 1) if used else range(0)
    names = {n: bin_name(first.edges[n], first.edges[n + 1]) for n in bins}
    return _bars(title, {split: {names[n]: histogram.counts[n] for n in bins} for split, histogram in splits.items()})


def _whole_numbers(low: float, high: float) -> str:
    """A bin of whole numbers by its first and last one."""
    return f"{low:,.0f}" if high - low <= 1 else f"{low:,.0f} – {high - 1:,.0f}"


def _percent(low: float, high: float) -> str:
    return f"{low * 100:g} – {high * 100:g} %"


def _decimals(low: float, high: float) -> str:
    return f"{low:g} – {high:.3g}"


def _bars(title: str, splits: Mapping[str, Counts]) -> FittingTable:
    """A row for each name, a count and a bar for each split."""
    result = _aligned(title)
    largest = {split: max(counts.values(), default=0) or 1 for split, counts in splits.items()}
    width = _bar_width(splits)
    for split in splits:
        result.add_column(safe(split), justify="right", min_width=_COUNT_WIDTH)
        result.add_joined_column("", min_width=width, no_wrap=True)
    for name in dict.fromkeys(name for counts in splits.values() for name in counts):
        cells = []
        for split, counts in splits.items():
            count = counts.get(name, 0)
            cells += [cell(count), Text(bar(count / largest[split], width), "cyan")]
        result.add_row(Text(name), *cells)
    return result


def _bar_width(splits: Mapping[str, Counts]) -> int:
    """What 80 columns leave for each bar next to the names and the counts."""
    count_widths = [len(f"{count:,}") for counts in splits.values() for count in counts.values()]
    remaining = (_WIDTH - 1 - _NAME_WIDTH) // max(len(splits), 1) - max([_COUNT_WIDTH, *count_widths]) - 2 * _GAP
    return min(max(remaining, 3), 30)


def _aligned(title: str, *columns: str) -> FittingTable:
    """A table whose columns line up with those of the others."""
    result = table(title, *columns)
    for number, column in enumerate(result.columns):
        column.min_width, column.max_width = (_COUNT_WIDTH, None) if number else (_NAME_WIDTH, _NAME_WIDTH)
    return result


def _duplicates(duplicates: "DuplicatesReport") -> Views:
    """The number of duplicates, and the first cases; those that cross splits, which leak, come first."""
    counts = duplicates.counts
    result = table("duplicates", "all", "across splits")
    row(result, "identical files, groups", counts["same"], counts["same across splits"])
    row(result, "near-duplicates, pairs", counts["near"], counts["near across splits"])
    yield result
    for case in duplicates.cases:
        kind, sign = _KINDS[case.kind]
        names = sign.join(f"{split}/{name}" for split, name in case.pictures)
        more = f" and {case.unnamed:,} more" if case.unnamed else ""
        where = "across splits" if case.crosses_splits else "in one split"
        yield Text.assemble((f"{kind}, {where}: ", "dim"), safe(names + more))
