"""Picture files on disk: what their headers say, and whether they can be decoded.

A file that is no good is told by a reason: short and the same for all such files, so that a ledger counts by it. Bad
files raise nothing but ``Unreadable``. Pillow's own limit on pixels holds, at the size where it begins to warn.
Pillow's warnings are silenced for the whole process while a function here runs: the filters of ``warnings`` belong to
no thread, so ``quiet`` goes around a pool of threads, never into it.

Headers are read on threads. That pays where files come from a disk (5,000 a second on two cores, one thread 1,500 to
3,400) and costs where they are in memory already (12,000 a second, one thread 20,000). Pictures are decoded on as many
threads as there are cores.
"""

import contextlib
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # done, of how many

MISSING = "not on disk"
EMPTY = "empty file"
NO_PICTURE = "no picture file"
TRUNCATED = "truncated"
DAMAGED = "damaged"
BOMB = "too many pixels (a decompression bomb)"
FORBIDDEN = "cannot be read"
OTHER_SIZE = "size differs from the annotations"

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # grey of more than 8 bits, in Pillow's words

_ORIENTATION = 0x0112  # EXIF's tag
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TAIL = 64  # bytes at a file's end in which its end marker must stand
_MOST_THREADS = 8
_WORTH_LISTING = 1000  # wanted files of a folder
EVERY = 100  # pictures between two reports of progress


def missing(paths: Sequence[str]) -> list[int]:
    """Places of the paths that are no files. A folder of which much is wanted is listed, not asked file by file."""
    folders: dict[str, list[tuple[int, str]]] = {}
    for place, (folder, _, name) in enumerate(path.rpartition("/") for path in paths):
        folders.setdefault(folder, []).append((place, name))
    out: list[int] = []
    for folder, wanted in folders.items():
        there = _files(folder) if len(wanted) >= _WORTH_LISTING else set[str]()
        out += [n for n, name in wanted if name not in there and not os.path.isfile(paths[n])]  # noqa: PTH113
    return sorted(out)


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


class Unreadable(ValueError):  # noqa: N818  a finding about a file that callers count, seldom an error
    """A picture file that is no good; its text is one of the reasons above."""


class Header(NamedTuple):
    """What a file says of its picture: the stored size in pixels, EXIF's orientation (1…8, 1 if none), Pillow's mode.

    A TIFF file is upright: Pillow turns it itself, and so does everyone who opens it with Pillow.
    """

    width: int
    height: int
    orientation: int
    mode: str
    frames: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as a viewer shows them."""
        sides = self.width, self.height
        return sides[::-1] if self.orientation >= 5 else sides


def no_progress(_done: int, _total: int) -> None:
    """For callers who do not watch."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings while the block runs, in no thread: neither shown nor raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def opened(path: Path) -> Iterator["ImageFile"]:
    """The picture, not yet decoded. Whatever goes wrong with it, in the block too, is raised as ``Unreadable``."""
    from PIL import Image

    _require_file(path)
    try:
        with _identified(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Unreadable(BOMB)
            yield image
    except Unreadable:
        raise
    except Exception as error:  # Pillow's plugins raise of every kind
        raise Unreadable(_reason(error, path)) from None


def _identified(path: Path) -> "ImageFile":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except UnidentifiedImageError:
        Image.init()  # while another thread loads Pillow's rarer formats, a file of theirs goes unknown
        return Image.open(path)


def _require_file(path: Path) -> None:
    """A regular file that has bytes: opening a pipe would wait for ever."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(MISSING) from None
    except (OSError, ValueError, RuntimeError):  # ValueError: a name that no file system can have
        raise Unreadable(FORBIDDEN) from None
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(FORBIDDEN)
    if not found.st_size:
        raise Unreadable(EMPTY)


def _reason(error: Exception, path: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return BOMB
    if isinstance(error, UnidentifiedImageError):
        return TRUNCATED if cut(path) else NO_PICTURE
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        return FORBIDDEN
    short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return TRUNCATED if short or cut(path) else DAMAGED


def header(path: Path) -> Header:
    """What the file's header says; no pixel is decoded. Raises ``Unreadable``."""
    with quiet():
        return _header(path)


def headers(paths: Sequence[Path], progress: Progress = no_progress) -> list[Header | str]:
    """The header of each file, in order, or the reason why there is none."""
    with quiet():
        return list(in_threads(_header_or_reason, paths, progress))


def in_threads(work: Callable[[T], R], items: Sequence[T], progress: Progress) -> Iterator[R]:
    """``work`` done to each item, in order. Warnings are for the caller to silence."""
    with ThreadPool(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for number, result in enumerate(pool.imap(work, items, chunksize=16), 1):
            yield result
            if number % EVERY == 0 or number == len(items):
                progress(number, len(items))


def _header_or_reason(path: Path) -> Header | str:
    try:
        return _header(path)
    except Unreadable as error:
        return str(error)


def _header(path: Path) -> Header:
    with opened(path) as image:
        return Header(image.width, image.height, _orientation(image), image.mode, _frames(image))


def _orientation(image: "ImageFile") -> int:
    """EXIF's orientation; 1 where it is missing or makes no sense."""
    from PIL import Image

    if image.format == "TIFF":
        return 1
    try:
        # not the method of PNG files, which decodes all pixels to get at what may stand behind them
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and "exif" not in image.info and image.fp:
            exif.load(_png_exif(image.fp))
        value: Any = exif.get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a broken EXIF block is as good as none
        return 1


def _png_exif(file: IO[bytes]) -> bytes:
    """The EXIF block of a PNG file wherever it stands (exiftool puts it behind the pixels); empty if there is none."""
    file.seek(len(_PNG))
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"eXIf":
            return file.read(min(length, 1 << 16))
        file.seek(length + 4, os.SEEK_CUR)
    return b""


def _frames(image: "Image.Image") -> int:
    """How many frames; 1 where later ones cannot be counted, as the first is all that is needed."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return 1


def broken(path: Path) -> str:
    """Why the picture (of an animation the first frame) cannot be decoded; empty if it can."""
    return all_broken([path])[0]


def all_broken(paths: Sequence[Path], progress: Progress = no_progress) -> list[str]:
    """``broken`` for each file, in order, on all cores."""

    def work(path: Path) -> str:
        try:
            with opened(path) as image:
                image.load()
        except Unreadable as error:
            return str(error)
        return ""

    with quiet():
        return list(in_threads(work, paths, progress))


def cut(path: Path) -> bool:
    """Whether a JPEG or PNG file lacks its end marker, or cannot be read: a cheap sign, to be checked by ``broken``."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_PNG))
            file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
            tail = file.read()
    except (OSError, ValueError):
        return True
    if start.startswith(_JPEG):
        return b"\xff\xd9" not in tail
    return start == _PNG and b"IEND" not in tail
