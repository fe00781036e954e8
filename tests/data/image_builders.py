"""Small pictures on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmdet_cli.data.image_files import (
    Unreadable,
    read_header,
)

ORIENTATION = 0x0112
TURNS = [2, 3, 4, 5, 6, 7, 8]


def pixels(size: tuple[int, int] = (6, 4), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def turned(path: Path, orientation: int, picture: Image.Image | None = None) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (picture or pixels()).save(path, exif=exif)
    return path


def exif_at_the_end(path: Path) -> Path:
    """The PNG file with its EXIF chunk behind the pixels, as exiftool writes it."""
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    return path


def noise(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    pixels(size).save(path)
    return path


def shortened(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def reason(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        read_header(path)
    return str(caught.value)


def array(picture: Image.Image) -> list[list[list[int]]]:
    values: list[list[list[int]]] = np.asarray(picture).tolist()
    return values
