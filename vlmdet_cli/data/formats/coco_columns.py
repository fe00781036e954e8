"""The entries of a COCO or LVIS file, checked and built into a ``Dataset``; wrong ones become issues.

Ids may be whole numbers, whole floats or text. A missing or empty ``iscrowd`` is 0, a missing ``area`` that of the box.
Boxes are kept as annotated, not clipped. LVIS names a picture by ``coco_url``; a category is exhaustive in it if it has
objects or is among ``neg_category_ids``, and is not among ``not_exhaustive_category_ids``. What ``coco_file`` writes in
addition to COCO's own keys is read too.
"""

import contextlib
import itertools
import operator
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.data.dataset import (
    CATEGORY_LEFT_OUT,
    DROP_REASONS,
    OTHER,
    PICTURE_LEFT_OUT,
    AnnotationIssue,
    Column,
    Dataset,
    Image,
    build,
    escapes_folder,
)

Id = int | str | float
# in place of an index: the entry that is referred to is wrong, does not exist, or is not named
LEFT_OUT, UNKNOWN, EMPTY = -1, -2, -3


class CategoryEntry(msgspec.Struct, gc=False):
    """An entry of ``categories``."""

    id: Id
    name: str


class ImageEntry(msgspec.Struct, gc=False):
    """An entry of ``images``.

    ``verified`` is what older versions of vlmdet wrote for ``exhaustive_categories``; other tools write other things
    under that key.
    """

    id: Id
    width: int
    height: int
    file_name: str = ""
    coco_url: str = ""
    exhaustive_categories: list[str] | None = None
    verified: Any = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class AnnotationEntry(msgspec.Struct, gc=False):
    """An entry of ``annotations``, or of ``ignored``, which has ``category`` and ``reason``."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0
    id: Id | None = None
    category: str = ""
    reason: str = ""


class Entries(NamedTuple):
    """The entries that have the right types. The ids are those of all entries, the wrong ones included."""

    images: Sequence[ImageEntry]
    annotations: Sequence[AnnotationEntry]
    categories: Sequence[CategoryEntry]
    ignored: Sequence[AnnotationEntry] = ()
    all_image_ids: Sequence[Id] = ()
    all_category_ids: Sequence[Id] = ()


_IMAGE_ID, _CATEGORY_ID, _BBOX, _AREA, _CROWD, _ID = map(
    operator.attrgetter, ("image_id", "category_id", "bbox", "area", "iscrowd", "id")
)


def dataset_from_entries(entries: Entries, folder: Path | None, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a file's entries; ``folder`` is that of the pictures, where it is known."""
    names = _category_names(entries.categories, issues)
    categories = tuple(dict.fromkeys(names.values()))
    label_index = {name: index for index, name in enumerate(categories)}
    category_index = {key: label_index[name] for key, name in names.items()}
    image_index, images = _images(entries.images, folder, issues)
    for key in (*(entry.id for entry in entries.categories), *entries.all_category_ids):
        category_index.setdefault(_plain_id(key), LEFT_OUT)
    for key in entries.all_image_ids:
        image_index.setdefault(_plain_id(key), LEFT_OUT)
    columns = _columns(entries.annotations, image_index, category_index, "annotations", issues)
    ignored_labels = (entry.category for entry in entries.ignored if entry.category.strip())
    labels = tuple(dict.fromkeys([*categories, *ignored_labels]))
    if entries.ignored:
        ignored = _ignored_columns(entries.ignored, image_index, labels, issues)
        columns = {name: np.concatenate([columns[name], ignored[name]]) for name in columns.keys() & ignored.keys()}
    dataset = build(images, labels, **columns, label_ids=_label_ids(names, labels))
    dataset = msgspec.structs.replace(dataset, num_categories=len(categories))
    return _with_exhaustive_categories(dataset, entries.images, image_index, names)


def _plain_id(value: Id) -> ImageId:
    """An id in its one form: 7.0 is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value  # type: ignore[return-value]


# --- categories and pictures ---------------------------------------------------------------------------------


def _label_ids(names: Mapping[ImageId, str], labels: Sequence[str]) -> tuple[ImageId, ...]:
    """The first id of each name; labels that only left-out objects have get one that no file has."""
    ids = {name: key for key, name in reversed(list(names.items()))}
    return tuple(ids.get(name, f"({name})") for name in labels)


def _category_names(entries: Sequence[CategoryEntry], issues: list[AnnotationIssue]) -> dict[ImageId, str]:
    """Id to name, in the file's order."""
    names, seen = dict[ImageId, str](), set[str]()
    for index, entry in enumerate(entries):
        key, where = _plain_id(entry.id), f"categories[{index}]"
        if not entry.name.strip():
            issues.append(AnnotationIssue("categories", "name is empty", f"{where}: name is empty"))
            continue
        if key in names or entry.name in seen:
            repeated = f"id {key!r}" if key in names else f"name {entry.name!r}"
            issues.append(AnnotationIssue("categories", "appears twice", f"{where}: {repeated} appears twice"))
        names.setdefault(key, entry.name)
        seen.add(entry.name)
    return names


def _images(
    entries: Sequence[ImageEntry], folder: Path | None, issues: list[AnnotationIssue]
) -> tuple[dict[ImageId, int], list[Image]]:
    """Id to index in the list of sound pictures (or ``LEFT_OUT``), and that list."""
    index_of, images, names = dict[ImageId, int](), list[Image](), set[str]()
    for index, entry in enumerate(entries):
        key, name = _plain_id(entry.id), entry.file_name or _name_in_url(entry.coco_url, folder)
        if key in index_of:
            where = f"images[{index}]: id {key!r} appears twice"
            issues.append(AnnotationIssue("pictures", "id appears twice", where))
            continue
        wrong = _wrong_image(entry, name, names)
        if wrong is None:
            index_of[key] = len(images)
            names.add(name)
            images.append(Image(id=key, file_name=name, width=entry.width, height=entry.height))
        else:
            index_of[key] = LEFT_OUT
            issues.append(AnnotationIssue("pictures", wrong[0], f"images[{index}]: {wrong[1]}"))
    return index_of, images


def _name_in_url(url: str, folder: Path | None) -> str:
    """LVIS: ``…/train2017/1.jpg`` is ``train2017/1.jpg`` where the folder has a ``train2017``, else ``1.jpg``."""
    *_, parent, name = ("", "", *url.split("/"))
    return f"{parent}/{name}" if folder is not None and parent and (folder / parent).is_dir() else name


def _wrong_image(entry: ImageEntry, name: str, names: Collection[str]) -> tuple[str, str] | None:
    """The reason and the remark on the entry; None where it is sound."""
    if min(entry.width, entry.height) <= 0:
        reason = "width and height must be positive"
        return reason, f"{reason}, not {entry.width} x {entry.height}"
    if not name.strip():
        return "file_name is empty", "file_name is empty"
    if escapes_folder(name):
        return "file_name leaves the image folder", f"file_name {name!r} leaves the image folder"
    if name in names:
        return "file_name appears twice", f"file_name {name!r} appears twice"
    return None


def _with_exhaustive_categories(
    data: Dataset, entries: Sequence[ImageEntry], image_index: Mapping[ImageId, int], names: Mapping[ImageId, str]
) -> Dataset:
    """The data set with the exhaustive categories of each picture for which the file tells them."""
    if all(_stated(entry) is None and entry.neg_category_ids is None for entry in entries):
        return data
    images, starts, label = list(data.images), data.starts.tolist(), data.label.tolist()
    for entry in entries:
        index = image_index[_plain_id(entry.id)]
        if index < 0 or images[index].exhaustive_categories is not None:
            continue
        exhaustive = _stated(entry)
        if exhaustive is None and entry.neg_category_ids is not None:
            present = [data.labels[n] for n in label[starts[index] : starts[index + 1]]]
            absent = [names[key] for key in map(_plain_id, entry.neg_category_ids) if key in names]
            partial = {names.get(_plain_id(key)) for key in entry.not_exhaustive_category_ids or ()}
            exhaustive = [name for name in dict.fromkeys([*present, *absent]) if name not in partial]
        if exhaustive is not None:
            images[index] = msgspec.structs.replace(images[index], exhaustive_categories=tuple(sorted(exhaustive)))
    return msgspec.structs.replace(data, images=images)


def _stated(entry: ImageEntry) -> list[str] | None:
    """The exhaustive categories as our own files state them."""
    if entry.exhaustive_categories is None and isinstance(entry.verified, list):
        return [name for name in entry.verified if isinstance(name, str)]
    return entry.exhaustive_categories


# --- objects -------------------------------------------------------------------------------------------------


def _columns(
    entries: Sequence[AnnotationEntry],
    image_index: Mapping[ImageId, int],
    category_index: Mapping[ImageId, int],
    list_name: str,
    issues: list[AnnotationIssue],
) -> dict[str, Any]:
    """The columns of the sound annotations. Float ids need no conversion: 7.0 hashes and compares as 7."""
    label = map(category_index.get, map(_CATEGORY_ID, entries), itertools.repeat(UNKNOWN))
    return _sound_columns(entries, image_index, np.fromiter(label, np.int64, len(entries)), list_name, issues)


def _ignored_columns(
    entries: Sequence[AnnotationEntry],
    image_index: Mapping[ImageId, int],
    labels: Sequence[str],
    issues: list[AnnotationIssue],
) -> dict[str, Any]:
    """The columns of the sound entries of ``ignored``, which name their category and why they are no targets."""
    label_index = {name: index for index, name in enumerate(labels)}
    label = np.fromiter((label_index.get(entry.category, EMPTY) for entry in entries), np.int64, len(entries))
    reason_index = {reason: index for index, reason in enumerate(DROP_REASONS)}
    reasons = np.array([reason_index.get(entry.reason, OTHER) for entry in entries], np.int8)
    return _sound_columns(entries, image_index, label, "ignored", issues, reasons)


def _sound_columns(
    entries: Sequence[AnnotationEntry],
    image_index: Mapping[ImageId, int],
    label: Column,
    list_name: str,
    issues: list[AnnotationIssue],
    drop_reason: Column | None = None,
) -> dict[str, Any]:
    count = len(entries)
    image = np.fromiter(map(image_index.get, map(_IMAGE_ID, entries), itertools.repeat(UNKNOWN)), np.int64, count)
    flat = itertools.chain.from_iterable(map(_BBOX, entries))
    xywh = np.fromiter(flat, np.float64, 4 * count).reshape(-1, 4)
    x, y, w, h = xywh.T
    is_sound = np.isfinite(x + y + w + h) & (w >= 0) & (h >= 0) & (image >= 0) & (label >= 0)
    issues += [
        _issue(entries[n], int(image[n]), int(label[n]), f"{list_name}[{n}]")
        for n in np.flatnonzero(~is_sound).tolist()
    ]
    columns = {
        "image": image,
        "label": label,
        "xywh": xywh,
        "area": _floats(list(map(_AREA, entries))),
        "crowd": _floats(list(map(_CROWD, entries))) > 0,
        "drop_reason": np.zeros(count, np.int8) if drop_reason is None else drop_reason,
    }
    ids = _unique_ids(entries)
    if ids is not None:
        columns["ids"] = ids
    return columns if is_sound.all() else {name: column[is_sound] for name, column in columns.items()}


def _floats(values: Sequence[float | None]) -> Column:
    """``(N,)`` floats; None becomes nan."""
    try:
        return np.fromiter(values, np.float64, len(values))
    except TypeError:
        return np.array(values, np.float64)


def _unique_ids(entries: Sequence[AnnotationEntry]) -> Column | None:
    """``(N,)`` ids of the annotations, where all are whole numbers and no two the same; else None."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        values = list(map(_ID, entries))
        ids = np.fromiter(values, np.int64, len(values))
        if np.diff(np.sort(ids)).all() and set(map(type, values)) <= {int}:
            return ids
    return None


def _issue(entry: AnnotationEntry, image: int, label: int, where: str) -> AnnotationIssue:
    if image == LEFT_OUT:
        return AnnotationIssue("boxes", PICTURE_LEFT_OUT, where)
    if image == UNKNOWN:
        reason = "image_id is not in `images`"
        return AnnotationIssue("boxes", reason, f"{where}: image_id {entry.image_id!r} is not in `images`")
    if label == UNKNOWN:
        reason = "category_id is not in `categories`"
        return AnnotationIssue("boxes", reason, f"{where}: category_id {entry.category_id!r} is not in `categories`")
    if label == EMPTY:
        return AnnotationIssue("boxes", "category is empty", f"{where}: category is empty")
    if label == LEFT_OUT:
        return AnnotationIssue("boxes", CATEGORY_LEFT_OUT, where)
    return AnnotationIssue("boxes", "bbox is not a box", f"{where}: bbox {list(entry.bbox)} is not a box")
