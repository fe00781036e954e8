"""Pascal VOC to a ``Dataset``: a folder of XML files, or a list of names such as ``ImageSets/Main/train.txt``, whose
XML files are in ``../../Annotations``.

VOC counts pixels from 1 and its last pixel belongs to the box, so corners become ``(xmin - 1, ymin - 1, xmax, ymax)``.
A ``difficult`` object is neither found nor missed in an evaluation, which is what a crowd is here. ``part`` objects are
skipped, and so is a list's second column: a picture belongs to the list whatever that column says. Categories are the
sorted names. Pictures are in ``JPEGImages`` next to the XML folder, else next to the XML files themselves. A picture
without ``filename`` has the name of its XML file.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset, escapes_folder
from vlmdet_cli.data.formats.box_entries import (
    NEGATIVE,
    NO_LABEL,
    NOT_NUMBER,
    OUTSIDE,
    REPEATED,
    BoxEntry,
    dataset_from_boxes,
    drop_picture,
    excerpt,
    path_exists,
    upright_sizes,
)
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES, Size
from vlmdet_cli.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

UNREADABLE_XML = "annotation file cannot be read"


class _Page(NamedTuple):
    """One XML file: its name for messages, its picture's file name and size ((0, 0) if not stated), its objects."""

    where: str
    name: str
    size: Size
    objects: Sequence["Element"]


def recognises(annotations: Path) -> bool:
    """Whether the first XML file of the folder, or the first that the list names, has an ``annotation`` in it."""
    with contextlib.suppress(OSError, DataError):
        for name in [name for name in _names(annotations)[:1] if not escapes_folder(name)]:
            with (_xml_folder(annotations) / name).open("rb") as file:
                return b"<annotation" in file.read(4096)
    return False


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """The folder that file names start at: ``images``, else ``JPEGImages`` next to the XML folder, else that folder."""
    del split
    if images is not None:
        return images
    folder = _xml_folder(annotations)
    sibling = folder.absolute().parent / "JPEGImages"
    return sibling if sibling.is_dir() else folder


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a folder or list. Raises ``DataError`` where it has no XML or the list cannot be read."""
    folder, pages = picture_folder(annotations, images, split), dict[str, _Page]()
    names = _names(annotations)
    if not names:
        raise DataError(f"No XML files: {annotations}", hint="Name the folder of VOC's XML files.")
    for page in _pages(annotations, names, folder, issues):
        wrong = OUTSIDE if escapes_folder(page.name) else REPEATED if page.name in pages else ""
        if wrong:
            drop_picture(issues, wrong, f"{page.where}: {excerpt(page.name)}", len(page.objects))
        else:
            pages[page.name] = page
    boxes = [box for index, page in enumerate(pages.values()) for box in _boxes(page, index, issues)]
    return dataset_from_boxes(list(pages), _sizes(list(pages.values()), folder, issues), boxes, issues)


def _xml_folder(annotations: Path) -> Path:
    return annotations if annotations.is_dir() else annotations.absolute().parent.parent.parent / "Annotations"


def _names(annotations: Path) -> list[str]:
    """The folder's XML files in order of their names, or those that the list names, in its order."""
    if annotations.is_dir():
        return sorted(file.name for file in annotations.glob("*.xml"))
    if annotations.suffix != ".txt":
        return []
    try:
        lines = read_bytes(annotations, "list of pictures").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"The list of pictures is not UTF-8: {annotations}", hint="Write it again as UTF-8.") from None
    return list(dict.fromkeys(f"{line.split()[0]}.xml" for line in lines if line.strip()))


def _pages(annotations: Path, names: Sequence[str], folder: Path, issues: list[AnnotationIssue]) -> Iterator[_Page]:
    # this parser refuses entities that expand a thousandfold or name another file
    from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped]

    for name in names:
        file = _xml_folder(annotations) / name
        if escapes_folder(name):
            issues.append(AnnotationIssue("pictures", OUTSIDE, f"{annotations.name}: {excerpt(name)}"))
            continue
        try:
            root = fromstring(file.read_bytes())
        except (OSError, ParseError, ValueError, LookupError) as error:
            issues.append(AnnotationIssue("pictures", UNREADABLE_XML, f"{file.name}: {error}"))
            continue
        size = (_side(root, "width"), _side(root, "height"))
        yield _Page(file.name, _picture_name(root, file, folder), size, root.findall("object"))


def _picture_name(root: "Element", file: Path, folder: Path) -> str:
    """The picture's file name; one without a suffix gets that of the file on disk."""
    name = _text(root, "filename") or file.stem
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES or escapes_folder(name):
        return name
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))  # VOC itself has .jpg, many cameras write .JPG
    return next((name + suffix for suffix in suffixes if path_exists(folder / (name + suffix))), name)


def _text(root: "Element", path: str) -> str:
    return (root.findtext(path) or "").strip()


def _side(root: "Element", name: str) -> int:
    """A stated side in pixels; 0 where it is missing or no number."""
    text = _text(root, f"size/{name}")
    return int(text) if text.isdecimal() else 0


def _sizes(pages: Sequence[_Page], folder: Path, issues: list[AnnotationIssue]) -> list[Size | None]:
    """Sizes as stated; from the picture's header where a side is missing."""
    unknown = [page.name for page in pages if not all(page.size)]
    measured = dict(zip(unknown, upright_sizes(folder, unknown, issues), strict=True))
    return [measured.get(page.name, page.size) for page in pages]


def _boxes(page: _Page, picture: int, issues: list[AnnotationIssue]) -> Iterator[BoxEntry]:
    for number, element in enumerate(page.objects, 1):
        label = _text(element, "name")
        values = [_text(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        box = _box(values)
        wrong = NO_LABEL if not label else NOT_NUMBER if box is None else NEGATIVE if _is_inverted(box) else ""
        if wrong or box is None:
            where = f"{page.where}, object {number}: {excerpt(' '.join([label, *values]))}"
            issues.append(AnnotationIssue("boxes", wrong, where))
        else:
            yield BoxEntry(picture, label, box, crowd=_text(element, "difficult") == "1")


def _box(values: Sequence[str]) -> Box | None:
    """Corners counted from 0; None where one is no finite number."""
    try:
        x1, y1, x2, y2 = map(float, values)
    except ValueError:
        return None
    return (x1 - 1, y1 - 1, x2, y2) if math.isfinite(x1 + y1 + x2 + y2) else None


def _is_inverted(box: Box) -> bool:
    return box[2] < box[0] or box[3] < box[1]
