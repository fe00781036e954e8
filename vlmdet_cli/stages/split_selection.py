"""What a split is made of: its sources read and joined, the subset chosen, the pictures on disk looked at.

Everything that is wrong is found here, before the first file is written. With ``data.on_error = "stop"`` it is an error
that counts all and names the first; with ``"skip"`` it is left out, stands in the ledger with its reason and is listed,
place by place, in the choice's ``issues``.
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

Progress = Callable[[str, int, int], None]
ELSEWHERE = "in another shard"


def no_progress(_title: str, _done: int, _total: int) -> None:
    """For callers who do not watch."""


class SplitSelection(msgspec.Struct, frozen=True, kw_only=True):
    """What a split keeps. ``folders``: where its pictures are, by the prefix of their names ("" for a single source);
    ``mending``: what a picture needs before a model may see it, by file name.
    """

    split: Split
    data: Dataset
    folders: dict[str, Path]
    ledger: Ledger
    issues: list[AnnotationIssue]
    mending: dict[str, Fixes]

    def paths(self) -> list[str]:
        """Each picture of the source on disk."""
        if "" in self.folders:
            start = f"{self.folders['']}/"
            return [start + one.file_name for one in self.data.images]
        starts = {f"{prefix}/": f"{folder}/" for prefix, folder in self.folders.items()}
        names = (one.file_name.partition("/") for one in self.data.images)
        return [starts[prefix + slash] + rest for prefix, slash, rest in names]


def _of_shard(project: Project, data: Dataset, ledger: Ledger) -> Dataset:
    """The pictures of the project's shard, by a hash of their ids; all where it has none."""
    if project.shard is None:
        return data
    number, many = project.shard
    part = data.select_images(
        np.flatnonzero(dataset.image_hashes(data.images, 0, "shard") % np.uint64(many) == number - 1)
    )
    ledger.move("pictures", ELSEWHERE, len(data.images) - len(part.images))
    kept = [int(np.count_nonzero(one.drop_reason == 0)) for one in (data, part)]
    ledger.move("boxes", ELSEWHERE, kept[0] - kept[1])
    return part


class _Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """A split's sources as one data set. ``named``: the file that messages name."""

    data: Dataset
    folders: dict[str, Path]
    issues: list[AnnotationIssue]
    named: Path


def choices(
    project: Project, progress: Progress = no_progress, on_read: Callable[[int], None] = lambda _pictures: None
) -> list[SplitSelection]:
    """The choice of each split. Raises ``DataError`` and ``UsageError``; writes nothing.

    ``on_read`` is told the number of pictures that there are, as soon as that is known.
    """
    data, rules, seed = project.config.data, project.config.subset, project.config.project.seed
    given = [split for split in SPLITS if data.sources(split)]
    parts: list[tuple[Split, Dataset, _Gathered, list[AnnotationIssue]]] = []
    known = set[str]()
    for split in given:
        made = _gather(project, split, known)
        cut = subset.split_train(made.data, data.split, given, seed) if split == "train" else {split: made.data}
        parts += [(name, part, made, made.issues if name == split else []) for name, part in cut.items()]
    _require_names(data.categories, known)
    on_read(sum(len(part.images) for _, part, _, _ in parts))
    parts.sort(key=lambda part: SPLITS.index(part[0]))
    out: list[SplitSelection] = []
    for name, part, made, issues in parts:
        ledger = Ledger()
        for (thing, reason), count in formats.count_issues(issues).items():
            ledger.drop(thing, reason, count)
        chosen, ledger = subset.select(part, rules, name, seed, made.named, ledger)
        chosen = _of_shard(project, chosen, ledger)
        one = SplitSelection(
            split=name, data=chosen, folders=made.folders, ledger=ledger, issues=list(issues), mending={}
        )
        out.append(_looked_at(project, one, progress))
    return out


def _gather(project: Project, split: Split, known: set[str]) -> _Gathered:
    """The sources of a split; their own category names are added to ``known``."""
    sources, settings = project.config.data.sources(split), project.config.data
    names = _names(split, sources)
    parts, folders, issues = dict[str, Dataset](), dict[str, Path](), list[AnnotationIssue]()
    for name, source in zip(names, sources, strict=True):
        annotations, images = project.path(source.annotations), _folder(project, source)
        folders[name] = formats.picture_folder(annotations, images, split, source.format)
        own: list[AnnotationIssue] = []
        read = formats.read(annotations, images, split, own, source.format)
        if settings.on_error == "stop":
            formats.raise_issues(own, annotations, 'Correct or remove them, or set data.on_error = "skip".')
        known.update(read.labels)
        parts[name] = dataset.rename_categories(read, settings.categories)
        issues += [one._replace(where=f"{source.annotations}: {one.where}") for one in own]
    return _Gathered(
        data=dataset.concatenate(parts), folders=folders, issues=issues, named=project.path(sources[0].annotations)
    )


def _names(split: Split, sources: Sequence[Source]) -> list[str]:
    """The prefix of each source's file names: none for a single one."""
    if len(sources) == 1:
        return [""]
    names = [one.name or str(number) for number, one in enumerate(sources, 1)]
    wrong = [name for name in names if dataset.escapes_folder(name) or "/" in name]
    twice = [name for name in set(names) if names.count(name) > 1]
    if wrong or twice:
        raise UsageError(
            f"The sources of {split} need a name each",
            why=[*(f"{name!r} cannot be a folder's name" for name in wrong),
                 *(f"{name!r} stands {names.count(name)} times" for name in sorted(twice))],
            hint=f'Give each of [[data.{split}]] its own `name = "..."`.',
        )  # fmt: skip
    return names


def _folder(project: Project, source: Source) -> Path | None:
    if not source.images:
        return None
    folder = project.path(source.images)
    if not folder.is_dir():
        raise DataError(f"No image folder: {folder}", hint="Correct `images` in the project file.")
    return folder


def _require_names(named: Mapping[str, str], known: set[str]) -> None:
    """Names in ``data.categories`` are those of some source."""
    wrong = [name for name in named if name not in known]
    if wrong:
        raise UsageError(
            "data.categories names what no source has",
            why=[nearest(name, known) for name in wrong],
            hint=f"They have: {', '.join(sorted(known))}.",
        )


# --- pictures on disk ----------------------------------------------------------------------------------------


def _looked_at(project: Project, choice: SplitSelection, progress: Progress) -> SplitSelection:
    """The choice without the pictures that cannot be used; with what the others need."""
    settings = project.config.data
    paths = choice.paths()
    reasons, mending = _look(choice, paths, settings.check, progress)
    if reasons and settings.on_error == "stop":
        raise _unusable(reasons, paths)
    if mending and settings.images == "folder":
        raise DataError(
            f"{len(mending):,} pictures of {choice.split} cannot be used as they are",
            why=first_few([f"{name}: must be {', '.join(what)}" for name, what in mending.items()]),
            hint='A linked folder cannot hold other pictures: set data.images = "link".',
        )
    return _without(choice, reasons, paths, mending)


def _look(
    choice: SplitSelection, paths: Sequence[str], check: str, progress: Progress
) -> tuple[dict[int, str], dict[str, Fixes]]:
    """Why pictures cannot be used, by place; what others need, by file name."""
    images = choice.data.images
    if check == "none":
        return dict.fromkeys(image_checks.missing_files(paths), image_files.MISSING), {}
    reasons, mending, doubtful = dict[int, str](), dict[str, Fixes](), list[int]()
    files = list(map(Path, paths))
    found = image_checks.read_headers(files, lambda done, total: progress(f"{choice.split}: headers", done, total))
    for place, (one, image) in enumerate(zip(found, images, strict=True)):
        try:
            needs = required_fixes(_header(one), (image.width, image.height))
        except image_files.Unreadable as error:
            reasons[place] = str(error)
            continue
        if needs:
            mending[image.file_name] = needs
        if check == "pixels" or needs or image_files.looks_truncated(files[place]):
            doubtful.append(place)
    title = f"{choice.split}: pixels"
    decoded = image_checks.decode_errors([files[n] for n in doubtful], lambda done, total: progress(title, done, total))
    reasons |= {place: reason for place, reason in zip(doubtful, decoded, strict=True) if reason}
    return dict(sorted(reasons.items())), mending


def _header(found: image_files.Header | str) -> image_files.Header:
    if isinstance(found, str):
        raise image_files.Unreadable(found)
    return found


def _unusable(reasons: Mapping[int, str], paths: Sequence[str]) -> DataError:
    """One error for all of a split's pictures that cannot be used."""
    missing = set(reasons.values()) == {image_files.MISSING}
    return DataError(
        f"{len(reasons):,} of {len(paths):,} images {'are not on disk' if missing else 'cannot be used'}",
        why=first_few([paths[n] if missing else f"{paths[n]}: {reason}" for n, reason in reasons.items()]),
        hint="Correct `images` in the project file, or take the pictures out of the annotations."
        if missing
        else 'Mend or remove them, or set data.on_error = "skip".',
    )


def _without(
    choice: SplitSelection, reasons: Mapping[int, str], paths: Sequence[str], mending: dict[str, Fixes]
) -> SplitSelection:
    """With the unusable pictures taken out, each in the ledger and among the issues."""
    if not reasons:
        return msgspec.structs.replace(choice, mending=mending)
    data, ledger = choice.data, choice.ledger
    left = data.select_images(np.array([n for n in range(len(paths)) if n not in reasons], np.int64))
    for place, reason in reasons.items():
        ledger.move("pictures", reason, 1)
        choice.issues.append(AnnotationIssue("pictures", reason, paths[place]))
    kept = int(np.count_nonzero(data.drop_reason == 0)) - int(np.count_nonzero(left.drop_reason == 0))
    ledger.move("boxes", "picture dropped", kept)
    if not len(left.images):
        raise DataError(f"No picture of {choice.split} can be used", why=first_few(
            [f"{paths[n]}: {reason}" for n, reason in reasons.items()]), hint="Mend them.")  # fmt: skip
    return msgspec.structs.replace(choice, data=left, mending=mending)
