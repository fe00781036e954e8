"""The truth that predictions are measured against: COCO instances or detection JSON, recognised by content."""

import contextlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import ImageId, Picture
from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.core.files import read_json
from vlmdet_cli.data import formats
from vlmdet_cli.data.dataset import OTHER, Column, Dataset, Image, build, non_exhaustive_images
from vlmdet_cli.data.formats.detections import DetectionRow
from vlmdet_cli.errors import DataError


class Truth(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A truth file's data set. Objects of other categories are not in it; those that were left out of training for
    another reason are, with that reason.
    """

    path: Path
    data: Dataset

    @property
    def categories(self) -> tuple[str, ...]:
        return self.data.categories

    @cached_property
    def pictures(self) -> list[Picture]:
        return list(self.data.pictures())

    @cached_property
    def federated(self) -> bool:
        """Whether there are pictures in which some category was not searched for."""
        return bool(non_exhaustive_images(self.data).any())

    def searched(self, picture: Column, label: Column, names: Sequence[str]) -> Column:
        """``(N,)``: whether all objects of a class are annotated in a picture, for pairs of indices ``(N,)`` each.

        ``label`` are indices of ``names``, which are the categories and other names behind them. A name that is no
        category counts as searched for: no picture has such an object.
        """
        if not self.federated:
            return np.ones(len(picture), bool)
        index = {name: number for number, name in enumerate(names)}
        limits = [image.exhaustive_categories for image in self.data.images]
        keys = [
            number * len(names) + index[name]
            for number, limit in enumerate(limits)
            for name in limit or ()
            if name in index
        ]
        everything = np.array([limit is None for limit in limits], bool)
        listed = np.isin(picture * len(names) + label, np.array(keys, np.int64))
        return np.asarray(everything[picture] | listed | (label >= len(self.categories)))

    def finder(self) -> "Finder":
        return Finder(self.data.images)


class Finder:
    """Finds a picture's index by its id, by its path, or by its file name where that is unique."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._ids: dict[ImageId, int] = {}
        self._names: dict[str, list[int]] = {}
        for index, image in enumerate(images):
            self._ids[image.id] = index
            for name in dict.fromkeys((image.file_name, PurePosixPath(image.file_name).name)):
                self._names.setdefault(name, []).append(index)

    def by_id(self, image_id: ImageId) -> int | None:
        return self._ids.get(image_id)

    def by_path(self, path: str) -> int | None:
        """The index of a path's picture: as it stands, or by its end, the longest that names just one picture."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        for start in range(len(parts)):
            indices = self._names.get("/".join(parts[start:]))
            if indices is not None:
                return indices[0] if len(indices) == 1 else None
        return None


def read(path: Path) -> Truth:
    """The truth of a file. Raises ``DataError`` for anything but the two forms."""
    first = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        first = file.read(64).lstrip()[:1]
    if first == b"[":
        return Truth(path=path, data=_of_detections(path, read_json(path, "truth file")))
    data = formats.read_strict(path)
    targets = (data.drop_reason != OTHER) & (data.label < data.num_categories)
    return Truth(path=path, data=data if targets.all() else data.select_objects(targets))


def _of_detections(path: Path, document: Any) -> Dataset:
    """Rows of one picture are merged. Sizes are not known: (0, 0)."""
    try:
        rows = msgspec.convert(document, list[DetectionRow])
    except msgspec.ValidationError as error:
        raise DataError(
            f"The truth file is neither COCO instances nor detection JSON: {path}",
            why=f"{error}.",
            hint='Detection JSON is [{"image_path": "a.jpg", "object": {"person": [[x1, y1, x2, y2]]}}].',
        ) from None
    names = list(dict.fromkeys(row.image_path for row in rows))
    labels = list(dict.fromkeys(label for row in rows for label in row.object))
    image, label = ({name: number for number, name in enumerate(values)} for values in (names, labels))
    boxes = [(image[row.image_path], label[name], box) for row in rows for name, box in row.boxes()]
    return build(
        [Image(id=name, file_name=name, width=0, height=0) for name in names],
        labels,
        image=[row[0] for row in boxes],
        label=[row[1] for row in boxes],
        xywh=xyxy_to_xywh([row[2] for row in boxes]),
    )
