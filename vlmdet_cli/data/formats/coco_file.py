"""A ``Dataset`` as a COCO file that any COCO reader takes, in parts that can be put together.

Segmentations are not kept. In addition to ``annotations`` there is ``ignored``: annotated objects that are no targets,
each with its category's name and the reason. A picture may have ``exhaustive_categories``, the categories whose
objects are all annotated in it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data.dataset import DROP_REASONS, Dataset


class _Plain(msgspec.Struct, gc=False):
    id: int
    image_id: ImageId
    category_id: ImageId
    bbox: list[float]
    area: float
    iscrowd: int


class _Written(_Plain, gc=False):
    segmentation: tuple[()] = ()


class _Ignored(_Plain, gc=False):
    category: str
    reason: str


class FileParts(NamedTuple):
    """The contents of a file's lists, for some of its pictures, each entry with a comma behind it."""

    images: bytes
    annotations: bytes
    ignored: bytes


def file_parts(data: Dataset) -> FileParts:
    """A data set as the contents of JSON lists, so that several can be put together to one file."""
    ids = [image.id for image in data.images]
    all_kept = not data.drop_reason.any()  # mostly so; saves copies
    kept = data if all_kept else data.select_objects(data.drop_reason == 0)
    ignored = data.select_objects(data.drop_reason != 0)
    names = [data.labels[label] for label in ignored.label.tolist()]
    reasons = [DROP_REASONS[reason] for reason in ignored.drop_reason.tolist()]
    return FileParts(
        images=_list_content(data.images),
        annotations=_list_content(list(map(_Written, *_values(kept, ids)))),
        ignored=_list_content(list(map(_Ignored, *_values(ignored, ids), names, reasons))),
    )


def _values(data: Dataset, ids: Sequence[ImageId]) -> list[list[Any]]:
    return [
        data.ids.tolist(),
        np.array(ids, object)[data.image].tolist(),
        np.array(data.label_ids, object)[data.label].tolist(),
        data.xywh.tolist(),
        data.area.tolist(),
        data.crowd.astype(np.int8).tolist(),
    ]


def _list_content(records: Sequence[Any]) -> bytes:
    return msgspec.json.encode(records)[1:-1] + b"," if records else b""


def head(data: Dataset) -> bytes:
    """The beginning of a file, up to the first annotation."""
    categories = [{"id": key, "name": name} for key, name in data.category_ids.items()]
    start = b'{"info":{"description":"A subset written by vlmdet"},"categories":'
    return start + msgspec.json.encode(categories) + b',"annotations":['


def tail(parts: Sequence[FileParts]) -> bytes:
    """The end of a file, behind the last annotation."""
    images = b"".join(part.images for part in parts).rstrip(b",")
    ignored = b"".join(part.ignored for part in parts).rstrip(b",")
    return b'],"images":[' + images + b'],"ignored":[' + ignored + b"]}\n"


def write(path: Path, data: Dataset) -> None:
    """Write a data set whole."""
    part = file_parts(data)
    with whole_file(path) as temporary:
        temporary.write_bytes(head(data) + part.annotations.rstrip(b",") + tail([part]))
