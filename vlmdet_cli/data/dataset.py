"""A detection data set as columns: what every source is read to, and what subsets and rows are made from.

Pictures are records, objects are columns (numpy arrays of equal length N), ordered by picture and, within one, as
annotated. A million objects take some 80 MB, and a rule about all of them is one array expression.

``labels`` are all names that an object may have; the first ``wanted`` of them are the categories a model shall name.
``drop_reason`` says why an object is no target (see ``DROP_REASONS``): 0 is kept. Boxes are left, top, width, height in float
pixels as annotated (COCO's form, so that they are written as they were read); ``xyxy`` gives corners.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.annotations import ImageId, Object, Picture
from vlmdet_cli.core.boxes import xywh_to_xyxy, xyxy_to_xywh

Column = npt.NDArray[Any]
_PLAIN_NAME = re.compile(r"[\w-]+(?:[./][\w-]+)*")
DROP_REASONS = ("", "other category", "crowd", "too small")
OTHER, CROWD, SMALL = 1, 2, 3
PICTURE_LEFT_OUT = "its picture is left out"  # why a sound box goes with a wrong picture


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A picture without its objects. ``exhaustive_categories``: the categories whose objects are all annotated in it, those that
    it does not have included; None where that holds for every category of the data set.
    """

    id: ImageId
    file_name: str
    width: int
    height: int
    exhaustive_categories: tuple[str, ...] | None = None


class AnnotationIssue(NamedTuple):
    """A wrong entry of a source: ``kind`` is what is lost by it, pictures, boxes or categories, as a ledger counts them."""

    kind: str
    reason: str
    where: str

    def row(self) -> dict[str, str]:
        """The row of the list of skipped entries."""
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
        """The names a model shall use, in the data set's order."""
        return self.labels[: self.num_categories]

    @property
    def category_ids(self) -> dict[ImageId, str]:
        return dict(zip(self.label_ids[: self.num_categories], self.categories, strict=True))

    @cached_property
    def starts(self) -> Column:
        """``(P + 1,)``: objects of picture p stand at ``starts[p]:starts[p + 1]``."""
        places: Column = np.searchsorted(self.image, np.arange(len(self.images) + 1))
        return places

    @cached_property
    def sizes(self) -> Column:
        """``(P, 2)``: widths and heights."""
        flat = [side for one in self.images for side in (one.width, one.height)]
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
        """``(N,)``: whether a model should name the object: kept, and no crowd."""
        named: Column = (self.drop_reason == 0) & ~self.crowd
        return named

    def select_objects(self, mask: Column) -> "Dataset":
        """The same pictures with the objects that ``mask`` (N,) names."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[mask] for name in COLUMNS})

    def select_images(self, places: Column) -> "Dataset":
        """The pictures at ``places`` (ascending indices) with their objects."""
        number = np.full(len(self.images), -1, np.int64)
        number[places] = np.arange(len(places))
        part = self.select_objects(number[self.image] >= 0)
        return msgspec.structs.replace(
            part, images=[self.images[place] for place in places.tolist()], image=number[part.image]
        )

    def slice_images(self, first: int, last: int) -> "Dataset":
        """The pictures ``first`` up to ``last``; columns are views, nothing is copied."""
        a, b = self.starts[first], self.starts[last]
        columns = {name: getattr(self, name)[a:b] for name in COLUMNS}
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
        for image, a, b in zip(self.images, starts, starts[1:], strict=False):
            yield Picture(
                image_id=image.id,
                image=image.file_name,
                width=image.width,
                height=image.height,
                objects=tuple(objects[n] for n in range(a, b) if kept[n]),
                ignored=tuple(objects[n] for n in range(a, b) if not kept[n]),
                exhaustive_categories=image.exhaustive_categories,
            )


COLUMNS = ("image", "label", "xywh", "area", "crowd", "drop_reason", "ids")


def build(
    images: Sequence[Image], labels: Sequence[str], *, label_ids: Sequence[ImageId] = (), **columns: Any
) -> Dataset:
    """A data set of columns in any order: ``image``, ``label``, ``xywh``, and those of the others that there are.

    Without ``crowd`` there are no crowds, without ``area`` (or where it is nan) areas are the boxes', without ``ids``
    objects are counted from 1, without ``drop_reason`` all are kept.
    """
    number, boxes = np.asarray(columns["image"], np.int64), np.asarray(columns["xywh"], np.float64).reshape(-1, 4)
    many = len(number)
    areas = np.asarray(columns.get("area", np.full(many, np.nan)), np.float64)
    made = Dataset(
        images=images,
        labels=tuple(labels),
        label_ids=tuple(label_ids) or tuple(range(1, len(labels) + 1)),
        num_categories=len(labels),
        image=number,
        label=np.asarray(columns["label"], np.int64),
        xywh=boxes,
        area=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.asarray(columns.get("crowd", np.zeros(many)), bool),
        drop_reason=np.asarray(columns.get("drop_reason", np.zeros(many)), np.int8),
        ids=np.asarray(columns.get("ids", np.arange(1, many + 1)), np.int64),
    )
    return made if (np.diff(number) >= 0).all() else made.select_objects(np.argsort(number, kind="stable"))


def escapes_folder(file_name: str) -> bool:
    """Whether a file name is no plain path below its folder: empty, absolute, or with ``..`` in it."""
    if _PLAIN_NAME.fullmatch(file_name):  # nearly all are of this kind
        return False
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    outside = posix.is_absolute() or bool(windows.drive) or windows.root != "" or ".." in windows.parts
    return outside or ".." in posix.parts or not posix.parts or "\0" in file_name


def from_pictures(pictures: Iterable[Picture], categories: Sequence[str]) -> Dataset:
    """The data set of records; labels that are no category are those of ignored objects."""
    images, rows = list[Image](), list[tuple[int, str, Any, bool, bool]]()
    for place, one in enumerate(pictures):
        size = {"width": one.width, "height": one.height}
        images.append(
            Image(id=one.image_id, file_name=one.image, **size, exhaustive_categories=one.exhaustive_categories)
        )
        for drop_reason, objects in enumerate((one.objects, one.ignored)):
            rows += [(place, o.label, o.box, o.crowd, bool(drop_reason)) for o in objects]
    labels = tuple(dict.fromkeys([*categories, *(row[1] for row in rows)]))
    places = {name: number for number, name in enumerate(labels)}
    made = build(
        images,
        labels,
        image=[row[0] for row in rows],
        label=[places[row[1]] for row in rows],
        xywh=xyxy_to_xywh([row[2] for row in rows]),
        crowd=[row[3] for row in rows],
        drop_reason=[row[4] * OTHER for row in rows],
    )
    return msgspec.structs.replace(made, num_categories=len(categories))


def rename_categories(data: Dataset, names: Mapping[str, str]) -> Dataset:
    """Labels under other names; several that get the same one become one category. One that gets an empty name is no
    category any more: its objects stay, as such of another category.
    """
    if not set(names) & set(data.labels):
        return data
    out = {name for name in data.labels if names.get(name) == ""}
    new = [names.get(name) or name for name in data.labels]
    kept = dict.fromkeys(to for name, to in zip(data.categories, new, strict=False) if name not in out)
    labels = tuple(dict.fromkeys([*kept, *new]))
    place = {name: number for number, name in enumerate(labels)}
    images = [
        one
        if one.exhaustive_categories is None
        else msgspec.structs.replace(
            one, exhaustive_categories=_all_verified(one.exhaustive_categories, data.labels, new)
        )
        for one in data.images
    ]
    label = np.array([place[name] for name in new], np.int64)[data.label]
    return msgspec.structs.replace(
        data,
        images=images,
        labels=labels,
        label_ids=tuple(range(1, len(labels) + 1)),
        num_categories=len(kept),
        label=label,
        drop_reason=np.where(label >= len(kept), OTHER, data.drop_reason).astype(np.int8),
    )


def _all_verified(exhaustive_categories: Iterable[str], old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """A merged category is exhaustive_categories where all of its parts are."""
    known = set(exhaustive_categories)
    doubtful = {to for name, to in zip(old, new, strict=True) if name not in known}
    return tuple(sorted(set(new) - doubtful))


def concatenate(parts: Mapping[str, Dataset]) -> Dataset:
    """Several data sets as one. With more than one, a picture's id and file name begin with its part's name, and it
    is exhaustive_categories for the categories of its own part alone.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    wanted = dict.fromkeys(name for one in parts.values() for name in one.categories)
    labels = tuple(dict.fromkeys([*wanted, *(name for one in parts.values() for name in one.labels)]))
    place = {name: number for number, name in enumerate(labels)}
    images, columns, first = list[Image](), list[dict[str, Column]](), 0
    for name, one in parts.items():
        own = None if set(wanted) <= set(one.labels) else one.labels
        images += [
            msgspec.structs.replace(
                image,
                id=f"{name}/{image.id}",
                file_name=f"{name}/{image.file_name}",
                exhaustive_categories=own if image.exhaustive_categories is None else image.exhaustive_categories,
            )
            for image in one.images
        ]
        numbers = np.array([place[label] for label in one.labels], np.int64)
        columns.append({
            **{key: getattr(one, key) for key in COLUMNS},
            "image": one.image + first,
            "label": numbers[one.label],
        })  # fmt: skip
        first += len(one.images)
    stacked = {key: np.concatenate([one[key] for one in columns]) for key in COLUMNS}
    stacked["ids"] = np.arange(1, len(stacked["ids"]) + 1)
    return Dataset(
        images=images,
        labels=labels,
        label_ids=tuple(range(1, len(labels) + 1)),
        num_categories=len(wanted),
        **stacked,
    )


def non_exhaustive_images(data: Dataset) -> Column:
    """``(P,)``: pictures in which some category was not looked for, or not all of its objects are annotated."""
    wanted = set(data.categories)
    return np.array(
        [one.exhaustive_categories is not None and not wanted <= set(one.exhaustive_categories) for one in data.images],
        bool,
    )


def image_hashes(images: Iterable[Image], seed: int, purpose: str) -> Column:
    """``(P,)`` unsigned 64-bit numbers, each drawn by seed, purpose and the picture's own id alone."""
    start = f"{seed}:{purpose}:"
    digests = b"".join([blake2b(f"{start}{one.id}".encode(), digest_size=8).digest() for one in images])
    return np.frombuffer(digests, ">u8").astype(np.uint64)
