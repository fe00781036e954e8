"""prepare: data sets as users have them become a subset, detection JSON and instruction rows, for each split.

A split gets the pictures and boxes that ``[subset]`` keeps, as a smaller COCO file with its pictures beside it (hard
links where the file system allows, else copies); detection JSON; the rows that swift reads. A split without files of
its own is cut off train. All inputs are checked before the first file is written (see ``split_selection``), and all
texts are complete under temporary names before a picture or a file of an earlier run is replaced.
"""

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.files import whole_file, write_json, write_jsonl
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.workers import WorkerPool
from vlmdet_cli.data import duplicates, formats
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.data.formats import coco_file, yolo
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Project
from vlmdet_cli.prompts import object_rows
from vlmdet_cli.prompts.detection import CLASSES
from vlmdet_cli.stages.data import chunks, shards
from vlmdet_cli.stages.data.chunks import ChunkStats, RowSettings
from vlmdet_cli.stages.data.data_report import DataReport
from vlmdet_cli.stages.data.data_report import report as data_report
from vlmdet_cli.stages.data.row_kinds import count_kinds
from vlmdet_cli.stages.data.split_images import import_images, link_folder, remove_other_images
from vlmdet_cli.stages.data.split_selection import Progress, SplitSelection, no_progress, select_splits


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """A split's files, counts and ledger. ``tokens``: those of the longest row, ``exact`` or as an upper bound; 0 where
    they are not known.
    """

    annotations: str
    detections: str
    rows: str
    pictures: int
    boxes: int
    empty: int
    linked: int
    copied: int
    mended: int
    categories: dict[str, int]
    tokens: int
    exact: bool
    ledger: dict[str, dict[str, Any]]
    skipped: str | None = None


class PrepareResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    splits: dict[str, SplitResult]
    report: DataReport | None = None
    warnings: tuple[str, ...] = ()


def prepare(project: Project, progress: Progress = no_progress, *, report: bool = False) -> PrepareResult:
    """Prepare all splits of the project, or of its shard.

    With ``report`` all rows are counted, all pictures are decoded, and near duplicates are searched for. Raises
    ``DataError`` and ``UsageError`` before anything is replaced; ``EngineError`` if a worker is killed.
    """
    _check_format(project)
    with WorkerPool(project.config.data.workers) as pool, no_collection():
        selections = select_splits(project, progress)
        with lock(project.texts / "data"):
            return _prepare(project, selections, pool, progress, report=report)


def _prepare(
    project: Project, selections: list[SplitSelection], pool: WorkerPool, progress: Progress, *, report: bool
) -> PrepareResult:
    settings = {
        selection.split: chunks.row_settings(project, selection.split, count_all=report) for selection in selections
    }
    stats, images = dict[str, list[ChunkStats]](), dict[str, dict[str, int]]()
    with contextlib.ExitStack() as files:  # the files get their names when the block ends well
        for selection in selections:
            stats[selection.split] = _write_texts(project, selection, settings[selection.split], pool, files, progress)
        shards.forget(project)
        for selection in selections:
            images[selection.split] = import_images(project, selection, progress)
    for selection in selections:
        remove_other_images(project, selection)
    if "yolo" in project.config.format.extra_formats:
        _write_yolo(project, selections)
    results: dict[str, SplitResult] = {
        selection.split: _result(project, selection, settings[selection.split], stats[selection.split], images)
        for selection in selections
    }
    tokens = {split: chunks.token_counts(chunk_stats) for split, chunk_stats in stats.items()}
    made_report = _write_report(project, selections, tokens, progress) if report else None
    shards.mark_prepared(project)
    warnings = (_pictures_too_large(selection, settings[selection.split]) for selection in selections)
    return PrepareResult(splits=results, report=made_report, warnings=tuple(filter(None, warnings)))


def read_split(project: Project, split: str, *, objects: bool = True) -> Dataset:
    """A prepared split, put together from shards where it was prepared in shards; without ``objects`` its pictures and
    categories alone.

    Raises ``UsageError``, which names the command to run, where it is not prepared.
    """
    shards.join(project, questions=False)
    path = project.subset(split)
    if not path.is_file():
        command = "vlmdet prepare" + (f" --shard {project.shard[0]}/{project.shard[1]}" if project.shard else "")
        raise UsageError(f"The split {split} is not prepared: {path}", hint=f"Run `{command}` first.")
    return formats.read_strict(path) if objects else formats.read_pictures(path)


def _check_format(project: Project) -> None:
    format_ = project.config.format
    dialect = dialects.get(project.dialect_name)
    if format_.rows == "objects":
        object_rows.check(dialect)
        project.family.objects_environment(project.dialect_name)
    asks_for_classes = format_.ask != "all" or format_.too_long == "split"
    wrong = [text for text in format_.class_prompts if CLASSES not in text]
    if asks_for_classes and wrong:
        raise UsageError(
            "format.class_prompt does not name the classes", why=wrong, hint=f"Put {CLASSES} where they belong."
        )


# --- texts ---------------------------------------------------------------------------------------------------


def _write_texts(
    project: Project,
    selection: SplitSelection,
    settings: RowSettings,
    pool: WorkerPool,
    files: contextlib.ExitStack,
    progress: Progress,
) -> list[ChunkStats]:
    """Write the split's three files under temporary names, which ``files`` renames; the counts of each chunk."""
    split, data = selection.split, selection.data
    paths = (project.subset(split), project.detections(split), project.rows(split))
    written = [files.enter_context(whole_file(path)) for path in paths]
    for file, head in zip(written, (coco_file.head(data), b"[", b""), strict=True):
        file.write_bytes(head)
    stats = chunks.write_chunks(
        pool,
        functools.partial(chunks.detection_chunk, settings),
        data,
        written,
        lambda done, total: progress(f"{split}: rows", done, total),
    )
    if settings.format.too_long == "stop" and any(chunk.long for chunk in stats):
        raise _too_long(stats, settings)
    _close_list(written[0], coco_file.tail([chunk.subset for chunk in stats]))
    _close_list(written[1], b"]\n")
    return stats


def _close_list(file: Path, tail: bytes) -> None:
    """End a JSON list: the tail replaces the comma after its last entry, if it has one."""
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.seek(-1 if opened.read(1) == b"," else 0, os.SEEK_END)
        opened.write(tail)
        opened.truncate()


def _too_long(stats: Sequence[ChunkStats], settings: RowSettings) -> DataError:
    certain = "" if settings.length_limit.counter.exact else " or may be"
    return DataError(
        f"{sum(chunk.long for chunk in stats):,} rows are{certain} longer than "
        f"train.max_length = {settings.max_length} tokens",
        why=f"The longest has {int(chunks.token_counts(stats).max()):,} tokens.",
        hint='Raise train.max_length, lower subset.max_objects, or set format.too_long = "split".',
    )


def _pictures_too_large(selection: SplitSelection, settings: RowSettings) -> str:
    """Where pictures of train take a whole row's tokens: no row about them can be trained on."""
    tokens = settings.length_limit.counter.pictures(selection.data.sizes)
    too_large = int(np.count_nonzero(tokens >= settings.max_length))
    if not too_large or selection.split != "train":
        return ""
    return (
        f"{too_large:,} of {len(tokens):,} pictures of train take up to {int(tokens.max()):,} tokens without any text, "
        f"and train.max_length is {settings.max_length:,}: there is no row about them. Raise it, or lower "
        "train.swift.max_pixels; `vlmdet init --model NAME` writes what fits a model."
    )


# --- results -------------------------------------------------------------------------------------------------


def _result(
    project: Project,
    selection: SplitSelection,
    settings: RowSettings,
    stats: Sequence[ChunkStats],
    images: dict[str, dict[str, int]],
) -> SplitResult:
    split, data = selection.split, selection.data
    _count_rows(stats, data, selection.ledger)
    targets = data.is_target
    counts = np.bincount(data.label[targets], minlength=len(data.labels)).tolist()
    return SplitResult(
        annotations=str(project.subset(split)),
        detections=str(project.detections(split)),
        rows=str(project.rows(split)),
        pictures=len(data.images),
        boxes=sum(counts),
        empty=int(np.count_nonzero(np.bincount(data.image[targets], minlength=len(data.images)) == 0)),
        **images[split],
        categories=dict(zip(data.categories, counts, strict=False)),
        tokens=int(chunks.token_counts(stats).max(initial=0)),
        exact=settings.length_limit.counter.exact,
        ledger=selection.ledger.as_dict(),
        skipped=_write_skipped(project, selection),
    )


def _count_rows(stats: Sequence[ChunkStats], data: Dataset, ledger: Ledger) -> None:
    """Rows, and the boxes in their answers: each is kept, or dropped for a reason."""
    names = ("targets", "asked", "boxes", "long", "dropped", "silent")
    total = {name: sum(getattr(chunk, name) for chunk in stats) for name in names}
    ledger.keep("rows", len(chunks.token_counts(stats)))
    ledger.drop("rows", "over max_length", total["dropped"])
    ledger.drop("rows", "no class to ask for", total["silent"])
    ledger.keep("boxes in answers", total["boxes"])
    ledger.drop("boxes in answers", "crowd", int(np.count_nonzero((data.drop_reason == 0) & data.crowd)))
    ledger.drop("boxes in answers", "class not asked for", total["targets"] - total["asked"])
    ledger.drop("boxes in answers", "over max_length", total["asked"] - total["boxes"])
    if total["long"]:
        ledger.keep("rows over max_length", total["long"] - total["dropped"])
        ledger.drop("rows over max_length", "dropped", total["dropped"])


def _write_skipped(project: Project, selection: SplitSelection) -> str | None:
    """The list of the wrong entries that were left out, one in each line."""
    path = project.skipped(selection.split)
    if not selection.issues:
        path.unlink(missing_ok=True)
        return None
    write_jsonl(path, [issue.row() for issue in selection.issues if not issue.is_consequence])
    return str(path)


def _write_report(
    project: Project,
    selections: Sequence[SplitSelection],
    tokens: dict[str, npt.NDArray[np.int64]],
    progress: Progress,
) -> DataReport:
    pictures: dict[str, list[tuple[str, Path]]] = {
        selection.split: [
            (image.file_name, Path(path))
            for image, path in zip(selection.data.images, selection.image_paths(), strict=True)
        ]
        for selection in selections
    }
    counter = chunks.row_settings(project, "train").length_limit.counter
    report = data_report(
        {selection.split: selection.data for selection in selections},
        tokens if counter.counts else {},
        limit=project.config.train.max_length,
        exact=counter.exact,
        duplicates=duplicates.find_duplicates(pictures, lambda done, total: progress("duplicates", done, total)),
        rows_by_kind=count_kinds(project.train_file) if project.train_file.is_file() else None,
    )
    write_json(project.data_report, report)
    return report


def _write_yolo(project: Project, selections: Sequence[SplitSelection]) -> None:
    """Labels, ``data.yaml``, and links to the pictures where readers of YOLO search for them."""
    for selection in selections:
        yolo.write_labels(project.yolo / "labels" / selection.split, selection.data)
        link_folder(project.yolo / "images" / selection.split, project.images(selection.split))
    splits: dict[str, str] = {selection.split: f"images/{selection.split}" for selection in selections}
    yolo.write_yaml(project.yolo / "data.yaml", selections[0].data.categories, splits)
