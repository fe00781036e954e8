"""What sources share whose boxes come in a frame of their own, of pictures whose sizes come from the files.

Such a source yields names and ``Found`` boxes; ``of_found`` makes columns of them. A picture that cannot be read is
left out, and each of its boxes is a flaw too, so that a ledger adds up. Boxes are kept as annotated, not clipped. Rows
of JSON stand in an array or a row a line; several of one picture are merged, and of boxes alike one is kept.

Decisions: a picture's id is its file name without the suffix, or with it where two would be alike.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import orjson

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.core.files import parse_json, read_bytes
from vlmdet_cli.data.dataset import PICTURE_LEFT_OUT, AnnotationIssue, Column, Dataset, Image, build, escapes_folder
from vlmdet_cli.data.image_checks import read_headers

WHAT = "annotation file"
PEEK = 1 << 18  # bytes that tell a form
UNREADABLE = "picture cannot be read"
OUTSIDE = "file name leaves its folder"
TWICE = "picture stands twice"
NOT_FOUR, NOT_NUMBER, NEGATIVE = "not four numbers", "not a number", "negative size"
WRONG_TYPE, NO_LABEL = "wrong type or missing key", "label is no text"
Size = tuple[int, int]
_VALUE = re.compile(r"[^\s,]")


class Found(NamedTuple):
    """One sound box: its picture's place, its corners in pixels or, ``normalised``, in shares of the sides."""

    picture: int
    label: str
    xyxy: Box
    crowd: bool = False
    normalised: bool = False


class Columns(NamedTuple):
    """Boxes as arrays of length N, ``xyxy`` (N, 4), in any order; ``normalised`` tells the frame, box by box."""

    picture: Column
    label: Column
    xyxy: Column
    crowd: Column
    normalised: Column


class Entry(NamedTuple):
    """One row of a file: a picture's path and its boxes as label and four values, all unchecked."""

    path: str
    boxes: Sequence[tuple[Any, Any]]
    where: str
    normalised: bool = False


def first_rows(file: Path) -> list[dict[str, Any]]:
    """The whole JSON objects in a file's first 256 KiB: of one array, or one after the other; [] for anything else."""
    try:
        with file.open("rb") as opened:
            text = opened.read(PEEK).decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    except OSError:
        return []
    decode, place, rows = json.JSONDecoder().raw_decode, int(text[:1] == "["), list[Any]()
    with contextlib.suppress(ValueError, RecursionError):
        while start := _VALUE.search(text, place):
            row, place = decode(text, start.start())
            rows.append(row)
    return [row for row in rows if isinstance(row, dict)]


def json_rows(file: Path, issues: list[AnnotationIssue]) -> Iterator[tuple[str, Any]]:
    """Each row with its place: of one JSON array, or a row a line, where a wrong line is a flaw."""
    data = read_bytes(file, WHAT).removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"[":
        for number, row in enumerate(parse_json(data, str(file), WHAT)):
            yield f"{file.name}[{number}]", row
        return
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{file.name}, line {number}"
        try:
            if line.strip():
                yield where, orjson.loads(line)
        except orjson.JSONDecodeError:
            issues.append(
                AnnotationIssue("pictures", "not valid JSON", f"{where}: {excerpt(line.decode('utf-8', 'replace'))}")
            )


def gathered(entries: Iterable[Entry], folder: Path, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of rows of pictures below ``folder``."""
    names, found = dict[str, int](), dict[Found, None]()
    for entry in entries:
        name = inside(entry.path, folder)
        if escapes_folder(name):
            drop_image(issues, OUTSIDE, f"{entry.where}: {excerpt(entry.path)}", len(entry.boxes))
            continue
        place = names.setdefault(name, len(names))
        for label, values in entry.boxes:
            wrong = wrong_box(values) if label and isinstance(label, str) else NO_LABEL
            if wrong:
                issues.append(AnnotationIssue("boxes", wrong, f"{entry.where}: {excerpt(f'{label}: {values}')}"))
            else:
                x1, y1, x2, y2 = map(float, values)
                found[Found(place, label, (x1, y1, x2, y2), normalised=entry.normalised)] = None
    return of_found(list(names), sizes(folder, list(names), issues), list(found), issues)


def inside(path: str, folder: Path) -> str:
    """A file name as seen from ``folder``: an absolute one below it becomes relative, all else stays as it is."""
    given = PurePosixPath(os.path.normpath(path) if path.startswith("/") else path)
    for start in _spellings(folder) if given.is_absolute() else ():
        if given.is_relative_to(start):
            return str(given.relative_to(start))
    return str(given)


def exists(path: Path) -> bool:
    """Whether a path is there; one that can be no path is not."""
    with contextlib.suppress(OSError, ValueError):
        return bool(path.stat())
    return False


@cache
def _spellings(folder: Path) -> tuple[PurePosixPath, PurePosixPath]:
    return PurePosixPath(os.path.normpath(folder.absolute())), PurePosixPath(folder.resolve())


def wrong_box(values: Any) -> str:
    """Why four values of JSON are no corners of a box; empty where they are."""
    if not isinstance(values, list) or len(values) != 4:
        return NOT_FOUR
    if not all(type(value) in (int, float) and abs(value) < 1e18 for value in values):  # as NaN is not
        return NOT_NUMBER
    return NEGATIVE if values[2] < values[0] or values[3] < values[1] else ""


def drop_image(issues: list[AnnotationIssue], reason: str, where: str, boxes: int) -> None:
    """A picture is lost, and with it its boxes."""
    issues.append(AnnotationIssue("pictures", reason, where))
    issues += [AnnotationIssue("boxes", PICTURE_LEFT_OUT, where)] * boxes


def excerpt(text: str) -> str:
    """A piece of a file as JSON text, cut to 60 characters."""
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)


def sizes(folder: Path, names: Sequence[str], issues: list[AnnotationIssue]) -> list[Size | None]:
    """Upright widths and heights by the pictures' headers; None where a picture cannot be read, which is a flaw."""
    out = list[Size | None]()
    for name, one in zip(names, read_headers([folder / name for name in names]), strict=True):
        if isinstance(one, str):
            issues.append(AnnotationIssue("pictures", UNREADABLE, f"{folder / name}: {one}"))
        out.append(None if isinstance(one, str) else one.upright_size)
    return out


def of_found(
    names: Sequence[str],
    known: Sequence[Size | None],
    found: Sequence[Found],
    issues: list[AnnotationIssue],
    labels: Sequence[str] | None = None,
) -> Dataset:
    """The data set of pictures and their boxes. Categories are ``labels``, else the sorted names that occur."""
    categories = sorted({one.label for one in found}) if labels is None else labels
    place = {name: number for number, name in enumerate(categories)}
    columns = Columns(
        np.array([one.picture for one in found], np.int64),
        np.array([place[one.label] for one in found], np.int64),
        np.array([one.xyxy for one in found], np.float64).reshape(-1, 4),
        np.array([one.crowd for one in found], bool),
        np.array([one.normalised for one in found], bool),
    )
    return assembled(names, known, categories, columns, issues)


def assembled(
    names: Sequence[str],
    known: Sequence[Size | None],
    labels: Sequence[str],
    boxes: Columns,
    issues: list[AnnotationIssue],
) -> Dataset:
    """The data set of pictures of ``known`` size. Those without one have had their flaw; their boxes get theirs."""
    there = np.array([size is not None for size in known], bool)
    lost = np.bincount(boxes.picture[~there[boxes.picture]], minlength=len(names))
    for place in np.flatnonzero(lost).tolist():  # one object, named many times: there may be millions
        issues += [AnnotationIssue("boxes", PICTURE_LEFT_OUT, names[place])] * int(lost[place])
    sides = np.array([size or (1, 1) for size in known], np.float64).reshape(-1, 2)[boxes.picture]  # (N, 2)
    scale = np.where(boxes.normalised[:, None], sides, 1.0)
    kept, number = there[boxes.picture], np.cumsum(there) - 1
    images = [
        Image(id=key, file_name=name, width=size[0], height=size[1])
        for key, name, size in zip(_ids(names), names, known, strict=True)
        if size is not None
    ]
    return build(
        images,
        labels,
        image=number[boxes.picture[kept]],
        label=boxes.label[kept],
        xywh=xyxy_to_xywh(boxes.xyxy[kept] * np.hstack([scale, scale])[kept]),
        crowd=boxes.crowd[kept],
    )


def _ids(names: Sequence[str]) -> Sequence[str]:
    """File names without their suffixes, or with them where two of them would be alike."""
    stems = [re.sub(r"(?<=[^/])\.[^./]*$", "", name) for name in names]
    return stems if len(set(stems)) == len(names) else names
