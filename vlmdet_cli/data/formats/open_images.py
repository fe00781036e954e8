"""Open Images (V4 to V7) to a ``Dataset``: a CSV of boxes, in shares of the picture's sides.

    ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,…
    000a1249af2bc5f0,xclick,/m/0cnyhnx,1,0.29,0.37,0.12,0.55,0,1,0,…

Pictures are ``{ImageID}.jpg``, or with another suffix, in a folder that must be named. A group (``IsGroupOf`` 1) is a
crowd. Beside the file may stand ``*class-descriptions*.csv``, which gives classes their names, and
``{split}-annotations-…imagelabels….csv``: what people exhaustive_categories to be in a picture or not. Only for those classes are
all objects of a picture annotated; without that file, for those that have boxes in it.

Decisions: Python's own ``csv`` in blocks of 500 rows, of which numpy makes numbers: 2.5 to 3 µs a row, some 40 s for
14 million. Blocks of 2,000 rows take half as long again, lines split by hand 4 µs, a parser of our own on arrays of
bytes 2, too little gain for its code. Only the columns stay in memory. Categories are the names that occur, sorted; of
two classes with one name each carries its code as well.
"""

import contextlib
import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.data.dataset import AnnotationIssue, Column, Dataset, Image
from vlmdet_cli.data.formats.unsized import NEGATIVE, NOT_NUMBER, UNREADABLE, Columns, Size, assembled, excerpt, sizes
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES
from vlmdet_cli.errors import DataError

BLOCK = 500
WRONG_COUNT = "wrong number of values"
NEEDED = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
GROUP = "IsGroupOf"


class _Block(NamedTuple):
    """Rows as columns: ids of pictures, codes of labels, corners (N, 4) in shares, groups."""

    pictures: Sequence[str]
    codes: Sequence[str]
    xyxy: Column
    group: Column


def recognises(annotations: Path) -> bool:
    """Whether the first line names the columns of boxes."""
    with contextlib.suppress(OSError), annotations.open("rb") as file:
        return set(NEEDED) <= set(file.readline(4096).decode("utf-8", "replace").strip("\ufeff\r\n").split(","))
    return False


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """Where file names start: ``images``, which must be named."""
    del split
    if images is None or not images.is_dir():
        why = "" if images is None else f"This is no folder: {images}"
        hint = "Name the folder of the pictures, {ImageID}.jpg."
        raise DataError(f"The boxes of Open Images need their pictures: {annotations}", why=why, hint=hint)
    return images


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a CSV of boxes. ``DataError`` where it cannot be read or its first line lacks a column."""
    folder = picture_folder(annotations, images, split)
    pictures, codes = dict[str, int](), dict[str, int]()
    boxes = _columns(_blocks(annotations, issues), pictures, codes)
    names, known = _files(list(pictures), folder, issues)
    named = _names(list(codes), annotations)
    labels = sorted(named)
    place = {name: number for number, name in enumerate(labels)}
    order = np.array([place[name] for name in named], np.int64)
    data = assembled(names, known, labels, boxes._replace(label=order[boxes.label]), issues)
    return _with_verified(data, annotations, dict(zip(codes, order.tolist(), strict=True)))


@contextlib.contextmanager
def _rows(file: Path, needed: Iterable[str]) -> Iterator[tuple[dict[str, int], Iterator[list[str]]]]:
    """Each column's place, and the rows below the first line. ``DataError`` where a needed column is missing."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.reader(opened)
            places = {name: place for place, name in enumerate(next(rows, []))}
            missing = [name for name in needed if name not in places]
            if missing:
                why = f"The first line lacks {', '.join(missing)}."
                raise DataError(f"The CSV lacks a column: {file}", why=why, hint="Is it a file of Open Images?")
            yield places, rows
    except OSError as error:
        raise DataError(f"Cannot read the CSV: {file}", why=f"{error.strerror}.", hint="Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The CSV is wrong: {file}", why=f"{error}.", hint="Was it cut while being copied?") from None


def _blocks(file: Path, issues: list[AnnotationIssue]) -> Iterator[_Block]:
    """The sound rows, 500 at a time."""
    with _rows(file, NEEDED) as (places, rows):
        pick = [places[name] for name in (*NEEDED, GROUP) if name in places]
        line = 2
        while block := list(itertools.islice(rows, BLOCK)):
            try:
                made = _block(block, pick)
                sound = _sound(made.xyxy)
            except (ValueError, IndexError):
                sound = False
            if not sound:
                kept = _sound_rows(block, pick, f"{file.name}, line", line, issues)
                made = _block(kept, pick)
            yield made
            line += len(block)


def _block(rows: Sequence[Sequence[str]], pick: Sequence[int]) -> _Block:
    """``ValueError`` or ``IndexError`` where a row lacks a number or a column."""
    pictures, codes, *fields = zip(*map(itemgetter(*pick), rows), strict=True) if rows else [()] * len(pick)
    group = [flag == "1" for flag in fields[4]] if len(fields) == 5 else [False] * len(rows)
    return _Block(pictures, codes, np.array(fields[:4], np.float64).reshape(4, -1).T, np.array(group, bool))


def _sound(xyxy: Column) -> bool:
    return bool(np.isfinite(xyxy).all() and (xyxy[:, 2:] >= xyxy[:, :2]).all())


def _sound_rows(
    rows: Sequence[Sequence[str]], pick: Sequence[int], where: str, line: int, issues: list[AnnotationIssue]
) -> list[Sequence[str]]:
    """The rows that hold a box; each other one is a flaw, but for blank lines."""
    kept = list[Sequence[str]]()
    for number, row in enumerate(rows, line):
        wrong = _wrong(row, pick)
        if not wrong:
            kept.append(row)
        elif row:
            issues.append(AnnotationIssue("boxes", wrong, f"{where} {number}: {excerpt(','.join(row))}"))
    return kept


def _wrong(row: Sequence[str], pick: Sequence[int]) -> str:
    if len(row) <= max(pick):
        return WRONG_COUNT
    try:
        x1, y1, x2, y2 = (float(row[place]) for place in pick[2:6])
    except ValueError:
        return NOT_NUMBER
    if not math.isfinite(x1 + y1 + x2 + y2):
        return NOT_NUMBER
    return NEGATIVE if x2 < x1 or y2 < y1 else ""


def _columns(blocks: Iterable[_Block], pictures: dict[str, int], codes: dict[str, int]) -> Columns:
    """Blocks as columns; pictures and codes get numbers in the order they come in."""
    parts = [
        (
            np.array([pictures.setdefault(one, len(pictures)) for one in block.pictures], np.int64),
            np.array([codes.setdefault(one, len(codes)) for one in block.codes], np.int64),
            block.xyxy,
            block.group,
        )
        for block in blocks
    ]
    if not parts:
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))]
    picture, label, xyxy, group = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Columns(picture, label, xyxy, group, np.ones(len(picture), bool))


def _files(ids: Sequence[str], folder: Path, issues: list[AnnotationIssue]) -> tuple[list[str], list[Size | None]]:
    """File names and sizes of pictures; one that the folder does not have is a flaw, and has no size."""
    best = {suffix: rank for rank, suffix in enumerate(IMAGE_SUFFIXES)}
    try:
        files = [(path.stem, path.name) for path in folder.iterdir() if path.suffix.lower() in best]
    except OSError as error:
        raise DataError(f"Cannot read the folder: {folder}", why=f"{error.strerror}.", hint="Check it.") from None
    files.sort(key=lambda file: (-best[Path(file[1]).suffix.lower()], file[1]))
    there = dict(files)  # of several files of one picture, the last stays
    names = [there.get(one, f"{one}.jpg") for one in ids]
    present = [there[one] for one in ids if one in there]
    known = dict(zip(present, sizes(folder, present, issues), strict=True))
    issues += [
        AnnotationIssue("pictures", UNREADABLE, f"{folder / name}: not on disk")
        for one, name in zip(ids, names, strict=True)
        if one not in there
    ]
    return names, [known.get(name) for name in names]


def _names(codes: Sequence[str], file: Path) -> list[str]:
    """A name for each code: as the class descriptions beside the file say, else the code."""
    stated = dict[str, str]()
    for beside in sorted(file.parent.glob("*class-descriptions*.csv")):
        with _rows(beside, ()) as (first, rows):
            stated |= {row[0]: row[1].strip() for row in itertools.chain([list(first)], rows) if len(row) > 1}
    names = [stated.get(code) or code for code in codes]
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({code})" for name, code in zip(names, codes, strict=True)]


def _with_verified(data: Dataset, file: Path, places: Mapping[str, int]) -> Dataset:
    """Each picture with its exhaustive_categories classes: those that have boxes in it, and those that people looked for."""
    many = max(len(data.labels), 1)
    looked = _looked_for(file, {str(one.id): place for place, one in enumerate(data.images)}, places)
    pairs = np.unique(np.concatenate([data.image * many + data.label, looked[:, 0] * many + looked[:, 1]]))
    starts = np.searchsorted(pairs, np.arange(len(data.images) + 1) * many).tolist()
    labels = [data.labels[place] for place in (pairs % many).tolist()]
    images: list[Image] = [
        msgspec.structs.replace(one, exhaustive_categories=tuple(labels[first:last]))
        for one, first, last in zip(data.images, starts, starts[1:], strict=False)
    ]
    return msgspec.structs.replace(data, images=images)


def _looked_for(file: Path, pictures: Mapping[str, int], labels: Mapping[str, int]) -> Column:
    """``(M, 2)``: pictures and labels that people exhaustive_categories, as the file of the same split says; empty without one."""
    beside = [one for one in sorted(file.parent.glob("*imagelabels*.csv")) if _split(one) == _split(file)]
    human = sorted((one for one in beside if "machine" not in one.name), key=lambda one: "boxable" not in one.name)
    pairs = list[tuple[int, int]]()
    for one in human[:1]:
        with _rows(one, ("ImageID", "Source", "LabelName", "Confidence")) as (places, rows):
            chosen = [places[name] for name in ("ImageID", "LabelName", "Source", "Confidence")]
            whole = (row for row in rows if len(row) > max(chosen))
            for picture, label, source, confidence in map(itemgetter(*chosen), whole):
                if picture in pictures and label in labels and _with_exhaustive(source, confidence):
                    pairs.append((pictures[picture], labels[label]))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _with_exhaustive(source: str, confidence: str) -> bool:
    """People say yes or no; a machine's guess lies between, or says that it is one."""
    return not source.startswith("machine") and confidence in {"0", "1", "0.0", "1.0"}


def _split(file: Path) -> str:
    """``train-`` of ``oidv6-train-annotations-bbox.csv``: releases mix their numbers."""
    return re.sub(r"^oidv\d+-", "", file.name.partition("annotations")[0])
