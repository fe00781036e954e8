"""COCO instances JSON to records and back.

Reads with one typed pass over the file (fields that COCO defines are kept, segmentations as unread bytes),
checks every reference, and gives pictures with their objects in the file's order. Knows nothing of projects.

Decisions: a missing ``iscrowd`` is 0; boxes are kept as annotated, not clipped; ids may be numbers or strings
and need not be contiguous. A file written by ``write`` may carry a list ``ignored`` beside ``annotations``:
annotated objects that are no targets, each with its category's name (which need not be among ``categories``)
and its reason. Other readers of COCO pass over it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import msgspec

from vlmdet_cli.errors import DataError, counted, first_few
from vlmdet_cli.records import ImageId, Object, Picture, parse_json, read_bytes, whole_file

WHAT = "annotation file"


class Category(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: int
    name: str
    supercategory: str = ""


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    id: ImageId
    file_name: str
    width: int
    height: int
    license: int | None = None
    coco_url: str = ""
    flickr_url: str = ""
    date_captured: str = ""


class Annotation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    id: int | str | None = None
    image_id: ImageId
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    category: str = ""
    reason: str = ""

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        x, y, width, height = self.bbox
        return (x, y, x + width, y + height)


class CocoFile(msgspec.Struct, frozen=True, kw_only=True):
    """A checked COCO file: every annotation has its image and its category."""

    images: list[Image]
    annotations: list[Annotation]
    category_list: list[Category] = msgspec.field(name="categories")
    ignored: list[Annotation] = []

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names in the file's order."""
        return tuple(c.name for c in self.category_list)

    @property
    def names(self) -> dict[int, str]:
        """Category id to name."""
        return {c.id: c.name for c in self.category_list}

    @property
    def pictures(self) -> list[Picture]:
        """Pictures in the file's order; ``image`` is the ``file_name``; boxes are xyxy pixels, unclipped."""
        objects, ignored = self._objects(self.annotations), self._objects(self.ignored)
        return [
            Picture(
                image_id=image.id,
                image=image.file_name,
                width=image.width,
                height=image.height,
                objects=tuple(objects.get(image.id, ())),
                ignored=tuple(ignored.get(image.id, ())),
            )
            for image in self.images
        ]

    def _objects(self, annotations: Iterable[Annotation]) -> dict[ImageId, list[Object]]:
        names, found = self.names, dict[ImageId, list[Object]]()
        for one in annotations:
            label = one.category or names[one.category_id]
            found.setdefault(one.image_id, []).append(Object(label, one.xyxy, bool(one.iscrowd)))
        return found


_DECODER = msgspec.json.Decoder(CocoFile)


def read(path: Path) -> CocoFile:
    """A checked COCO file. Raises ``DataError`` for what cannot be read, naming place, count and first cases."""
    data = read_bytes(path, WHAT)
    try:
        file = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise _wrong_form(str(error), path) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        parse_json(data, str(path), WHAT)  # says line and column
        raise DataError(f"The {WHAT} is not valid JSON: {path}", hint="Write it again as UTF-8 JSON.") from None
    _check(file, path)
    return file


def _wrong_form(message: str, path: Path) -> DataError:
    return DataError(
        f"The {WHAT} is not in COCO's form: {path}",
        why=f"{message}.",
        hint="COCO instances have the lists `images`, `annotations` and `categories`.",
    )


def _check(file: CocoFile, path: Path) -> None:
    images, categories = {i.id for i in file.images}, set(file.names)
    problems = [
        *_twice("image id", [i.id for i in file.images]),
        *_twice("category id", [c.id for c in file.category_list]),
        *_twice("category name", [c.name for c in file.category_list]),
        *(f"image {i.id}: size {i.width} x {i.height}" for i in file.images if min(i.width, i.height) <= 0),
        *(
            f"image {i.id}: file_name {i.file_name!r} leaves the image folder"
            for i in file.images
            if leaves(i.file_name)
        ),
    ]
    for number, one in enumerate(file.annotations):
        if one.image_id not in images:
            problems.append(f"annotations[{number}]: image_id {one.image_id!r} is not in `images`")
        if one.category_id not in categories:
            problems.append(f"annotations[{number}]: category_id {one.category_id!r} is not in `categories`")
        if not all(map(math.isfinite, one.bbox)) or one.bbox[2] < 0 or one.bbox[3] < 0:
            problems.append(f"annotations[{number}]: bbox {list(one.bbox)} is no box")
    if problems:
        raise DataError(
            f"The {WHAT} has {counted(len(problems), 'wrong entry', 'wrong entries')}: {path}",
            why=first_few(problems),
            hint="Correct or remove them.",
        )


def _twice(what: str, values: Sequence[Any]) -> list[str]:
    if len(set(values)) == len(values):
        return []
    return [f"{what} {value!r} stands {count} times" for value, count in Counter(values).items() if count > 1]


def leaves(file_name: str) -> bool:
    """Whether a file name is no plain path below its folder: empty, absolute, or with ``..`` in it."""
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    outside = posix.is_absolute() or bool(windows.drive) or windows.root != "" or ".." in windows.parts
    return outside or ".." in posix.parts or not posix.parts or "\0" in file_name


def write(path: Path, file: CocoFile) -> None:
    """Write ``file`` whole. Annotations without id or area get them, so that every COCO reader takes the file."""
    document = {
        "info": {"description": "A subset written by vlmdet"},
        "images": file.images,
        "annotations": [_full(one, number) for number, one in enumerate(file.annotations, 1)],
        "categories": file.category_list,
        "ignored": [_plain(one) for one in file.ignored],
    }
    with whole_file(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(document) + b"\n")


def _plain(one: Annotation) -> dict[str, Any]:
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    plain = {name: getattr(one, name) for name in names}
    return plain | ({"category": one.category, "reason": one.reason} if one.reason else {})


def _full(one: Annotation, number: int) -> dict[str, Any]:
    area = one.bbox[2] * one.bbox[3] if one.area is None else one.area
    segmentation = one.segmentation if bytes(one.segmentation) else []
    return _plain(one) | {"id": number if one.id is None else one.id, "area": area, "segmentation": segmentation}
