"""Panels on one sheet: a title, a legend of the line patterns, and a grid of tiles with captions. Pure drawing.

The sheet is at most 2400 pixels wide. It pastes panels unscaled: draw them within ``tile_size``, so that their letters
keep a readable size.
"""

from collections.abc import Sequence

import msgspec
from PIL import Image, ImageDraw

from vlmdet_cli.drawing.lettering import Colour, fit, font, printable
from vlmdet_cli.drawing.panel import State, draw_box

MAX_TILES = 24  # a reader can still take in
STATE_NAMES: dict[State, str] = {
    "truth": "annotated",
    "found": "found (IoU with its object)",
    "false": "false",
    "missed": "missed",
    "crowd": "crowd region (not counted)",
    "aside": "prediction that does not count",
}
LINE_STYLES: dict[State, str] = {
    "truth": "solid line",
    "found": "solid line",
    "false": "dashed line",
    "missed": "dotted line",
    "crowd": "hatched",
    "aside": "thin line",
}
# colours, and sizes in pixels
_GROUND, _INK, _SOFT, _LINE, _SAMPLE = (250, 250, 248), (30, 30, 30), (105, 105, 105), (240, 240, 237), (213, 94, 0)
_TILE, _GAP, _MARGIN, _CAPTION, _HEAD = (564, 423), 28, 30, 58, 112


class Tile(msgspec.Struct, frozen=True):
    """A panel no larger than ``tile_size`` and the two lines of text under it."""

    panel: Image.Image
    name: str
    note: str


def tile_size() -> tuple[int, int]:
    """The largest (width, height) of a panel on the sheet, in pixels."""
    return _TILE


def contact_sheet(tiles: Sequence[Tile], title: str, states: Sequence[State]) -> Image.Image:
    """An RGB image: the title, the legend of ``states``, and all tiles in rows."""
    columns = _columns(len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", _sheet_size(columns, rows), _GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, 44), fit(title, font(24), canvas.width - 2 * _MARGIN), _INK, font(24), "lm")
    _draw_legend(draw, states, canvas.width)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = _MARGIN + column * (_TILE[0] + _GAP)
        _draw_tile(canvas, tile, (left, _HEAD + row * (_TILE[1] + _CAPTION + _GAP)))
    return canvas


def _columns(count: int) -> int:
    """The number of columns for a nearly square grid: at least 2, so that the legend fits, and at most 4."""
    return next((n for n in (2, 3) if count <= n * n), 4)


def _sheet_size(columns: int, rows: int) -> tuple[int, int]:
    width = 2 * _MARGIN + columns * _TILE[0] + (columns - 1) * _GAP
    return width, _HEAD + rows * (_TILE[1] + _CAPTION + _GAP) + _MARGIN - _GAP


def _draw_legend(draw: ImageDraw.ImageDraw, states: Sequence[State], width: int) -> None:
    left, letters = _MARGIN, font(17)
    for state in states:
        right = left + 80 + round(letters.getlength(STATE_NAMES[state]))
        if right > width - _MARGIN:
            break
        if state == "crowd":
            _hatch(draw, (left, 74, left + 61, 97), _SAMPLE)
        draw_box(draw, (left, 74, left + 61, 97), state, _SAMPLE, 3)
        draw.text((left + 72, 86), STATE_NAMES[state], _INK, letters, "lm")
        left = right + 26


def _hatch(draw: ImageDraw.ImageDraw, rect: tuple[int, int, int, int], colour: Colour) -> None:
    left, top, right, bottom = rect
    for start in range(left, right - (bottom - top), 7):
        draw.line((start, bottom, start + bottom - top, top), colour, 2)


def _draw_tile(canvas: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    """Draw the panel in the middle of its cell and the caption under it, flush left."""
    draw, (left, top) = ImageDraw.Draw(canvas), corner
    draw.rectangle((left, top, left + _TILE[0] - 1, top + _TILE[1] - 1), _LINE)
    panel_corner = (left + (_TILE[0] - tile.panel.width) // 2, top + (_TILE[1] - tile.panel.height) // 2)
    canvas.paste(tile.panel, panel_corner)
    for line, (text, size, ink) in enumerate([(tile.name, 17, _INK), (tile.note, 16, _SOFT)]):
        cut = fit(printable(text), font(size), _TILE[0])
        draw.text((left, top + _TILE[1] + 18 + 22 * line), cut, ink, font(size), "lm")
