"""The legend of a drawing: a sample of each state's line and what it means, with the number of its boxes."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from PIL import Image, ImageDraw

from vlmdet_cli.drawing.lettering import Colour, Font, fit, font
from vlmdet_cli.drawing.outline import STATE_NAMES, State, draw_box, hatch

GROUND: Colour = (250, 250, 248)
INK: Colour = (30, 30, 30)
_RARE = ("crowd", "aside", "area")  # not worth a word where there are none
_SAMPLE: Colour = (85, 85, 85)  # no category's colour


class Entry(msgspec.Struct, frozen=True):
    """A sample's state, or None for a remark; its words; its position and width, in pixels of the legend."""

    state: State | None
    text: str
    left: int
    row: int


def legend(counts: Mapping[State, int], width: int, letter_size: int, remark: str = "") -> Image.Image:
    """An RGB image of ``width`` pixels: the states of ``counts`` with their numbers, then the remark, in rows."""
    letters = font(letter_size)
    texts: list[tuple[State | None, str]] = [
        (state, f"{n:,} {STATE_NAMES[state]}") for state, n in counts.items() if n or state not in _RARE
    ]
    entries = list(_entries([*texts, *([(None, remark)] if remark else [])], width, letters))
    high = round(letters.size * 1.8)
    rows = 1 + max((entry.row for entry in entries), default=0)
    canvas = Image.new("RGB", (width, rows * high + round(letters.size * 0.6)), GROUND)
    for entry in entries:
        _draw(canvas, entry, letters, round(letters.size * 0.3) + entry.row * high, high)
    return canvas


def _entries(texts: Sequence[tuple[State | None, str]], width: int, letters: Font) -> Iterator[Entry]:
    """The texts from left to right, in a new row where the width is used up; a text wider than a row is cut."""
    left, row = _margin(letters), 0
    for state, text in texts:
        sample = _sample_width(letters) if state else 0
        words = fit(text, letters, width - sample - 2 * _margin(letters))
        needed = sample + round(letters.getlength(words))
        if left > _margin(letters) and left + needed > width - _margin(letters):
            left, row = _margin(letters), row + 1
        yield Entry(state, words, left, row)
        left += needed + 2 * _margin(letters)


def _margin(letters: Font) -> int:
    return round(letters.size * 0.75)


def _sample_width(letters: Font) -> int:
    return round(letters.size * 3.3)


def _draw(canvas: Image.Image, entry: Entry, letters: Font, top: int, high: int) -> None:
    left, draw = entry.left, ImageDraw.Draw(canvas)
    if entry.state:
        width = max(2, round(letters.size / 6))
        rect = (left, top + high // 6, left + round(letters.size * 2.6), top + high - high // 6)
        if entry.state == "crowd":
            hatch(canvas, rect, _SAMPLE, width)
        draw_box(draw, rect, entry.state, _SAMPLE, width)
        left += _sample_width(letters)
    draw.text((left, top + high / 2), entry.text, INK, letters, "lm")
