"""Detection JSON, ``[{"image_path": "a.jpg", "object": {"person": [[x1, y1, x2, y2]]}}]`` in pixels, to a ``Dataset``.

Several rows of one picture are merged, and of boxes alike in label and corners one is kept.
"""

from collections.abc import Iterator
from pathlib import Path

from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.unsized import WRONG_TYPE, Entry, first_rows, gathered, json_rows


def recognises(annotations: Path) -> bool:
    """Whether one of the first rows has ``image_path`` and ``object``."""
    return any(isinstance(row.get("image_path"), str) and "object" in row for row in first_rows(annotations))


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """Where file names start: ``images``, else the file's own folder."""
    del split
    return annotations.parent if images is None else images


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file. ``DataError`` where it cannot be read or an array is no JSON."""
    return gathered(_entries(annotations, issues), picture_folder(annotations, images, split), issues)


def _entries(file: Path, issues: list[AnnotationIssue]) -> Iterator[Entry]:
    for where, row in json_rows(file, issues):
        path, labels = (row.get("image_path"), row.get("object")) if isinstance(row, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(labels, dict):
            issues.append(AnnotationIssue("pictures", WRONG_TYPE, where))
            continue
        boxes = [(label, box) for label, many in labels.items() for box in (many if isinstance(many, list) else [many])]
        yield Entry(path, boxes, where)
