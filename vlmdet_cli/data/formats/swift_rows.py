"""Rows of ms-swift with ``objects`` to a ``Dataset``; in an array, or a row a line:

    {"images": ["a.jpg"], "objects": {"ref": ["dog", "cat"], "bbox": [[1, 2, 30, 40], [5, 5, 9, 9]]}, "messages": …}

``bbox_type`` is ``real`` (pixels of the picture, the default) or ``norm1`` (shares of its sides). ``ref`` is as long as
``bbox``, or one label for all boxes. Messages are not read: ``objects`` is the truth.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats import detections
from vlmdet_cli.data.formats.box_entries import drop_picture, excerpt
from vlmdet_cli.data.formats.json_rows import WRONG_TYPE, PictureRow, dataset_from_rows, first_rows, json_rows

T = TypeVar("T", list[Any], dict[str, Any])
NOT_ONE_PICTURE = "row without exactly one picture"
NO_OBJECTS = "row without `objects`"
MISMATCH = "not as many labels as boxes"
UNKNOWN_TYPE = "unknown `bbox_type`"


def recognises(annotations: Path) -> bool:
    """Whether one of the first rows has ``images`` and, in ``objects``, ``bbox``."""
    rows = first_rows(annotations)
    return any("images" in row and isinstance(row.get("objects"), dict) and "bbox" in row["objects"] for row in rows)


picture_folder = detections.picture_folder


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file. Raises ``DataError`` where it cannot be read or an array is no JSON."""
    return dataset_from_rows(_rows(annotations, issues), picture_folder(annotations, images, split), issues)


def _rows(file: Path, issues: list[AnnotationIssue]) -> Iterator[PictureRow]:
    for where, row in json_rows(file, issues):
        objects = _value(row, "objects", dict)
        boxes, labels = _value(objects, "bbox", list), _value(objects, "ref", list)
        labels = labels * len(boxes) if len(labels) == 1 else labels
        wrong = _wrong_row(row) or (MISMATCH if len(labels) != len(boxes) else "")
        if wrong:
            drop_picture(issues, wrong, f"{where}: {excerpt(str(row))}", len(boxes))
        else:
            pairs = list(zip(labels, boxes, strict=True))
            yield PictureRow(_paths(row)[0], pairs, where, normalised=objects.get("bbox_type") == "norm1")


def _value(row: Any, key: str, kind: type[T]) -> T:
    """A key's value; an empty one where it is missing or of another type."""
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, kind) else kind()


def _paths(row: dict[str, Any]) -> list[Any]:
    """The pictures' paths: a list, or a single text."""
    return [row["images"]] if isinstance(row.get("images"), str) else _value(row, "images", list)


def _wrong_row(row: Any) -> str:
    """Why a row is not that of a picture with objects; empty where it is."""
    if not isinstance(row, dict):
        return WRONG_TYPE
    if len(_paths(row)) != 1 or not isinstance(_paths(row)[0], str):
        return NOT_ONE_PICTURE
    objects = row.get("objects")
    if not isinstance(objects, dict):
        return NO_OBJECTS
    if not isinstance(objects.get("bbox"), list):
        return WRONG_TYPE
    return "" if objects.get("bbox_type") in (None, "", "real", "norm1") else UNKNOWN_TYPE
