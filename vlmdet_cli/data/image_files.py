"""One picture file on disk: what its header says, and its pixels as every part of vlmdet sees them.

There is one policy for how a stored picture becomes pixels, for training (``image_import`` writes pictures that need
it anew), for engines and for drawings: ``open_upright``. It turns the picture as EXIF says, reduces deep grey to
8 bits, takes the first frame of an animation, and drops transparency as ms-swift does (``convert("RGB")``), so that a
model is asked about the very pixels that it was trained on.

Bad files raise nothing but ``Unreadable``, whose text is one of the reasons below: short, and the same for all such
files, so that a ledger can count by it. Pillow's own limit on pixels holds, at the size where Pillow begins to warn.

Pillow's warnings (on odd metadata, say) are silenced while a picture is open. The filters of ``warnings`` belong to the
process, not to a thread, so ``no_warnings`` counts its users.
"""

import contextlib
import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

Size = tuple[int, int]  # width and height in pixels

# The suffixes of picture files, in lower case, the likeliest first: where a format names a picture without its suffix,
# they are tried in this order.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".mpo", ".dng",
)  # fmt: skip

MISSING = "not on disk"
EMPTY = "empty file"
NO_PICTURE = "not a picture file"
TRUNCATED = "truncated"
DAMAGED = "damaged"
BOMB = "too many pixels (a decompression bomb)"
FORBIDDEN = "cannot be read"
OTHER_SIZE = "size differs from the annotations"

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of grey with more than 8 bits

_ORIENTATION = 0x0112  # the number of EXIF's tag
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TAIL = 64  # bytes at a file's end in which its end marker must stand


class Unreadable(ValueError):  # noqa: N818  a remark on a file that callers count, seldom an error
    """A picture file that cannot be used; its text is one of the reasons above."""


class Header(NamedTuple):
    """What a file says of its picture: the stored size in pixels, EXIF's orientation (1…8, 1 if none), Pillow's mode.

    A TIFF file always has orientation 1: Pillow turns it on opening.
    """

    width: int
    height: int
    orientation: int
    mode: str
    frames: int

    @property
    def stored_size(self) -> Size:
        """Width and height of the stored pixels."""
        return self.width, self.height

    @property
    def upright_size(self) -> Size:
        """Width and height as a viewer shows the picture."""
        return self.stored_size[::-1] if self.orientation >= 5 else self.stored_size

    def needs_turn(self, annotated_size: Size | None = None) -> bool:
        """Whether the stored pixels must be turned as EXIF says.

        Some annotators saw stored pictures: a picture on its side stays as stored where ``annotated_size`` is its
        stored size and not its upright one.
        """
        as_stored = annotated_size == self.stored_size != self.upright_size
        return self.orientation != 1 and not as_stored


class _Silence:
    """``warnings`` ignored from the first user's entry to the last user's exit, in whatever threads these are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._saved.__exit__(None, None, None)


_silence = _Silence()


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """No warnings while the block runs, in no thread: neither shown nor raised."""
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()


def open_upright(path: Path, annotated_size: Size | None = None) -> "Image.Image":
    """The decoded picture in RGB, 8 bits a channel, upright by EXIF (see ``Header.needs_turn``).

    Raises ``Unreadable``. A picture of another size than ``annotated_size`` is no error here.
    """
    with open_image(path) as image:
        turn = _header(image, frames=1).needs_turn(annotated_size)
        image.load()
        return to_rgb(turn_upright(image) if turn else image)


def upright_size(path: Path) -> Size:
    """Width and height of ``open_upright``'s picture, from the file's header alone. Raises ``Unreadable``."""
    return read_header(path).upright_size


def turn_upright(image: "Image.Image") -> "Image.Image":
    """The decoded picture as a viewer shows it; EXIF data that cannot be read turn nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF parser raises errors of many kinds
        return image


def to_rgb(image: "Image.Image") -> "Image.Image":
    """The decoded picture in RGB with 8 bits a channel; transparency is dropped, as ms-swift does."""
    return reduce_depth(image) if image.mode in DEEP_MODES else image.convert("RGB")


def reduce_depth(image: "Image.Image") -> "Image.Image":
    """A picture of deep grey as RGB: 0…65535 becomes 0…255; other ranges are stretched from darkest to brightest."""
    from PIL import Image

    values = np.asarray(image, np.float64)  # (height, width)
    finite = np.isfinite(values)
    low, high = 0.0, 65535.0
    if image.mode == "F" or (image.mode == "I" and ((values < low) | (values > high)).any()):
        low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, values, low) - low) * 255.0 / ((high - low) or 1.0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


@contextlib.contextmanager
def open_image(path: Path) -> Iterator["ImageFile"]:
    """The picture as stored, not yet decoded. Any error of its file, in the block too, is raised as ``Unreadable``."""
    from PIL import Image

    _require_file(path)
    try:
        with no_warnings(), _identified(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Unreadable(BOMB)
            yield image
    except Unreadable:
        raise
    except Exception as error:  # Pillow's plugins raise errors of every kind
        raise Unreadable(_reason(error, path)) from None


def _identified(path: Path) -> "ImageFile":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except UnidentifiedImageError:
        Image.init()  # while another thread loads Pillow's rarer plugins, a file of theirs is not identified
        return Image.open(path)


def _require_file(path: Path) -> None:
    """A regular file that has bytes: opening a pipe would wait for ever."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(MISSING) from None
    except (OSError, ValueError, RuntimeError):  # ValueError: a name that no file system can have
        raise Unreadable(FORBIDDEN) from None
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(FORBIDDEN)
    if not status.st_size:
        raise Unreadable(EMPTY)


def _reason(error: Exception, path: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return BOMB
    if isinstance(error, UnidentifiedImageError):
        return TRUNCATED if looks_truncated(path) else NO_PICTURE
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        return FORBIDDEN
    is_short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return TRUNCATED if is_short or looks_truncated(path) else DAMAGED


def read_header(path: Path) -> Header:
    """What the file's header says; no pixel is decoded. Raises ``Unreadable``."""
    with open_image(path) as image:
        return _header(image, _frames(image))


def _header(image: "ImageFile", frames: int) -> Header:
    return Header(image.width, image.height, _orientation(image), image.mode, frames)


def _orientation(image: "ImageFile") -> int:
    """EXIF's orientation; 1 where it is missing or out of range."""
    from PIL import Image

    if image.format == "TIFF":
        return 1
    try:
        # not the method of PNG files, which decodes all pixels to read chunks that may stand behind them
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and "exif" not in image.info and image.fp:
            exif.load(_png_exif(image.fp))
        value: Any = exif.get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a broken EXIF block counts as none
        return 1


def _png_exif(file: IO[bytes]) -> bytes:
    """The EXIF chunk of a PNG file, which exiftool puts behind the pixels; empty if there is none.

    Leaves the file where Pillow expects it.
    """
    position = file.tell()
    file.seek(len(_PNG))
    try:
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"eXIf":
                return file.read(min(length, 1 << 16))
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(position)


def _frames(image: "Image.Image") -> int:
    """The number of frames; 1 where later ones cannot be counted, as only the first is needed."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return 1


def looks_truncated(path: Path) -> bool:
    """Whether a JPEG or PNG file lacks its end marker, or cannot be read: a cheap sign, to be checked by decoding."""
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
