"""prepare: COCO annotations and images to a subset, detection JSON and instruction rows, for each split.

Three steps a split: the pictures and boxes that ``[subset]`` asks for, as a smaller COCO file with its images
beside it (hard links where the file system allows, else copies); detection JSON; the rows that swift reads.
All inputs are checked before the first file is written. A split without files of its own is cut off train.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli import coco, dialects, questions, subset
from vlmdet_cli.coco import CocoFile, Image
from vlmdet_cli.errors import DataError, UsageError, first_few
from vlmdet_cli.project import SPLITS, Project, Source, Split
from vlmdet_cli.records import Ledger, Picture, lock, whole_file, write_json, write_jsonl

Progress = Callable[[str, int, int], None]


def no_progress(_title: str, _done: int, _total: int) -> None:
    """For callers who do not watch."""


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """One split's files, counts and ledger."""

    annotations: str
    detections: str
    rows: str
    pictures: int
    boxes: int
    empty: int
    linked: int
    copied: int
    categories: dict[str, int]
    ledger: dict[str, dict[str, Any]]


class PrepareResult(msgspec.Struct, frozen=True, kw_only=True):
    splits: dict[str, SplitResult]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a split keeps: a COCO file, the folder its images are in, and the account of what was dropped."""

    split: Split
    file: CocoFile
    folder: Path
    ledger: Ledger


def prepare(project: Project, progress: Progress = no_progress) -> PrepareResult:
    """All splits of the project. Raises ``DataError`` before anything is written if an input is wrong."""
    dialects.get(project.config.format.dialect)
    choices = _choices(project)
    _require_images(choices)
    with lock(project.output / "data"):
        return PrepareResult(splits={one.split: _write(project, one, progress) for one in choices})


def _choices(project: Project) -> list[Choice]:
    data, seed = project.config.data, project.config.project.seed
    given: dict[Split, Source] = {name: source for name in SPLITS if (source := getattr(data, name)) is not None}
    parts: list[tuple[Split, Source, CocoFile, list[Image]]] = []
    for name, source in given.items():
        file = _read(project, source)
        shares = subset.cut(file.images, data.split, given, seed) if name == "train" else {name: file.images}
        parts += [(split, source, file, images) for split, images in shares.items()]
    rules, choices = project.config.subset, list[Choice]()
    for split, source, file, images in sorted(parts, key=lambda part: SPLITS.index(part[0])):
        chosen, ledger = subset.choose(file, images, rules, split, seed, project.path(source.annotations))
        choices.append(Choice(split=split, file=chosen, folder=project.path(source.images), ledger=ledger))
    return choices


def _read(project: Project, source: Source) -> CocoFile:
    file, folder = coco.read(project.path(source.annotations)), project.path(source.images)
    if not folder.is_dir():
        raise DataError(f"No image folder: {folder}", hint="Correct `images` in the project file.")
    return file


def _require_images(choices: list[Choice]) -> None:
    """All images are there: one error names the first that are not and counts them all."""
    paths = [one.folder / image.file_name for one in choices for image in one.file.images]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(paths):,} images are not on disk",
            why=first_few(missing),
            hint="Correct `images` in the project file, or take the pictures out of the annotations.",
        )


def _write(project: Project, choice: Choice, progress: Progress) -> SplitResult:
    split, ledger = choice.split, choice.ledger
    linked, copied = _bring_images(choice, project.images(split), progress)
    coco.write(project.subset(split), choice.file)
    pictures = project_pictures(project, split, choice.file)
    write_json(project.detections(split), [_detections(one) for one in pictures])
    write_jsonl(project.rows(split), detection_rows(project, pictures))
    targets = Counter(o.label for one in pictures for o in one.targets)
    ledger.keep("rows", len(pictures))
    ledger.keep("boxes in answers", targets.total())
    ledger.drop("boxes in answers", "crowd", len(choice.file.annotations) - targets.total())
    return SplitResult(
        annotations=str(project.subset(split)),
        detections=str(project.detections(split)),
        rows=str(project.rows(split)),
        pictures=len(pictures),
        boxes=targets.total(),
        empty=sum(not one.targets for one in pictures),
        linked=linked,
        copied=copied,
        categories={name: targets[name] for name in choice.file.categories},
        ledger=ledger.as_dict(),
    )


def project_pictures(project: Project, split: str, file: CocoFile) -> list[Picture]:
    """A prepared split's pictures, with boxes cut off at the picture's borders and paths as rows name them."""
    return [msgspec.structs.replace(one.clipped(), image=project.image_row(split, one.image)) for one in file.pictures]


def read_split(project: Project, split: str) -> CocoFile:
    """A prepared split's COCO file, or a ``UsageError`` that says how to make it."""
    path = project.subset(split)
    if not path.is_file():
        raise UsageError(f"The split {split} is not prepared: {path}", hint="Run `vlmdet prepare` first.")
    return coco.read(path)


def detection_rows(project: Project, pictures: list[Picture]) -> list[dict[str, Any]]:
    """One instruction row a picture, in the pictures' order."""
    wanted = project.config.format
    dialect = dialects.get(wanted.dialect)
    return [questions.detection(p, dialect, wanted.prompt, wanted.order, group=wanted.group).row() for p in pictures]


def _detections(picture: Picture) -> dict[str, Any]:
    found: dict[str, list[list[float]]] = {}
    for one in picture.targets:
        found.setdefault(one.label, []).append([round(value, 2) for value in one.box])
    return {"image_path": picture.image, "object": found}


def _bring_images(choice: Choice, folder: Path, progress: Progress) -> tuple[int, int]:
    """Link or copy the chosen images; what an earlier run left there and is not chosen now goes."""
    names = {image.file_name for image in choice.file.images}
    linked = 0
    for number, image in enumerate(choice.file.images, 1):
        linked += _bring(choice.folder / image.file_name, folder / image.file_name)
        if number % 50 == 0 or number == len(names):
            progress(f"{choice.split}: images", number, len(names))
    for path in folder.rglob("*"):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
    return linked, len(names) - linked


def _bring(source: Path, target: Path) -> bool:
    """Put one image at ``target``; whether it is a hard link of ``source``."""
    if target.exists() and target.samefile(source):
        return True
    with whole_file(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            return False
    return True
