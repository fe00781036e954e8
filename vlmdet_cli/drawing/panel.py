"""A picture with its boxes: pure drawing, images and records in, an image out. No files, no matching.

A ``Mark`` is one box with what became of it; the state rules line and label, the category the colour:

    truth    solid    person             an annotation, where there are no predictions to compare
    found    solid    person IoU 0.87    a prediction with its object (the prediction's box is drawn)
    false    dashed   false: person      a prediction without an object
    missed   dotted   missed: person     an object without a prediction
    crowd    hatched  crowd: person      a region of many, neither found nor missed
    aside    thin     in crowd: person   a prediction that lies in a crowd, left out of account

Decisions: the number in a label says IoU, because a bare number is read as a score. A label that is no category is
grey. A line has an edge of black or white, whichever contrasts more, so that it shows on any picture. Small pictures
are enlarged, so that letters of a readable size do not cover them; lines and letters grow with the size. A label that
finds no room is left out rather than laid on another: line and colour still tell what the box is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from vlmdet_cli.core import boxes
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.drawing.lettering import (
    BLACK,
    GREY,
    SMALLEST_LETTERS,
    WHITE,
    Colour,
    Font,
    fit,
    font,
    ink_on,
    label_size,
    padding,
    printable,
    shorten,
    wrap,
)

Rect = tuple[int, int, int, int]
State = Literal["truth", "found", "false", "missed", "crowd", "aside"]

SMALLEST, LARGEST = 960, 4096  # long side of a panel in pixels
_FAR = 1e9  # pixels; beyond any picture, and safe to multiply
# A stroke's length and the gap behind it, in line widths; no gap is a solid line.
PATTERNS: Mapping[State, tuple[float, float]] = {"false": (4, 2.5), "missed": (1, 2)}
# Dots need more body than lines to be seen; what is out of account steps back.
_THICKNESS: Mapping[State, float] = {"missed": 1.4, "crowd": 0.5, "aside": 0.5}
# Later ones lie on top, and errors are what one looks for.
_LAYERS: tuple[State, ...] = ("crowd", "aside", "truth", "found", "missed", "false")


class Mark(msgspec.Struct, frozen=True):
    """One box in pixels (xyxy) of the frame given to ``draw_panel``; ``iou`` counts where it is found."""

    label: str
    box: Box
    state: State
    iou: float = 0.0

    @property
    def text(self) -> str:
        name = shorten(printable(self.label), 40)
        wordings = {"found": f"{name} IoU {self.iou:.2f}", "truth": name, "aside": f"in crowd: {name}"}
        return wordings.get(self.state, f"{self.state}: {name}")


class Label(msgspec.Struct, frozen=True):
    """A label with its place: the left top corner and the size of its box on the canvas."""

    mark: Mark
    text: str
    rect: Rect


def draw_panel(
    image: Image.Image,
    marks: Sequence[Mark],
    colours: Mapping[str, Colour],
    *,
    frame: boxes.Size | None = None,
    within: tuple[int, int] | None = None,
) -> Image.Image:
    """An RGB image with its marks, as a new RGB image.

    ``frame``: the (width, height) that the marks' pixels refer to, the image's own by default. ``within``: fit
    the panel into this (width, height); by default it keeps its size between 960 and 4096 pixels (long side).
    """
    size = panel_size(image.size, within)
    canvas = image.copy() if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    rects = _on_canvas(marks, frame or image.size, size)
    layers = sorted(zip(marks, rects, strict=True), key=lambda pair: _depth(*pair))
    canvas = _hatch_crowds(canvas, layers, colours)
    draw = ImageDraw.Draw(canvas)
    for mark, rect in layers:
        draw_box(draw, rect, mark.state, colours.get(mark.label, GREY), line_width(size))
    for label in _place_labels(layers[::-1], size)[::-1]:
        _draw_label(draw, label, colours.get(label.mark.label, GREY), font(letter_size(size)))
    return canvas


def draw_unreadable(size: tuple[int, int], reason: str, within: tuple[int, int] | None = None) -> Image.Image:
    """A grey panel in place of a picture of ``size`` pixels that cannot be read, with the reason in words."""
    canvas = Image.new("RGB", panel_size(size, within), (225, 225, 225))
    letters = font(letter_size(canvas.size) + 2)
    lines = wrap(f"Cannot be read: {printable(reason)}", letters, canvas.width * 0.85)
    middle = (canvas.width / 2, canvas.height / 2)
    ImageDraw.Draw(canvas).multiline_text(middle, "\n".join(lines), (90, 90, 90), letters, "mm", align="center")
    return canvas


def panel_size(size: tuple[int, int], within: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (width, height) in pixels at which a picture of ``size`` is drawn; its shape stays."""
    longest = min(max(*size, SMALLEST), LARGEST)
    wide, high = within or (longest, longest)
    factor = min(wide / size[0], high / size[1])
    return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))


def line_width(size: tuple[int, int]) -> int:
    """Of a box on a canvas of ``size``, in pixels."""
    return max(2, round(max(size) / 280))


def letter_size(size: tuple[int, int]) -> int:
    """Of a label on a canvas of ``size``, in pixels."""
    return max(SMALLEST_LETTERS, round(max(size) / 64))


def _on_canvas(marks: Sequence[Mark], frame: boxes.Size, size: tuple[int, int]) -> list[Rect]:
    """The marks' boxes in whole canvas pixels, both ends inside the canvas."""
    known = np.clip(np.nan_to_num([m.box for m in marks]), -_FAR, _FAR)
    scaled = boxes.rescale(known, frame, size)
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    whole = np.clip(np.rint(scaled), 0, limits).astype(int)
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in whole.tolist()]


def _depth(mark: Mark, rect: Rect) -> tuple[int, int]:
    """The place from bottom to top: by state, then larger boxes below smaller ones."""
    return _LAYERS.index(mark.state), -(rect[2] - rect[0]) * (rect[3] - rect[1])


def _hatch_crowds(
    canvas: Image.Image, layers: Sequence[tuple[Mark, Rect]], colours: Mapping[str, Colour]
) -> Image.Image:
    crowds = [(mark, rect) for mark, rect in layers if mark.state == "crowd"]
    if not crowds:
        return canvas
    pixels = np.asarray(canvas, dtype=np.float32).copy()  # (H, W, 3)
    width = line_width(canvas.size)
    for mark, (left, top, right, bottom) in crowds:
        area = pixels[top : bottom + 1, left : right + 1]
        diagonal = np.add.outer(np.arange(area.shape[0]), np.arange(area.shape[1])) % (width * 6)
        share = np.where(diagonal < width * 2, 0.45, 0.06)[..., None]
        area += share * (np.array(colours.get(mark.label, GREY), dtype=np.float32) - area)
    return Image.fromarray(pixels.astype(np.uint8))


def draw_box(draw: ImageDraw.ImageDraw, rect: Rect, state: State, colour: Colour, width: int) -> None:
    """The border of one box in its state's pattern, inside ``rect``, over an edge that contrasts."""
    width = max(1, round(width * _THICKNESS.get(state, 1)))
    pieces = list(strokes(rect, width, *PATTERNS.get(state, (1, 0))))
    edge = max(1, width // 3)
    for left, top, right, bottom in pieces:
        draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), ink_on(colour))
    for piece in pieces:
        draw.rectangle(piece, colour)


def strokes(rect: Rect, width: int, stroke: float, gap: float) -> Iterator[Rect]:
    """The pieces of a rectangle's border, each a filled rectangle, both ends included.

    ``stroke`` and ``gap`` in line widths; 0 for the gap gives four whole sides. The corners are always drawn.
    """
    left, top, right, bottom = rect
    for start, end in _pieces(left, right, width, stroke, gap):
        yield (start, top, end, min(top + width - 1, bottom))
        yield (start, max(bottom - width + 1, top), end, bottom)
    for start, end in _pieces(top, bottom, width, stroke, gap):
        yield (left, start, min(left + width - 1, right), end)
        yield (max(right - width + 1, left), start, right, end)


def _pieces(start: int, end: int, width: int, stroke: float, gap: float) -> list[tuple[int, int]]:
    length, piece = end - start + 1, round(width * stroke)
    count = int((length - piece) / (width * (stroke + gap))) if gap else 0
    if count < 1:
        return [(start, end)]
    begins = np.rint(np.linspace(start, end - piece + 1, count + 1)).astype(int).tolist()
    return [(begin, begin + piece - 1) for begin in begins]


def _place_labels(layers: Sequence[tuple[Mark, Rect]], size: tuple[int, int]) -> list[Label]:
    """A place for each label, the first in the sequence choosing first; a label keeps inside the canvas and off
    the others where there is room. One that would lie mostly on others, or that no canvas holds, is left out.
    """
    letters, placed = font(letter_size(size)), list[Label]()
    for mark, rect in layers:
        text = fit(mark.text, letters, size[0] - 2 * padding(letters))
        wide, high = label_size(text, letters)
        if not text or high > size[1]:
            continue
        places = _places(rect, (wide, high), size)
        covered = boxes.pairwise_intersection(places, [one.rect for one in placed]).sum(axis=1)
        best = int(np.argmin(covered))
        if covered[best] <= 0.1 * wide * high:
            placed.append(Label(mark, text, places[best]))
    return placed


def _places(rect: Rect, label: tuple[int, int], size: tuple[int, int]) -> list[Rect]:
    """Where a label can stand, best first: on the box, in its corners, under it, and down its left side."""
    (left, top, right, bottom), (wide, high) = rect, label
    corners = [(left, top - high), (left, top), (right - wide, top - high), (left, bottom), (left, bottom - high)]
    corners += [(right - wide, top), (right - wide, bottom - high), (right - wide, bottom)]
    corners += [(left, top + step * high) for step in range(1, max(2, (bottom - top) // high))]
    inside = [(min(max(x, 0), size[0] - wide), min(max(y, 0), size[1] - high)) for x, y in corners]
    return [(x, y, x + wide, y + high) for x, y in inside]


def _draw_label(draw: ImageDraw.ImageDraw, label: Label, colour: Colour, letters: Font) -> None:
    """Found: on the colour. False: on black with the colour around it. The rest: on white."""
    left, top, right, bottom = label.rect
    ground = {"found": colour, "truth": colour, "false": BLACK}.get(label.mark.state, WHITE)
    edge = max(1, round((bottom - top) / 14))
    draw.rectangle((left, top, right - 1, bottom - 1), ground, colour, edge)
    middle = (left + padding(letters), (top + bottom) / 2)
    draw.text(middle, label.text, ink_on(ground), letters, "lm")


def tally(marks: Iterable[Mark]) -> dict[State, int]:
    """How many marks there are of each state."""
    states = [mark.state for mark in marks]
    return {state: states.count(state) for state in _LAYERS}
