"""The truth that predictions are measured against: COCO instances or detection JSON, recognised by content."""

import contextlib
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from vlmdet_cli.core.annotations import ImageId, Object, Picture
from vlmdet_cli.core.files import read_json
from vlmdet_cli.data import formats
from vlmdet_cli.errors import DataError


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures by index, category names in order; ``areas``: annotated areas, object by object, where there are."""

    path: Path
    pictures: list[Picture]
    categories: tuple[str, ...]
    category_ids: dict[ImageId, str]
    areas: list[float] | None

    def finder(self) -> "Finder":
        return Finder(self)


class Finder:
    """Finds a picture's index by its id, by its path, or by its file name where that is unique."""

    def __init__(self, truth: Truth) -> None:
        self._ids: dict[ImageId, int] = {}
        self._names: dict[str, list[int]] = {}
        for index, one in enumerate(truth.pictures):
            self._ids[one.image_id] = index
            for name in dict.fromkeys((one.image, PurePosixPath(one.image).name)):
                self._names.setdefault(name, []).append(index)

    def by_id(self, image_id: ImageId) -> int | None:
        return self._ids.get(image_id)

    def by_path(self, path: str) -> int | None:
        """The index of a path's picture: as it stands, or by its end, the longest that names just one."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        for start in range(len(parts)):
            found = self._names.get("/".join(parts[start:]))
            if found is not None:
                return found[0] if len(found) == 1 else None
        return None


def read(path: Path) -> Truth:
    """The truth of a file. Raises ``DataError`` for anything but the two forms."""
    first = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        first = file.read(64).lstrip()[:1]
    return _of_detections(path, read_json(path, "truth file")) if first == b"[" else _of_coco(path)


def _of_coco(path: Path) -> Truth:
    data = formats.read_strict(path)
    kept = data.select_objects(data.drop_reason == 0)
    return Truth(
        path=path,
        pictures=list(data.pictures()),
        categories=data.categories,
        category_ids=data.category_ids,
        areas=kept.area.tolist(),
    )


class _Row(msgspec.Struct):
    image_path: str
    object: dict[str, list[tuple[float, float, float, float]]]


def _of_detections(path: Path, document: Any) -> Truth:
    try:
        rows = msgspec.convert(document, list[_Row])
    except msgspec.ValidationError as error:
        raise DataError(
            f"The truth file is neither COCO instances nor detection JSON: {path}",
            why=f"{error}.",
            hint='Detection JSON is [{"image_path": "a.jpg", "object": {"person": [[x1, y1, x2, y2]]}}].',
        ) from None
    categories = tuple(dict.fromkeys(label for row in rows for label in row.object))
    pictures = [
        Picture(
            image_id=row.image_path,
            image=row.image_path,
            width=0,
            height=0,
            objects=tuple(Object(label, box) for label, boxes in row.object.items() for box in boxes),
        )
        for row in rows
    ]
    return Truth(path=path, pictures=pictures, categories=categories, category_ids={}, areas=None)
