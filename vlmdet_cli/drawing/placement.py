"""Positions for the labels of boxes: no label over another, all inside the canvas. Pure geometry.

Labels are placed one after another. Each tries the positions that touch its box (above, below, beside, inside, shifted
along a side), then those up to some label heights away, which a leader line connects with the box. Among the free
positions the cheapest is taken: near its box, off the other boxes, small ones above all. A label whose words fit
nowhere takes shorter words. Where there is no free position, or labels already cover ``_MOST_COVERED`` of the canvas,
a label is left out: more of them would hide the picture.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core import boxes
from vlmdet_cli.drawing.lettering import Font, fit, label_size, padding
from vlmdet_cli.drawing.outline import Rect

Point = tuple[int, int]
Candidates = npt.NDArray[np.int64]  # (K, 4) xyxy

_MOST_COVERED = 0.3
_COVERING = 2.0  # the cost of a label that covers another box or is filled by it
_SHIFT = 0.6  # the cost of a position that is a label's height farther from its box
_RINGS = (1, 2, 3, 5, 8)  # distances from the box that are tried, in label heights


class Label(msgspec.Struct, frozen=True):
    """A label's words and position: ``index`` of its box, its rectangle, and its leader line where it has one."""

    index: int
    text: str
    rect: Rect
    leader: tuple[Point, Point] | None = None


def place_labels(
    rects: Sequence[Rect], wordings: Sequence[Sequence[str]], size: tuple[int, int], letters: Font
) -> list[Label]:
    """The labels that have a position on a canvas of ``size``, in the order of ``rects``, which is their priority.

    ``wordings`` are the words of each label, longest first. All labels start at the longest that leaves the picture
    visible.
    """
    allowed = _MOST_COVERED * size[0] * size[1]
    others, placed, covered = boxes.as_boxes(rects), list[Label](), 0
    first = _first_wording(wordings, allowed, letters)
    for index, (rect, words) in enumerate(zip(rects, wordings, strict=True)):
        label = _best_label(index, rect, words[min(first, len(words) - 1) :], size, letters, others, placed)
        if label is None:
            continue
        covered += (label.rect[2] - label.rect[0]) * (label.rect[3] - label.rect[1])
        if placed and covered > allowed:
            break
        placed.append(label)
    return placed


def _first_wording(wordings: Sequence[Sequence[str]], allowed: float, letters: Font) -> int:
    """The index of the longest words with which all labels together stay within ``allowed`` pixels, else the last."""
    longest = max(map(len, wordings), default=1)
    for index in range(longest - 1):
        sizes = (label_size(words[min(index, len(words) - 1)], letters) for words in wordings)
        if sum(width * height for width, height in sizes) <= allowed:
            return index
    return longest - 1


def _best_label(
    index: int,
    rect: Rect,
    words: Sequence[str],
    size: tuple[int, int],
    letters: Font,
    others: boxes.Boxes,
    placed: Sequence[Label],
) -> Label | None:
    """The label at its cheapest free position, or None."""
    taken = boxes.as_boxes([label.rect for label in placed])
    texts = list(dict.fromkeys(fit(text, letters, size[0] - 2 * padding(letters)) for text in words))
    for positions in (_touching, _around):
        for text in filter(None, texts):
            wide, high = label_size(text, letters)
            if wide > size[0] or high > size[1]:
                continue
            candidates = _inside(np.array(list(positions(rect, (wide, high)))), (wide, high), size)
            best = _cheapest(candidates, rect, np.delete(others, index, axis=0), taken)
            if best is not None:
                return Label(index, text, best, _leader(best, rect))
    return None


def _touching(rect: Rect, label: tuple[int, int]) -> Iterator[Point]:
    """Corners of a label that touches its box, best first."""
    (left, top, right, bottom), (wide, high) = (rect[0], rect[1], rect[2] + 1, rect[3] + 1), label
    yield from ((left, top - high), (right - wide, top - high), (left, bottom), (right - wide, bottom))
    yield from ((left, top), (right - wide, top), (left, bottom - high), (right - wide, bottom - high))
    for y in (top, bottom - high, (top + bottom - high) // 2):
        yield from ((right, y), (left - wide, y))
    for x in range(left + wide // 2, right - wide, max(1, wide // 2)):
        yield from ((x, top - high), (x, bottom))
    for y in range(top + high, bottom - high, max(high, (bottom - top) // 8)):
        yield from ((left, y), (right - wide, y), (right, y), (left - wide, y))


def _around(rect: Rect, label: tuple[int, int]) -> Iterator[Point]:
    """Corners of a label on rings around its box, nearest first."""
    (left, top, right, bottom), (wide, high) = rect, label
    for ring in _RINGS:
        away = ring * high
        xs = (left - wide - away, left - wide // 2, left, (left + right - wide) // 2, right - wide // 2, right + away)
        ys = (top - high - away, top - high // 2, (top + bottom - high) // 2, bottom - high // 2, bottom + away)
        for number, x in enumerate(xs):
            for level, y in enumerate(ys):
                if number in (0, len(xs) - 1) or level in (0, len(ys) - 1):
                    yield x, y


def _inside(corners: Candidates, label: tuple[int, int], size: tuple[int, int]) -> Candidates:
    """The rectangles of a label with its upper left corner at ``corners`` (K, 2), moved into the canvas, (K, 4)."""
    clipped = np.clip(corners, 0, np.subtract(size, label))
    return np.hstack([clipped, clipped + label])


def _cheapest(candidates: Candidates, rect: Rect, others: boxes.Boxes, taken: boxes.Boxes) -> Rect | None:
    """The candidate of the least cost that is a pixel or more off all ``taken`` rectangles; None where none is."""
    roomy = candidates + np.array([-1, -1, 1, 1])
    free = np.flatnonzero(boxes.pairwise_intersection(roomy, taken).sum(axis=1) == 0)
    if not len(free):
        return None
    order, candidates = free / len(candidates), candidates[free]
    label = boxes.area(candidates[:1])
    covered = boxes.pairwise_intersection(candidates, others) / np.minimum(label, boxes.area(others) + 1)
    distance = _gap(candidates, rect) / (candidates[0, 3] - candidates[0, 1])
    best = int(np.argmin(order + _COVERING * covered.sum(axis=1) + _SHIFT * distance))
    left, top, right, bottom = candidates[best].tolist()
    return (left, top, right, bottom)


def _gap(candidates: Candidates, rect: Rect) -> npt.NDArray[np.float64]:
    """The distance of each candidate from a box, in pixels: 0 where they touch, (K,)."""
    wide, high = boxes.overlap_sides(candidates, np.array([rect]) + np.array([0, 0, 1, 1]))
    distance: npt.NDArray[np.float64] = np.hypot(np.minimum(wide, 0), np.minimum(high, 0))
    return distance


def _leader(label: Rect, rect: Rect) -> tuple[Point, Point] | None:
    """The shortest line from a label to its box; None where they touch."""
    if _gap(np.array([label]), rect)[0] == 0:
        return None
    (x1, x2), (y1, y2) = (_nearest(label[axis], label[axis + 2] - 1, rect[axis], rect[axis + 2]) for axis in (0, 1))
    return (x1, y1), (x2, y2)


def _nearest(low: int, high: int, other_low: int, other_high: int) -> tuple[int, int]:
    """The nearest two numbers of two ranges; where the ranges overlap, the middle of what they share."""
    if high < other_low:
        return high, other_low
    if other_high < low:
        return low, other_high
    middle = (max(low, other_low) + min(high, other_high)) // 2
    return middle, middle
