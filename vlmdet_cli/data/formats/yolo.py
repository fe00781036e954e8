"""YOLO to a ``Dataset`` and back: ``data.yaml`` in ultralytics' form, and a label file a picture.

    names: [cat, dog]              a line of a label file: class, centre x, centre y, width, height,
    train: images/train            in shares of the picture's sides: 1 0.5 0.5 0.25 0.5
    val: images/val                or an outline, class x1 y1 x2 y2 x3 y3 …, of which the bounding box is taken

A split is a folder, a list of folders, or a text file that lists pictures. Labels stand where ultralytics looks: the
last ``/images/`` of a picture's path becomes ``/labels/``, its suffix ``.txt``. A picture whose label file is missing
or empty has no objects; one whose label file cannot be read is left out. Values beyond the borders stay as they are.

Decisions: what YAML takes for truth values and numbers stays text, so a class may be called ``no`` or ``1``. Folders
that are links are entered, each real folder once. Lines stand for themselves: an outline beside boxes changes none.
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
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset, escapes_folder
from vlmdet_cli.data.formats.unsized import (
    NEGATIVE,
    NOT_NUMBER,
    OUTSIDE,
    TWICE,
    Found,
    excerpt,
    exists,
    inside,
    of_found,
    sizes,
)
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES
from vlmdet_cli.errors import DataError, first_few

WHAT = "YOLO data file"
UNREADABLE_LABELS = "label file cannot be read"
OUT_OF_RANGE = "class id out of range"
WRONG_COUNT = "wrong number of values"
NOT_UTF8 = "file name is not UTF-8"
# ultralytics passes .gif files over; here one would become a picture without objects
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
    """Where file names start: ``images``, else the split's folder, else what its folders and lists have in common."""
    if images is not None:
        return images
    root, document = _document(annotations)
    places = [root if place.is_file() else place for place in _places(annotations, root, document, split)]
    return Path(os.path.commonpath([os.path.normpath(place.absolute()) for place in places]))


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a split; ``images`` replaces its folder. ``DataError`` for a wrong ``data.yaml``."""
    root, document = _document(annotations)
    labels = _labels(document, annotations)
    folder = picture_folder(annotations, images, split)
    places = _places(annotations, root, document, split) if images is None else [images]
    if not exists(places[0]):
        raise DataError(f"The pictures are not there: {places[0]}", hint="Check the path.")
    names, found = list[str](), list[Found]()
    for name in _names(places, folder, issues):
        lines = _lines(folder / name, root, issues)
        if lines is not None:
            found += _boxes(lines, len(names), labels, issues)
            names.append(name)
    return of_found(names, sizes(folder, names, issues), found, issues, labels)


def _yaml_file(annotations: Path) -> Path:
    if not annotations.is_dir():
        return annotations
    return next((file for file in (annotations / "data.yaml", annotations / "data.yml") if file.exists()), annotations)


def _document(annotations: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that splits are relative to, and the file's keys; all scalars are text."""
    import yaml  # type: ignore[import-untyped]

    file = _yaml_file(annotations)
    try:
        document = yaml.load(read_bytes(file, WHAT), Loader=yaml.BaseLoader)  # noqa: S506  (makes nothing but text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(file, " ".join(str(error).split())) from None
    if not isinstance(document, dict):
        raise _wrong(file, "It has no keys")
    stated = document.get("path")
    root = file.parent / stated if isinstance(stated, str) else file.parent
    return (root if exists(root) else file.parent), document


def _wrong(file: Path, why: str) -> DataError:
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
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise _wrong(file, "`names` is neither a list of names nor a mapping 0: name, 1: name …")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _wrong(file, f"`names` has twice: {', '.join(twice)}")
    return names


def _places(file: Path, root: Path, document: Mapping[str, Any], split: str) -> list[Path]:
    """A split's folders and lists of pictures."""
    given = document.get(split)
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, list) or not entries or not all(isinstance(one, str) and one for one in entries):
        raise _wrong(file, f"`{split}` names no folder of pictures")
    places = [_place(root, entry) for entry in entries]
    missing = [str(place) for place in places if not exists(place)]
    if missing:
        hint = f"Correct `{split}` or `path`, or name the folder of pictures."
        raise DataError(f"Pictures of `{split}` in {file} are not there.", why=first_few(missing), hint=hint)
    return places


def _place(root: Path, entry: str) -> Path:
    """As ultralytics looks for it: ``../train`` that is not there is looked for as ``train``."""
    place = root / entry
    return root / entry[3:] if not exists(place) and entry.startswith("../") else place


def _names(places: Sequence[Path], folder: Path, issues: list[AnnotationIssue]) -> Iterator[str]:
    """Pictures as seen from ``folder``, in order of their names within a place."""
    seen = set[str]()
    for place in places:
        for where, path in _listed(place) if place.is_file() else _walked(place):
            name = inside(path, folder)
            wrong = OUTSIDE if escapes_folder(name) else TWICE if name in seen else "" if _is_text(name) else NOT_UTF8
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
    found, seen = list[str](), {os.path.realpath(start)}
    for place, folders, files in os.walk(start, followlinks=True):
        real = {os.path.realpath(f"{place}/{one}"): one for one in sorted(folders, reverse=True)}
        folders[:] = sorted(one for path, one in real.items() if path not in seen)
        seen |= set(real)
        found += [f"{place}/{one}" for one in files if PurePosixPath(one).suffix.lower() in SUFFIXES]
    return ((folder.name, path) for path in sorted(found))


def _lines(picture: Path, root: Path, issues: list[AnnotationIssue]) -> list[tuple[str, list[str]]] | None:
    """Each line's place and values; none where there is no label file, None where it cannot be read."""
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
    """Where ultralytics looks for a picture's labels."""
    head, images, tail = str(picture.absolute()).rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if images else tail).with_suffix(".txt")


def _boxes(
    lines: Sequence[tuple[str, list[str]]], picture: int, labels: Sequence[str], issues: list[AnnotationIssue]
) -> Iterator[Found]:
    for where, words in lines:
        try:
            number, *values = map(float, words)
            wrong = _wrong_line(number, values, len(labels))
        except ValueError:
            wrong = NOT_NUMBER
        if wrong:
            issues.append(AnnotationIssue("boxes", wrong, f"{where}: {excerpt(' '.join(words))}"))
        else:
            yield Found(picture, labels[int(number)], _corners(values), normalised=True)


def _wrong_line(number: float, values: Sequence[float], classes: int) -> str:
    """Why a line is no object; empty where it is one."""
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
    """A label file a picture, at the picture's relative path, each written whole; how many boxes stand in them.

    Six decimals; crowds and objects that are no targets are left out. ``DataError`` where two pictures would share one.
    """
    names = [str(PurePosixPath(one.file_name).with_suffix(".txt")) for one in data.images]
    times = Counter(names)
    shared = [one.file_name for one, name in zip(data.images, names, strict=True) if times[name] > 1]
    if shared:
        why, hint = first_few(shared), "Rename one of each pair: YOLO finds labels by the name without its suffix."
        raise DataError("Several pictures would share one YOLO label file.", why=why, hint=hint)
    kept = data.select_objects(data.is_target)
    sides = kept.sizes[kept.image]  # (N, 2)
    values = np.hstack([(kept.xywh[:, :2] + kept.xywh[:, 2:] / 2) / sides, kept.xywh[:, 2:] / sides])  # (N, 4)
    lines = [
        f"{label} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
        for label, (x, y, width, height) in zip(kept.label.tolist(), values.tolist(), strict=True)
    ]
    starts = kept.starts.tolist()
    for name, first, last in zip(names, starts, starts[1:], strict=False):
        with whole_file(folder / name) as temporary:
            temporary.write_text("".join(lines[first:last]), "utf-8")
    return len(lines)


def write_yaml(file: Path, names: Sequence[str], splits: Mapping[str, str]) -> None:
    """``data.yaml``: classes by number, and each split's folder of pictures, relative to the file."""
    import yaml

    document = {**splits, "names": dict(enumerate(names))}
    write_text(file, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
