"""report: what prepared data are like, in numbers: classes, sizes, crowding, lengths of rows, pictures that are alike.

The boxes counted are those a model should name. Crowds, and objects left out of the subset, are counted apart. All
splits are counted in the same bins, so that they can stand side by side. ``warnings`` says in sentences what one should
look at before training.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import area
from vlmdet_cli.data.dataset import DROP_REASONS, Column, Dataset
from vlmdet_cli.data.duplicates import Duplicates
from vlmdet_cli.errors import DataError, counted, first_few
from vlmdet_cli.prompts import questions

COCO_SIZES = ("small", "medium", "large")
BOX_EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # side of a square of the box's area, in a picture of side 1
ASPECT_EDGES = (0.0, 0.48, 0.59, 0.9, 1.1, 1.7, 2.1)  # width / height; no common format lies near an edge
RARE = 100  # a class with so many times fewer boxes than the commonest is rare
SIZES, CASES, NAMES = 5, 10, 4  # picture sizes, cases of likeness, and pictures of a case, that are named


class Histogram(msgspec.Struct, frozen=True):
    """``counts[n]``: values from ``edges[n]`` up to, not including, ``edges[n + 1]``; the last bin includes its end."""

    edges: list[float]
    counts: list[int]


class ClassCount(msgspec.Struct, frozen=True):
    boxes: int
    pictures: int


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of rows; ``over``: rows that have more than the limit."""

    rows: int
    longest: int
    over: int
    histogram: Histogram


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """One split. ``left_out``: objects by reason. ``sizes``: pictures by "width x height", the same sizes in every
    split, the rest under ``other_sizes``. ``box_sides``: square roots of boxes' shares of their pictures.
    ``coco_sizes``: by annotated area, under 32², under 96², and above.
    """

    pictures: int
    empty: int
    boxes: int
    crowds: int
    left_out: dict[str, int]
    classes: dict[str, ClassCount]
    boxes_a_picture: Histogram
    sizes: dict[str, int]
    other_sizes: int
    aspects: Histogram
    box_sides: Histogram
    coco_sizes: dict[str, int]
    tokens: TokenCount | None


class Case(msgspec.Struct, frozen=True):
    """Pictures that are alike, as (split, file name), the first few; ``more``: how many are not named."""

    what: str
    crosses: bool
    pictures: list[tuple[str, str]]
    more: int


class DuplicatesReport(msgspec.Struct, frozen=True):
    """Counts as ``likeness.Duplicates`` has them, and the first cases, leaks between splits before others."""

    counts: dict[str, int]
    cases: list[Case]


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """All splits. ``exact``: tokens are counted, not an upper bound. ``mix``: rows of the train file by kind."""

    splits: dict[str, SplitReport]
    limit: int
    exact: bool
    likeness: DuplicatesReport | None
    mix: dict[str, int] | None
    warnings: list[str]


def report(
    splits: Mapping[str, Dataset],
    tokens: Mapping[str, npt.NDArray[np.int64]],
    *,
    limit: int,
    exact: bool,
    likeness: Duplicates | None = None,
    mix: Mapping[str, int] | None = None,
) -> DataReport:
    """The report on prepared splits; ``tokens`` are those of each split's rows, ``(R,)``, where they are known."""
    found = {name: _Found.of(data) for name, data in splits.items()}
    lengths = {name: tokens[name] for name in splits if name in tokens}
    bins = _Bins.of(found.values(), lengths.values(), limit)
    made = {name: _split(one, lengths.get(name), bins, limit) for name, one in found.items()}
    alike = _likeness(likeness) if likeness else None
    return DataReport(
        splits=made,
        limit=limit,
        exact=exact,
        likeness=alike,
        mix=dict(mix) if mix is not None else None,
        warnings=list(_warnings(made, limit, alike, exact=exact)),
    )


# --- columns -------------------------------------------------------------------------------------------------


class _Found(msgspec.Struct, frozen=True):
    """A split's columns: of the targets, ``image`` and ``label`` (N,) and ``sides`` (N,), relative to the picture;
    ``crowding`` (P,), boxes a picture; ``sizes`` (P, 2).
    """

    data: Dataset
    targets: Dataset
    crowding: Column
    sizes: Column
    sides: Column

    @classmethod
    def of(cls, data: Dataset) -> "_Found":
        targets = data.select_objects(data.is_target)
        sizes = np.maximum(data.sizes, 1.0)
        sides = np.sqrt(area(targets.clipped) / sizes.prod(axis=1)[targets.image])
        return cls(data, targets, np.bincount(targets.image, minlength=len(sizes)), sizes.astype(np.int64), sides)


class _Bins(msgspec.Struct, frozen=True):
    """What all splits are counted by: edges as in ``Histogram``, and the most frequent picture sizes."""

    crowding: list[float]
    aspects: list[float]
    tokens: list[float]
    sizes: list[tuple[int, int]]

    @classmethod
    def of(cls, found: Iterable[_Found], tokens: Iterable[npt.NDArray[np.int64]], limit: int) -> "_Bins":
        sizes = np.concatenate([np.empty((0, 2), np.int64), *(one.sizes for one in found)])
        most = max((int(one.crowding.max(initial=0)) for one in found), default=0)
        widest = float((sizes[:, 0] / sizes[:, 1]).max(initial=0))
        longest = max((int(one.max(initial=0)) for one in tokens), default=0)
        return cls(
            crowding=[0.0, 1.0, *_doubling(2, most)],
            aspects=[*ASPECT_EDGES, max(4.0, widest)],
            tokens=_token_edges(limit, longest),
            sizes=_frequent(sizes),
        )


def _frequent(sizes: Column) -> list[tuple[int, int]]:
    """The most frequent of sizes (P, 2), most frequent first."""
    codes, counts = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:SIZES]
    return [(code >> 32, code & 0xFFFFFFFF) for code in codes[order].tolist()]


def _doubling(first: int, most: int) -> list[float]:
    """Edges of 1, 2, 3 – 4, 5 – 8, … up to the bin that has ``most``."""
    edges = [float(first)]
    while edges[-1] <= most:
        edges.append(2 * edges[-1] - 1 if edges[-1] > 2 else 3.0)
    return edges


def _token_edges(limit: int, longest: int) -> list[float]:
    """Eighths of the limit, then doubles of it; a row of just the limit is below its edge."""
    edges = sorted({limit * part // 8 + 1 for part in range(1, 9)})
    while edges[-1] <= longest:
        edges.append(2 * edges[-1] - 1 if edges[-1] > 1 else longest + 1)
    return [0.0, *map(float, edges)]


def _histogram(values: npt.NDArray[Any], edges: Iterable[float]) -> Histogram:
    edges = list(edges)
    return Histogram(edges, np.histogram(values, edges)[0].tolist())


# --- one split -----------------------------------------------------------------------------------------------


def _split(found: _Found, tokens: npt.NDArray[np.int64] | None, bins: _Bins, limit: int) -> SplitReport:
    data, targets = found.data, found.targets
    sizes = _sizes(found.sizes, bins.sizes)
    return SplitReport(
        pictures=len(data.images),
        empty=int(np.count_nonzero(found.crowding == 0)),
        boxes=len(targets.ids),
        crowds=int(np.count_nonzero((data.drop_reason == 0) & data.crowd)),
        left_out=_left_out(data.drop_reason),
        classes=_classes(targets),
        boxes_a_picture=_histogram(found.crowding, bins.crowding),
        sizes=sizes,
        other_sizes=len(data.images) - sum(sizes.values()),
        aspects=_histogram(found.sizes[:, 0] / found.sizes[:, 1], bins.aspects),
        box_sides=_histogram(np.minimum(found.sides, 1.0), BOX_EDGES),
        coco_sizes=_coco_sizes(targets.area),
        tokens=None if tokens is None else _tokens(tokens, bins.tokens, limit),
    )


def _left_out(drop_reason: Column) -> dict[str, int]:
    counts = np.bincount(drop_reason, minlength=len(DROP_REASONS)).tolist()
    return {reason: count for reason, count in zip(DROP_REASONS, counts, strict=True) if reason and count}


def _classes(targets: Dataset) -> dict[str, ClassCount]:
    """Every category, those without a box too."""
    many = len(targets.labels)
    boxes = np.bincount(targets.label, minlength=many).tolist()
    pairs = np.sort(targets.image * many + targets.label, kind="stable")  # nearly in order: faster than np.unique
    once = pairs[np.diff(pairs, prepend=-1) > 0] % max(many, 1)
    pictures = np.bincount(once, minlength=many).tolist()
    return {name: ClassCount(boxes[n], pictures[n]) for n, name in enumerate(targets.categories)}


def _sizes(sizes: Column, frequent: Iterable[tuple[int, int]]) -> dict[str, int]:
    return {f"{wide} x {high}": int((sizes == (wide, high)).all(axis=1).sum()) for wide, high in frequent}


def _coco_sizes(areas: Column) -> dict[str, int]:
    kinds = np.searchsorted([32.0**2, 96.0**2], areas, side="right")
    return dict(zip(COCO_SIZES, np.bincount(kinds, minlength=3).tolist(), strict=True))


def _tokens(tokens: npt.NDArray[np.int64], edges: Iterable[float], limit: int) -> TokenCount:
    return TokenCount(
        rows=len(tokens),
        longest=int(tokens.max(initial=0)),
        over=int(np.count_nonzero(tokens > limit)),
        histogram=_histogram(tokens, edges),
    )


# --- likeness and warnings -----------------------------------------------------------------------------------


def _likeness(found: Duplicates) -> DuplicatesReport:
    alike = [("same", one) for one in found.same] + [("near", one) for one in found.near]
    alike.sort(key=lambda pair: not pair[1].crosses)
    cases = [
        Case(what, one.crosses, list(one.pictures[:NAMES]), max(0, len(one.pictures) - NAMES))
        for what, one in alike[:CASES]
    ]
    return DuplicatesReport(dict(found.counts), cases)


def _warnings(
    splits: Mapping[str, SplitReport], limit: int, alike: DuplicatesReport | None, *, exact: bool
) -> Iterator[str]:
    if alike:
        yield from _leaks(alike.counts)
    for name, one in splits.items():
        if one.tokens and one.tokens.over:
            sure = "over" if exact else "perhaps over"
            yield f"{name}: {counted(one.tokens.over, 'row')} {sure} the limit of {limit:,} tokens"
    for name, one in splits.items():
        if one.boxes and (missing := [label for label, count in one.classes.items() if not count.boxes]):
            yield f"{name}: {counted(len(missing), 'class', 'classes')} without any box: {_named(missing)}"
    yield from _rare(splits)


def _leaks(counts: Mapping[str, int]) -> Iterator[str]:
    if number := counts.get("same across splits", 0):
        yield f"{counted(number, 'group')} of identical pictures in more than one split"
    if number := counts.get("near across splits", 0):
        yield f"{counted(number, 'pair')} of pictures that look alike in different splits"


def _rare(splits: Mapping[str, SplitReport]) -> Iterator[str]:
    """Of the first split, the one that a model learns from."""
    name, one = next(iter(splits.items()), ("", None))
    if one is None or not one.boxes:
        return
    common, count = max(one.classes.items(), key=lambda pair: pair[1].boxes)
    rare = [(n.boxes, label) for label, n in one.classes.items() if 0 < n.boxes * RARE <= count.boxes]
    if rare:
        shown = _named([f"{label} {boxes:,}" for boxes, label in sorted(rare)])
        many = counted(len(rare), "class", "classes")
        yield f"{name}: {many} at least {RARE} times rarer than {common} ({count.boxes:,}): {shown}"


def _named(names: list[str]) -> str:
    return ", ".join(first_few(names, 5))


# --- question mix --------------------------------------------------------------------------------------------


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Row(msgspec.Struct):
    messages: list[_Message]


_ROW = msgspec.json.Decoder(_Row)


def mix_of(path: Path) -> dict[str, int]:
    """Rows of a train file (JSONL) by the kind of their question, most frequent first.

    Raises ``DataError`` for a file that cannot be read, and for a line that is no row.
    """
    counts = Counter[str]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    counts[questions.kind_of(_question(path, line, number))] += 1
    except OSError as error:
        raise DataError(f"Cannot read the train file: {path}", why=f"{error.strerror}.", hint="Check it.") from None
    return dict(counts.most_common())


def _question(path: Path, line: bytes, number: int) -> str:
    try:
        return next(one.content for one in _ROW.decode(line).messages if one.role == "user")
    except (msgspec.DecodeError, StopIteration) as error:
        why = str(error) or "It has no message of the user"
        raise DataError(
            f"Not a row: {path}, line {number}", why=f"{why}.", hint="A row has `messages`, as swift reads them."
        ) from None
