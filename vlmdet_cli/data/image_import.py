"""Pictures put where rows name them, as they are or fixed, so that a model sees what was annotated.

ms-swift opens a picture with Pillow, ignores EXIF's orientation, and converts it to RGB, by which 16-bit grey clips to
white; of an animation it takes the first frame. Most annotations are of the upright picture. ``required_fixes`` says
what a picture needs, and ``materialize`` writes it; what it needs is decided as in ``image_files.open_upright``. Hard
links are made on one thread: two are not faster.
"""

import filecmp
import io
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data.image_checks import PROGRESS_STEP, Progress, map_in_threads, no_progress
from vlmdet_cli.data.image_files import (
    DEEP_MODES,
    OTHER_SIZE,
    Header,
    Size,
    Unreadable,
    open_image,
    reduce_depth,
    turn_upright,
)
from vlmdet_cli.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Fix = Literal["turned upright", "reduced to 8 bits"]
Fixes = tuple[Fix, ...]
LinkMode = Literal["link", "copy"]
Action = Literal["linked", "copied", "mended"]


def required_fixes(header: Header, annotated_size: Size) -> Fixes:
    """What a picture needs so that a model sees what was annotated at ``annotated_size`` pixels.

    Raises ``Unreadable`` if the annotated size is neither the stored nor the upright one.
    """
    if annotated_size not in (header.stored_size, header.upright_size):
        raise Unreadable(OTHER_SIZE)
    fixes: list[Fix] = []
    if header.needs_turn(annotated_size):
        fixes.append("turned upright")
    if header.mode in DEEP_MODES:
        fixes.append("reduced to 8 bits")
    return tuple(fixes)


def materialize(source: Path, target: Path, mode: LinkMode, fixes: Fixes = ()) -> Action:
    """Put a picture at ``target`` as a hard link (a copy where the file system refuses), a copy, or fixed.

    A fixed picture keeps its name and, where Pillow writes it without loss or it is JPEG, its format (else it is PNG).
    A target that is right already stays. Raises ``DataError``.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if fixes:
            _write_if_changed(target, _fixed(source, fixes))
            return "mended"
        if mode == "link" and _link(source, target):
            return "linked"
        _copy(source, target)
    except (OSError, Unreadable) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"Cannot put the picture into the subset: {source}",
            why=f"{reason}: {target}",
            hint="Check the file, and the free space and the permissions of the output folder.",
        ) from None
    return "copied"


def materialize_all(
    pictures: Sequence[tuple[Path, Path, Fixes]], mode: LinkMode, progress: Progress = no_progress
) -> dict[str, int]:
    """``materialize`` for each (source, target, fixes); counts of linked, copied, mended. Raises ``DataError``."""
    plain = [picture for picture in pictures if not picture[2]]
    to_fix = [picture for picture in pictures if picture[2]]

    def put(picture: tuple[Path, Path, Fixes]) -> Action:
        source, target, fixes = picture
        return materialize(source, target, mode, fixes)

    counts = Counter[str](linked=0, copied=0, mended=0)
    for number, picture in enumerate(plain, 1):
        counts[put(picture)] += 1
        if number % PROGRESS_STEP == 0 or number == len(pictures):
            progress(number, len(pictures))
    counts.update(map_in_threads(put, to_fix, lambda done, _: progress(len(plain) + done, len(pictures))))
    return dict(counts)


def _link(source: Path, target: Path) -> bool:
    """Make ``target`` a hard link of ``source``; False where the file system refuses."""
    real = source.resolve() if source.is_symlink() else source
    try:
        os.link(real, target)
    except FileExistsError:
        return _is_same_file(real, target) or _replace_by_link(real, target)
    except OSError:
        return False
    return True


def _replace_by_link(source: Path, target: Path) -> bool:
    try:
        with whole_file(target) as temporary:
            os.link(source, temporary)
    except OSError:
        return False
    return True


def _is_same_file(source: Path, target: Path) -> bool:
    """Whether the target is itself the source's file, and no symbolic link to it."""
    return os.path.samestat(source.stat(), target.lstat())


def _copy(source: Path, target: Path) -> None:
    exists = target.is_file() and not target.is_symlink()
    if exists and not _is_same_file(source, target) and filecmp.cmp(source, target, shallow=False):
        return
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_if_changed(target: Path, content: bytes) -> None:
    if target.is_file() and target.read_bytes() == content:
        return
    with whole_file(target) as temporary:
        temporary.write_bytes(content)


def _fixed(source: Path, fixes: Fixes) -> bytes:
    """The fixed picture as a file's content, without EXIF data: readers that obey it would turn it once more."""
    with open_image(source) as image:
        image.load()
        options = _save_options(image)
        pixels = turn_upright(image) if "turned upright" in fixes else image
        if "reduced to 8 bits" in fixes:
            pixels = reduce_depth(pixels)
        pixels.info = {name: value for name, value in pixels.info.items() if name == "transparency"}
        content = io.BytesIO()
        pixels.save(content, **options)
    return content.getvalue()


def _save_options(image: "Image.Image") -> dict[str, Any]:
    """Pillow's options that write a picture as it was read."""
    profile = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
    if image.mode in DEEP_MODES:
        profile = {}  # a profile for grey does not fit RGB
    if image.format in ("JPEG", "MPO"):
        return {"format": "JPEG", "quality": 95, **profile}
    if image.format == "WEBP":
        return {"format": "WEBP", "lossless": True, "exact": True, **profile}
    return {"format": "TIFF" if image.format == "TIFF" else "PNG", **profile}
