"""COCO instances JSON, and LVIS, which is COCO with a word on what was looked for, to a ``Dataset``.

Reads with one typed pass over the mapped file: keys that are not needed (segmentations among them) are passed over and
cost no memory. Where that pass meets a wrong type, entries are read one by one, so that each wrong one is named and
the others stay. Knows nothing of projects.

Decisions: ids may be whole numbers, whole floats or text; a missing or empty ``iscrowd`` is 0, a missing ``area`` the
box's; a missing ``bbox`` is that of the segmentation; boxes are kept as annotated, not clipped. LVIS names a picture
by ``coco_url``; a category is exhaustive_categories in it where it has objects or stands in ``neg_category_ids``, and not in
``not_exhaustive_category_ids``. What ``coco_file`` writes beside COCO's own lists is read, too.
"""

import contextlib
import itertools
import mmap
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.data.dataset import (
    DROP_REASONS,
    OTHER,
    PICTURE_LEFT_OUT,
    AnnotationIssue,
    Dataset,
    Image,
    build,
    escapes_folder,
)
from vlmdet_cli.errors import DataError, UsageError

WHAT = "annotation file"
Id = int | str | float
Record = TypeVar("Record", bound=msgspec.Struct)


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str


class _Image(msgspec.Struct, gc=False):
    id: Id
    width: int
    height: int
    file_name: str = ""
    coco_url: str = ""
    exhaustive_categories: list[str] | None = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0
    id: Id | None = None
    category: str = ""
    reason: str = ""


class _File(msgspec.Struct):
    """``lost``: ids of images whose entries are wrong."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]
    ignored: list[_Annotation] = []
    lost: list[Id] = []


class _Named(msgspec.Struct):
    id: Id


class _Raw(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    ignored: list[msgspec.Raw] = []


class _Outline(msgspec.Struct):
    segmentation: list[list[float]] | dict[str, Any]


_IMAGE, _CATEGORY, _BOX, _AREA, _CROWD, _ID = map(
    operator.attrgetter, ("image_id", "category_id", "bbox", "area", "iscrowd", "id")
)
_FILE, _RAW = msgspec.json.Decoder(_File), msgspec.json.Decoder(_Raw)


def recognises(annotations: Path) -> bool:
    """Whether a file holds one JSON object."""
    with contextlib.suppress(OSError), annotations.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    return False


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """The named folder: the format has none of its own."""
    if images is None:
        raise UsageError(
            f"data.{split}: missing `images`",
            why=f"COCO annotations do not say where their pictures are: {annotations}",
            hint="Name the folder of the pictures.",
        )
    return images


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file. Wrong entries go to ``issues`` and are left out. ``DataError`` for what is not COCO."""
    del split
    with no_collection(), _mapped(annotations) as data:
        file = _decoded(data, annotations, issues)
        return _dataset(file, images, issues)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes without reading them into memory of our own."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except OSError as error:
        raise DataError(f"Cannot read the {WHAT}: {path}", why=f"{error.strerror}.", hint="Check the path.") from None
    except ValueError:
        raise DataError(f"The {WHAT} is empty: {path}", hint="Was it cut while being copied?") from None


def _decoded(data: mmap.mmap, path: Path, issues: list[AnnotationIssue]) -> _File:
    try:
        try:
            return _FILE.decode(data)
        except msgspec.ValidationError:
            raw = _RAW.decode(data)
    except msgspec.ValidationError as error:
        raise _wrong_form(str(error), path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"The {WHAT} is not valid JSON: {path}", why=_place(str(error), data),
            hint="Was it cut while being copied, or is it not UTF-8? Check that place.",
        ) from None  # fmt: skip
    return _File(
        images=_each(raw.images, _Image, "images", "pictures", issues),
        annotations=_each(raw.annotations, _Annotation, "annotations", "boxes", issues),
        categories=_each(raw.categories, _Category, "categories", "categories", issues),
        ignored=_each(raw.ignored, _Annotation, "ignored", "boxes", issues),
        lost=[one.id for one in _each(raw.images, _Named, "images", "pictures", [])],
    )


def _place(message: str, data: mmap.mmap) -> str:
    """A decoder's complaint with line and column in place of the byte."""
    what, _, byte = message.removeprefix("JSON is malformed: ").rstrip(")").partition(" (byte ")
    at = int(byte) if byte.isdigit() else len(data)
    before = data[:at]
    return f"Line {before.count(10) + 1}, column {at - before.rfind(10)}: {what[:1].lower()}{what[1:]}."


def _wrong_form(message: str, path: Path) -> DataError:
    return DataError(
        f"The {WHAT} is not in COCO's form: {path}",
        why=f"{message}.",
        hint="COCO instances have the lists `images`, `annotations` and `categories`.",
    )


def _each(
    raw: Sequence[msgspec.Raw], kind: type[Record], name: str, thing: str, issues: list[AnnotationIssue]
) -> list[Record]:
    """Entries one by one; a wrong one is a flaw, and its place in the list stays its number."""
    decode, out = msgspec.json.Decoder(kind).decode, list[Record]()
    for number, one in enumerate(raw):
        try:
            out.append(decode(one))
        except msgspec.ValidationError as error:
            boxed = _outlined(one) if kind is _Annotation else None
            if boxed is not None:
                out.append(decode(boxed))
            else:
                issues.append(
                    AnnotationIssue(thing, "wrong type or missing key", f"{name}[{number}]: {_said(str(error))}")
                )
    return out


def _said(message: str) -> str:
    """``Expected `int`, got `str` - at `$.width``` as ``width: expected int, got str``."""
    what, _, place = message.replace("`", "").partition(" - at ")
    return ": ".join(part for part in (place.removeprefix("$").lstrip("."), what[:1].lower() + what[1:]) if part)


def _outlined(raw: msgspec.Raw) -> bytes | None:
    """An annotation without a box, with the box of its segmentation."""
    try:
        known = msgspec.json.decode(raw)
        if known.get("bbox") is not None:
            return None
        outline = msgspec.json.decode(raw, type=_Outline).segmentation
        known["bbox"] = _box_of_rle(outline) if isinstance(outline, dict) else _box_of_polygons(outline)
        return msgspec.json.encode(known)
    except (msgspec.DecodeError, AttributeError, ValueError, KeyError, TypeError):
        return None


def _box_of_polygons(polygons: list[list[float]]) -> list[float]:
    xs, ys = [v for one in polygons for v in one[0::2]], [v for one in polygons for v in one[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _box_of_rle(outline: dict[str, Any]) -> list[float]:
    from pycocotools import mask

    packed = outline if isinstance(outline["counts"], str) else mask.frPyObjects(outline, *outline["size"])
    box: list[float] = mask.toBbox(packed).tolist()
    return box


# --- to columns ----------------------------------------------------------------------------------------------


def _whole(value: Id) -> ImageId:
    """An id in its one form: 7.0 is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value  # type: ignore[return-value]


def _dataset(file: _File, images: Path | None, issues: list[AnnotationIssue]) -> Dataset:
    categories = _categories(file.categories, issues)
    names = tuple(dict.fromkeys(categories.values()))
    places, kept = _images(file.images, images, issues)
    for lost in file.lost:
        places.setdefault(_whole(lost), -1)
    columns = _columns(file.annotations, places, categories, names, "annotations", issues)
    labels = tuple(dict.fromkeys([*names, *(one.category for one in file.ignored)]))
    if file.ignored:
        left = _columns(file.ignored, places, None, labels, "ignored", issues)
        columns = {name: np.concatenate([columns[name], left[name]]) for name in columns.keys() & left.keys()}
    data = build(kept, labels, **columns, label_ids=_label_ids(categories, labels))
    return msgspec.structs.replace(_with_exhaustive(data, file.images, places, categories), num_categories=len(names))


def _label_ids(categories: Mapping[ImageId, str], labels: Sequence[str]) -> tuple[ImageId, ...]:
    """The first id of each name; labels that only left-out objects have get none of the file's."""
    ids = {name: one for one, name in reversed(list(categories.items()))}
    return tuple(ids.get(name, f"({name})") for name in labels)


def _categories(given: Sequence[_Category], issues: list[AnnotationIssue]) -> dict[ImageId, str]:
    """Id to name, in the file's order."""
    found, seen = dict[ImageId, str](), set[str]()
    for number, one in enumerate(given):
        key = _whole(one.id)
        if key in found or one.name in seen:
            again = f"id {key!r}" if key in found else f"name {one.name!r}"
            issues.append(
                AnnotationIssue("categories", "stands twice", f"categories[{number}]: {again} stands there already")
            )
        found.setdefault(key, one.name)
        seen.add(one.name)
    return found


def _images(
    given: Sequence[_Image], folder: Path | None, issues: list[AnnotationIssue]
) -> tuple[dict[ImageId, int], list[Image]]:
    """Id to place (-1: left out), and the pictures that are sound."""
    places, kept, names = dict[ImageId, int](), list[Image](), set[str]()
    for number, one in enumerate(given):
        key, name = _whole(one.id), one.file_name or _named_by_url(one.coco_url, folder)
        if key in places:
            issues.append(
                AnnotationIssue("pictures", "id stands twice", f"images[{number}]: id {key!r} stands there already")
            )
            continue
        wrong = _wrong_image(one, name, names)
        if wrong is None:
            places[key] = len(kept)
            names.add(name)
            kept.append(Image(id=key, file_name=name, width=one.width, height=one.height))
        else:
            places[key] = -1
            issues.append(AnnotationIssue("pictures", wrong[0], f"images[{number}]: {wrong[1]}"))
    return places, kept


def _named_by_url(url: str, folder: Path | None) -> str:
    """LVIS: ``…/train2017/1.jpg`` is that, where the folder has a ``train2017``, else ``1.jpg``."""
    *_, parent, name = ("", "", *url.split("/"))
    return f"{parent}/{name}" if folder is not None and parent and (folder / parent).is_dir() else name


def _wrong_image(one: _Image, name: str, names: set[str]) -> tuple[str, str] | None:
    if min(one.width, one.height) <= 0:
        return "size is none", f"size {one.width} x {one.height}"
    if escapes_folder(name):
        return "file_name leaves the image folder", f"file_name {name!r} leaves the image folder"
    if name in names:
        return "file_name stands twice", f"file_name {name!r} stands there already"
    return None


def _columns(
    given: Sequence[_Annotation],
    places: Mapping[ImageId, int],
    categories: Mapping[ImageId, str] | None,
    labels: Sequence[str],
    where: str,
    issues: list[AnnotationIssue],
) -> dict[str, Any]:
    """Columns of the sound annotations; without ``categories`` each carries its category's own name."""
    number = {name: place for place, name in enumerate(labels)}
    by_id = {key: number[name] for key, name in categories.items()} if categories is not None else {}
    nowhere = itertools.repeat(-2)
    # 7.0 hashes and compares as 7: float ids find their place as they are
    image = np.fromiter(map(places.get, map(_IMAGE, given), nowhere), np.int64, len(given))
    label = np.fromiter(
        (number[one.category] for one in given)
        if categories is None
        else map(by_id.get, map(_CATEGORY, given), nowhere),
        np.int64,
        len(given),
    )
    flat = itertools.chain.from_iterable(map(_BOX, given))
    xywh = np.fromiter(flat, np.float64, 4 * len(given)).reshape(-1, 4)
    x, y, w, h = xywh.T
    sound = np.isfinite(x + y + w + h) & (w >= 0) & (h >= 0)
    good = sound & (image >= 0) & (label >= 0)
    issues += [
        _wrong(given[n], int(image[n]), bool(label[n] >= 0), f"{where}[{n}]") for n in np.flatnonzero(~good).tolist()
    ]
    ids = _ids(given)
    columns = {
        "image": image,
        "label": label,
        "xywh": xywh,
        "area": _numbers(list(map(_AREA, given))),
        "crowd": _numbers(list(map(_CROWD, given))) > 0,
        "drop_reason": np.zeros(len(given), np.int8) if categories is not None else _states(given),
    } | ({} if ids is None else {"ids": ids})
    return columns if good.all() else {name: column[good] for name, column in columns.items()}


def _numbers(values: Sequence[float | None]) -> Any:
    """Floats; None is nan."""
    try:
        return np.fromiter(values, np.float64, len(values))
    except TypeError:
        return np.array(values, np.float64)


def _states(given: Sequence[_Annotation]) -> Any:
    return np.array([DROP_REASONS.index(one.reason) if one.reason in DROP_REASONS else OTHER for one in given], np.int8)


def _ids(given: Sequence[_Annotation]) -> Any:
    """Annotation ids, where all are whole numbers and no two the same; None elsewhere."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        values = list(map(_ID, given))
        ids = np.fromiter(values, np.int64, len(values))
        if np.diff(np.sort(ids)).all() and set(map(type, values)) <= {int}:
            return ids
    return None


def _wrong(one: _Annotation, image: int, known: bool, where: str) -> AnnotationIssue:
    if image == -1:
        return AnnotationIssue("boxes", PICTURE_LEFT_OUT, where)
    if image == -2:
        return AnnotationIssue(
            "boxes", "image_id is not in `images`", f"{where}: image_id {one.image_id!r} is not in `images`"
        )
    if not known:
        text = f"{where}: category_id {one.category_id!r} is not in `categories`"
        return AnnotationIssue("boxes", "category_id is not in `categories`", text)
    return AnnotationIssue("boxes", "bbox is no box", f"{where}: bbox {list(one.bbox)} is no box")


def _with_exhaustive(
    data: Dataset, given: Sequence[_Image], places: Mapping[ImageId, int], categories: Mapping[ImageId, str]
) -> Dataset:
    """With the categories that were looked for, where the file says so of a picture."""
    if all(one.neg_category_ids is None and one.exhaustive_categories is None for one in given):
        return data
    images, starts, label = list(data.images), data.starts.tolist(), data.label.tolist()
    for one in given:
        place = places.get(_whole(one.id), -1)
        if place < 0 or images[place].exhaustive_categories is not None:
            continue
        names = one.exhaustive_categories
        if names is None and one.neg_category_ids is not None:
            there = [data.labels[n] for n in label[starts[place] : starts[place + 1]]]
            absent = [categories[_whole(i)] for i in one.neg_category_ids if _whole(i) in categories]
            partly = {categories.get(_whole(i)) for i in one.not_exhaustive_category_ids or ()}
            names = [name for name in dict.fromkeys([*there, *absent]) if name not in partly]
        if names is not None:
            images[place] = msgspec.structs.replace(images[place], exhaustive_categories=tuple(sorted(names)))
    return msgspec.structs.replace(data, images=images)
