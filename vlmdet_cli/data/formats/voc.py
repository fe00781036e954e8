"""Pascal VOC to a ``Dataset``: a folder of XML files, or a list of names such as ``ImageSets/Main/train.txt``, whose
XML stands in ``../../Annotations``.

VOC counts pixels from 1 and its last pixel belongs to the box, so corners become ``(xmin - 1, ymin - 1, xmax, ymax)``.
A ``difficult`` object is neither found nor missed in an evaluation: that is what a crowd is here. ``part`` objects are
passed over, and so is a list's second column: a picture belongs to the list whatever stands there. Categories are the
sorted names. Pictures stand in ``JPEGImages`` beside the XML, else beside the XML files themselves.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset, escapes_folder
from vlmdet_cli.data.formats.unsized import (
    NEGATIVE,
    NO_LABEL,
    NOT_NUMBER,
    OUTSIDE,
    TWICE,
    Found,
    Size,
    drop_image,
    excerpt,
    exists,
    of_found,
    sizes,
)
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES
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
        for name in [one for one in _names(annotations)[:1] if not escapes_folder(one)]:
            with (_xml_folder(annotations) / name).open("rb") as file:
                return b"<annotation" in file.read(4096)
    return False


def picture_folder(annotations: Path, images: Path | None, split: str) -> Path:
    """Where file names start: ``images``, else ``JPEGImages`` beside the XML's folder, else that folder itself."""
    del split
    if images is not None:
        return images
    folder = _xml_folder(annotations)
    beside = folder.absolute().parent / "JPEGImages"
    return beside if beside.is_dir() else folder


def read(annotations: Path, images: Path | None, split: str, issues: list[AnnotationIssue]) -> Dataset:
    """The data set of a folder or list. ``DataError`` where there is no XML or the list cannot be read."""
    folder, pages = picture_folder(annotations, images, split), dict[str, _Page]()
    names = _names(annotations)
    if not names:
        raise DataError(f"There are no XML files here: {annotations}", hint="Name the folder of VOC's XML files.")
    for page in _pages(annotations, names, folder, issues):
        wrong = OUTSIDE if escapes_folder(page.name) else TWICE if page.name in pages else ""
        if wrong:
            drop_image(issues, wrong, f"{page.where}: {excerpt(page.name)}", len(page.objects))
        else:
            pages[page.name] = page
    found = [box for place, page in enumerate(pages.values()) for box in _boxes(page, place, issues)]
    return of_found(list(pages), _sizes(list(pages.values()), folder, issues), found, issues)


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
    # an entity that names itself a thousandfold, or another file, is an error to this parser
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
        yield _Page(file.name, _name(root, file, folder), size, root.findall("object"))


def _name(root: "Element", file: Path, folder: Path) -> str:
    """The picture's file name; one without a suffix gets that of the file on disk."""
    name = _text(root, "filename") or file.stem
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES or escapes_folder(name):
        return name
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))  # VOC itself has .jpg, cameras write .JPG
    return next((name + suffix for suffix in suffixes if exists(folder / (name + suffix))), name)


def _text(root: "Element", path: str) -> str:
    return (root.findtext(path) or "").strip()


def _side(root: "Element", name: str) -> int:
    """A stated side in pixels; 0 where it is missing or no number."""
    text = _text(root, f"size/{name}")
    return int(text) if text.isdecimal() else 0


def _sizes(pages: Sequence[_Page], folder: Path, issues: list[AnnotationIssue]) -> list[Size | None]:
    """Sizes as stated; from the picture's header where a side is missing."""
    unknown = [page.name for page in pages if not all(page.size)]
    measured = dict(zip(unknown, sizes(folder, unknown, issues), strict=True))
    return [measured.get(page.name, page.size) for page in pages]


def _boxes(page: _Page, place: int, issues: list[AnnotationIssue]) -> Iterator[Found]:
    for number, one in enumerate(page.objects, 1):
        label, values = _text(one, "name"), [_text(one, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        box = _box(values)
        wrong = NO_LABEL if not label else NOT_NUMBER if box is None else NEGATIVE if _inverted(box) else ""
        if wrong or box is None:
            where = f"{page.where}, object {number}: {excerpt(' '.join([label, *values]))}"
            issues.append(AnnotationIssue("boxes", wrong, where))
        else:
            yield Found(place, label, box, crowd=_text(one, "difficult") == "1")


def _box(values: Sequence[str]) -> Box | None:
    """Corners counted from 0; None where one is no finite number."""
    try:
        x1, y1, x2, y2 = map(float, values)
    except ValueError:
        return None
    return (x1 - 1, y1 - 1, x2, y2) if math.isfinite(x1 + y1 + x2 + y2) else None


def _inverted(box: Box) -> bool:
    return box[2] < box[0] or box[3] < box[1]
