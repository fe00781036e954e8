"""Detection JSON to a ``Dataset``; in an array, or a row a line. Boxes are in pixels:

[{"image_path": "a.jpg", "object": {"person": [[x1, y1, x2, y2]]}}]
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.json_rows import WRONG_TYPE, PictureRow, dataset_from_rows, first_rows, json_rows


class DetectionRow(msgspec.Struct, frozen=True):
    """A row of detection JSON: a picture's path, and its boxes (xyxy pixels) by label."""

    image_path: str
    object: dict[str, list[Box]]

    def boxes(self) -> Iterator[tuple[str, Box]]:
        """Each box with its label, in the order of the row."""
        return ((label, box) for label, boxes in self.object.items() for box in boxes)


def recognises(annotations: Path) -> bool:
    """Whether one of the first rows has ``image_path`` and ``object``."""
    return any(isinstance(row.get("image_path"), str) and "object" in row for row in first_rows(annotations))


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """The folder that file names start at: ``images``, by default the file's own folder."""
    del split
    return annotations.parent if images is None else images


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file. Raises ``DataError`` where it cannot be read or an array is no JSON."""
    return dataset_from_rows(_rows(annotations, issues), picture_folder(annotations, images, split), issues)


def _rows(file: Path, issues: list[AnnotationIssue]) -> Iterator[PictureRow]:
    """Rows of the right form, their boxes unchecked: a wrong box does not lose its picture."""
    for where, row in json_rows(file, issues):
        path, by_label = (row.get("image_path"), row.get("object")) if isinstance(row, dict) else (None, None)
        if isinstance(path, str) and isinstance(by_label, dict):
            yield PictureRow(path, [(label, box) for label, boxes in by_label.items() for box in _list(boxes)], where)
        else:
            issues.append(AnnotationIssue("pictures", WRONG_TYPE, where))


def _list(boxes: Any) -> list[Any]:
    return boxes if isinstance(boxes, list) else [boxes]
