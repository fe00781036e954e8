"""A detection data set as columns: every source is read to one, and subsets and rows are made from it.

Pictures are records. Objects are columns, numpy arrays of equal length N, ordered by picture and, within a picture, as
annotated. A million objects take some 80 MB, and a rule about all of them is one array expression.

``labels`` are all names that an object may have; the first ``num_categories`` of them are the categories that a model
should name. ``drop_reason`` says why an object is no target, as an index into ``DROP_REASONS``; 0 means that it is
kept. Boxes are left, top, width, height in float pixels as annotated (COCO's form, so that they are written as they
were read); ``xyxy`` gives corners.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.annotations import Box, ImageId, Object, Picture
from vlmdet_cli.core.boxes import xywh_to_xyxy, xyxy_to_xywh

Column = npt.NDArray[Any]
_PLAIN_NAME = re.compile(r"[\w-]+(?:[./][\w-]+)*")
DROP_REASONS = ("", "other category", "crowd", "too small")
OTHER, CROWD, SMALL = 1, 2, 3
PICTURE_LEFT_OUT = "its picture is left out"
CATEGORY_LEFT_OUT = "its category is left out"


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A picture without its objects.

    ``exhaustive_categories`` are the categories whose objects are all annotated in it, those that it does not have
    included; None means every category of the data set.
    """

    id: ImageId
    file_name: str
    width: int
    height: int
    exhaustive_categories: tuple[str, ...] | None = None


class AnnotationIssue(NamedTuple):
    """A wrong entry of a source, which is left out: what a ledger counts it as, why it is wrong, and where it is."""

    kind: Literal["pictures", "boxes", "categories"]
    reason: str
    where: str

    @property
    def is_consequence(self) -> bool:
        """Whether the entry is right and is left out only because its picture or its category is."""
        return self.reason in (PICTURE_LEFT_OUT, CATEGORY_LEFT_OUT)

    def row(self) -> dict[str, str]:
        """The row of ``skipped_SPLIT.jsonl``."""
        return {"thing": self.kind, "reason": self.reason, "where": self.where}


class Dataset(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Pictures and the columns of their objects, each of length N; ``xywh`` is (N, 4)."""

    images: Sequence[Image]
    labels: tuple[str, ...]
    label_ids: tuple[ImageId, ...]
    num_categories: int
    image: Column
    label: Column
    xywh: Column
    area: Column
    crowd: Column
    drop_reason: Column
    ids: Column

    @property
    def categories(self) -> tuple[str, ...]:
        """The names that a model should use, in the data set's order."""
        return self.labels[: self.num_categories]

    @property
    def category_ids(self) -> dict[ImageId, str]:
        return dict(zip(self.label_ids[: self.num_categories], self.categories, strict=True))

    @cached_property
    def starts(self) -> Column:
        """``(P + 1,)``: the objects of picture p are ``starts[p]:starts[p + 1]``."""
        starts: Column = np.searchsorted(self.image, np.arange(len(self.images) + 1))
        return starts

    @cached_property
    def sizes(self) -> Column:
        """``(P, 2)``: widths and heights."""
        flat = [side for image in self.images for side in (image.width, image.height)]
        return np.array(flat, dtype=np.float64).reshape(-1, 2)

    @cached_property
    def xyxy(self) -> Column:
        """``(N, 4)``: corners in pixels, as annotated."""
        return xywh_to_xyxy(self.xywh)

    @cached_property
    def clipped(self) -> Column:
        """``(N, 4)``: corners cut off at the picture's borders."""
        far = self.sizes[self.image]
        boxes = np.maximum(self.xyxy, 0.0)
        for side in (0, 2):
            np.minimum(boxes[:, side : side + 2], far, out=boxes[:, side : side + 2])
        return boxes

    @cached_property
    def is_target(self) -> Column:
        """``(N,)``: whether a model should name the object: it is kept and no crowd."""
        is_target: Column = (self.drop_reason == 0) & ~self.crowd
        return is_target

    def select_objects(self, index: Column) -> "Dataset":
        """All pictures, with the objects of ``index``: a mask (N,), or indices in ascending order of picture."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[index] for name in COLUMNS})

    def select_images(self, indices: Column) -> "Dataset":
        """The pictures of ``indices`` (ascending) with their objects."""
        new_index = np.full(len(self.images), -1, np.int64)
        new_index[indices] = np.arange(len(indices))
        selected = self.select_objects(new_index[self.image] >= 0)
        images = [self.images[index] for index in indices.tolist()]
        return msgspec.structs.replace(selected, images=images, image=new_index[selected.image])

    def slice_images(self, first: int, last: int) -> "Dataset":
        """The pictures ``first`` up to, not including, ``last``; columns are views, nothing is copied."""
        start, end = self.starts[first], self.starts[last]
        columns = {name: getattr(self, name)[start:end] for name in COLUMNS}
        columns["image"] = columns["image"] - first
        return msgspec.structs.replace(self, images=self.images[first:last], **columns)

    def pictures(self, *, clipped: bool = False) -> Iterator[Picture]:
        """Each picture as a record with its objects; boxes are xyxy pixels as annotated, or cut off at the borders."""
        boxes = self.clipped if clipped else self.xyxy
        objects = [
            Object(self.labels[label], (x1, y1, x2, y2), crowd)
            for label, (x1, y1, x2, y2), crowd in zip(
                self.label.tolist(), boxes.tolist(), self.crowd.tolist(), strict=True
            )
        ]
        kept, starts = (self.drop_reason == 0).tolist(), self.starts.tolist()
        for image, start, end in zip(self.images, starts, starts[1:], strict=False):
            yield Picture(
                image_id=image.id,
                image=image.file_name,
                width=image.width,
                height=image.height,
                objects=tuple(objects[n] for n in range(start, end) if kept[n]),
                ignored=tuple(objects[n] for n in range(start, end) if not kept[n]),
                exhaustive_categories=image.exhaustive_categories,
            )


COLUMNS = ("image", "label", "xywh", "area", "crowd", "drop_reason", "ids")


def build(
    images: Sequence[Image], labels: Sequence[str], *, label_ids: Sequence[ImageId] = (), **columns: Any
) -> Dataset:
    """A data set of columns in any order of pictures; ``image``, ``label`` and ``xywh`` are required.

    Without ``crowd`` there are no crowds, without ``area`` (or where it is nan) areas are the boxes', without ``ids``
    objects are numbered from 1, without ``drop_reason`` all are kept.
    """
    image, xywh = np.asarray(columns["image"], np.int64), np.asarray(columns["xywh"], np.float64).reshape(-1, 4)
    count = len(image)
    areas = np.asarray(columns.get("area", np.full(count, np.nan)), np.float64)
    dataset = Dataset(
        images=images,
        labels=tuple(labels),
        label_ids=tuple(label_ids) or tuple(range(1, len(labels) + 1)),
        num_categories=len(labels),
        image=image,
        label=np.asarray(columns["label"], np.int64),
        xywh=xywh,
        area=np.where(np.isnan(areas), xywh[:, 2] * xywh[:, 3], areas),
        crowd=np.asarray(columns.get("crowd", np.zeros(count)), bool),
        drop_reason=np.asarray(columns.get("drop_reason", np.zeros(count)), np.int8),
        ids=np.asarray(columns.get("ids", np.arange(1, count + 1)), np.int64),
    )
    is_sorted = (np.diff(image) >= 0).all()
    return dataset if is_sorted else dataset.select_objects(np.argsort(image, kind="stable"))


def escapes_folder(file_name: str) -> bool:
    """Whether a file name is no plain path below its folder: empty, absolute, or with ``..`` in it."""
    if _PLAIN_NAME.fullmatch(file_name):  # nearly all are of this kind
        return False
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    outside = posix.is_absolute() or bool(windows.drive) or windows.root != "" or ".." in windows.parts
    return outside or ".." in posix.parts or not posix.parts or "\0" in file_name


def from_pictures(pictures: Iterable[Picture], categories: Sequence[str]) -> Dataset:
    """The data set of records; labels that are no category are those of ignored objects."""
    images, rows = list[Image](), list[tuple[int, str, Box, bool, bool]]()
    for index, picture in enumerate(pictures):
        images.append(
            Image(
                id=picture.image_id,
                file_name=picture.image,
                width=picture.width,
                height=picture.height,
                exhaustive_categories=picture.exhaustive_categories,
            )
        )
        for is_ignored, objects in ((False, picture.objects), (True, picture.ignored)):
            rows += [(index, o.label, o.box, o.crowd, is_ignored) for o in objects]
    labels = tuple(dict.fromkeys([*categories, *(row[1] for row in rows)]))
    label_index = {name: index for index, name in enumerate(labels)}
    dataset = build(
        images,
        labels,
        image=[row[0] for row in rows],
        label=[label_index[row[1]] for row in rows],
        xywh=xyxy_to_xywh([row[2] for row in rows]),
        crowd=[row[3] for row in rows],
        drop_reason=[row[4] * OTHER for row in rows],
    )
    return msgspec.structs.replace(dataset, num_categories=len(categories))


def rename_categories(data: Dataset, names: Mapping[str, str]) -> Dataset:
    """The data set with old names replaced by new ones; categories that get the same name become one.

    A category that gets a blank name is left out: its objects stay, as such of another category. Where ``names`` give
    its name to another category, its objects get a name of their own, so that the two are not mixed.
    """
    if not set(names) & set(data.labels):
        return data
    left_out = {name for name in data.labels if not names.get(name, name).strip()}
    renamed = {name: names.get(name, name) for name in data.labels if name not in left_out}
    taken = {*data.labels, *names.values()}
    for name in left_out:
        renamed[name] = _unused_name(name, taken) if name in names.values() else name
    kept = dict.fromkeys(renamed[name] for name in data.categories if name not in left_out)
    labels = tuple(dict.fromkeys([*kept, *(renamed[name] for name in data.labels)]))
    label_index = {name: index for index, name in enumerate(labels)}
    label = np.array([label_index[renamed[name]] for name in data.labels], np.int64)[data.label]
    return msgspec.structs.replace(
        data,
        images=[_rename_exhaustive(image, renamed) for image in data.images],
        labels=labels,
        label_ids=tuple(range(1, len(labels) + 1)),
        num_categories=len(kept),
        label=label,
        drop_reason=np.where(label >= len(kept), OTHER, data.drop_reason).astype(np.int8),
    )


def _unused_name(name: str, taken: Container[str]) -> str:
    while name in taken:
        name = f"{name} (left out)"
    return name


def _rename_exhaustive(image: Image, renamed: Mapping[str, str]) -> Image:
    """The image with its exhaustive categories under new names: a merged category needs all of its parts among them."""
    if image.exhaustive_categories is None:
        return image
    known = set(image.exhaustive_categories)
    partial = {new for old, new in renamed.items() if old not in known}
    return msgspec.structs.replace(image, exhaustive_categories=tuple(sorted(set(renamed.values()) - partial)))


def concatenate(parts: Mapping[str, Dataset]) -> Dataset:
    """Several data sets as one.

    With more than one, a picture's id and file name get the name of its part as a prefix, and only the labels of its
    own part can be exhaustive in it.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    categories = dict.fromkeys(name for part in parts.values() for name in part.categories)
    labels = tuple(dict.fromkeys([*categories, *(name for part in parts.values() for name in part.labels)]))
    label_index = {name: index for index, name in enumerate(labels)}
    images, columns = list[Image](), list[dict[str, Column]]()
    for name, part in parts.items():
        new_label = np.array([label_index[label] for label in part.labels], np.int64)
        columns.append({column: getattr(part, column) for column in COLUMNS})
        columns[-1] |= {"image": part.image + len(images), "label": new_label[part.label]}
        exhaustive = None if set(categories) <= set(part.labels) else part.labels
        images += [_with_prefix(image, name, exhaustive) for image in part.images]
    stacked = {name: np.concatenate([part[name] for part in columns]) for name in COLUMNS}
    stacked["ids"] = np.arange(1, len(stacked["ids"]) + 1)
    return Dataset(
        images=images,
        labels=labels,
        label_ids=tuple(range(1, len(labels) + 1)),
        num_categories=len(categories),
        **stacked,
    )


def _with_prefix(image: Image, prefix: str, exhaustive_categories: tuple[str, ...] | None) -> Image:
    own = image.exhaustive_categories
    return msgspec.structs.replace(
        image,
        id=f"{prefix}/{image.id}",
        file_name=f"{prefix}/{image.file_name}",
        exhaustive_categories=exhaustive_categories if own is None else own,
    )


def non_exhaustive_images(data: Dataset) -> Column:
    """``(P,)``: whether some category was not searched for in the picture, or not all of its objects are annotated."""
    categories = set(data.categories)
    return np.array(
        [
            image.exhaustive_categories is not None and not categories <= set(image.exhaustive_categories)
            for image in data.images
        ],
        bool,
    )


def image_hashes(images: Iterable[Image], seed: int, purpose: str) -> Column:
    """``(P,)`` unsigned 64-bit numbers, each drawn by seed, purpose and the picture's own id alone."""
    prefix = f"{seed}:{purpose}:"
    digests = b"".join([blake2b(f"{prefix}{image.id}".encode(), digest_size=8).digest() for image in images])
    return np.frombuffer(digests, ">u8").astype(np.uint64)
