"""A box's outline: the state of a box decides the pattern of its line, its category the colour. Pure drawing.

    truth, answer, found    solid      annotations or an answer alone; a prediction with its object
    false                   dashed     a prediction without an object
    missed                  dotted     an object without a prediction
    crowd                   hatched    an annotated crowd region, which is not counted
    aside, area             thin       a prediction that is left out of account; an area that a question names

A line has an edge of black or white, whichever contrasts more, so that it is visible on any picture; the stripes of a
hatched region alternate with the same black or white. The patterns tell the states apart without colour.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from vlmdet_cli.drawing.lettering import Colour, ink_on

Rect = tuple[int, int, int, int]
State = Literal["truth", "answer", "area", "found", "false", "missed", "crowd", "aside"]

# the length of a stroke and of the gap after it, in line widths; gap 0 is a solid line
PATTERNS: Mapping[State, tuple[float, float]] = {"false": (4, 2.5), "missed": (1, 2)}
# factors on the line width: dots need more to be visible; boxes that are not counted are thin
_THICKNESS: Mapping[State, float] = {"missed": 1.4, "crowd": 0.5, "aside": 0.5, "area": 0.5}
# from bottom to top: a reader searches for errors
LAYERS: tuple[State, ...] = ("crowd", "aside", "area", "truth", "answer", "found", "missed", "false")
STATE_NAMES: Mapping[State, str] = {
    "truth": "annotated",
    "answer": "in the answer",
    "area": "in the question",
    "found": "found (prediction, its IoU)",
    "false": "false (prediction)",
    "missed": "missed (object)",
    "crowd": "crowd (not counted)",
    "aside": "not counted (prediction)",
}


def line_width(size: tuple[int, int]) -> int:
    """The width of a box's line on a canvas of ``size``, in pixels."""
    return max(2, round(max(size) / 280))


def draw_box(draw: ImageDraw.ImageDraw, rect: Rect, state: State, colour: Colour, width: int) -> None:
    """Draw a box's border in its state's pattern, inside ``rect``, over an edge that contrasts."""
    width = max(1, round(width * _THICKNESS.get(state, 1)))
    rects = list(strokes(rect, width, *PATTERNS.get(state, (1, 0))))
    edge = max(1, width // 3)
    for left, top, right, bottom in rects:
        draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), ink_on(colour))
    for stroke in rects:
        draw.rectangle(stroke, colour)


def strokes(rect: Rect, width: int, stroke: float, gap: float) -> Iterator[Rect]:
    """The strokes of a rectangle's border, each a filled rectangle; both ends are included.

    ``stroke`` and ``gap`` are in line widths; gap 0 gives four whole sides. The strokes cover the corners.
    """
    left, top, right, bottom = rect
    for start, end in _stroke_spans(left, right, width, stroke, gap):
        yield (start, top, end, min(top + width - 1, bottom))
        yield (start, max(bottom - width + 1, top), end, bottom)
    for start, end in _stroke_spans(top, bottom, width, stroke, gap):
        yield (left, start, min(left + width - 1, right), end)
        yield (max(right - width + 1, left), start, right, end)


def _stroke_spans(start: int, end: int, width: int, stroke: float, gap: float) -> list[tuple[int, int]]:
    """First and last pixel of each stroke along a side, evenly spaced from ``start`` to ``end``."""
    side, length = end - start + 1, round(width * stroke)
    count = int((side - length) / (width * (stroke + gap))) if gap else 0
    if count < 1:
        return [(start, end)]
    begins = np.rint(np.linspace(start, end - length + 1, count + 1)).astype(int).tolist()
    return [(begin, begin + length - 1) for begin in begins]


def hatch(canvas: Image.Image, rect: Rect, colour: Colour, width: int) -> None:
    """Lay half-transparent diagonal stripes over ``rect`` of the RGB image ``canvas``; both ends are included."""
    left, top, right, bottom = rect
    region = canvas.crop((left, top, right + 1, bottom + 1))
    area = np.asarray(region, dtype=np.float32)  # (H, W, 3)
    diagonal = np.add.outer(np.arange(area.shape[0]), np.arange(area.shape[1])) % (width * 6)
    on_stripe = (diagonal < width * 2)[..., None]
    tint = np.where(on_stripe, np.array(colour, np.float32), np.array(ink_on(colour), np.float32))
    mixed = area + np.where(on_stripe, 0.5, 0.15) * (tint - area)
    canvas.paste(Image.fromarray(mixed.astype(np.uint8)), (left, top))
