"""Rows of JSON, a picture with its boxes each, to a ``Dataset``: one array, or a row a line.

Several rows of one picture are merged, and of boxes with the same label and corners one is kept.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from vlmdet_cli.core.files import parse_json, read_bytes
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.box_entries import (
    NEGATIVE,
    NO_LABEL,
    NOT_NUMBER,
    BoxEntry,
    dataset_from_boxes,
    drop_picture,
    excerpt,
    name_below,
    upright_sizes,
    wrong_name,
)

WHAT = "annotation file"
PEEK_BYTES = 1 << 18  # so much of a file's start tells its format
WRONG_TYPE, NOT_FOUR = "wrong type or missing key", "not four numbers"
_VALUE = re.compile(r"[^\s,]")


class PictureRow(NamedTuple):
    """A row of a file: a picture's path and its boxes as label and four values, all unchecked."""

    path: str
    boxes: Sequence[tuple[Any, Any]]
    where: str
    normalised: bool = False


def first_rows(file: Path) -> list[dict[str, Any]]:
    """The whole JSON objects in a file's first 256 KiB, of one array or one after the other; [] for anything else."""
    try:
        with file.open("rb") as opened:
            text = opened.read(PEEK_BYTES).decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    except OSError:
        return []
    decode, position, rows = json.JSONDecoder().raw_decode, int(text[:1] == "["), list[Any]()
    with contextlib.suppress(ValueError, RecursionError):
        while start := _VALUE.search(text, position):
            row, position = decode(text, start.start())
            rows.append(row)
    return [row for row in rows if isinstance(row, dict)]


def json_rows(file: Path, issues: list[AnnotationIssue]) -> Iterator[tuple[str, Any]]:
    """Each row with its position in words. A line that is no JSON becomes an issue, an array that is none an error."""
    data = read_bytes(file, WHAT).removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"[":
        for index, row in enumerate(parse_json(data, str(file), WHAT)):
            yield f"{file.name}[{index}]", row
        return
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{file.name}, line {number}"
        try:
            if line.strip():
                yield where, orjson.loads(line)
        except orjson.JSONDecodeError:
            text = excerpt(line.decode("utf-8", "replace"))
            issues.append(AnnotationIssue("pictures", "not valid JSON", f"{where}: {text}"))


def dataset_from_rows(rows: Iterable[PictureRow], folder: Path, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of rows of pictures below ``folder``."""
    pictures, boxes = dict[str, int](), dict[BoxEntry, None]()
    for row in rows:
        name = name_below(row.path, folder)
        if wrong := wrong_name(name):
            drop_picture(issues, wrong, f"{row.where}: {excerpt(row.path)}", len(row.boxes))
            continue
        picture = pictures.setdefault(name, len(pictures))
        for label, values in row.boxes:
            if wrong := _wrong_label(label) or _wrong_box(values):
                issues.append(AnnotationIssue("boxes", wrong, f"{row.where}: {excerpt(f'{label}: {values}')}"))
            else:
                x1, y1, x2, y2 = map(float, values)
                boxes[BoxEntry(picture, label, (x1, y1, x2, y2), normalised=row.normalised)] = None
    names = list(pictures)
    return dataset_from_boxes(names, upright_sizes(folder, names, issues), list(boxes), issues)


def _wrong_label(label: Any) -> str:
    return "" if isinstance(label, str) and label.strip() else NO_LABEL


def _wrong_box(values: Any) -> str:
    """Why four values of JSON are no corners of a box; empty where they are."""
    if not isinstance(values, list) or len(values) != 4:
        return NOT_FOUR
    if not all(type(value) in (int, float) and abs(value) < 1e18 for value in values):  # false for NaN as well
        return NOT_NUMBER
    return NEGATIVE if values[2] < values[0] or values[3] < values[1] else ""
