"""Boxes of a format as entries or columns, to a ``Dataset``: for formats that do not state the sizes of all pictures.

A format yields file names and ``BoxEntry`` records, and ``dataset_from_boxes`` builds the columns. A picture that
cannot be read is left out, and each of its boxes becomes an issue too, so that a ledger adds up. Boxes are kept as
annotated, not clipped. A picture's id is its file name without the suffix, or with it where two pictures would share
an id.
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.data.dataset import PICTURE_LEFT_OUT, AnnotationIssue, Column, Dataset, Image, build, escapes_folder
from vlmdet_cli.data.image_checks import read_headers
from vlmdet_cli.data.image_files import Size

UNREADABLE = "picture cannot be read"
NO_NAME, OUTSIDE, REPEATED = "file name is empty", "file name leaves its folder", "picture appears twice"
NOT_NUMBER, NEGATIVE, NO_LABEL = "not a number", "negative size", "label is empty or not text"


class BoxEntry(NamedTuple):
    """A sound box: the index of its picture, its corners in pixels or, ``normalised``, as shares of the sides."""

    picture: int
    label: str
    xyxy: Box
    crowd: bool = False
    normalised: bool = False


class BoxColumns(NamedTuple):
    """Boxes as arrays of length N in any order; ``xyxy`` is (N, 4), and ``normalised`` tells the unit, box by box."""

    picture: Column
    label: Column
    xyxy: Column
    crowd: Column
    normalised: Column


def wrong_name(file_name: str) -> str:
    """Why a file name names no picture below its folder; empty where it does."""
    if not file_name.strip():
        return NO_NAME
    return OUTSIDE if escapes_folder(file_name) else ""


def name_below(path: str, folder: Path) -> str:
    """A path as seen from ``folder``: an absolute one below it becomes relative, all others stay as they are."""
    if not path.strip():
        return ""
    posix = PurePosixPath(os.path.normpath(path) if path.startswith("/") else path)
    for start in _absolute_forms(folder) if posix.is_absolute() else ():
        if posix.is_relative_to(start):
            return str(posix.relative_to(start))
    return str(posix)


@cache
def _absolute_forms(folder: Path) -> tuple[PurePosixPath, PurePosixPath]:
    return PurePosixPath(os.path.normpath(folder.absolute())), PurePosixPath(folder.resolve())


def path_exists(path: Path) -> bool:
    """Whether a path exists; one that no file system can have does not."""
    with contextlib.suppress(OSError, ValueError):
        return bool(path.stat())
    return False


def excerpt(text: str) -> str:
    """A piece of a file as JSON text, cut to 60 characters."""
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)


def drop_picture(issues: list[AnnotationIssue], reason: str, where: str, boxes: int) -> None:
    """Name a picture that is left out, and each of its boxes."""
    issues.append(AnnotationIssue("pictures", reason, where))
    issues += [AnnotationIssue("boxes", PICTURE_LEFT_OUT, where)] * boxes


def upright_sizes(folder: Path, names: Sequence[str], issues: list[AnnotationIssue]) -> list[Size | None]:
    """Upright widths and heights by the pictures' headers; None, and an issue, where a picture cannot be read."""
    sizes = list[Size | None]()
    for name, header in zip(names, read_headers([folder / name for name in names]), strict=True):
        if isinstance(header, str):
            issues.append(AnnotationIssue("pictures", UNREADABLE, f"{folder / name}: {header}"))
        sizes.append(None if isinstance(header, str) else header.upright_size)
    return sizes


def dataset_from_boxes(
    names: Sequence[str],
    sizes: Sequence[Size | None],
    boxes: Sequence[BoxEntry],
    issues: list[AnnotationIssue],
    labels: Sequence[str] | None = None,
) -> Dataset:
    """The data set of pictures and their boxes. Categories are ``labels``, by default the sorted names that occur."""
    categories = sorted({box.label for box in boxes}) if labels is None else labels
    label_index = {name: index for index, name in enumerate(categories)}
    columns = BoxColumns(
        np.array([box.picture for box in boxes], np.int64),
        np.array([label_index[box.label] for box in boxes], np.int64),
        np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4),
        np.array([box.crowd for box in boxes], bool),
        np.array([box.normalised for box in boxes], bool),
    )
    return dataset_from_columns(names, sizes, categories, columns, issues)


def dataset_from_columns(
    names: Sequence[str],
    sizes: Sequence[Size | None],
    labels: Sequence[str],
    boxes: BoxColumns,
    issues: list[AnnotationIssue],
) -> Dataset:
    """The data set of pictures whose size is known. The others have their issue already; their boxes get one here."""
    has_size = np.array([size is not None for size in sizes], bool)
    lost = np.bincount(boxes.picture[~has_size[boxes.picture]], minlength=len(names))
    for index in np.flatnonzero(lost).tolist():  # one object, repeated: there may be millions
        issues += [AnnotationIssue("boxes", PICTURE_LEFT_OUT, names[index])] * int(lost[index])
    sides = np.array([size or (1, 1) for size in sizes], np.float64).reshape(-1, 2)[boxes.picture]  # (N, 2)
    scale = np.where(boxes.normalised[:, None], sides, 1.0)
    kept, new_index = has_size[boxes.picture], np.cumsum(has_size) - 1
    images = [
        Image(id=image_id, file_name=name, width=size[0], height=size[1])
        for image_id, name, size in zip(_ids(names), names, sizes, strict=True)
        if size is not None
    ]
    return build(
        images,
        labels,
        image=new_index[boxes.picture[kept]],
        label=boxes.label[kept],
        xywh=xyxy_to_xywh(boxes.xyxy[kept] * np.hstack([scale, scale])[kept]),
        crowd=boxes.crowd[kept],
    )


def _ids(names: Sequence[str]) -> Sequence[str]:
    """File names without their suffixes, or with them where two would be the same."""
    stems = [re.sub(r"(?<=[^/])\.[^./]*$", "", name) for name in names]
    return stems if len(set(stems)) == len(names) else names
