"""What each split is made of: sources are read and joined, the subset is selected, pictures on disk are checked.

Every wrong entry is detected here, before the first file is written. With ``data.on_error = "stop"`` it is an error
that counts all entries and names the first; with ``"skip"`` the entry is left out, counted in the ledger with its
reason, and listed with its position in ``SplitSelection.issues``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.data import dataset, formats, image_checks, image_files, subset
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.image_import import Fixes, required_fixes
from vlmdet_cli.errors import DataError, UsageError, first_few, nearest
from vlmdet_cli.project import SPLITS, Project, Source, Split

Progress = Callable[[str, int, int], None]  # a title, the number done, and the number of all
OTHER_SHARD = "in another shard"


def no_progress(_title: str, _done: int, _total: int) -> None:
    """For callers that show no progress."""


class SplitSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures and boxes of a split.

    ``folders``: where its pictures are, by the prefix of their names ("" for a single source); ``fixes``: what a
    picture needs before a model may see it, by file name.
    """

    split: Split
    data: Dataset
    folders: dict[str, Path]
    ledger: Ledger
    issues: list[AnnotationIssue]
    fixes: dict[str, Fixes]

    def image_paths(self) -> list[str]:
        """The path of each picture of the source."""
        if "" in self.folders:
            start = f"{self.folders['']}/"
            return [start + image.file_name for image in self.data.images]
        starts = {f"{prefix}/": f"{folder}/" for prefix, folder in self.folders.items()}
        names = (image.file_name.partition("/") for image in self.data.images)
        return [starts[prefix + slash] + rest for prefix, slash, rest in names]


class _JoinedSources(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of a split as one data set. ``file``: the file that messages name."""

    data: Dataset
    folders: dict[str, Path]
    issues: list[AnnotationIssue]
    file: Path


def select_splits(project: Project, progress: Progress = no_progress) -> list[SplitSelection]:
    """The selection of each split, in the order of ``SPLITS``. Writes nothing; raises ``DataError``, ``UsageError``."""
    settings, seed = project.config.data, project.config.project.seed
    given = [split for split in SPLITS if settings.sources(split)]
    candidates: list[tuple[Split, Dataset, _JoinedSources]] = []
    source_labels = set[str]()
    for split in given:
        joined = _read_sources(project, split, source_labels)
        parts = (
            subset.split_train(joined.data, settings.split, given, seed) if split == "train" else {split: joined.data}
        )
        candidates += [
            (name, part, joined if name == split else msgspec.structs.replace(joined, issues=[]))
            for name, part in parts.items()
        ]
    _check_renamed_categories(settings.categories, source_labels)
    candidates.sort(key=lambda candidate: SPLITS.index(candidate[0]))
    return [_check_pictures(project, _select(project, *candidate), progress) for candidate in candidates]


def _select(project: Project, split: Split, data: Dataset, joined: _JoinedSources) -> SplitSelection:
    """What ``[subset]`` keeps of a split's pictures and boxes, of the project's shard alone."""
    ledger = Ledger()
    for (kind, reason), count in formats.count_issues(joined.issues).items():
        ledger.drop(kind, reason, count)
    selected, ledger = subset.select(
        data, project.config.subset, split, project.config.project.seed, joined.file, ledger
    )
    return SplitSelection(
        split=split,
        data=_shard_of(project, selected, ledger),
        folders=joined.folders,
        ledger=ledger,
        issues=list(joined.issues),
        fixes={},
    )


def _shard_of(project: Project, data: Dataset, ledger: Ledger) -> Dataset:
    """The pictures of the project's shard, by a hash of their ids; all of them where it has none."""
    if project.shard is None:
        return data
    number, count = project.shard
    hashes = dataset.image_hashes(data.images, 0, "shard")
    part = data.select_images(np.flatnonzero(hashes % np.uint64(count) == number - 1))
    ledger.move("pictures", OTHER_SHARD, len(data.images) - len(part.images))
    ledger.move("boxes", OTHER_SHARD, _kept_boxes(data) - _kept_boxes(part))
    return part


def _kept_boxes(data: Dataset) -> int:
    return int(np.count_nonzero(data.drop_reason == 0))


# --- sources -------------------------------------------------------------------------------------------------


def _read_sources(project: Project, split: Split, source_labels: set[str]) -> _JoinedSources:
    """The sources of a split; their own category names are added to ``source_labels``."""
    sources, settings = project.config.data.sources(split), project.config.data
    parts, folders, issues = dict[str, Dataset](), dict[str, Path](), list[AnnotationIssue]()
    for prefix, source in zip(_prefixes(split, sources), sources, strict=True):
        annotations, images = project.path(source.annotations), _image_folder(project, source)
        folders[prefix] = formats.picture_folder(annotations, images, split, source.format)
        own_issues: list[AnnotationIssue] = []
        data = formats.read(annotations, images, split, own_issues, source.format)
        if settings.on_error == "stop":
            formats.raise_issues(own_issues, annotations, 'Correct or remove them, or set data.on_error = "skip".')
        source_labels.update(data.labels)
        parts[prefix] = dataset.rename_categories(data, settings.categories)
        issues += [issue._replace(where=f"{source.annotations}: {issue.where}") for issue in own_issues]
    first_file = project.path(sources[0].annotations)
    return _JoinedSources(data=dataset.concatenate(parts), folders=folders, issues=issues, file=first_file)


def _prefixes(split: Split, sources: Sequence[Source]) -> list[str]:
    """The prefix of each source's file names; "" for a single source. Raises ``UsageError``."""
    if len(sources) == 1:
        return [""]
    names = [source.name or str(number) for number, source in enumerate(sources, 1)]
    wrong = [name for name in names if dataset.escapes_folder(name) or "/" in name]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if wrong or repeated:
        raise UsageError(
            f"Each source of {split} needs a name of its own",
            why=[*(f"{name!r} cannot be the name of a folder" for name in wrong),
                 *(f"{name!r} appears {names.count(name)} times" for name in repeated)],
            hint=f'Give each of [[data.{split}]] its own `name = "..."`.',
        )  # fmt: skip
    return names


def _image_folder(project: Project, source: Source) -> Path | None:
    if not source.images:
        return None
    folder = project.path(source.images)
    if not folder.is_dir():
        raise DataError(f"No image folder: {folder}", hint="Correct `images` in the project file.")
    return folder


def _check_renamed_categories(renamed: Mapping[str, str], source_labels: set[str]) -> None:
    """Raises ``UsageError`` where ``data.categories`` renames a category that no source has."""
    wrong = [name for name in renamed if name not in source_labels]
    if wrong:
        raise UsageError(
            "data.categories names what no source has",
            why=[nearest(name, source_labels) for name in wrong],
            hint=f"They have: {', '.join(sorted(source_labels))}.",
        )


# --- pictures on disk ----------------------------------------------------------------------------------------


def _check_pictures(project: Project, selection: SplitSelection, progress: Progress) -> SplitSelection:
    """The selection without the pictures that cannot be used, and with the fixes that the others need."""
    settings = project.config.data
    paths = selection.image_paths()
    reasons, fixes = _picture_problems(selection, paths, settings.check, progress)
    if reasons and settings.on_error == "stop":
        raise _unusable_pictures(reasons, paths)
    if fixes and settings.images == "folder":
        raise DataError(
            f"{len(fixes):,} pictures of {selection.split} cannot be used as they are",
            why=first_few([f"{name}: must be {', '.join(needed)}" for name, needed in fixes.items()]),
            hint='A linked folder cannot hold changed pictures: set data.images = "link".',
        )
    remaining = _without_pictures(selection, reasons, paths)
    if reasons and not len(remaining.data.images) and project.shard is None:
        raise DataError(f"No picture of {selection.split} can be used", why=first_few(
            [f"{paths[index]}: {reason}" for index, reason in reasons.items()]), hint="Repair them.")  # fmt: skip
    return msgspec.structs.replace(remaining, fixes=fixes)


def _picture_problems(
    selection: SplitSelection, paths: Sequence[str], check: str, progress: Progress
) -> tuple[dict[int, str], dict[str, Fixes]]:
    """Why pictures cannot be used, by index; and what the others need, by file name."""
    if check == "none":
        return dict.fromkeys(image_checks.missing_files(paths), image_files.MISSING), {}
    images, files, split = selection.data.images, list(map(Path, paths)), selection.split
    headers = image_checks.read_headers(files, lambda done, total: progress(f"{split}: headers", done, total))
    reasons, fixes, doubtful = dict[int, str](), dict[str, Fixes](), list[int]()
    for index, (header, image) in enumerate(zip(headers, images, strict=True)):
        try:
            needed = required_fixes(_valid_header(header), (image.width, image.height))
        except image_files.Unreadable as error:
            reasons[index] = str(error)
            continue
        if needed:
            fixes[image.file_name] = needed
        if check == "pixels" or needed or image_files.looks_truncated(files[index]):
            doubtful.append(index)
    errors = image_checks.decode_errors(
        [files[index] for index in doubtful], lambda done, total: progress(f"{split}: pixels", done, total)
    )
    reasons |= {index: error for index, error in zip(doubtful, errors, strict=True) if error}
    return dict(sorted(reasons.items())), fixes


def _valid_header(header: image_files.Header | str) -> image_files.Header:
    if isinstance(header, str):
        raise image_files.Unreadable(header)
    return header


def _unusable_pictures(reasons: Mapping[int, str], paths: Sequence[str]) -> DataError:
    """One error for all pictures of a split that cannot be used."""
    missing = set(reasons.values()) == {image_files.MISSING}
    return DataError(
        f"{len(reasons):,} of {len(paths):,} images {'are not on disk' if missing else 'cannot be used'}",
        why=first_few([paths[n] if missing else f"{paths[n]}: {reason}" for n, reason in reasons.items()]),
        hint="Correct `images` in the project file, or take the pictures out of the annotations."
        if missing
        else 'Repair or remove them, or set data.on_error = "skip".',
    )


def _without_pictures(selection: SplitSelection, reasons: Mapping[int, str], paths: Sequence[str]) -> SplitSelection:
    """The selection without some pictures, by index; each is counted in the ledger and listed among the issues."""
    if not reasons:
        return selection
    data, ledger = selection.data, selection.ledger
    remaining = data.select_images(np.array([index for index in range(len(paths)) if index not in reasons], np.int64))
    for index, reason in reasons.items():
        ledger.move("pictures", reason, 1)
        selection.issues.append(AnnotationIssue("pictures", reason, paths[index]))
    ledger.move("boxes", "picture dropped", _kept_boxes(data) - _kept_boxes(remaining))
    return msgspec.structs.replace(selection, data=remaining)
