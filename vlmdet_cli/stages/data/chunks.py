"""Chunks of a split, and what ``prepare`` writes for each: annotations, detection JSON and instruction rows.

The bytes of a chunk depend on its pictures and the ``RowSettings`` alone. Files that are put together from chunks are
therefore the same however many processes compute them, and however the pictures are distributed over machines.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.rows import InstructionRow
from vlmdet_cli.core.workers import Work, WorkerPool
from vlmdet_cli.data.dataset import Column, Dataset
from vlmdet_cli.data.formats import coco_file
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.project import Format, Project
from vlmdet_cli.prompts import lengths, object_rows
from vlmdet_cli.prompts.detection import AnswerBoxes, RowPlan, answer_boxes, plan_rows
from vlmdet_cli.prompts.fitting import FittedRows, LengthLimit, RowBuilder, fit

CHUNK_PICTURES = 8192
Result = TypeVar("Result")


def split_into_chunks(data: Dataset) -> list[Dataset]:
    """The pictures in their order, ``CHUNK_PICTURES`` in each chunk; the columns are views."""
    count = len(data.images)
    return [data.slice_images(first, min(first + CHUNK_PICTURES, count)) for first in range(0, count, CHUNK_PICTURES)]


def write_chunks(
    pool: WorkerPool,
    work: Work[Dataset, Result],
    data: Dataset,
    files: Sequence[Path],
    progress: Callable[[int, int], None],
) -> list[Result]:
    """Append what ``work`` writes for each chunk of ``data`` to ``files``; see ``WorkerPool.write``."""
    count = len(data.images)
    return pool.write(
        work, split_into_chunks(data), files, lambda done: progress(min(done * CHUNK_PICTURES, count), count)
    )


class RowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of a split depend on beside its pictures.

    ``images`` is the path that precedes file names in rows. ``system``: the system prompt, None for the family's own.
    ``count_all``: whether the tokens of every row are counted, not only of those that may be too long.
    """

    split: str
    images: str
    format: Format
    seed: int
    family: str
    dialect_name: str
    model: str
    max_pixels: int | None
    system: str | None
    max_length: int
    count_all: bool = False

    @property
    def dialect(self) -> Dialect:
        return dialects.get(self.dialect_name, self.max_pixels)

    @property
    def length_limit(self) -> LengthLimit:
        family = registry.get(self.family).configured(Path(self.model))
        counter = lengths.token_counter(family, self.model, self.max_pixels, self.system)
        return LengthLimit(counter, self.max_length, self.count_all)


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
        system=project.system,
        max_length=config.train.max_length,
        count_all=count_all,
    )


def lengths_warning(project: Project) -> str:
    """Where vlmdet cannot count the tokens of rows."""
    if project.family.is_known:
        return ""
    return (
        "vlmdet has no module for this model's family: the tokens of rows are not counted, and format.too_long does "
        "nothing. Training stops at a row over train.max_length; with train.swift.strict = false swift leaves it out."
    )


class ChunkStats(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a chunk, and what the end of the subset file holds of it.

    ``tokens``: of each row, as int64; an upper bound where a row is not counted. ``asked`` of the ``targets`` belong
    to categories that some row asks for, and ``boxes`` of them are in answers. ``long``: rows over the limit, of which
    ``dropped`` have no row at all. ``silent``: pictures without a row, because there is no category to ask for.
    """

    subset: coco_file.FileParts
    tokens: bytes
    targets: int
    asked: int
    boxes: int
    long: int
    dropped: int
    silent: int


def token_counts(stats: Sequence[ChunkStats]) -> npt.NDArray[np.int64]:
    """``(R,)`` tokens of all rows of the chunks."""
    return np.frombuffer(b"".join(chunk.tokens for chunk in stats), np.int64)


def detection_chunk(settings: RowSettings, data: Dataset) -> tuple[tuple[bytes, bytes, bytes], ChunkStats]:
    """A chunk's bytes for the subset's annotations, for detection JSON and for the rows; and its counts."""
    with no_collection():
        detection, subset = detection_rows(data, settings), coco_file.file_parts(data)
        contents = (
            subset.annotations,
            _detection_entries(data, detection.boxes, settings.images),
            b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in detection.rows]),
        )
        return contents, _stats(data, detection, subset._replace(annotations=b""))


class DetectionRows(NamedTuple):
    """Rows as swift reads them, with the plans they come from: as asked for, and as fitted to the length limit."""

    rows: list[dict[str, Any]]
    plans: list[RowPlan]
    fitted: FittedRows
    boxes: AnswerBoxes


def _stats(data: Dataset, detection: DetectionRows, subset: coco_file.FileParts) -> ChunkStats:
    return ChunkStats(
        subset=subset,
        tokens=detection.fitted.tokens.tobytes(),
        targets=len(detection.boxes.labels),
        asked=sum(len(plan.targets) for plan in detection.plans),
        boxes=sum(len(plan.targets) for plan in detection.fitted.plans),
        long=detection.fitted.over_limit,
        dropped=detection.fitted.dropped,
        silent=len(data.images) - len({plan.picture for plan in detection.plans}),
    )


def detection_rows(data: Dataset, settings: RowSettings) -> DetectionRows:
    """The detection rows of pictures; rows of train over the length limit are changed as ``format.too_long`` says."""
    dialect, format_ = settings.dialect, settings.format
    boxes = answer_boxes(data, dialect, format_.order, settings.seed)
    builder = RowBuilder(data, boxes, dialect, format_, settings.seed)
    planned = list(plan_rows(data, builder.boxes, format_, settings.seed))
    fitted = fit(builder, planned, settings.length_limit, shorten=settings.split == "train")
    rows = _objects_rows if format_.rows == "objects" else _text_rows
    return DetectionRows(list(rows(builder, fitted, settings)), planned, fitted, builder.boxes)


def _text_rows(builder: RowBuilder, fitted: FittedRows, settings: RowSettings) -> Iterator[dict[str, Any]]:
    images = builder.data.images
    for plan, answer in zip(fitted.plans, fitted.answers, strict=True):
        image = settings.images + images[plan.picture].file_name
        row = InstructionRow(image=image, prompt=f"<image>{plan.prompt}", answer=answer).row()
        yield _with_asked(row, plan, settings)


def _objects_rows(builder: RowBuilder, fitted: FittedRows, settings: RowSettings) -> Iterator[dict[str, Any]]:
    """The same rows with swift's placeholders for labels and boxes."""
    data, dialect, all_boxes = builder.data, builder.dialect, builder.boxes
    sizes = np.repeat(data.sizes, np.diff(all_boxes.starts), axis=0)
    pixels = object_rows.pixels(all_boxes.pixel_boxes, sizes, dialect).tolist()
    for plan in fitted.plans:
        first = all_boxes.starts[plan.picture]
        objects = [(all_boxes.labels[first + index], tuple(pixels[first + index])) for index in plan.targets]
        answer, boxes = object_rows.detection(objects, dialect, group=settings.format.group)
        image = settings.images + data.images[plan.picture].file_name
        row = object_rows.placed(image, f"<image>{plan.prompt}", answer, boxes, dialect)
        yield _with_asked(row, plan, settings)


def _with_asked(row: dict[str, Any], plan: RowPlan, settings: RowSettings) -> dict[str, Any]:
    """The row with the categories that it asks for, for evaluation; rows of train have swift's columns alone."""
    return row if settings.split == "train" or plan.asked is None else row | {"asked": plan.asked}


def _detection_entries(data: Dataset, all_boxes: AnswerBoxes, images: str) -> bytes:
    """The entries of detection JSON, each followed by a comma; the labels of a picture in the data set's order.

    They are put together of texts: all boxes as one JSON list, cut apart, and before each box what leads to it. A
    dictionary for each picture takes three times as long.
    """
    picture = np.repeat(np.arange(len(data.images)), np.diff(all_boxes.starts))
    group = picture * len(data.labels) + all_boxes.label_indices  # the boxes of one label in one picture
    order = np.argsort(group, kind="stable")
    boxes = orjson.dumps(all_boxes.pixel_boxes[order].round(2), option=orjson.OPT_SERIALIZE_NUMPY)
    texts = [""] * (2 * len(order))
    texts[::2] = _before_boxes(data.labels, all_boxes.label_indices[order], picture, group[order])
    texts[1::2] = boxes[2:-2].decode().split("],[") if len(order) else []
    entries = list[str]()
    for image, first, last in zip(data.images, all_boxes.starts, all_boxes.starts[1:], strict=False):
        path, objects = _json(images + image.file_name), "".join(texts[2 * first : 2 * last])
        entries.append(f'{{"image_path":{path},"object":{{{objects}{"]]" * (first < last)}}}}},')
    return "".join(entries).encode()


def _before_boxes(labels: Sequence[str], label: Column, picture: Column, group: Column) -> list[str]:
    """The text from the end of the previous box, without its bracket, to the numbers of each of N boxes.

    ``label``, ``picture`` and ``group`` are (N,); the boxes of a picture, and within it those of a group, are together.
    """
    names = list(map(_json, labels))
    texts = ["],[", *(f"{name}:[[" for name in names), *(f"]],{name}:[[" for name in names)]
    starts_picture, starts_group = np.diff(picture, prepend=-1) != 0, np.diff(group, prepend=-1) != 0
    index = np.where(starts_picture, 1 + label, np.where(starts_group, 1 + len(names) + label, 0))
    before: list[str] = np.array(texts, object)[index].tolist()
    return before


def _json(text: str) -> str:
    return orjson.dumps(text).decode()
