"""The panels of ``viz``: a picture with its boxes and a caption each, and the account of those drawn.

    panels/001-NAME.jpg

An unreadable picture becomes a grey panel with the reason, and is counted. Where a picture's size differs from its
annotations, its boxes are scaled and the caption says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.data import image_files
from vlmdet_cli.drawing import gallery
from vlmdet_cli.drawing.gallery import MarkedPicture
from vlmdet_cli.drawing.lettering import Colour
from vlmdet_cli.drawing.outline import State
from vlmdet_cli.drawing.panel import draw_panel, draw_unreadable
from vlmdet_cli.drawing.sheet import MAX_TILES, Tile, tile_size
from vlmdet_cli.errors import first_few
from vlmdet_cli.stages.evaluation.page_pictures import remove_others

_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90, "subsampling": 0}, "PNG": {"optimize": True}}
_PANEL_NAME = re.compile(r"\d{3,}-[\w.-]*\.jpg", re.ASCII)


class PanelSettings(msgspec.Struct, frozen=True):
    """What all panels share: the picture folder, the panel folder, the class colours, the states to show."""

    images: Path
    panels: Path
    colours: dict[str, Colour]
    states: tuple[State, ...]


class DrawnPanel(msgspec.Struct, frozen=True):
    """A written panel: its file, the picture's name, its tile for the sheet where it is one of the first, and why the
    picture is unreadable.
    """

    file: Path
    name: str
    tile: Tile | None
    problem: str


def draw_panels(
    chosen: Sequence[MarkedPicture], settings: PanelSettings, on_progress: Callable[[int, int], None]
) -> list[DrawnPanel]:
    """Write the panels; those of an earlier run in the same folder are removed."""
    drawn = list(_draw_panels(chosen, settings, on_progress))
    remove_others(settings.panels, {panel.file.name for panel in drawn}, _PANEL_NAME)
    return drawn


def _draw_panels(
    chosen: Sequence[MarkedPicture], settings: PanelSettings, on_progress: Callable[[int, int], None]
) -> Iterator[DrawnPanel]:
    for number, marked in enumerate(chosen, 1):
        yield _draw_andsave_image(marked, number, settings)
        on_progress(number, len(chosen))


def _draw_andsave_image(marked: MarkedPicture, number: int, settings: PanelSettings) -> DrawnPanel:
    picture = marked.picture
    image, remark = open_picture(settings.images / picture.image, (picture.width, picture.height))
    file = settings.panels / panel_name(number, picture.image)
    save_image(_panel(image, remark, marked, settings, None), file, "JPEG")
    note = " · ".join([gallery.caption(marked, settings.states), *([remark] if remark else [])])
    tile = None
    if number <= MAX_TILES:
        tile = Tile(_panel(image, remark, marked, settings, tile_size()), picture.image, note)
    return DrawnPanel(file, picture.image, tile, "" if image else remark)


def _panel(
    image: Image.Image | None,
    remark: str,
    marked: MarkedPicture,
    settings: PanelSettings,
    within: tuple[int, int] | None,
) -> Image.Image:
    frame = (marked.picture.width, marked.picture.height)
    if image is None:
        return draw_unreadable(frame if min(frame) > 0 else (4, 3), remark, within)
    return draw_panel(image, marked.marks, settings.colours, frame=frame if min(frame) > 0 else None, within=within)


def open_picture(path: Path, frame: tuple[int, int]) -> tuple[Image.Image | None, str]:
    """A picture in RGB, upright (see ``open_upright``), and a remark.

    The remark says why the picture is unreadable (then the first value is None), or that its size is not the annotated
    (width, height) ``frame``. A side of 0 in ``frame`` means that the size is not annotated.
    """
    try:
        image = image_files.open_upright(path, frame)
    except image_files.Unreadable as error:
        return None, str(error)
    width, height = image.size
    if min(frame) > 0 and image.size != frame:
        return image, f"the picture is {width} x {height}, its annotations say {frame[0]} x {frame[1]}"
    return image, ""


def panel_name(number: int, image: str) -> str:
    """A panel's file name: its number and the ASCII letters, digits, ``-`` and ``_`` of the picture's name."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(image).stem).strip("-")[:60]
    return f"{number:03d}-{stem or 'picture'}.jpg"


def save_image(image: Image.Image, path: Path, kind: str) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, kind, **_OPTIONS[kind])


def account(drawn: Sequence[DrawnPanel], total: int) -> Ledger:
    ledger, problems = Ledger(), sum(bool(panel.problem) for panel in drawn)
    ledger.keep("pictures", len(drawn) - problems)
    ledger.drop("pictures", "cannot be read", problems)
    ledger.drop("pictures", "beyond the limit", total - len(drawn))
    return ledger


def unreadable(drawn: Sequence[DrawnPanel]) -> list[str]:
    problems = [f"{panel.name}: {panel.problem}" for panel in drawn if panel.problem]
    return [f"Cannot be read: {line}" for line in first_few(problems)]
