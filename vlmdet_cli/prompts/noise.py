"""Invented boxes of a noise class behind the true ones, so that a model does not stop early.

This is the sequence augmentation of Pix2Seq (Chen et al., 2022, section 3.3), in rows: the answer names all true
objects, then boxes with the label ``noise``. Half of them are a true box elsewhere, half are drawn freely; none has an
IoU of 0.5 or more with a true box. Their coordinates carry no loss (``training.loss``); their label does, and that
another object follows. Whoever reads the answers drops boxes with this label and counts them.
"""

from collections.abc import Sequence
from random import Random

from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import FrameBox

NOISE_LABEL = "noise"
MAX_IOU = 0.5
_ATTEMPTS = 20  # for a box that is no true one's
Objects = Sequence[tuple[str, FrameBox]]


def number_of_boxes(setting: float, true_boxes: int) -> int:
    """``setting``: a whole number of boxes for each row, or a share of the row's true ones, at least one box."""
    if isinstance(setting, int):
        return setting
    return max(round(setting * true_boxes), 1) if setting else 0


def objects_of(answer: str, dialect: Dialect, *, group: bool) -> Objects | None:
    """The (label, box) pairs of a row's answer; None where it is not exactly what the dialect writes of them."""
    pairs = [(item.label, _whole(item.box)) for item in dialect.scan(answer) if item.box is not None]
    return pairs if pairs and dialect.write(pairs, group=group) == answer else None


def with_noise(objects: Objects, side_wh: tuple[int, int], count: int, random: Random) -> Objects:
    """The objects, then ``count`` invented ones; fewer where there is no room beside the true boxes.

    ``side_wh``: the largest numbers that the dialect writes for the picture.
    """
    true_boxes = [box for _, box in objects]
    drawn = [_invented(true_boxes, side_wh, random, shifted=number % 2 == 0) for number in range(count)]
    return [*objects, *((NOISE_LABEL, box) for box in drawn if box is not None)]


def _invented(
    true_boxes: Sequence[FrameBox], side_wh: tuple[int, int], random: Random, *, shifted: bool
) -> FrameBox | None:
    """A box with the size of a true one, or of any size; None where each attempt meets a true box."""
    for _ in range(_ATTEMPTS):
        x1, y1, x2, y2 = random.choice(true_boxes)
        width, height = (x2 - x1, y2 - y1) if shifted else (random.randint(1, side) for side in side_wh)
        left, top = random.randint(0, side_wh[0] - width), random.randint(0, side_wh[1] - height)
        box = (left, top, left + width, top + height)
        if pairwise_iou([box], true_boxes).max() < MAX_IOU:
            return box
    return None


def _whole(box: Sequence[float]) -> FrameBox:
    x1, y1, x2, y2 = map(int, box)
    return (x1, y1, x2, y2)
