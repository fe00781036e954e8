"""The pictures of the report page: small ones for its list, larger ones for its large view, made by several threads.

    thumbs/00001.jpg     at most 320 pixels on a side, a file for each picture of the page, in its order
    pictures/00001.jpg   at most 1280 pixels, where the picture is larger than its small one

A picture that cannot be read has no file; the page shows a placeholder.
"""

import base64
import functools
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.workers import cpu_count
from vlmdet_cli.data import image_files

THUMBS, PICTURES = "thumbs", "pictures"
SMALL, LARGE, EMBEDDED = 320, 1280, 640  # pixels of the longer side
_OWN_NAME = re.compile(r"\d{5,}\.jpg", re.ASCII)
Size = tuple[int, int]


class PageImage(msgspec.Struct, frozen=True):
    """What became of a picture: its size, why there is none, whether it has a larger file, and its data URL."""

    size: Size = (0, 0)
    gone: str = ""
    large: bool = False
    embedded: str = ""


def write_images(
    output: Path,
    sources: Sequence[tuple[Path, Size]],
    *,
    embed: bool,
    on_picture: Callable[[int], None] = lambda _done: None,
) -> list[PageImage]:
    """Write the pictures of the page below ``output``, or with ``embed`` put them into data URLs.

    ``sources``: the file and the annotated size of each. Those of an earlier page that are no longer needed go.
    """
    make = embedded if embed else functools.partial(_files, output)
    with ThreadPoolExecutor(cpu_count()) as pool:  # Pillow works without the interpreter's lock
        try:
            images = list(_counted(pool.map(make, range(1, len(sources) + 1), sources), on_picture))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    written = [] if embed else list(enumerate(images, 1))
    remove_others(output / THUMBS, {_name(number) for number, image in written if not image.gone}, _OWN_NAME)
    remove_others(output / PICTURES, {_name(number) for number, image in written if image.large}, _OWN_NAME)
    return images


def columns(images: Sequence[PageImage], sizes: Sequence[Sequence[int]], *, embed: bool) -> dict[str, Any]:
    """The page's columns ``images``, and those of ``pictures`` that depend on the files."""
    return {
        "images": {
            "large": [int(image.large) for image in images],
            "embedded": [image.embedded for image in images] if embed else None,
        },
        "gone": [image.gone for image in images],
        "remark": [_remark(image, size) for image, size in zip(images, sizes, strict=True)],
        "size": [list(size) if min(size) > 0 else list(image.size) for image, size in zip(images, sizes, strict=True)],
    }


def _remark(image: PageImage, annotated: Sequence[int]) -> str:
    if image.gone or min(annotated) <= 0 or image.size == tuple(annotated):
        return image.gone
    return f"The picture is {image.size[0]} x {image.size[1]}, its annotations say {annotated[0]} x {annotated[1]}."


def _counted(images: Iterable[PageImage], on_picture: Callable[[int], None]) -> Iterator[PageImage]:
    for number, image in enumerate(images, 1):
        yield image
        on_picture(number)


def embedded(_number: int, source: tuple[Path, Size]) -> PageImage:
    """A picture as a data URL."""
    try:
        image = image_files.open_upright(*source)
    except image_files.Unreadable as error:
        return PageImage(gone=str(error))
    buffer = io.BytesIO()
    _shrunk(image, EMBEDDED).save(buffer, "JPEG", quality=80)
    return PageImage(image.size, embedded=_data_url("jpeg", buffer.getvalue()))


def data_url(path: Path) -> str:
    """The content of a JPEG or PNG file as an address."""
    return _data_url("png" if path.suffix == ".png" else "jpeg", path.read_bytes())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _files(output: Path, number: int, source: tuple[Path, Size]) -> PageImage:
    try:
        image = image_files.open_upright(*source)
    except image_files.Unreadable as error:
        return PageImage(gone=str(error))
    large = max(image.size) > SMALL
    if large:
        _save(_shrunk(image, LARGE), output / PICTURES / _name(number), 88)
    _save(_shrunk(image, SMALL), output / THUMBS / _name(number), 82)
    return PageImage(image.size, large=large)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _save(image: Image.Image, path: Path, quality: int) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, "JPEG", quality=quality)


def _name(number: int) -> str:
    return f"{number:05d}.jpg"


def remove_others(folder: Path, names: set[str], own: "re.Pattern[str]") -> None:
    """Remove the JPEG files of an earlier page, whose names match ``own``, but not ``names``; others stay."""
    for path in folder.glob("*.jpg"):
        if path.name not in names and own.fullmatch(path.name):
            path.unlink()
