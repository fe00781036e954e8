"""Panels on one sheet: a title, a legend of the line patterns, and a grid of tiles with captions. Pure drawing.

The sheet is at most 1808 pixels wide, so that it is readable on a screen of 1280. It pastes panels unscaled: draw them
within ``tile_size``, so that their letters keep a readable size.
"""

from collections.abc import Mapping, Sequence

import msgspec
from PIL import Image, ImageDraw

from vlmdet_cli.drawing.legend import GROUND, INK, legend
from vlmdet_cli.drawing.lettering import fit, font, printable
from vlmdet_cli.drawing.outline import State

MAX_TILES = 24  # a reader can still take in
# colours, and sizes in pixels
_SOFT, _LINE = (105, 105, 105), (240, 240, 237)
_TILE, _GAP, _MARGIN, _CAPTION, _TITLE = (564, 423), 28, 30, 64, 72
_LETTERS = 20


class Tile(msgspec.Struct, frozen=True):
    """A panel no larger than ``tile_size`` and the two lines of text under it."""

    panel: Image.Image
    name: str
    note: str


def tile_size() -> tuple[int, int]:
    """The largest (width, height) of a panel on the sheet, in pixels."""
    return _TILE


def contact_sheet(tiles: Sequence[Tile], title: str, counts: Mapping[State, int]) -> Image.Image:
    """An RGB image: the title, the legend of the states in ``counts`` with their numbers, and all tiles in rows."""
    columns = _columns(len(tiles))
    width = 2 * _MARGIN + columns * _TILE[0] + (columns - 1) * _GAP
    strip = legend(counts, width - _MARGIN, _LETTERS)
    head = _TITLE + strip.height + _MARGIN // 2
    row_height = _TILE[1] + _CAPTION + _GAP
    canvas = Image.new("RGB", (width, head + -(-len(tiles) // columns) * row_height + _MARGIN - _GAP), GROUND)
    letters = font(_LETTERS + 6)
    ImageDraw.Draw(canvas).text((_MARGIN, 44), fit(title, letters, width - 2 * _MARGIN), INK, letters, "lm")
    canvas.paste(strip, (_MARGIN // 2, _TITLE))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        _draw_tile(canvas, tile, (_MARGIN + column * (_TILE[0] + _GAP), head + row * row_height))
    return canvas


def _columns(count: int) -> int:
    """The number of columns for a nearly square grid: 2 or 3."""
    return 2 if count <= 4 else 3


def _draw_tile(canvas: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    """Draw the panel in the middle of its cell and the caption under it, flush left."""
    draw, (left, top) = ImageDraw.Draw(canvas), corner
    draw.rectangle((left, top, left + _TILE[0] - 1, top + _TILE[1] - 1), _LINE)
    panel_corner = (left + (_TILE[0] - tile.panel.width) // 2, top + (_TILE[1] - tile.panel.height) // 2)
    canvas.paste(tile.panel, panel_corner)
    for line, (text, size, ink) in enumerate([(tile.name, _LETTERS, INK), (tile.note, _LETTERS - 2, _SOFT)]):
        cut = fit(printable(text), font(size), _TILE[0])
        draw.text((left, top + _TILE[1] + 20 + 24 * line), cut, ink, font(size), "lm")
