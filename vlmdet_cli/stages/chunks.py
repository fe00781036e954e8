"""A part of a split as the bytes of its files: what the processes of ``prepare`` make, each of some pictures.

A piece depends on its pictures and the recipe alone, so files put together from pieces are the same however many
processes made them, and however the pictures were shared out.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import msgspec
import numpy as np
import orjson

from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.rows import InstructionRow
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.data.formats import coco_file
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.project import Format, Project
from vlmdet_cli.prompts import lengths, object_rows
from vlmdet_cli.prompts.detection import AnswerBoxes, RowPlan, answer_boxes, plan_rows
from vlmdet_cli.prompts.fitting import FittedRows, LengthLimit, RowBuilder, fit

PICTURES = 8192  # of a piece


class RowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a piece is made from beside its pictures. ``images``: what stands before file names in rows.
    ``count_all``: whether the tokens of every row are wanted.
    """

    split: str
    images: str
    format: Format
    seed: int
    family: str
    dialect_name: str
    model: str
    max_pixels: int | None
    max_length: int
    count_all: bool = False

    @property
    def dialect(self) -> Dialect:
        return dialects.get(self.dialect_name, self.max_pixels)

    @property
    def guard(self) -> LengthLimit:
        counter = lengths.token_counter(registry.get(self.family), self.model, self.max_pixels)
        return LengthLimit(counter, self.max_length, self.count_all)


class ChunkStats(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a piece beside its files. ``subset``: what stands at the subset file's end.

    ``tokens``: of each row, where not all are counted at most so many. Of the ``targets``, ``asked`` are asked for by
    some row and ``boxes`` stand in answers. ``long``: rows over the limit, of which ``dropped`` have no row.
    ``silent``: pictures that ask for nothing.
    """

    subset: coco_file.FileParts
    tokens: bytes
    targets: int
    asked: int
    boxes: int
    long: int
    dropped: int
    silent: int


def row_settings(project: Project, split: str, *, count_all: bool = False) -> RowSettings:
    config = project.config
    return RowSettings(
        split=split,
        images=project.image_row(split, ""),
        format=config.format,
        seed=config.project.seed,
        family=project.family.name,
        dialect_name=project.dialect_name,
        model=project.model(config.train.model),
        max_pixels=project.max_pixels,
        max_length=config.train.max_length,
        count_all=count_all,
    )


class Rows(NamedTuple):
    """Rows as swift reads them, and what they came of."""

    rows: list[dict[str, Any]]
    planned: list[RowPlan]
    fitted: FittedRows
    found: AnswerBoxes


def detection_rows(data: Dataset, how: RowSettings) -> Rows:
    """The detection rows of pictures; those of train that are too long are made to fit."""
    dialect, wanted = how.dialect, how.format
    maker = RowBuilder(data, answer_boxes(data, dialect, wanted.order), dialect, wanted, how.seed)
    planned = list(plan_rows(data, maker.boxes, wanted, how.seed))
    fitted = fit(maker, planned, how.guard, shorten=how.split == "train")
    write = _placed if wanted.rows == "objects" else _written
    return Rows(list(write(maker, fitted, how)), planned, fitted, maker.boxes)


def _written(maker: RowBuilder, fitted: FittedRows, how: RowSettings) -> Iterator[dict[str, Any]]:
    images, naming = maker.data.images, how.split != "train"
    for plan, answer in zip(fitted.plans, fitted.answers, strict=True):
        sample = InstructionRow(
            image=how.images + images[plan.picture].file_name, prompt=f"<image>{plan.prompt}", answer=answer
        )
        yield sample.row() | {"asked": plan.asked} if naming and plan.asked is not None else sample.row()


def _placed(maker: RowBuilder, fitted: FittedRows, how: RowSettings) -> Iterator[dict[str, Any]]:
    """The same rows with swift's placeholders."""
    data, dialect = maker.data, maker.dialect
    counts = np.diff(maker.boxes.starts)
    pixels = object_rows.pixels(maker.boxes.pixel_boxes, np.repeat(data.sizes, counts, axis=0), dialect).tolist()
    for plan in fitted.plans:
        first = maker.boxes.starts[plan.picture]
        objects = [(maker.boxes.labels[first + one], tuple(pixels[first + one])) for one in plan.targets]
        answer, boxes = object_rows.detection(objects, dialect, group=how.format.group)
        image = how.images + data.images[plan.picture].file_name
        row = object_rows.placed(image, f"<image>{plan.prompt}", answer, boxes, dialect)
        yield row | {"asked": plan.asked} if how.split != "train" and plan.asked is not None else row


def piece(how: RowSettings, data: Dataset) -> tuple[tuple[bytes, bytes, bytes], ChunkStats]:
    """The bytes of some pictures' part of the subset's annotations, the detections and the rows; and their account."""
    with no_collection():
        return _piece(how, data)


def _piece(how: RowSettings, data: Dataset) -> tuple[tuple[bytes, bytes, bytes], ChunkStats]:
    made, subset = detection_rows(data, how), coco_file.file_parts(data)
    detections = "".join(_detections(data, made.found, how)).encode()
    rows_ = b"".join([orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in made.rows])
    told = ChunkStats(
        subset=subset._replace(annotations=b""),
        tokens=made.fitted.tokens.tobytes(),
        targets=len(made.found.labels),
        asked=sum(len(plan.targets) for plan in made.planned),
        boxes=sum(len(plan.targets) for plan in made.fitted.plans),
        long=made.fitted.over_limit,
        dropped=made.fitted.dropped,
        silent=len(data.images) - len({plan.picture for plan in made.planned}),
    )
    return (subset.annotations, detections, rows_), told


def _detections(data: Dataset, found: AnswerBoxes, how: RowSettings) -> Iterator[str]:
    """The entries of detection JSON, each with a comma behind it; a picture's labels are in the data set's order."""
    names, start = [_json(name) for name in data.labels], _json(how.images)[:-1]
    key = np.repeat(np.arange(len(data.images)), np.diff(found.starts)) * len(names) + found.label_indices
    order = np.argsort(key, kind="stable")
    firsts = np.flatnonzero(np.diff(key[order], prepend=-1))  # of each picture's boxes of one label
    group = key[order[firsts]]
    # all boxes as one list, [[1.5,2.0,3.0,4.0],…], cut apart
    text = orjson.dumps(found.pixel_boxes[order].round(2), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].decode()
    boxes, ends = text.split("],["), [*firsts.tolist(), len(order)]
    texts = [
        f"{names[label]}:[[{'],['.join(boxes[first:end])}]]"
        for label, first, end in zip((group % len(names)).tolist(), ends, ends[1:], strict=False)
    ]
    places = np.searchsorted(group, np.arange(len(data.images) + 1) * len(names)).tolist()
    for image, first, end in zip(data.images, places, places[1:], strict=False):
        yield f'{{"image_path":{start}{_json(image.file_name)[1:]},"object":{{{",".join(texts[first:end])}}}}},'


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def tokens_of(made: ChunkStats) -> Any:
    """``(R,)`` tokens of the piece's rows."""
    return np.frombuffer(made.tokens, np.int64)


class Parts(Sequence[Dataset]):
    """A split in parts of ``PICTURES`` each. A part is made when it is asked for, and goes when it is done with."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return math.ceil(len(self._data.images) / PICTURES)

    @overload
    def __getitem__(self, place: int) -> Dataset: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Dataset]: ...
    def __getitem__(self, place: int | slice) -> Dataset | Sequence[Dataset]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._data.slice_images(place * PICTURES, min((place + 1) * PICTURES, len(self._data.images)))

    def ends(self) -> list[int]:
        """How many pictures are done after each part."""
        many = len(self._data.images)
        return [min((place + 1) * PICTURES, many) for place in range(len(self))]
