"""COCO instances JSON, and LVIS, which adds what was searched for in each picture, to a ``Dataset``.

A file is read in one typed pass over its mapped bytes: keys that are not needed (segmentations among them) are skipped
and cost no memory. Where that pass meets a wrong type, entries are read one by one, so that each wrong one is named
and the others stay. ``coco_columns`` checks the entries and builds the columns.

A missing ``bbox`` is computed from the segmentation.
"""

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.coco_columns import (
    AnnotationEntry,
    CategoryEntry,
    Entries,
    Id,
    ImageEntry,
    dataset_from_entries,
)
from vlmdet_cli.errors import DataError, UsageError

WHAT = "annotation file"
Entry = TypeVar("Entry", bound=msgspec.Struct)


class _File(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[CategoryEntry]
    ignored: list[AnnotationEntry] = []


class _Pictures(msgspec.Struct):
    images: list[ImageEntry]
    categories: list[CategoryEntry]


class _RawFile(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    ignored: list[msgspec.Raw] = []


class _Id(msgspec.Struct):
    id: Id


class _Segmentation(msgspec.Struct):
    segmentation: list[list[float]] | dict[str, Any]


_FILE, _RAW_FILE = msgspec.json.Decoder(_File), msgspec.json.Decoder(_RawFile)


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
        return dataset_from_entries(_decoded(data, annotations, issues), images, issues)


def read_pictures(annotations: Path, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file without its objects, in a fraction of the memory."""
    with _mapped(annotations) as data:
        try:
            file = msgspec.json.decode(data, type=_Pictures)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return read(annotations, None, "", issues)  # says what is wrong
        return dataset_from_entries(Entries(file.images, [], file.categories), None, issues)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes, without reading them into memory of our own."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except OSError as error:
        raise DataError(f"Cannot read the {WHAT}: {path}", why=f"{error.strerror}.", hint="Check the path.") from None
    except ValueError:
        raise DataError(f"The {WHAT} is empty: {path}", hint="Was it cut while being copied?") from None


def _decoded(data: mmap.mmap, path: Path, issues: list[AnnotationIssue]) -> Entries:
    try:
        try:
            file = _FILE.decode(data)
            return Entries(file.images, file.annotations, file.categories, file.ignored)
        except msgspec.ValidationError:
            return _decoded_one_by_one(_RAW_FILE.decode(data), issues)
    except msgspec.ValidationError as error:
        raise DataError(
            f"The {WHAT} is not in COCO's form: {path}",
            why=f"{error}.",
            hint="COCO instances have the lists `images`, `annotations` and `categories`.",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"The {WHAT} is not valid JSON: {path}", why=_with_line(str(error), data),
            hint="Was it cut while being copied, or is it not UTF-8? Check that position.",
        ) from None  # fmt: skip


def _with_line(message: str, data: mmap.mmap) -> str:
    """A decoder's message with line and column in place of the byte."""
    what, _, byte = message.removeprefix("JSON is malformed: ").rstrip(")").partition(" (byte ")
    offset = int(byte) if byte.isdigit() else len(data)
    before = data[:offset]
    return f"Line {before.count(10) + 1}, column {offset - before.rfind(10)}: {what[:1].lower()}{what[1:]}."


def _decoded_one_by_one(raw: _RawFile, issues: list[AnnotationIssue]) -> Entries:
    return Entries(
        images=_each(raw.images, ImageEntry, "images", "pictures", issues),
        annotations=_each(raw.annotations, AnnotationEntry, "annotations", "boxes", issues),
        categories=_each(raw.categories, CategoryEntry, "categories", "categories", issues),
        ignored=_each(raw.ignored, AnnotationEntry, "ignored", "boxes", issues),
        all_image_ids=[image.id for image in _each(raw.images, _Id, "images", "pictures", [])],
        all_category_ids=[category.id for category in _each(raw.categories, _Id, "categories", "categories", [])],
    )


def _each(
    raw: Sequence[msgspec.Raw],
    entry_type: type[Entry],
    name: str,
    kind: Literal["pictures", "boxes", "categories"],
    issues: list[AnnotationIssue],
) -> list[Entry]:
    """The entries of a list that have the right types; each other one becomes an issue that names its index."""
    decode, entries = msgspec.json.Decoder(entry_type).decode, list[Entry]()
    for index, text in enumerate(raw):
        try:
            entries.append(decode(text))
        except msgspec.ValidationError as error:
            with_box = _with_box_of_segmentation(text) if entry_type is AnnotationEntry else None
            if with_box is not None:
                entries.append(decode(with_box))
            else:
                where = f"{name}[{index}]: {_key_first(str(error))}"
                issues.append(AnnotationIssue(kind, "wrong type or missing key", where))
    return entries


def _key_first(message: str) -> str:
    """``Expected `int`, got `str` - at `$.width``` as ``width: expected int, got str``."""
    what, _, key = message.replace("`", "").partition(" - at ")
    return ": ".join(part for part in (key.removeprefix("$").lstrip("."), what[:1].lower() + what[1:]) if part)


def _with_box_of_segmentation(raw: msgspec.Raw) -> bytes | None:
    """An annotation that lacks its box with the box of its segmentation; None where it has neither."""
    try:
        annotation = msgspec.json.decode(raw)
        if annotation.get("bbox") is not None:
            return None
        outline = msgspec.json.decode(raw, type=_Segmentation).segmentation
        annotation["bbox"] = _box_of_rle(outline) if isinstance(outline, dict) else _box_of_polygons(outline)
        return msgspec.json.encode(annotation)
    except (msgspec.DecodeError, AttributeError, ValueError, KeyError, TypeError):
        return None


def _box_of_polygons(polygons: list[list[float]]) -> list[float]:
    xs, ys = [x for polygon in polygons for x in polygon[0::2]], [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _box_of_rle(outline: dict[str, Any]) -> list[float]:
    from pycocotools import mask

    packed = outline if isinstance(outline["counts"], str) else mask.frPyObjects(outline, *outline["size"])
    box: list[float] = mask.toBbox(packed).tolist()
    return box
