"""Open Images (V4 to V7) to a ``Dataset``: a CSV of boxes, as shares of the picture's sides.

    ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,…
    000a1249af2bc5f0,xclick,/m/0cyhj_,1,0.29,0.37,0.12,0.55,0,1,0,…

Pictures are ``{ImageID}.jpg``, or with another suffix, in a folder that must be named. A group (``IsGroupOf`` 1) is a
crowd. Two kinds of files may lie next to the CSV: ``*class-descriptions*.csv`` gives classes their names, and
``{split}-annotations-…imagelabels….csv`` says which classes people verified to be in a picture or not. Only those
classes are exhaustive in it; without that file, only the classes that have boxes in it.

Python's own ``csv`` reads blocks of 500 rows, which numpy converts: 2.5 to 3 µs a row, some 40 s for 14 million.
Blocks of 2,000 rows take half as long again, lines split by hand 4 µs, a parser on arrays of bytes 2 µs, which is too
little gain for its code. Only the columns stay in memory. Categories are the names that occur, sorted; where two
classes share a name, each carries its code as well.
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

from vlmdet_cli.data.dataset import AnnotationIssue, Column, Dataset
from vlmdet_cli.data.formats.box_entries import (
    NEGATIVE,
    NO_LABEL,
    NO_NAME,
    NOT_NUMBER,
    UNREADABLE,
    BoxColumns,
    dataset_from_columns,
    excerpt,
    upright_sizes,
)
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES, Size
from vlmdet_cli.errors import DataError

BLOCK = 500
WRONG_COUNT = "wrong number of values"
NEEDED = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
GROUP = "IsGroupOf"


class _Block(NamedTuple):
    """Rows as columns: ids of pictures, codes of classes, corners (N, 4) as shares, groups."""

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
    """The folder that file names start at: ``images``, which must be named."""
    del split
    if images is None or not images.is_dir():
        why = "" if images is None else f"This is no folder: {images}"
        hint = "Name the folder of the pictures, {ImageID}.jpg."
        raise DataError(f"The boxes of Open Images need their pictures: {annotations}", why=why, hint=hint)
    return images


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a CSV of boxes. Raises ``DataError`` where it cannot be read or lacks a column."""
    folder = picture_folder(annotations, images, split)
    pictures, codes = dict[str, int](), dict[str, int]()
    boxes = _columns(_blocks(annotations, issues), pictures, codes)
    file_names, sizes = _files(list(pictures), folder, issues)
    class_names = _class_names(list(codes), annotations)
    labels = sorted(class_names)
    label_index = {name: index for index, name in enumerate(labels)}
    label_of_code = np.array([label_index[name] for name in class_names], np.int64)
    boxes = boxes._replace(label=label_of_code[boxes.label])
    dataset = dataset_from_columns(file_names, sizes, labels, boxes, issues)
    return _with_exhaustive_categories(dataset, annotations, dict(zip(codes, label_of_code.tolist(), strict=True)))


@contextlib.contextmanager
def _rows(file: Path, needed: Iterable[str]) -> Iterator[tuple[dict[str, int], Iterator[list[str]]]]:
    """Each column's index, and the rows below the first line. Raises ``DataError`` where a needed column is missing."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.reader(opened)
            column_index = {name: index for index, name in enumerate(next(rows, []))}
            missing = [name for name in needed if name not in column_index]
            if missing:
                why = f"The first line lacks {', '.join(missing)}."
                raise DataError(f"The CSV lacks a column: {file}", why=why, hint="Is it a file of Open Images?")
            yield column_index, rows
    except OSError as error:
        raise DataError(f"Cannot read the CSV: {file}", why=f"{error.strerror}.", hint="Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The CSV is wrong: {file}", why=f"{error}.", hint="Was it cut while being copied?") from None


def _blocks(file: Path, issues: list[AnnotationIssue]) -> Iterator[_Block]:
    """The sound rows, 500 at a time."""
    with _rows(file, NEEDED) as (column_index, rows):
        columns = [column_index[name] for name in (*NEEDED, GROUP) if name in column_index]
        line = 2
        while lines := list(itertools.islice(rows, BLOCK)):
            try:
                block = _block(lines, columns)
                is_sound = _is_sound(block)
            except (ValueError, IndexError):
                is_sound = False
            if not is_sound:
                block = _block(_sound_rows(lines, columns, f"{file.name}, line", line, issues), columns)
            yield block
            line += len(lines)


def _block(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> _Block:
    """Raises ``ValueError`` or ``IndexError`` where a row lacks a number or a column."""
    pictures, codes, *fields = zip(*map(itemgetter(*columns), rows), strict=True) if rows else [()] * len(columns)
    group = [flag == "1" for flag in fields[4]] if len(fields) == 5 else [False] * len(rows)
    return _Block(pictures, codes, np.array(fields[:4], np.float64).reshape(4, -1).T, np.array(group, bool))


def _is_sound(block: _Block) -> bool:
    named = all(map(str.strip, {*block.pictures, *block.codes}))
    return bool(named and np.isfinite(block.xyxy).all() and (block.xyxy[:, 2:] >= block.xyxy[:, :2]).all())


def _sound_rows(
    rows: Sequence[Sequence[str]], columns: Sequence[int], where: str, line: int, issues: list[AnnotationIssue]
) -> list[Sequence[str]]:
    """The rows that hold a box; each other one, but for blank lines, becomes an issue."""
    sound = list[Sequence[str]]()
    for number, row in enumerate(rows, line):
        wrong = _wrong_row(row, columns)
        if not wrong:
            sound.append(row)
        elif row:
            issues.append(AnnotationIssue("boxes", wrong, f"{where} {number}: {excerpt(','.join(row))}"))
    return sound


def _wrong_row(row: Sequence[str], columns: Sequence[int]) -> str:
    """Why a row holds no box; empty where it does."""
    if len(row) <= max(columns):
        return WRONG_COUNT
    if not row[columns[0]].strip():
        return NO_NAME
    if not row[columns[1]].strip():
        return NO_LABEL
    try:
        x1, y1, x2, y2 = (float(row[column]) for column in columns[2:6])
    except ValueError:
        return NOT_NUMBER
    if not math.isfinite(x1 + y1 + x2 + y2):
        return NOT_NUMBER
    return NEGATIVE if x2 < x1 or y2 < y1 else ""


def _columns(blocks: Iterable[_Block], pictures: dict[str, int], codes: dict[str, int]) -> BoxColumns:
    """Blocks as columns; pictures and codes get numbers in the order in which they occur."""
    parts = [
        (
            np.array([pictures.setdefault(picture, len(pictures)) for picture in block.pictures], np.int64),
            np.array([codes.setdefault(code, len(codes)) for code in block.codes], np.int64),
            block.xyxy,
            block.group,
        )
        for block in blocks
    ]
    if not parts:
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))]
    picture, label, xyxy, group = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return BoxColumns(picture, label, xyxy, group, np.ones(len(picture), bool))


def _files(ids: Sequence[str], folder: Path, issues: list[AnnotationIssue]) -> tuple[list[str], list[Size | None]]:
    """File names and sizes of pictures; one that the folder does not have becomes an issue, and has no size."""
    rank = {suffix: index for index, suffix in enumerate(IMAGE_SUFFIXES)}
    try:
        files = [(path.stem, path.name) for path in folder.iterdir() if path.suffix.lower() in rank]
    except OSError as error:
        raise DataError(f"Cannot read the folder: {folder}", why=f"{error.strerror}.", hint="Check it.") from None
    files.sort(key=lambda file: (-rank[Path(file[1]).suffix.lower()], file[1]))
    file_of = dict(files)  # of several files of one picture, the last stays
    present = [file_of[image_id] for image_id in ids if image_id in file_of]
    sizes = dict(zip(present, upright_sizes(folder, present, issues), strict=True))
    names = [file_of.get(image_id, f"{image_id}.jpg") for image_id in ids]
    issues += [
        AnnotationIssue("pictures", UNREADABLE, f"{folder / name}: not on disk")
        for image_id, name in zip(ids, names, strict=True)
        if image_id not in file_of
    ]
    return names, [sizes.get(name) for name in names]


def _class_names(codes: Sequence[str], file: Path) -> list[str]:
    """A name for each code: as the class descriptions next to the file say, else the code."""
    described = dict[str, str]()
    for descriptions in sorted(file.parent.glob("*class-descriptions*.csv")):
        with _rows(descriptions, ()) as (first, rows):
            described |= {row[0]: row[1].strip() for row in itertools.chain([list(first)], rows) if len(row) > 1}
    names = [described.get(code) or code for code in codes]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({code})" for name, code in zip(names, codes, strict=True)]


def _with_exhaustive_categories(data: Dataset, file: Path, label_of_code: Mapping[str, int]) -> Dataset:
    """Each picture with its exhaustive classes: those that have boxes in it, and those that people verified."""
    count = max(len(data.labels), 1)
    picture_of_id = {str(image.id): index for index, image in enumerate(data.images)}
    verified = _verified(file, picture_of_id, label_of_code)
    pairs = np.unique(np.concatenate([data.image * count + data.label, verified[:, 0] * count + verified[:, 1]]))
    starts = np.searchsorted(pairs, np.arange(len(data.images) + 1) * count).tolist()
    labels = [data.labels[index] for index in (pairs % count).tolist()]
    images = [
        msgspec.structs.replace(image, exhaustive_categories=tuple(labels[first:last]))
        for image, first, last in zip(data.images, starts, starts[1:], strict=False)
    ]
    return msgspec.structs.replace(data, images=images)


def _verified(file: Path, picture_of_id: Mapping[str, int], label_of_code: Mapping[str, int]) -> Column:
    """``(M, 2)``: pictures and labels that people verified, as the file of the same split says; empty without one."""
    candidates = [path for path in file.parent.glob("*imagelabels*.csv") if _split_prefix(path) == _split_prefix(file)]
    human = [path for path in sorted(candidates) if "machine" not in path.name]
    human.sort(key=lambda path: "boxable" not in path.name)
    pairs = list[tuple[int, int]]()
    for path in human[:1]:
        with _rows(path, ("ImageID", "Source", "LabelName", "Confidence")) as (column_index, rows):
            columns = [column_index[name] for name in ("ImageID", "LabelName", "Source", "Confidence")]
            complete = (row for row in rows if len(row) > max(columns))
            for image_id, code, source, confidence in map(itemgetter(*columns), complete):
                if image_id in picture_of_id and code in label_of_code and _is_human(source, confidence):
                    pairs.append((picture_of_id[image_id], label_of_code[code]))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _is_human(source: str, confidence: str) -> bool:
    """People say yes or no; a machine's guess is a number between, or says that it is one."""
    return not source.startswith("machine") and confidence in {"0", "1", "0.0", "1.0"}


def _split_prefix(file: Path) -> str:
    """``train-`` of ``oidv6-train-annotations-bbox.csv``: releases mix their numbers."""
    return re.sub(r"^oidv\d+-", "", file.name.partition("annotations")[0])
