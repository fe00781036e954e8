"""prepare: data sets as they come to a subset, detection JSON and instruction rows, for each split.

A split gets the pictures and boxes that ``[subset]`` asks for, as a smaller COCO file with its images beside it (hard
links where the file system allows, else copies); detection JSON; the rows that swift reads. All inputs are checked
before the first file is written (see ``gather``). A split without files of its own is cut off train.
"""

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core import workers
from vlmdet_cli.core.files import whole_file, write_json, write_jsonl
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.workers import Crew
from vlmdet_cli.data import duplicates, formats
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.data.formats import coco_file, yolo
from vlmdet_cli.data.image_import import materialize_all
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Project
from vlmdet_cli.prompts import object_rows
from vlmdet_cli.prompts.detection import CLASSES
from vlmdet_cli.stages import chunks, split_selection
from vlmdet_cli.stages.chunks import RowSettings
from vlmdet_cli.stages.data_report import DataReport, mix_of
from vlmdet_cli.stages.data_report import report as data_report
from vlmdet_cli.stages.split_selection import Progress, SplitSelection, no_progress


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """One split's files, counts and ledger. ``tokens``: the longest row's, ``exact`` or as an upper bound."""

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


def prepare(project: Project, progress: Progress = no_progress, *, report: bool = False) -> PrepareResult:
    """All splits of the project. Raises ``DataError`` before anything is written if an input is wrong.

    With ``report`` all pictures are decoded, too, and looked at for others that are alike.
    """
    _check_format(project)
    with workers.Crew(project.config.data.workers, chunks.__name__) as crew, no_collection():
        chosen = split_selection.choices(project, progress, crew.expect)
        with lock(project.texts / "data"):
            return _write_all(project, chosen, crew, progress, report=report)


def _write_all(
    project: Project, chosen: list[SplitSelection], crew: Crew, progress: Progress, *, report: bool
) -> PrepareResult:
    results, tokens = dict[str, SplitResult](), dict[str, Any]()
    for one in chosen:
        how = chunks.row_settings(project, one.split, count_all=report)
        results[one.split], tokens[one.split] = _write(project, one, how, crew, progress)
    if "yolo" in project.config.format.extra_formats:
        _write_yolo(project, chosen)
    made = _report(project, chosen, tokens, progress) if report else None
    return PrepareResult(splits=results, report=made)


def _report(project: Project, chosen: list[SplitSelection], tokens: dict[str, Any], progress: Progress) -> DataReport:
    pictures: dict[str, list[tuple[str, Path]]] = {
        one.split: [(image.file_name, Path(path)) for image, path in zip(one.data.images, one.paths(), strict=True)]
        for one in chosen
    }
    alike = duplicates.find_duplicates(pictures, lambda done, total: progress("alike", done, total))
    counter = chunks.row_settings(project, "train").guard.counter
    made = data_report(
        {one.split: one.data for one in chosen},
        tokens,
        limit=project.config.train.max_length,
        exact=counter.exact,
        likeness=alike,
        mix=mix_of(project.train_file) if project.train_file.is_file() else None,
    )
    write_json(project.data_report, made)
    return made


def _write_yolo(project: Project, chosen: list[SplitSelection]) -> None:
    """Labels, ``data.yaml``, and links to the pictures where readers of YOLO look for them."""
    for one in chosen:
        yolo.write_labels(project.yolo / "labels" / one.split, one.data)
        _symlink(project.yolo / "images" / one.split, project.images(one.split))
    names = next(one.data.categories for one in chosen)
    yolo.write_yaml(project.yolo / "data.yaml", names, {one.split: f"images/{one.split}" for one in chosen})


def _check_format(project: Project) -> None:
    wanted = project.config.format
    dialect = dialects.get(project.dialect_name)
    if wanted.rows == "objects":
        object_rows.check(dialect)
    names = wanted.ask != "all" or wanted.too_long == "split"
    wrong = [text for text in wanted.class_prompts if CLASSES not in text]
    if names and wrong:
        raise UsageError(
            "format.class_prompt does not name the classes", why=wrong, hint=f"Put {CLASSES} where they shall stand."
        )


def _write(
    project: Project, choice: SplitSelection, how: RowSettings, crew: Crew, progress: Progress
) -> tuple[SplitResult, Any]:
    split, data, ledger = choice.split, choice.data, choice.ledger
    brought = _bring_images(project, choice, progress)
    made = _write_texts(project, choice, how, crew, progress)
    _account(made, data, ledger)
    tokens = np.concatenate([np.empty(0, np.int64), *(chunks.tokens_of(one) for one in made)])
    named = data.is_target
    counts = np.bincount(data.label[named], minlength=len(data.labels)).tolist()
    result = SplitResult(
        annotations=str(project.subset(split)),
        detections=str(project.detections(split)),
        rows=str(project.rows(split)),
        pictures=len(data.images),
        boxes=sum(counts),
        empty=int(np.count_nonzero(np.bincount(data.image[named], minlength=len(data.images)) == 0)),
        **brought,
        categories=dict(zip(data.categories, counts, strict=False)),
        tokens=int(tokens.max(initial=0)),
        exact=how.guard.counter.exact,
        ledger=ledger.as_dict(),
        skipped=_skipped(project, choice),
    )
    return result, tokens


def _write_texts(
    project: Project, choice: SplitSelection, how: RowSettings, crew: Crew, progress: Progress
) -> list[chunks.ChunkStats]:
    """Write the split's three files, piece by piece, and give the account of each piece."""
    split = choice.split
    parts, made = chunks.Parts(choice.data), list[chunks.ChunkStats]()
    with contextlib.ExitStack() as files:
        paths = (project.subset(split), project.detections(split), project.rows(split))
        written = [files.enter_context(whole_file(path)) for path in paths]
        for file, head in zip(written, (coco_file.head(choice.data), b"[", b""), strict=True):
            file.write_bytes(head)
        for one in crew.written(functools.partial(chunks.piece, how), parts, written):
            if one.long and how.format.too_long == "stop" and split == "train":
                raise _too_long(one, how)
            made.append(one)
            progress(f"{split}: rows", parts.ends()[len(made) - 1], len(choice.data.images))
        _end(written[0], coco_file.tail([one.subset for one in made]))
        _end(written[1], b"]\n")
    return made


def _end(file: Path, tail: bytes) -> None:
    """Put the end to a JSON list: in place of the comma behind its last entry, if there is one."""
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.seek(-1 if opened.read(1) == b"," else 0, os.SEEK_END)
        opened.write(tail)
        opened.truncate()


def _too_long(one: chunks.ChunkStats, how: chunks.RowSettings) -> DataError:
    sure = "" if how.guard.counter.exact else " or may be"
    return DataError(
        f"Rows are{sure} longer than train.max_length = {how.max_length} tokens: {one.long:,} and perhaps more",
        why=f"The longest has {int(chunks.tokens_of(one).max()):,} tokens.",
        hint='Raise train.max_length, lower subset.max_objects, or set format.too_long = "split".',
    )


def _account(made: list[chunks.ChunkStats], data: Dataset, ledger: Ledger) -> None:
    """Rows and the boxes in them: every one is kept, or dropped for a reason."""
    names = ("targets", "asked", "boxes", "long", "dropped", "silent")
    total = {name: sum(getattr(one, name) for one in made) for name in names}
    ledger.keep("rows", sum(len(chunks.tokens_of(one)) for one in made))
    ledger.drop("rows", "over max_length", total["dropped"])
    ledger.drop("rows", "no class to ask for", total["silent"])
    ledger.keep("boxes in answers", total["boxes"])
    ledger.drop("boxes in answers", "crowd", int(np.count_nonzero((data.drop_reason == 0) & data.crowd)))
    ledger.drop("boxes in answers", "class not asked for", total["targets"] - total["asked"])
    ledger.drop("boxes in answers", "over max_length", total["asked"] - total["boxes"])
    if total["long"]:
        ledger.keep("rows over max_length", total["long"] - total["dropped"])
        ledger.drop("rows over max_length", "dropped", total["dropped"])


def _skipped(project: Project, choice: SplitSelection) -> str | None:
    """The list of all that was left out as wrong, one a line."""
    path = project.skipped(choice.split)
    if not choice.issues:
        path.unlink(missing_ok=True)
        return None
    write_jsonl(path, [one.row() for one in choice.issues if not one.is_consequence])
    return str(path)


def read_split(project: Project, split: str) -> Dataset:
    """A prepared split, or a ``UsageError`` that says how to make it."""
    path = project.subset(split)
    if not path.is_file():
        raise UsageError(f"The split {split} is not prepared: {path}", hint="Run `vlmdet prepare` first.")
    return formats.read_strict(path)


# --- images --------------------------------------------------------------------------------------------------


def _bring_images(project: Project, choice: SplitSelection, progress: Progress) -> dict[str, int]:
    """Link, copy or mend the chosen images; what an earlier run left there and is not chosen now goes."""
    folder, how = project.images(choice.split), project.config.data.images
    if how == "folder":
        _link_folders(folder, choice)
        return {"linked": len(choice.data.images), "copied": 0, "mended": 0}
    # never write, or clean, through a link that an earlier run set to the user's own folder
    for link in [folder, *(folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ())]:
        if link.is_symlink():
            link.unlink()
    names = [image.file_name for image in choice.data.images]
    pairs = [
        (Path(path), folder / name, choice.mending.get(name, ()))
        for path, name in zip(choice.paths(), names, strict=True)
    ]
    brought = materialize_all(pairs, how, lambda done, total: progress(f"{choice.split}: images", done, total))
    if project.shard is None:  # other shards bring theirs to the same folder
        _clean(folder, set(names))
    return brought


def _clean(folder: Path, names: set[str]) -> None:
    """Remove what is not among the names; links are removed, not followed."""
    for place, _, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        for name in files:
            if (inside / name).as_posix() not in names:
                (Path(place) / name).unlink()


def _link_folders(folder: Path, choice: SplitSelection) -> None:
    """Symbolic links to the image folders, relative, so that the project can be moved together with them."""
    if folder.exists() and not folder.is_symlink():
        shutil.rmtree(folder)
    elif "" not in choice.folders:
        folder.unlink(missing_ok=True)
    for prefix, source in choice.folders.items():
        _symlink(folder / prefix if prefix else folder, source)


def _symlink(link: Path, folder: Path) -> None:
    """A relative link to a folder, in place of an earlier one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(link) as temporary:
        temporary.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)
