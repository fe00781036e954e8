"""Data sets in the formats that users have: each format is one module here, read to a ``Dataset``.

Each module has ``recognises(annotations)``, which reads the start of the file or folder; ``picture_folder(annotations,
images, split)``; and ``read(annotations, images, split, issues)``, which leaves wrong entries out and names each of
them in ``issues``. A new format is a module and a line below.
"""

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.errors import DataError, counted, first_few

# format: its module; asked in this order whether they recognise a file
_MODULES = {
    "yolo": "yolo",
    "voc": "voc",
    "open_images": "open_images",
    "swift_rows": "swift_rows",
    "detections": "detections",
    "coco": "coco",
    "lvis": "coco",
}
__all__ = ["count_issues", "picture_folder", "raise_issues", "read", "read_pictures", "read_strict", "recognise"]
OUTSIDE = "bbox lies outside the picture"


def _module(name: str) -> Any:
    return importlib.import_module(f"vlmdet_cli.data.formats.{_MODULES[name]}")


def recognise(annotations: Path) -> str:
    """The format of a file or folder, by its content. Raises ``DataError`` where it does not exist or has none."""
    if not annotations.exists():
        raise DataError(f"Cannot read the annotation file: {annotations}", why="No such file or directory.",
                        hint="Check the path.")  # fmt: skip
    name = next((name for name in _MODULES if _module(name).recognises(annotations)), None)
    # a JSON file that is broken from its start is read as the most common format, which says what is wrong
    if name is None and annotations.is_file() and annotations.suffix == ".json":
        name = "coco"
    if name is None:
        raise DataError(
            f"The annotations are in none of the known formats: {annotations}",
            hint=f"Known are {', '.join(_MODULES)}; name one with `format` in the project file.",
        )
    return name


def picture_folder(annotations: Path, images: Path | None, split: str, name: str = "auto") -> Path:
    """The folder that the data set's file names start at: ``images``, else the format's own."""
    module = _module(recognise(annotations) if name == "auto" else name)
    folder: Path = module.picture_folder(annotations, images, split)
    return folder


def read(
    annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue], name: str = "auto"
) -> Dataset:
    """The data set of a source; boxes that lie wholly outside their picture are issues too."""
    data: Dataset = _module(recognise(annotations) if name == "auto" else name).read(annotations, images, split, issues)
    return _without_outside_boxes(data, issues)


def _without_outside_boxes(data: Dataset, issues: list[AnnotationIssue]) -> Dataset:
    x, y, w, h = data.xywh.T
    width, height = data.sizes.T
    is_beyond = (x >= width[data.image]) | (y >= height[data.image]) | (x + w <= 0) | (y + h <= 0)
    is_outside = np.asarray(is_beyond & (w > 0) & (h > 0))
    if not is_outside.any():
        return data
    for index in np.flatnonzero(is_outside).tolist():
        image, box = data.images[int(data.image[index])], [round(v, 2) for v in data.xyxy[index].tolist()]
        where = f"{image.file_name} ({image.width} x {image.height}): {data.labels[data.label[index]]} {box}"
        issues.append(AnnotationIssue("boxes", OUTSIDE, where))
    return data.select_objects(~is_outside)


def raise_issues(issues: Sequence[AnnotationIssue], annotations: Path, hint: str = "Correct or remove them.") -> None:
    """Raise ``DataError`` where a source has issues: all are counted, the first are named."""
    causes = [issue for issue in issues if not issue.is_consequence]
    if causes:
        raise DataError(
            f"The annotation file has {counted(len(causes), 'wrong entry', 'wrong entries')}: {annotations}",
            why=first_few([issue.where for issue in causes]),
            hint=hint,
        )


def read_strict(annotations: Path, images: Path | None = None, split: str = "train", name: str = "coco") -> Dataset:
    """The data set of a source. Raises ``DataError`` where it has a wrong entry."""
    issues: list[AnnotationIssue] = []
    data = read(annotations, images, split, issues, name)
    raise_issues(issues, annotations)
    return data


def read_pictures(annotations: Path) -> Dataset:
    """The data set of a COCO file without its objects. Raises ``DataError`` where a picture or category is wrong."""
    issues: list[AnnotationIssue] = []
    data: Dataset = _module("coco").read_pictures(annotations, issues)
    raise_issues(issues, annotations)
    return data


def count_issues(issues: Iterable[AnnotationIssue]) -> dict[tuple[str, str], int]:
    """The number of issues of each (kind, reason)."""
    return dict(Counter((issue.kind, issue.reason) for issue in issues))
