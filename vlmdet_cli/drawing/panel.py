"""Draws a picture with its boxes: images and records in, an image out. No files, no matching.

A ``Mark`` is a box with its state. The state decides the line and the label, the category the colour:

    truth    solid    person             an annotation, where there are no predictions to compare
    found    solid    person IoU 0.87    a prediction with its object (the prediction's box is drawn)
    false    dashed   false: person      a prediction without an object
    missed   dotted   missed: person     an object without a prediction
    crowd    hatched  crowd: person      an annotated crowd region, which is not counted
    aside    thin     not counted: person  a prediction that is left out of account, as in a crowd

Decisions: the number in a label says IoU, because a bare number would be read as a score. A label that is no category
is grey. A line has an edge of black or white, whichever contrasts more, so that it is visible on any picture. Small
pictures are enlarged, so that readable letters do not cover them; lines and letters grow with the size. A label
without free space is left out, because line and colour still identify the box.
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
# the length of a stroke and of the gap after it, in line widths; gap 0 is a solid line
PATTERNS: Mapping[State, tuple[float, float]] = {"false": (4, 2.5), "missed": (1, 2)}
# factors on the line width: dots need more to be visible; boxes that are not counted are thin
_THICKNESS: Mapping[State, float] = {"missed": 1.4, "crowd": 0.5, "aside": 0.5}
# from bottom to top: a reader searches for errors
_LAYERS: tuple[State, ...] = ("crowd", "aside", "truth", "found", "missed", "false")


class Mark(msgspec.Struct, frozen=True):
    """A box, xyxy in pixels of the frame given to ``draw_panel``. ``iou`` has a meaning for the state ``found``."""

    label: str
    box: Box
    state: State
    iou: float = 0.0

    @property
    def text(self) -> str:
        name = shorten(printable(self.label), 40)
        wordings = {"found": f"{name} IoU {self.iou:.2f}", "truth": name, "aside": f"not counted: {name}"}
        return wordings.get(self.state, f"{self.state}: {name}")


class Label(msgspec.Struct, frozen=True):
    """A label and its rectangle on the canvas, xyxy in pixels."""

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
    """A new RGB image: the RGB image ``image`` with its marks.

    ``frame`` is the (width, height) that the marks' pixels refer to, by default the image's own. The panel fits
    into ``within``, a (width, height); by default its long side has 960 to 4096 pixels.
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
    """A grey panel with the reason in words, for an unreadable picture of ``size`` pixels."""
    canvas = Image.new("RGB", panel_size(size, within), (225, 225, 225))
    letters = font(letter_size(canvas.size) + 2)
    lines = wrap(f"Cannot be read: {printable(reason)}", letters, canvas.width * 0.85)
    middle = (canvas.width / 2, canvas.height / 2)
    ImageDraw.Draw(canvas).multiline_text(middle, "\n".join(lines), (90, 90, 90), letters, "mm", align="center")
    return canvas


def panel_size(size: tuple[int, int], within: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (width, height) in pixels at which a picture of ``size`` is drawn, in its own aspect ratio."""
    longest = min(max(*size, SMALLEST), LARGEST)
    width, height = within or (longest, longest)
    factor = min(width / size[0], height / size[1])
    return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))


def line_width(size: tuple[int, int]) -> int:
    """The width of a box's line on a canvas of ``size``, in pixels."""
    return max(2, round(max(size) / 280))


def letter_size(size: tuple[int, int]) -> int:
    """The size of a label's letters on a canvas of ``size``, in pixels."""
    return max(SMALLEST_LETTERS, round(max(size) / 64))


def _on_canvas(marks: Sequence[Mark], frame: boxes.Size, size: tuple[int, int]) -> list[Rect]:
    """The marks' boxes in whole canvas pixels, clipped to the canvas; both ends are included."""
    known = np.clip(np.nan_to_num([m.box for m in marks]), -_FAR, _FAR)
    scaled = boxes.rescale(known, frame, size)
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    whole = np.clip(np.rint(scaled), 0, limits).astype(int)
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in whole.tolist()]


def _depth(mark: Mark, rect: Rect) -> tuple[int, int]:
    """The sort key from bottom to top: by state, then larger boxes below smaller ones."""
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


def _place_labels(layers: Sequence[tuple[Mark, Rect]], size: tuple[int, int]) -> list[Label]:
    """The labels with a position each, inside the canvas and off the labels placed before.

    A label that would cover others by more than a tenth of its area is left out; so is a label larger than the canvas.
    """
    letters, placed = font(letter_size(size)), list[Label]()
    for mark, rect in layers:
        text = fit(mark.text, letters, size[0] - 2 * padding(letters))
        width, height = label_size(text, letters)
        if not text or height > size[1]:
            continue
        candidates = _label_rects(rect, (width, height), size)
        covered = boxes.pairwise_intersection(candidates, [label.rect for label in placed]).sum(axis=1)
        best = int(np.argmin(covered))
        if covered[best] <= 0.1 * width * height:
            placed.append(Label(mark, text, candidates[best]))
    return placed


def _label_rects(rect: Rect, label: tuple[int, int], size: tuple[int, int]) -> list[Rect]:
    """Candidate rectangles of a label, best first: above the box, in its corners, below it, down its left side."""
    (left, top, right, bottom), (width, height) = rect, label
    corners = [(left, top - height), (left, top), (right - width, top - height), (left, bottom)]
    corners += [(left, bottom - height), (right - width, top), (right - width, bottom - height)]
    corners += [(right - width, bottom)]
    corners += [(left, top + step * height) for step in range(1, max(2, (bottom - top) // height))]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in corners]
    return [(x, y, x + width, y + height) for x, y in inside]


def _draw_label(draw: ImageDraw.ImageDraw, label: Label, colour: Colour, letters: Font) -> None:
    """Draw a label: found on its colour, false on black with a coloured edge, all others on white."""
    left, top, right, bottom = label.rect
    ground = {"found": colour, "truth": colour, "false": BLACK}.get(label.mark.state, WHITE)
    edge = max(1, round((bottom - top) / 14))
    draw.rectangle((left, top, right - 1, bottom - 1), ground, colour, edge)
    middle = (left + padding(letters), (top + bottom) / 2)
    draw.text(middle, label.text, ink_on(ground), letters, "lm")


def count_states(marks: Iterable[Mark]) -> dict[State, int]:
    """The number of marks of each state."""
    states = [mark.state for mark in marks]
    return {state: states.count(state) for state in _LAYERS}
