"""Pictures brought to where rows name them, as they are or mended, so that a model sees what was annotated.

ms-swift opens a picture with Pillow, does not heed EXIF's orientation, and makes it RGB, by which 16-bit grey clips to
white; of an animation it takes the first frame. Most annotations are of the upright picture. ``mend`` says what is
needed, and ``bring`` does it. Hard links are made on one thread: two are not faster.
"""

import filecmp
import io
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data.image_files import (
    DEEP_MODES,
    EVERY,
    OTHER_SIZE,
    Header,
    Progress,
    Unreadable,
    in_threads,
    no_progress,
    opened,
    quiet,
)
from vlmdet_cli.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

LinkMode = Literal["link", "copy"]
Done = Literal["linked", "copied", "mended"]
TURNED = "turned upright"
EIGHT_BITS = "16 bits made 8"


def required_fixes(header: Header, size_wh: tuple[int, int]) -> str:
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


def materialize(source: Path, target: Path, how: LinkMode, mending: str) -> Done:
    """Put a picture at ``target`` as a hard link (a copy where the file system refuses), a copy, or mended.

    ``mending`` is what ``mend`` said; a mended picture keeps its name and, where Pillow writes it without loss or it is
    JPEG, its format (else it is PNG). A target that is right already stays. Raises ``DataError``.
    """
    with quiet():
        return _materialize(source, target, how, mending)


def materialize_all(
    pairs: Sequence[tuple[Path, Path, str]], how: LinkMode, progress: Progress = no_progress
) -> dict[str, int]:
    """``bring`` for each source, target and mending; how many were linked, copied, mended. Raises ``DataError``."""
    plain, ill = [one for one in pairs if not one[2]], [one for one in pairs if one[2]]

    def work(one: tuple[Path, Path, str]) -> Done:
        return _materialize(one[0], one[1], how, one[2])

    done = Counter[str](linked=0, copied=0, mended=0)
    with quiet():
        for number, one in enumerate(plain, 1):
            done[work(one)] += 1
            if number % EVERY == 0 or number == len(pairs):
                progress(number, len(pairs))
        done.update(in_threads(work, ill, lambda number, _total: progress(len(plain) + number, len(pairs))))
    return dict(done)


def _materialize(source: Path, target: Path, how: LinkMode, mending: str) -> Done:
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
    """LinkMode to write a picture as it was read."""
    profile = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
    if image.mode in DEEP_MODES:
        profile = {}  # a profile for grey does not fit RGB
    if image.format in ("JPEG", "MPO"):
        return {"format": "JPEG", "quality": 95, **profile}
    if image.format == "WEBP":
        return {"format": "WEBP", "lossless": True, "exact": True, **profile}
    return {"format": "TIFF" if image.format == "TIFF" else "PNG", **profile}
