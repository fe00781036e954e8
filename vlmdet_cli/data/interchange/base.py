"""What every format writes: the pictures of a truth, and of each its annotated and its predicted boxes."""

from collections.abc import Iterator, Sequence
from html import escape

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import PredictedBox
from vlmdet_cli.data.dataset import DROP_REASONS, Dataset, Image


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A truth and the predictions for its pictures; ``predictions`` is None where there are none to write.

    ``data`` has whole numbers as ids of pictures and categories, and the size of each picture. ``model`` names who
    predicted; ``has_scores`` tells whether the predictions' scores are any. ``address`` is put before a picture's name
    where a format needs to know where pictures are.
    """

    data: Dataset
    predictions: Sequence[PredictedBox] | None = None
    has_scores: bool = False
    model: str = ""
    address: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all boxes: the categories first, then others by name."""
        others = {self.data.labels[label] for label in np.unique(self.data.label).tolist()}
        others |= {box.label for box in self.predictions or ()}
        return (*self.data.categories, *sorted(others - set(self.data.categories)))


class ExchangeBox(msgspec.Struct, frozen=True, kw_only=True):
    """A box, xyxy in pixels, cut off at the picture's borders.

    ``ignored`` says why the object is no target, or is empty; ``score`` is None where there is none.
    """

    label: str
    box: Box
    is_prediction: bool = False
    score: float | None = None
    crowd: bool = False
    ignored: str = ""


def pictures(exchange: Exchange) -> Iterator[tuple[Image, list[ExchangeBox]]]:
    """Each picture with its annotated and then its predicted boxes; boxes of no area are left out."""
    data = exchange.data
    boxes: list[list[ExchangeBox]] = [[] for _ in data.images]
    columns = (data.image, data.label, data.clipped, data.crowd, data.drop_reason)
    for image, label, box, crowd, reason in zip(*(column.tolist() for column in columns), strict=True):
        boxes[image].append(
            ExchangeBox(label=data.labels[label], box=tuple(box), crowd=crowd, ignored=DROP_REASONS[reason])
        )
    for predicted in exchange.predictions or ():
        box = _clip(predicted.box, data.images[predicted.picture])
        score = predicted.score if exchange.has_scores else None
        boxes[predicted.picture].append(ExchangeBox(label=predicted.label, box=box, is_prediction=True, score=score))
    for picture, row in zip(data.images, boxes, strict=True):
        yield picture, [box for box in row if box.box[0] < box.box[2] and box.box[1] < box.box[3]]


def _clip(box: Box, image: Image) -> Box:
    (x1, x2), (y1, y2) = ((min(max(box[axis], 0.0), side), min(max(box[axis + 2], 0.0), side))
                          for axis, side in enumerate((image.width, image.height)))  # fmt: skip
    return (x1, y1, x2, y2)


def xml_text(text: str) -> str:
    """The text as it stands in XML, in an attribute too."""
    return escape(in_xml(text))


def in_xml(text: str) -> str:
    """The text with U+FFFD for the characters that XML does not have. A label must be the same in all files."""
    if text.isprintable():  # nearly all are
        return text
    return "".join(char if _is_in_xml(char) else "\ufffd" for char in text)


def _is_in_xml(char: str) -> bool:
    return char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff"
