"""The report on prepared data: counts of classes, sizes, objects per picture and tokens per row, and duplicates.

The boxes counted are those that a model should name. Crowds, and objects left out of the subset, are counted apart. All
splits are counted in the same bins, so that they can be compared. ``warnings`` are sentences on what to check before
training.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import area
from vlmdet_cli.data.dataset import DROP_REASONS, Column, Dataset
from vlmdet_cli.data.duplicates import DuplicateGroup, Duplicates
from vlmdet_cli.errors import counted, first_few

Tokens = npt.NDArray[np.int64]

COCO_SIZES = ("small", "medium", "large")
BOX_EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # side of a square of the box's area, in a picture of side 1
ASPECT_EDGES = (0.0, 0.48, 0.59, 0.9, 1.1, 1.7, 2.1)  # width / height; no common format lies near an edge
RARE = 100  # a class with so many times fewer boxes than the most common one is rare
MAX_SIZES, MAX_CASES, MAX_NAMES = 5, 10, 4  # picture sizes, cases of duplicates, and pictures of a case, that are named


class Histogram(msgspec.Struct, frozen=True):
    """``counts[n]``: values from ``edges[n]`` up to, not including, ``edges[n + 1]``; the last bin includes its end."""

    edges: list[float]
    counts: list[int]


class ClassCount(msgspec.Struct, frozen=True):
    """Boxes of a class, and pictures that have one."""

    boxes: int
    pictures: int


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of rows; ``over``: rows that have more than the limit."""

    rows: int
    longest: int
    over: int
    histogram: Histogram


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """One split.

    ``left_out`` counts objects by reason; ``sizes`` pictures by "width x height", the same sizes in every split, the
    rest under ``other_sizes``; ``box_sides`` the square roots of the boxes' shares of their pictures; ``coco_sizes``
    objects by annotated area: under 32², under 96², and above.
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


class DuplicateCase(msgspec.Struct, frozen=True):
    """Duplicates of each other, as (split, file name); ``unnamed`` counts those beyond the first few."""

    kind: Literal["same", "near"] = msgspec.field(name="what")
    crosses_splits: bool = msgspec.field(name="crosses")
    pictures: list[tuple[str, str]]
    unnamed: int = msgspec.field(name="more")


class DuplicatesReport(msgspec.Struct, frozen=True):
    """Counts of pictures and of duplicates, and the first cases, those that cross splits before others.

    ``counts`` has ``pictures``, ``unreadable``, ``flat``; ``same`` and ``near`` (groups of identical files, pairs of
    near-duplicates); and ``same across splits`` and ``near across splits``.
    """

    counts: dict[str, int]
    cases: list[DuplicateCase]


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """All splits. ``exact``: tokens are counted, not bounded. ``rows_by_kind`` are those of the train file."""

    splits: dict[str, SplitReport]
    limit: int
    exact: bool
    duplicates: DuplicatesReport | None = msgspec.field(name="likeness")
    rows_by_kind: dict[str, int] | None = msgspec.field(name="mix")
    warnings: list[str]


def report(
    splits: Mapping[str, Dataset],
    tokens: Mapping[str, Tokens],
    *,
    limit: int,
    exact: bool,
    duplicates: Duplicates | None = None,
    rows_by_kind: Mapping[str, int] | None = None,
) -> DataReport:
    """The report on prepared splits; ``tokens`` are those of each split's rows, ``(R,)``, where they are known."""
    measures = {name: _Measures.of(data) for name, data in splits.items()}
    known_tokens = {name: tokens[name] for name in splits if name in tokens}
    bins = _Bins.of(measures.values(), known_tokens.values(), limit)
    reports = {name: _split(measures[name], known_tokens.get(name), bins, limit) for name in splits}
    duplicates_report = _duplicates(duplicates) if duplicates else None
    return DataReport(
        splits=reports,
        limit=limit,
        exact=exact,
        duplicates=duplicates_report,
        rows_by_kind=dict(rows_by_kind) if rows_by_kind is not None else None,
        warnings=list(_warnings(reports, limit, duplicates_report, exact=exact)),
    )


# --- columns -------------------------------------------------------------------------------------------------


class _Measures(msgspec.Struct, frozen=True):
    """A split's columns: ``per_picture`` (P,) targets of each picture, ``sizes`` (P, 2), ``sides`` (N,) of the targets,
    relative to the picture.
    """

    data: Dataset
    targets: Dataset
    per_picture: Column
    sizes: Column
    sides: Column

    @classmethod
    def of(cls, data: Dataset) -> "_Measures":
        targets = data.select_objects(data.is_target)
        sizes = np.maximum(data.sizes, 1.0)
        sides = np.sqrt(area(targets.clipped) / sizes.prod(axis=1)[targets.image])
        return cls(data, targets, np.bincount(targets.image, minlength=len(sizes)), sizes.astype(np.int64), sides)


class _Bins(msgspec.Struct, frozen=True):
    """The bins of all splits: edges as in ``Histogram``, and the most frequent picture sizes."""

    per_picture: list[float]
    aspects: list[float]
    tokens: list[float]
    sizes: list[tuple[int, int]]

    @classmethod
    def of(cls, splits: Iterable[_Measures], tokens: Iterable[Tokens], limit: int) -> "_Bins":
        splits = list(splits)
        sizes = np.concatenate([np.empty((0, 2), np.int64), *(split.sizes for split in splits)])
        most_boxes = max((int(split.per_picture.max(initial=0)) for split in splits), default=0)
        widest = float((sizes[:, 0] / sizes[:, 1]).max(initial=0))
        longest = max((int(lengths.max(initial=0)) for lengths in tokens), default=0)
        return cls(
            per_picture=[0.0, 1.0, *_doubling(2, most_boxes)],
            aspects=[*ASPECT_EDGES, max(4.0, widest)],
            tokens=_token_edges(limit, longest),
            sizes=_frequent(sizes),
        )


def _frequent(sizes: Column) -> list[tuple[int, int]]:
    """The most frequent of sizes (P, 2), most frequent first."""
    codes, counts = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_SIZES]
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


def _split(measures: _Measures, tokens: Tokens | None, bins: _Bins, limit: int) -> SplitReport:
    data, targets = measures.data, measures.targets
    sizes = _sizes(measures.sizes, bins.sizes)
    return SplitReport(
        pictures=len(data.images),
        empty=int(np.count_nonzero(measures.per_picture == 0)),
        boxes=len(targets.ids),
        crowds=int(np.count_nonzero((data.drop_reason == 0) & data.crowd)),
        left_out=_left_out(data.drop_reason),
        classes=_classes(targets),
        boxes_a_picture=_histogram(measures.per_picture, bins.per_picture),
        sizes=sizes,
        other_sizes=len(data.images) - sum(sizes.values()),
        aspects=_histogram(measures.sizes[:, 0] / measures.sizes[:, 1], bins.aspects),
        box_sides=_histogram(np.minimum(measures.sides, 1.0), BOX_EDGES),
        coco_sizes=_coco_sizes(targets.area),
        tokens=None if tokens is None else _tokens(tokens, bins.tokens, limit),
    )


def _left_out(drop_reason: Column) -> dict[str, int]:
    counts = np.bincount(drop_reason, minlength=len(DROP_REASONS)).tolist()
    return {reason: count for reason, count in zip(DROP_REASONS, counts, strict=True) if reason and count}


def _classes(targets: Dataset) -> dict[str, ClassCount]:
    """Every category, those without a box too."""
    num_labels = len(targets.labels)
    boxes = np.bincount(targets.label, minlength=num_labels).tolist()
    codes = np.sort(targets.image * num_labels + targets.label, kind="stable")  # nearly sorted: faster than np.unique
    label = codes[np.diff(codes, prepend=-1) > 0] % max(num_labels, 1)  # of each picture, each label once
    pictures = np.bincount(label, minlength=num_labels).tolist()
    return {name: ClassCount(boxes[index], pictures[index]) for index, name in enumerate(targets.categories)}


def _sizes(sizes: Column, frequent: Iterable[tuple[int, int]]) -> dict[str, int]:
    return {f"{size[0]} x {size[1]}": int((sizes == size).all(axis=1).sum()) for size in frequent}


def _coco_sizes(areas: Column) -> dict[str, int]:
    bins = np.searchsorted([32.0**2, 96.0**2], areas, side="right")
    return dict(zip(COCO_SIZES, np.bincount(bins, minlength=3).tolist(), strict=True))


def _tokens(tokens: Tokens, edges: Iterable[float], limit: int) -> TokenCount:
    return TokenCount(
        rows=len(tokens),
        longest=int(tokens.max(initial=0)),
        over=int(np.count_nonzero(tokens > limit)),
        histogram=_histogram(tokens, edges),
    )


# --- duplicates and warnings ---------------------------------------------------------------------------------


def _duplicates(duplicates: Duplicates) -> DuplicatesReport:
    counts = {"pictures": duplicates.pictures, "unreadable": duplicates.unreadable, "flat": duplicates.flat}
    cases = list[DuplicateCase]()
    kinds: tuple[tuple[Literal["same", "near"], Sequence[DuplicateGroup]], ...] = (
        ("same", duplicates.identical),
        ("near", duplicates.near),
    )
    for kind, groups in kinds:
        counts[kind] = len(groups)
        counts[f"{kind} across splits"] = sum(group.crosses_splits for group in groups)
        cases += [
            DuplicateCase(
                kind, group.crosses_splits, list(group.pictures[:MAX_NAMES]), max(0, len(group.pictures) - MAX_NAMES)
            )
            for group in groups
        ]
    cases.sort(key=lambda case: not case.crosses_splits)
    return DuplicatesReport(counts, cases[:MAX_CASES])


def _warnings(
    splits: Mapping[str, SplitReport], limit: int, duplicates: DuplicatesReport | None, *, exact: bool
) -> Iterator[str]:
    if duplicates:
        yield from _leaks(duplicates.counts)
    for name, split in splits.items():
        if split.tokens and split.tokens.over:
            over = "over" if exact else "perhaps over"
            yield f"{name}: {counted(split.tokens.over, 'row')} {over} the limit of {limit:,} tokens"
    for name, split in splits.items():
        if split.boxes and (missing := [label for label, count in split.classes.items() if not count.boxes]):
            yield f"{name}: {counted(len(missing), 'class', 'classes')} without any box: {_named(missing)}"
    yield from _rare_classes(splits)


def _leaks(counts: Mapping[str, int]) -> Iterator[str]:
    if number := counts["same across splits"]:
        yield f"{counted(number, 'group')} of identical pictures in more than one split"
    if number := counts["near across splits"]:
        yield f"{counted(number, 'pair')} of near-duplicate pictures in different splits"


def _rare_classes(splits: Mapping[str, SplitReport]) -> Iterator[str]:
    """Those of the first split, from which a model learns."""
    name, split = next(iter(splits.items()), ("", None))
    if split is None or not split.boxes:
        return
    common, most = max(split.classes.items(), key=lambda item: item[1].boxes)
    rare = [(count.boxes, label) for label, count in split.classes.items() if 0 < count.boxes * RARE <= most.boxes]
    if rare:
        labels = _named([f"{label} {boxes:,}" for boxes, label in sorted(rare)])
        classes = counted(len(rare), "class", "classes")
        yield f"{name}: {classes} at least {RARE} times rarer than {common} ({most.boxes:,}): {labels}"


def _named(names: list[str]) -> str:
    return ", ".join(first_few(names, 5))
