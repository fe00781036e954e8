"""Geometry of boxes: pure functions on ``(N, 4)`` float arrays; every change of frame is here.

Inside vlmdet a box is xyxy (left, top, right, bottom) in float pixels of the original picture. ``xywh`` is
COCO's form. *Thousandths* are whole numbers 0…1000 of the picture's width and height, both ends allowed.
A size is always ``(width, height)``.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

FACTOR = 28  # a picture token of Qwen2-VL covers 2 x 2 patches of 14 x 14 pixels
MIN_PIXELS, MAX_PIXELS = 4 * FACTOR**2, 16384 * FACTOR**2
Boxes = npt.NDArray[np.float64]
Size = tuple[float, float]


def as_boxes(values: Any) -> Boxes:
    """Any list of four-number rows as an ``(N, 4)`` float64 array; an empty list gives ``(0, 4)``."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 4)


def xywh_to_xyxy(boxes: Any) -> Boxes:
    """COCO's left, top, width, height to left, top, right, bottom; same unit. ``(N, 4)`` to ``(N, 4)``."""
    xywh = as_boxes(boxes)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Any) -> Boxes:
    """The inverse of ``xywh_to_xyxy``."""
    xyxy = as_boxes(boxes)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def rescale(boxes: Any, size_from: Size, size_to: Size) -> Boxes:
    """Boxes of a frame of one (width, height) in a frame of another; nothing is rounded or clamped."""
    factor = np.array([size_to[0] / size_from[0], size_to[1] / size_from[1]] * 2)
    scaled: Boxes = as_boxes(boxes) * factor
    return scaled


def clip(boxes: Any, size_wh: Size) -> Boxes:
    """Boxes cut off at the picture's borders; one wholly outside becomes a box without area."""
    limit = np.array([size_wh[0], size_wh[1]] * 2, dtype=np.float64)
    return np.clip(as_boxes(boxes), 0.0, limit)


def area(boxes: Any) -> npt.NDArray[np.float64]:
    """Areas ``(N,)`` in the boxes' unit squared; an inverted box has area 0."""
    sides = np.maximum(as_boxes(boxes)[:, 2:] - as_boxes(boxes)[:, :2], 0.0)
    product: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return product


def intersection(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Areas of overlap, ``(N, M)``, of each of N boxes with each of M boxes."""
    one, two = as_boxes(first)[:, None, :], as_boxes(second)[None, :, :]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])  # (N, M, 2)
    return np.asarray(np.prod(np.maximum(sides, 0.0), axis=-1))


def iou(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Intersection over union, ``(N, M)``; 0 where both boxes have no area."""
    common = intersection(first, second)
    union = area(first)[:, None] + area(second)[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def coverage(first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Share of each of N boxes' own area that lies in each of M boxes, ``(N, M)``; COCO's crowd overlap."""
    common, own = intersection(first, second), area(first)[:, None]
    return np.divide(common, own, out=np.zeros_like(common), where=own > 0)


def resized(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """A picture's size for Qwen2-VL: sides are multiples of 28, the area lies between the limits.

    The formula is ``smart_resize`` of Qwen2-VL's image processor.
    """
    wide, high = max(FACTOR, round(width / FACTOR) * FACTOR), max(FACTOR, round(height / FACTOR) * FACTOR)
    if wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide = max(FACTOR, math.floor(width / shrink / FACTOR) * FACTOR)
        high = max(FACTOR, math.floor(height / shrink / FACTOR) * FACTOR)
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide, high = math.ceil(width * grow / FACTOR) * FACTOR, math.ceil(height * grow / FACTOR) * FACTOR
    return wide, high


def shrunk(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """A picture's size after ms-swift's ``--max_pixels``: same shape, at most that area; as its ``rescale_image``."""
    if not max_pixels or width * height <= max_pixels:
        return width, height
    high = math.sqrt(max_pixels / (width / height))
    return max(int(high * (width / height)), 1), max(int(high), 1)


def as_trained(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """The size that a Qwen2-VL picture has when ms-swift trains on it.

    swift shrinks by its own limit and then makes the sides multiples of 28; the limits that the model's own
    processor states are not heeded by it.
    """
    return resized(*shrunk(width, height, max_pixels), MIN_PIXELS, MAX_PIXELS)
