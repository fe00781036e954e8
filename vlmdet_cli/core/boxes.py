"""Geometry of boxes: pure functions on ``(N, 4)`` float64 arrays, and every change of frame.

Inside vlmdet a box is xyxy (left, top, right, bottom) in float pixels of the original picture. ``xywh`` is
COCO's form. *Thousandths* are whole numbers 0…1000 of the picture's width and height, both ends allowed.
A size is always ``(width, height)``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]
WholeBoxes = npt.NDArray[np.int64]
Size = tuple[float, float]


def as_boxes(values: Any) -> Boxes:
    """Any list of four-number rows as an ``(N, 4)`` float64 array; an empty list gives ``(0, 4)``."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 4)


def as_sizes(values: Any) -> Boxes:
    """Any list of (width, height) rows as an ``(N, 2)`` float64 array; an empty list gives ``(0, 2)``."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def xywh_to_xyxy(boxes: Any) -> Boxes:
    """COCO's left, top, width, height to left, top, right, bottom; same unit. ``(N, 4)`` to ``(N, 4)``."""
    xywh = as_boxes(boxes)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Any) -> Boxes:
    """The inverse of ``xywh_to_xyxy``."""
    xyxy = as_boxes(boxes)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def rescale(boxes: Any, size_from: Size, size_to: Size) -> Boxes:
    """Boxes of a frame of ``size_from`` in a frame of ``size_to``; nothing is rounded or clamped."""
    factor = np.array([size_to[0] / size_from[0], size_to[1] / size_from[1]] * 2)
    scaled: Boxes = as_boxes(boxes) * factor
    return scaled


def area(boxes: Any) -> npt.NDArray[np.float64]:
    """Areas ``(N,)`` in the boxes' unit squared; a box whose corners are swapped has area 0."""
    left, top, right, bottom = as_boxes(boxes).T
    product: npt.NDArray[np.float64] = np.maximum(right - left, 0.0) * np.maximum(bottom - top, 0.0)
    return product


def overlap_sides(first: Any, second: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Width and height of what each of N boxes has in common with the box at the same index of the other N, ``(N,)``
    each; a negative number is the gap between the two.

    Boxes ``(..., 4)`` broadcast. Each coordinate is an array of its own: numpy takes several times as long along an
    axis of two or four.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return width, height


def elementwise_intersection(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Common areas ``(N,)`` of each of N boxes with the box at the same index of the other N."""
    width, height = overlap_sides(as_boxes(first), as_boxes(second))
    product: npt.NDArray[np.float64] = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return product


def pairwise_intersection(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Common areas ``(N, M)`` of each of N boxes with each of M boxes."""
    width, height = overlap_sides(as_boxes(first)[:, None], as_boxes(second)[None])
    product: npt.NDArray[np.float64] = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return product


def contains(outer: Any, inner: Any) -> npt.NDArray[np.bool_]:
    """``(N,)``: whether each of N boxes holds all of the box at the same index of the other N, borders included."""
    holder, held = as_boxes(outer), as_boxes(inner)
    low = (holder[:, 0] <= held[:, 0]) & (holder[:, 1] <= held[:, 1])
    high = (held[:, 2] <= holder[:, 2]) & (held[:, 3] <= holder[:, 3])
    inside: npt.NDArray[np.bool_] = low & high
    return inside


def pairwise_iou(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Intersection over union, ``(N, M)``; 0 where both boxes have no area."""
    common = pairwise_intersection(first, second)
    union = area(first)[:, None] + area(second)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def to_frames(xyxy: Any, sizes_wh: Any, frames_wh: Any, last: float) -> WholeBoxes:
    """Pixels of pictures to whole numbers of frames, half to even: ``(N, 4)``, ``(N, 2)``, ``(N, 2)`` to ``(N, 4)``.

    No number is above ``last`` or the frame's own border. A box that would lose its area keeps one unit.
    """
    frames = as_sizes(frames_wh)
    most = np.minimum(frames, last).astype(np.int64)  # (N, 2)
    pixels = as_boxes(xyxy).reshape(-1, 2, 2)  # (N, corner, axis)
    whole = np.rint(pixels / as_sizes(sizes_wh)[:, None] * frames[:, None]).astype(np.int64)
    first, end = np.minimum(whole, most[:, None]).swapaxes(0, 1)  # (N, 2) each
    flat = (first == end) & (pixels[:, 0] != pixels[:, 1])
    grown = end + (flat & (end < most))
    return np.hstack([first - (flat & (end >= most)), grown])


def from_frames(numbers: Any, sizes_wh: Any, frames_wh: Any) -> Boxes:
    """Numbers of frames to pixels of pictures; nothing is rounded. Shapes as in ``to_frames``."""
    sizes, frames = as_sizes(sizes_wh), as_sizes(frames_wh)
    pixels: Boxes = as_boxes(numbers) * np.hstack([sizes, sizes]) / np.hstack([frames, frames])
    return pixels
