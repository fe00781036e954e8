"""Draws a picture with its boxes: images and records in, an image out. No files, no matching.

A ``Mark`` is a box with its state. ``outline`` says what the state decides of the line; it decides the label too:

    truth, answer, area   person            annotations alone; an answer alone; a question's area
    found                 person IoU 0.87   a prediction with its object (the prediction's box is drawn)
    false                 false: person     a prediction without an object
    missed                missed: person    an object without a prediction
    crowd                 crowd: person     an annotated crowd region, which is not counted
    aside                 not counted: person   a prediction that is left out of account, as in a crowd

Decisions: the number in a label says IoU, because a bare number would be read as a score; where labels are many, it is
the first to go. A label that is no category is grey. Small pictures are enlarged, so that readable letters do not cover
them; lines and letters grow with the size. No label covers another (``placement``). A label without free space is left
out, because line and colour still identify the box; the legend under the picture counts those.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from vlmdet_cli.core import boxes
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.drawing.legend import legend
from vlmdet_cli.drawing.lettering import (
    BLACK,
    GREY,
    SMALLEST_LETTERS,
    WHITE,
    Colour,
    Font,
    font,
    ink_on,
    padding,
    printable,
    shorten,
    wrap,
)
from vlmdet_cli.drawing.outline import LAYERS, STATE_NAMES, Rect, State, draw_box, hatch, line_width
from vlmdet_cli.drawing.placement import Label, place_labels

SMALLEST, LARGEST = 960, 4096  # long side of a panel in pixels
_FAR = 1e9  # pixels; beyond any picture, and safe to multiply
_NAME, _SHORT_NAME = 40, 12  # letters of a label's name at most, and where labels are many


class Mark(msgspec.Struct, frozen=True):
    """A box, xyxy in pixels of the frame given to ``draw_panel``. ``iou`` has a meaning for the state ``found``."""

    label: str
    box: Box
    state: State
    iou: float = 0.0

    @property
    def text(self) -> str:
        return self.wordings[0]

    @property
    def wordings(self) -> tuple[str, ...]:
        """The label's words, longest first."""
        name = printable(self.label)
        texts = [_words(self.state, shorten(name, limit)) for limit in (_NAME, _SHORT_NAME)]
        if self.state == "found":
            texts.insert(0, f"{texts[0]} IoU {self.iou:.2f}")
        return tuple(dict.fromkeys(texts))


def _words(state: State, name: str) -> str:
    if state in ("truth", "answer", "area", "found"):
        return name
    return f"{'not counted' if state == 'aside' else state}: {name}"


def draw_panel(
    image: Image.Image,
    marks: Sequence[Mark],
    colours: Mapping[str, Colour],
    *,
    frame: boxes.Size | None = None,
    within: tuple[int, int] | None = None,
) -> Image.Image:
    """A new RGB image: the RGB image ``image`` with its marks, and a legend under it.

    ``frame`` is the (width, height) that the marks' pixels refer to, by default the image's own. The panel fits
    into ``within``, a (width, height), without a legend; by default the picture's long side has 960 to 4096 pixels.
    """
    size = panel_size(image.size, within)
    canvas = image.copy() if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    rects = _on_canvas(marks, frame or image.size, size)
    layers = sorted(zip(marks, rects, strict=True), key=lambda pair: _depth(*pair))
    _draw_outlines(canvas, layers, colours)
    labels = _draw_labels(canvas, layers[::-1], colours)
    if within or not marks:
        return canvas
    left_out = len(marks) - labels
    return _above(canvas, count_states(marks), f"{left_out:,} without a label, for lack of space" if left_out else "")


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


def letter_size(size: tuple[int, int]) -> int:
    """The size of a label's letters on a canvas of ``size``, in pixels."""
    return max(SMALLEST_LETTERS, round(max(size) / 60))


def _on_canvas(marks: Sequence[Mark], frame: boxes.Size, size: tuple[int, int]) -> list[Rect]:
    """The marks' boxes in whole canvas pixels, clipped to the canvas; both ends are included."""
    known = np.clip(np.nan_to_num([m.box for m in marks]), -_FAR, _FAR)
    scaled = boxes.rescale(known, frame, size)
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    whole = np.clip(np.rint(scaled), 0, limits).astype(int)
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in whole.tolist()]


def _depth(mark: Mark, rect: Rect) -> tuple[int, int]:
    """The sort key from bottom to top: by state, then larger boxes below smaller ones."""
    return LAYERS.index(mark.state), -(rect[2] - rect[0]) * (rect[3] - rect[1])


def _draw_outlines(canvas: Image.Image, layers: Sequence[tuple[Mark, Rect]], colours: Mapping[str, Colour]) -> None:
    draw, width = ImageDraw.Draw(canvas), line_width(canvas.size)
    for mark, rect in layers:
        if mark.state == "crowd":
            hatch(canvas, rect, colours.get(mark.label, GREY), width)
    for mark, rect in layers:
        draw_box(draw, rect, mark.state, colours.get(mark.label, GREY), width)


def _draw_labels(canvas: Image.Image, layers: Sequence[tuple[Mark, Rect]], colours: Mapping[str, Colour]) -> int:
    """Draw the labels that have a position; the first marks have the first choice. Returns the number of labels."""
    draw, letters = ImageDraw.Draw(canvas), font(letter_size(canvas.size))
    rects, wordings = [rect for _, rect in layers], [mark.wordings for mark, _ in layers]
    labels = place_labels(rects, wordings, canvas.size, letters)
    for label in labels:
        _draw_leader(draw, label, colours.get(layers[label.index][0].label, GREY), line_width(canvas.size))
    for label in labels:
        mark = layers[label.index][0]
        _draw_label(draw, label, mark.state, colours.get(mark.label, GREY), letters)
    return len(labels)


def _draw_leader(draw: ImageDraw.ImageDraw, label: Label, colour: Colour, width: int) -> None:
    """Draw the line from a label to its box, with a dot at the box."""
    if label.leader is None:
        return
    _, (x, y) = label.leader
    draw.line(label.leader, ink_on(colour), width + 2)
    draw.ellipse((x - width - 1, y - width - 1, x + width + 1, y + width + 1), colour, ink_on(colour))
    draw.line(label.leader, colour, max(1, width - 1))


def _draw_label(draw: ImageDraw.ImageDraw, label: Label, state: State, colour: Colour, letters: Font) -> None:
    """Draw a label: false on black with a coloured edge, missed and what is not counted on white, others on colour."""
    left, top, right, bottom = label.rect
    ground = {"false": BLACK, "missed": WHITE, "crowd": WHITE, "aside": WHITE}.get(state, colour)
    edge = max(1, round((bottom - top) / 14))
    draw.rectangle((left, top, right - 1, bottom - 1), ground, colour, edge)
    middle = (left + padding(letters), (top + bottom) / 2)
    draw.text(middle, label.text, ink_on(ground), letters, "lm")


def _above(picture: Image.Image, counts: Mapping[State, int], remark: str) -> Image.Image:
    """The picture with a legend under it of the states that occur."""
    shown = {state: counts[state] for state in STATE_NAMES if counts[state]}
    strip = legend(shown, picture.width, letter_size(picture.size), remark)
    canvas = Image.new("RGB", (picture.width, picture.height + strip.height))
    canvas.paste(picture, (0, 0))
    canvas.paste(strip, (0, picture.height))
    return canvas


def count_states(marks: Iterable[Mark]) -> dict[State, int]:
    """The number of marks of each state."""
    states = [mark.state for mark in marks]
    return {state: states.count(state) for state in LAYERS}
