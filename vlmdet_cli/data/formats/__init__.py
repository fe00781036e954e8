"""Data sets as they come: each format one module here, read to a ``Dataset``. A new one is a file and a line below.

Each module has ``recognises(annotations)``, which looks into the file or folder, and ``read(annotations, images, split,
issues)``, which leaves wrong entries out and names each of them in ``issues``.
"""

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmdet_cli.data.dataset import PICTURE_LEFT_OUT, AnnotationIssue, Dataset
from vlmdet_cli.errors import DataError, counted, first_few

# name: its module; asked in this order which of them recognises a file
_MODULES = {
    "yolo": "yolo",
    "voc": "voc",
    "open_images": "open_images",
    "swift_rows": "swift_rows",
    "detections": "detections",
    "coco": "coco",
    "lvis": "coco",
}
__all__ = ["count_issues", "picture_folder", "raise_issues", "read", "read_strict", "recognise"]
OUTSIDE = "bbox lies outside the picture"


def _module(name: str) -> Any:
    return importlib.import_module(f"vlmdet_cli.data.formats.{_MODULES[name]}")


def recognise(annotations: Path) -> str:
    """The format of a file or folder, by its content. Raises ``DataError`` for what is not there or none of them."""
    if not annotations.exists():
        raise DataError(f"Cannot read the annotation file: {annotations}", why="No such file or directory.",
                        hint="Check the path.")  # fmt: skip
    found = next((name for name in _MODULES if _module(name).recognises(annotations)), None)
    # a JSON file that is broken from its start is best read as the commonest form, which says what is wrong
    if found is None and annotations.is_file():
        found = "coco" if annotations.suffix == ".json" else None
    if found is None:
        raise DataError(
            f"The annotations have none of the known forms: {annotations}",
            hint=f"Known are {', '.join(_MODULES)}; name one with `format` in the project file.",
        )
    return found


def picture_folder(annotations: Path, images: Path | None, split: str, name: str = "auto") -> Path:
    """The folder that the data set's file names start at: the named one, or the format's own."""
    folder: Path = _module(recognise(annotations) if name == "auto" else name).picture_folder(
        annotations, images, split
    )
    return folder


def read(
    annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue], name: str = "auto"
) -> Dataset:
    """The data set of a source; boxes that lie wholly outside their picture are issues, too."""
    data: Dataset = _module(recognise(annotations) if name == "auto" else name).read(annotations, images, split, issues)
    return _inside(data, issues)


def _inside(data: Dataset, issues: list[AnnotationIssue]) -> Dataset:
    x, y, w, h = data.xywh.T
    sides = data.sizes
    beyond = (x >= sides[:, 0][data.image]) | (y >= sides[:, 1][data.image]) | (x + w <= 0) | (y + h <= 0)
    outside = np.asarray(beyond & (w > 0) & (h > 0))
    if not outside.any():
        return data
    for place in np.flatnonzero(outside).tolist():
        image, box = data.images[int(data.image[place])], [round(v, 2) for v in data.xyxy[place].tolist()]
        size = f"{image.width} x {image.height}"
        issues.append(
            AnnotationIssue("boxes", OUTSIDE, f"{image.file_name} ({size}): {data.labels[data.label[place]]} {box}")
        )
    return data.select_objects(~outside)


def raise_issues(issues: Sequence[AnnotationIssue], annotations: Path, hint: str = "Correct or remove them.") -> None:
    """Raise ``DataError`` where a source has issues: all counted, the first named."""
    first = [one for one in issues if one.reason != PICTURE_LEFT_OUT]
    if first:
        raise DataError(
            f"The annotation file has {counted(len(first), 'wrong entry', 'wrong entries')}: {annotations}",
            why=first_few([one.where for one in first]),
            hint=hint,
        )


def read_strict(annotations: Path, images: Path | None = None, split: str = "train", name: str = "coco") -> Dataset:
    """The data set of a source that must have no flaw."""
    issues: list[AnnotationIssue] = []
    data = read(annotations, images, split, issues, name)
    raise_issues(issues, annotations)
    return data


def count_issues(issues: Iterable[AnnotationIssue]) -> dict[tuple[str, str], int]:
    """How often each (thing, reason) was found."""
    found: dict[tuple[str, str], int] = {}
    for one in issues:
        found[one.kind, one.reason] = found.get((one.kind, one.reason), 0) + 1
    return found
