"""YOLO to a ``Dataset`` and back: ``data.yaml`` as ultralytics reads it, and a label file for each picture.

    names: [cat, dog]              a line of a label file: class, centre x, centre y, width, height,
    train: images/train            as shares of the picture's sides: 1 0.5 0.5 0.25 0.5
    val: images/val                or an outline, class x1 y1 x2 y2 x3 y3 …, of which the bounding box is taken

A split is a folder, a list of folders, or a text file that lists pictures. Label files are where ultralytics expects
them: the last ``/images/`` of a picture's path becomes ``/labels/``, its suffix ``.txt``. A picture whose label file is
missing or empty has no objects; one whose label file cannot be read is left out. Values beyond the borders stay.

What YAML would read as booleans and numbers stays text, so a class may be called ``no`` or ``1``. Folders that are
links are entered, each real folder once. Each line is read by itself: an outline among boxes does not change them.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.files import read_bytes, whole_file, write_text
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.box_entries import (
    NEGATIVE,
    NOT_NUMBER,
    REPEATED,
    BoxEntry,
    dataset_from_boxes,
    excerpt,
    name_below,
    path_exists,
    upright_sizes,
    wrong_name,
)
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES
from vlmdet_cli.errors import DataError, first_few

WHAT = "YOLO data file"
UNREADABLE_LABELS = "label file cannot be read"
OUT_OF_RANGE = "class id out of range"
WRONG_COUNT = "wrong number of values"
NOT_UTF8 = "file name is not UTF-8"
# ultralytics skips .gif files; here one would become a picture without objects
SUFFIXES = set(IMAGE_SUFFIXES) - {".gif"}
_KEYS = (rb"(?m)^(names|nc)\s*:", rb"(?m)^(path|train|val|test)\s*:")


def recognises(annotations: Path) -> bool:
    """Whether a file, or ``data.yaml`` in a folder, has lines for ``names`` (or ``nc``) and for a split."""
    try:
        with _yaml_file(annotations).open("rb") as file:
            start = file.read(1 << 18)
    except OSError:
        return False
    return all(re.search(key, start) for key in _KEYS)


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """The folder that file names start at: ``images``, else what the split's folders and lists have in common."""
    if images is not None:
        return images
    root, document = _document(annotations)
    paths = _split_paths(annotations, root, document, split)
    folders = [root if path.is_file() else path for path in paths]
    return Path(os.path.commonpath([os.path.normpath(folder.absolute()) for folder in folders]))


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a split; ``images`` replaces its folder. Raises ``DataError`` for a wrong ``data.yaml``."""
    root, document = _document(annotations)
    labels = _labels(document, annotations)
    folder = picture_folder(annotations, images, split)
    paths = _split_paths(annotations, root, document, split) if images is None else [images]
    if not path_exists(paths[0]):
        raise DataError(f"No such folder of pictures: {paths[0]}", hint="Check the path.")
    names, boxes = list[str](), list[BoxEntry]()
    for name in _picture_names(paths, folder, issues):
        lines = _label_lines(folder / name, root, issues)
        if lines is not None:
            boxes += _boxes(lines, len(names), labels, issues)
            names.append(name)
    return dataset_from_boxes(names, upright_sizes(folder, names, issues), boxes, issues, labels)


def _yaml_file(annotations: Path) -> Path:
    if not annotations.is_dir():
        return annotations
    return next((file for file in (annotations / "data.yaml", annotations / "data.yml") if file.exists()), annotations)


def _document(annotations: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that splits are relative to, and the file's keys; all scalars are text."""
    import yaml  # type: ignore[import-untyped]

    file = _yaml_file(annotations)
    try:
        document = yaml.load(read_bytes(file, WHAT), Loader=yaml.BaseLoader)  # noqa: S506  (yields nothing but text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong_yaml(file, " ".join(str(error).split())) from None
    if not isinstance(document, dict):
        raise _wrong_yaml(file, "It has no keys")
    stated = document.get("path")
    root = file.parent / stated if isinstance(stated, str) else file.parent
    return (root if path_exists(root) else file.parent), document


def _wrong_yaml(file: Path, why: str) -> DataError:
    hint = "It needs `names`, a list of classes, and for each split, such as `train`, a folder of pictures."
    return DataError(f"The {WHAT} is wrong: {file}", why=f"{why}.", hint=hint)


def _labels(document: Mapping[str, Any], file: Path) -> list[str]:
    """Class names by number; a mapping's keys must be 0, 1, 2 … in any order."""
    names = document.get("names")
    count = str(document.get("nc"))
    if names is None and count.isdecimal() and len(count) < 6:
        return [f"class{number}" for number in range(int(count))]
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _wrong_yaml(file, "`names` is neither a list of names nor a mapping 0: name, 1: name …")
    if not all(name.strip() for name in names):
        raise _wrong_yaml(file, "`names` has an empty name")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise _wrong_yaml(file, f"`names` repeats {', '.join(repeated)}")
    return names


def _split_paths(file: Path, root: Path, document: Mapping[str, Any], split: str) -> list[Path]:
    """A split's folders and lists of pictures."""
    value = document.get(split)
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) and entry for entry in entries):
        raise _wrong_yaml(file, f"`{split}` names no folder of pictures")
    paths = [_split_path(root, entry) for entry in entries]
    missing = [str(path) for path in paths if not path_exists(path)]
    if missing:
        hint = f"Correct `{split}` or `path`, or name the folder of pictures."
        raise DataError(f"Pictures of `{split}` in {file} do not exist.", why=first_few(missing), hint=hint)
    return paths


def _split_path(root: Path, entry: str) -> Path:
    """As ultralytics reads it: where ``../train`` does not exist, ``train`` is meant."""
    path = root / entry
    return root / entry[3:] if not path_exists(path) and entry.startswith("../") else path


def _picture_names(paths: Sequence[Path], folder: Path, issues: list[AnnotationIssue]) -> Iterator[str]:
    """Pictures as seen from ``folder``, path by path, in order of their names within each."""
    seen = set[str]()
    for source in paths:
        for where, path in _listed(source) if source.is_file() else _walked(source):
            name = name_below(path, folder)
            wrong = wrong_name(name) or (REPEATED if name in seen else "" if _is_text(name) else NOT_UTF8)
            if wrong:
                issues.append(AnnotationIssue("pictures", wrong, f"{where}: {excerpt(ascii(path)[1:-1])}"))
            else:
                seen.add(name)
                yield name


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "replace").decode() == name


def _listed(file: Path) -> Iterator[tuple[str, str]]:
    """Pictures that a text file lists, each a line, relative to its folder."""
    try:
        lines = read_bytes(file, "list of pictures").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"The list of pictures is not UTF-8: {file}", hint="Write it again as UTF-8.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{file.name}, line {number}", str(file.absolute().parent / line.strip())


def _walked(folder: Path) -> Iterator[tuple[str, str]]:
    """The pictures of a folder and of those in it."""
    start = folder.absolute()
    pictures, seen = list[str](), {os.path.realpath(start)}
    for parent, folders, files in os.walk(start, followlinks=True):
        real = {os.path.realpath(f"{parent}/{name}"): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(name for path, name in real.items() if path not in seen)
        seen |= set(real)
        pictures += [f"{parent}/{name}" for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    return ((folder.name, path) for path in sorted(pictures))


def _label_lines(picture: Path, root: Path, issues: list[AnnotationIssue]) -> list[tuple[str, list[str]]] | None:
    """Each line's position and values; none where there is no label file, None where it cannot be read."""
    file = label_file(picture)
    where = str(file.relative_to(root.absolute()) if file.is_relative_to(root.absolute()) else file)
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        issues.append(AnnotationIssue("pictures", UNREADABLE_LABELS, f"{where}: {reason}"))
        return None
    return [(f"{where}, line {number}", line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def label_file(picture: Path) -> Path:
    """The file in which ultralytics expects a picture's labels."""
    head, images, tail = str(picture.absolute()).rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if images else tail).with_suffix(".txt")


def _boxes(
    lines: Sequence[tuple[str, list[str]]], picture: int, labels: Sequence[str], issues: list[AnnotationIssue]
) -> Iterator[BoxEntry]:
    for where, words in lines:
        try:
            number, *values = map(float, words)
            wrong = _wrong_line(number, values, len(labels))
        except ValueError:
            wrong = NOT_NUMBER
        if wrong:
            issues.append(AnnotationIssue("boxes", wrong, f"{where}: {excerpt(' '.join(words))}"))
        else:
            yield BoxEntry(picture, labels[int(number)], _corners(values), normalised=True)


def _wrong_line(number: float, values: Sequence[float], classes: int) -> str:
    """Why a line describes no object; empty where it does."""
    if not all(map(math.isfinite, (number, *values))):
        return NOT_NUMBER
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return WRONG_COUNT
    if not number.is_integer() or not 0 <= number < classes:
        return OUT_OF_RANGE
    return NEGATIVE if len(values) == 4 and min(values[2:]) < 0 else ""


def _corners(values: Sequence[float]) -> Box:
    """The box of centre, width and height, or of an outline's points."""
    if len(values) == 4:
        x, y, width, height = values
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    xs, ys = values[::2], values[1::2]
    return (min(xs), min(ys), max(xs), max(ys))


def write_labels(folder: Path, data: Dataset) -> int:
    """Write a label file for each picture, at the picture's relative path; returns the number of boxes in all.

    Six decimals; crowds and objects that are no targets are left out. Raises ``DataError`` where two pictures would
    share a file.
    """
    names = [str(PurePosixPath(image.file_name).with_suffix(".txt")) for image in data.images]
    counts = Counter(names)
    shared = [image.file_name for image, name in zip(data.images, names, strict=True) if counts[name] > 1]
    if shared:
        why, hint = first_few(shared), "Rename one of each pair: YOLO finds labels by the name without its suffix."
        raise DataError("Several pictures would share one YOLO label file.", why=why, hint=hint)
    targets = data.select_objects(data.is_target)
    sides = targets.sizes[targets.image]  # (N, 2)
    corner, size = targets.xywh[:, :2], targets.xywh[:, 2:]
    values = np.hstack([(corner + size / 2) / sides, size / sides])  # (N, 4)
    lines = [
        f"{label} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
        for label, (x, y, width, height) in zip(targets.label.tolist(), values.tolist(), strict=True)
    ]
    starts = targets.starts.tolist()
    for name, first, last in zip(names, starts, starts[1:], strict=False):
        with whole_file(folder / name) as temporary:
            temporary.write_text("".join(lines[first:last]), "utf-8")
    return len(lines)


def write_yaml(file: Path, names: Sequence[str], splits: Mapping[str, str]) -> None:
    """``data.yaml``: classes by number, and each split's folder of pictures, relative to the file."""
    import yaml

    document = {**splits, "names": dict(enumerate(names))}
    write_text(file, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
