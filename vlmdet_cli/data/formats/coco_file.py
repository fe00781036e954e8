"""A ``Dataset`` as a COCO file, in pieces that can be put together: any COCO reader takes it.

Segmentations are not kept. Beside ``annotations`` stands ``ignored``: annotated objects that are no targets, each with
its category's name and the reason. A picture may have ``exhaustive_categories``: the categories whose objects are all annotated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

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
    """The insides of a file's lists, for some of its pictures, each entry with a comma behind it."""

    images: bytes
    annotations: bytes
    ignored: bytes


def file_parts(data: Dataset) -> FileParts:
    """A data set as the insides of JSON lists, so that several can be put together to one file."""
    ids = [one.id for one in data.images]
    whole = not data.drop_reason.any()  # the rule: nothing to sort out
    kept = data if whole else data.select_objects(data.drop_reason == 0)
    left = data.select_objects(data.drop_reason != 0)
    names, why = [data.labels[n] for n in left.label.tolist()], [DROP_REASONS[n] for n in left.drop_reason.tolist()]
    return FileParts(
        images=_inside(data.images),
        annotations=_inside(list(map(_Written, *_values(kept, ids)))),
        ignored=_inside(list(map(_Ignored, *_values(left, ids), names, why))),
    )


def _values(data: Dataset, ids: Sequence[ImageId]) -> list[list[Any]]:
    return [
        data.ids.tolist(),
        [ids[n] for n in data.image.tolist()],
        [data.label_ids[n] for n in data.label.tolist()],
        data.xywh.tolist(),
        data.area.tolist(),
        data.crowd.astype(int).tolist(),
    ]


def _inside(records: Sequence[Any]) -> bytes:
    return msgspec.json.encode(records)[1:-1] + b"," if records else b""


def head(data: Dataset) -> bytes:
    """A file's beginning; annotations are to follow. Any COCO reader takes it. Segmentations are not kept."""
    categories = [{"id": i, "name": name} for i, name in data.category_ids.items()]
    start = b'{"info":{"description":"A subset written by vlmdet"},"categories":'
    return start + msgspec.json.encode(categories) + b',"annotations":['


def tail(made: Sequence[FileParts]) -> bytes:
    """A file's end, behind the last annotation."""
    images = b"".join(one.images for one in made).rstrip(b",")
    ignored = b"".join(one.ignored for one in made).rstrip(b",")
    return b'],"images":[' + images + b'],"ignored":[' + ignored + b"]}\n"


def write(path: Path, data: Dataset) -> None:
    """Write a data set whole."""
    made = file_parts(data)
    with whole_file(path) as temporary:
        temporary.write_bytes(head(data) + made.annotations.rstrip(b",") + tail([made]))
