"""Rows of ms-swift with ``objects`` to a ``Dataset``; in an array, or a row a line:

    {"images": ["a.jpg"], "objects": {"ref": ["dog", "cat"], "bbox": [[1, 2, 30, 40], [5, 5, 9, 9]]}, "messages": …}

``bbox_type`` is ``real`` (pixels of the picture, the default) or ``norm1`` (shares of its sides). ``ref`` is as long as
``bbox``, or one label for all boxes. Messages are not read: what stands in ``objects`` is the truth. Rows of one
picture are merged, and of boxes alike in label and corners one is kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats import detections
from vlmdet_cli.data.formats.unsized import WRONG_TYPE, Entry, drop_image, excerpt, first_rows, gathered, json_rows

T = TypeVar("T", list[Any], dict[str, Any])
NOT_ONE = "row without exactly one picture"
NO_OBJECTS = "row without `objects`"
MISMATCH = "not as many labels as boxes"
UNKNOWN_TYPE = "unknown `bbox_type`"


def recognises(annotations: Path) -> bool:
    """Whether one of the first rows has ``images`` and, in ``objects``, ``bbox``."""
    rows = first_rows(annotations)
    return any("images" in row and isinstance(row.get("objects"), dict) and "bbox" in row["objects"] for row in rows)


picture_folder = detections.picture_folder


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file. ``DataError`` where it cannot be read or an array is no JSON."""
    return gathered(_entries(annotations, issues), picture_folder(annotations, images, split), issues)


def _entries(file: Path, issues: list[AnnotationIssue]) -> Iterator[Entry]:
    for where, row in json_rows(file, issues):
        objects = _part(row, "objects", dict)
        boxes, labels = _part(objects, "bbox", list), _part(objects, "ref", list)
        labels = labels * len(boxes) if len(labels) == 1 else labels
        wrong = _wrong(row) or (MISMATCH if len(labels) != len(boxes) else "")
        if wrong:
            drop_image(issues, wrong, f"{where}: {excerpt(str(row))}", len(boxes))
        else:
            pairs = list(zip(labels, boxes, strict=True))
            yield Entry(_paths(row)[0], pairs, where, normalised=objects.get("bbox_type") == "norm1")


def _part(value: Any, key: str, kind: type[T]) -> T:
    """A key's value; an empty one where it is missing or of another kind."""
    part = value.get(key) if isinstance(value, dict) else None
    return part if isinstance(part, kind) else kind()


def _paths(row: dict[str, Any]) -> list[Any]:
    """The pictures' paths: a list, or a single text."""
    return [row["images"]] if isinstance(row.get("images"), str) else _part(row, "images", list)


def _wrong(row: Any) -> str:
    """Why a row is none of a picture with objects; empty where it is."""
    if not isinstance(row, dict):
        return WRONG_TYPE
    if len(_paths(row)) != 1 or not isinstance(_paths(row)[0], str):
        return NOT_ONE
    objects = row.get("objects")
    if not isinstance(objects, dict):
        return NO_OBJECTS
    if not isinstance(objects.get("bbox"), list):
        return WRONG_TYPE
    return "" if objects.get("bbox_type") in (None, "", "real", "norm1") else UNKNOWN_TYPE
