"""The picture of a request: read once for all of its prompts, decoded once for all of its crops."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from vlmdet_cli.core.settings import Table
from vlmdet_cli.data import image_files
from vlmdet_cli.engines import EngineSettings, Request, pictures
from vlmdet_cli.engines.failures import BadPicture
from vlmdet_cli.engines.pictures import PictureReader, sized_picture
from vlmdet_cli.models import registry

SETTINGS = EngineSettings(model=Path("m"), family=registry.get("qwen2_vl"), options=Table())
LEFT, RIGHT = (0, 0, 112, 112), (112, 0, 224, 112)


def request(path: Path, **values: Any) -> Request:
    return Request(**{"key": "k", "image": path, "prompt": "<image>x", **values})


def halves(folder: Path) -> Path:
    """A picture whose left half is black and whose right half is white."""
    pixels = np.zeros((112, 224, 3), np.uint8)
    pixels[:, 112:] = 255
    Image.fromarray(pixels).save(folder / "halves.png")
    return folder / "halves.png"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []
    open_upright = image_files.open_upright

    def counting(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
        names.append(path.name)
        return open_upright(path, size)

    monkeypatch.setattr(pictures, "open_upright", counting)
    return names


def test_a_picture_is_read_once_for_all_of_its_prompts(tmp_path: Path, decoded: list[str]) -> None:
    paths = [picture(tmp_path, "a.png"), picture(tmp_path, "b.png")]
    requests = [request(path, prompt=f"<image>{n}") for path in paths for n in range(20)]
    with ThreadPoolExecutor(4) as pool:
        sized = list(pool.map(PictureReader(SETTINGS), requests))
    assert decoded == ["a.png", "b.png"]
    assert len({id(image) for image in sized}) == 2


def test_a_file_is_decoded_once_for_all_of_its_crops_and_each_crop_has_its_own_pixels(
    tmp_path: Path, decoded: list[str]
) -> None:
    read = PictureReader(SETTINGS)
    means = [np.asarray(read(request(halves(tmp_path), crop=crop))).mean() for crop in (LEFT, RIGHT, LEFT)]
    assert means == [0, 255, 0]
    assert decoded == ["halves.png"]


@pytest.mark.parametrize("crop", [None, RIGHT])
def test_a_reader_gives_what_is_read_for_a_single_request(
    tmp_path: Path, crop: tuple[int, int, int, int] | None
) -> None:
    asked = request(halves(tmp_path), crop=crop)
    assert PictureReader(SETTINGS)(asked).tobytes() == sized_picture(asked, SETTINGS).tobytes()


def test_few_pictures_are_kept(tmp_path: Path, decoded: list[str]) -> None:
    read = PictureReader(SETTINGS)
    paths = [picture(tmp_path, f"{n}.png") for n in range(pictures.SIZED + 1)]
    for path in (*paths, paths[-1], paths[0]):
        read(request(path))
    assert decoded == [path.name for path in (*paths, paths[0])]


def test_a_failure_reaches_every_prompt_and_is_not_kept(tmp_path: Path) -> None:
    path, read = tmp_path / "a.png", PictureReader(SETTINGS)
    path.write_bytes(b"")
    for crop in (None, LEFT, None):
        with pytest.raises(BadPicture, match="empty file"):
            read(request(path, crop=crop))
    picture(tmp_path, "a.png")
    assert read(request(path)).size == sized_picture(request(path), SETTINGS).size
