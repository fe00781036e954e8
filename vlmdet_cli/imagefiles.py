"""Picture files on disk: what their headers say, whether they can be decoded, and how they get to where rows name them.

ms-swift opens a picture with Pillow, does not heed EXIF's orientation, and makes it RGB, by which 16-bit grey clips to
white; of an animation it takes the first frame. Most annotations are of the upright picture. ``mend`` says what is
needed so that a model sees what was annotated, and ``bring`` does it.

A file that is no good is told by a reason: short and the same for all such files, so that a ledger counts by it. Bad
files raise nothing but ``Unreadable``. Pillow's own limit on pixels holds, at the size where it begins to warn.
Pillow's warnings are silenced for the whole process while a function here runs: the filters of ``warnings`` belong to
no thread, so ``quiet`` goes around a pool of threads, never into it.

Headers are read on threads. That pays where files come from a disk (5,000 a second on two cores, one thread 1,500 to
3,400) and costs where they are in memory already (12,000 a second, one thread 20,000). Hard links are made on one
thread: two are not faster. Pictures are decoded on as many threads as there are cores.
"""

import contextlib
import filecmp
import io
import os
import shutil
import stat
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from vlmdet_cli.errors import DataError
from vlmdet_cli.records import whole_file

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # done, of how many
How = Literal["link", "copy"]
Done = Literal["linked", "copied", "mended"]

MISSING = "not on disk"
EMPTY = "empty file"
NO_PICTURE = "no picture file"
TRUNCATED = "truncated"
DAMAGED = "damaged"
BOMB = "too many pixels (a decompression bomb)"
FORBIDDEN = "cannot be read"
OTHER_SIZE = "size differs from the annotations"

TURNED = "turned upright"
EIGHT_BITS = "16 bits made 8"

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # grey of more than 8 bits, in Pillow's words

_ORIENTATION = 0x0112  # EXIF's tag
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TAIL = 64  # bytes at a file's end in which its end marker must stand
_MOST_THREADS = 8
_WORTH_LISTING = 1000  # wanted files of a folder
_EVERY = 100  # pictures between two reports of progress


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
            if number % _EVERY == 0 or number == len(items):
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


def mend(header: Header, size_wh: tuple[int, int]) -> str:
    """What a picture needs so that a model sees what was annotated at ``size_wh`` pixels; empty for nothing.

    A picture on its side whose stored size is the annotated one stays as it is. Raises ``Unreadable`` if the
    annotated size is neither the stored nor the upright one.
    """
    stored = header.width, header.height
    if size_wh not in (stored, header.upright):
        raise Unreadable(OTHER_SIZE)
    needs = [
        TURNED if header.orientation != 1 and size_wh == header.upright else "",
        EIGHT_BITS if header.mode in DEEP_MODES else "",
    ]
    return ", ".join(filter(None, needs))


def upright(image: "Image.Image") -> "Image.Image":
    """The decoded picture as a viewer shows it."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block is as good as none
        return image


def eight_bits(image: "Image.Image") -> "Image.Image":
    """A picture of deeper grey as RGB: 0…65535 becomes 0…255; other ranges are stretched from darkest to brightest."""
    from PIL import Image

    values = np.asarray(image, np.float64)  # (height, width)
    known = np.isfinite(values)
    low, high = 0.0, 65535.0
    if image.mode == "F" or (image.mode == "I" and ((values < low) | (values > high)).any()):
        low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    scaled = (np.where(known, values, low) - low) * 255.0 / ((high - low) or 1.0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def bring(source: Path, target: Path, how: How, mending: str) -> Done:
    """Put a picture at ``target`` as a hard link (a copy where the file system refuses), a copy, or mended.

    ``mending`` is what ``mend`` said; a mended picture keeps its name and, where Pillow writes it without loss or it is
    JPEG, its format (else it is PNG). A target that is right already stays. Raises ``DataError``.
    """
    with quiet():
        return _bring(source, target, how, mending)


def bring_all(pairs: Sequence[tuple[Path, Path, str]], how: How, progress: Progress = no_progress) -> dict[str, int]:
    """``bring`` for each source, target and mending; how many were linked, copied, mended. Raises ``DataError``."""
    plain, ill = [one for one in pairs if not one[2]], [one for one in pairs if one[2]]

    def work(one: tuple[Path, Path, str]) -> Done:
        return _bring(one[0], one[1], how, one[2])

    done = Counter[str](linked=0, copied=0, mended=0)
    with quiet():
        for number, one in enumerate(plain, 1):
            done[work(one)] += 1
            if number % _EVERY == 0 or number == len(pairs):
                progress(number, len(pairs))
        done.update(in_threads(work, ill, lambda number, _total: progress(len(plain) + number, len(pairs))))
    return dict(done)


def _bring(source: Path, target: Path, how: How, mending: str) -> Done:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if mending:
            _put(target, _mended(source, mending))
            return "mended"
        if how == "link" and _link(source, target):
            return "linked"
        _copy(source, target)
    except (OSError, Unreadable) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"Cannot bring the picture to the subset: {source}",
            why=f"{why}: {target}",
            hint="Check the file, and the room and the rights in the output folder.",
        ) from None
    return "copied"


def _link(source: Path, target: Path) -> bool:
    """Make ``target`` a hard link of ``source``; False where the file system refuses."""
    real = source.resolve() if source.is_symlink() else source
    try:
        os.link(real, target)
    except FileExistsError:
        return _same(real, target) or _link_over(real, target)
    except OSError:
        return False
    return True


def _link_over(source: Path, target: Path) -> bool:
    try:
        with whole_file(target) as temporary:
            os.link(source, temporary)
    except OSError:
        return False
    return True


def _same(source: Path, target: Path) -> bool:
    """Whether the target is itself the source's file, not by way of a symbolic link."""
    return os.path.samestat(source.stat(), target.lstat())


def _copy(source: Path, target: Path) -> None:
    there = target.is_file() and not target.is_symlink()
    if there and not _same(source, target) and filecmp.cmp(source, target, shallow=False):
        return
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _put(target: Path, content: bytes) -> None:
    if target.is_file() and target.read_bytes() == content:
        return
    with whole_file(target) as temporary:
        temporary.write_bytes(content)


def _mended(source: Path, mending: str) -> bytes:
    """The mended picture as a file's content, without EXIF data: readers that heed it would turn it once more."""
    with opened(source) as image:
        image.load()
        style = _style(image)
        pixels = upright(image) if TURNED in mending else image
        if EIGHT_BITS in mending:
            pixels = eight_bits(pixels)
        pixels.info = {name: value for name, value in pixels.info.items() if name == "transparency"}
        content = io.BytesIO()
        pixels.save(content, **style)
    return content.getvalue()


def _style(image: "Image.Image") -> dict[str, Any]:
    """How to write a picture as it was read."""
    profile = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
    if image.mode in DEEP_MODES:
        profile = {}  # a profile for grey does not fit RGB
    if image.format in ("JPEG", "MPO"):
        return {"format": "JPEG", "quality": 95, **profile}
    if image.format == "WEBP":
        return {"format": "WEBP", "lossless": True, "exact": True, **profile}
    return {"format": "TIFF" if image.format == "TIFF" else "PNG", **profile}
