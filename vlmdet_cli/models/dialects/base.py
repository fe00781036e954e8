"""What a dialect is: how one model family writes boxes, and all that follows from it.

A dialect gives its syntax in both directions: ``scan`` (text to items) and ``write_box`` with ``write_ref`` (whole
numbers of its frame, and labels, to text). ``write`` puts them together; a family with more around its boxes has its
own. The rules that judge what was scanned are the same for all: see ``items``.

A frame is what the borders of a picture are written as; most families have one of fixed sides. Its changes are there
for one box (tuples) and for many (arrays), and both give the same to the bit. numpy is imported where arrays are asked
for: reading a text starts without it.
"""

import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection, ParsedDetections, Problem, Token
from vlmdet_cli.models.dialects.items import Item, Judge, Size, box_scores, health, short, spellings

if TYPE_CHECKING:
    from vlmdet_cli.core.boxes import Boxes, WholeBoxes

Ints = tuple[int, int, int, int]
Form = TypeVar("Form")  # of a box: numbers of the frame, or pixels
REF_PLACE, BOX_PLACE = "<ref-object>", "<bbox>"  # what ms-swift puts a label and a box in the place of
END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>")  # of the Qwen families


class Dialect(ABC):
    """One model family's way to write boxes.

    ``empty``: the answer for a picture without objects. ``side``: of the frame, where it is the same for all pictures.
    ``last``: the largest number that the family can write, where its frame's far border is not one. ``objects_form``:
    whether ms-swift's template of the family writes the boxes of its ``objects`` rows as this dialect does (see
    ``object_rows``); ``objects_group``: whether several behind one label; ``swift_environment``: the variables that it must find set to do so.
    """

    name: str
    empty: str = "No objects."
    side: float = 1000
    last: float = math.inf
    objects_form: bool = True
    objects_group: bool = True
    swift_environment: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def scan(self, text: str) -> Iterator[Item]:
        """The items of a text in their order; never raises."""

    @abstractmethod
    def write_box(self, ints: Ints) -> str:
        """One box alone, as questions name an area; whole numbers of the frame."""

    def write_ref(self, ref: str) -> str:
        """A reference, as ``as_ref`` gives it, in an answer."""
        return ref

    def as_ref(self, label: str) -> str:
        """A label as it stands in the ``ref`` of an ``objects`` row."""
        return label

    def write(self, objects: Sequence[tuple[str, Ints]], *, group: bool = False) -> str:
        """The answer that names (label, box) pairs; boxes are whole numbers of the frame.

        ``group`` puts all boxes of a label behind it, labels in order of their first box; families whose form has no
        place for that take no notice.
        """
        if not objects:
            return self.empty
        return "".join([
            self.write_ref(self.as_ref(label)) + "".join(map(self.write_box, boxes))
            for label, boxes in runs(objects, group=group)
        ])  # fmt: skip

    def places(self, counts: Sequence[int]) -> str:
        """The answer of an ``objects`` row: a place for each label, each with places for so many boxes."""
        return "".join([REF_PLACE + BOX_PLACE * count for count in counts])

    def objects(self, labels: Sequence[str], ints: "WholeBoxes") -> list[str] | None:
        """Each object's own text, ``(N,)`` labels and ``(N, 4)`` whole numbers, where an answer without groups is
        nothing but these put together; None for other families. A short cut for very many.
        """
        del labels, ints
        return None

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        """``write`` for boxes that are xyxy pixels of a picture of ``size_wh``."""
        return self.write([(label, self.to_frame(box, size_wh)) for label, box in objects], group=group)

    def render_box(self, box: Box, size_wh: Size) -> str:
        """``write_box`` for pixels of a picture of ``size_wh``."""
        return self.write_box(self.to_frame(box, size_wh))

    def limited(self, max_pixels: int) -> "Dialect":
        """The dialect of pictures that are shrunk to ``max_pixels`` first; the same where the frame is fixed."""
        del max_pixels
        return self

    def frame(self, size_wh: Size | None) -> Size:
        """The frame's width and height for a picture: what its right and lower border are written as.

        Infinite for a picture of unknown size where the frame depends on it.
        """
        del size_wh
        return (self.side, self.side)

    def frames(self, sizes_wh: Any) -> "Boxes":
        """``frame`` of many pictures, ``(N, 2)`` to ``(N, 2)``."""
        import numpy as np

        return np.full((len(sizes_wh), 2), self.side, np.float64)

    def to_frame(self, box: Box, size_wh: Size) -> Ints:
        """Pixels to the frame's whole numbers, rounded as ms-swift rounds (half to even).

        A box that would lose its area keeps one unit: it could not be read back otherwise.
        """
        wide, high = self.frame(size_wh)
        x1, x2 = _whole(box[0], box[2], size_wh[0], wide, self.last)
        y1, y2 = _whole(box[1], box[3], size_wh[1], high, self.last)
        return (x1, y1, x2, y2)

    def to_frames(self, xyxy: Any, sizes_wh: Any) -> "WholeBoxes":
        """``to_frame`` of many boxes: ``(N, 4)`` pixels and each one's picture ``(N, 2)`` to ``(N, 4)`` int64."""
        from vlmdet_cli.core import boxes

        return boxes.to_frames(xyxy, sizes_wh, self.frames(sizes_wh), self.last)

    def to_pixels(self, box: Box, size_wh: Size) -> Box:
        """The frame's numbers to float pixels; the far border is the picture's own to the bit."""
        (wide, high), (width, height) = self.frame(size_wh), size_wh
        return (box[0] * width / wide, box[1] * height / high, box[2] * width / wide, box[3] * height / high)

    def from_frames(self, ints: Any, sizes_wh: Any) -> "Boxes":
        """``to_pixels`` of many boxes: ``(N, 4)`` numbers of the frame and ``(N, 2)`` sizes to ``(N, 4)`` pixels."""
        from vlmdet_cli.core import boxes

        return boxes.from_frames(ints, sizes_wh, self.frames(sizes_wh))

    def as_written(self, box: Box, size_wh: Size) -> Box:
        """A box in pixels after it has been written and read back."""
        return self.to_pixels(self.to_frame(box, size_wh), size_wh)

    def parse(
        self, text: str, size_wh: Size | None, categories: Sequence[str] | None = None, tokens: Sequence[Token] = ()
    ) -> ParsedDetections:
        """What a text means; never raises. Boxes are pixels, or the frame's own numbers where no size is given.

        With ``categories`` a label gets the category's own spelling; one that matches none stays as it is. With
        ``tokens``, the text's pieces and their log-probabilities, each box gets a score (see ``box_scores``).
        """
        if self.is_empty(text):
            return ParsedDetections((), (), "empty")
        if not tokens and (plain := self._parse_plain(text, size_wh, categories)) is not None:
            return plain
        judge = Judge(self.frame(size_wh), spellings(categories))
        for item in self.scan(text):
            judge.take(item)
        judge.end_run()
        if not judge.found and not judge.problems:
            judge.problems.append(Problem("unparsed", short(text)))
        found = judge.found if size_wh is None else [(n, self.to_pixels(box, size_wh)) for n, box in judge.found]
        scores = box_scores(tokens, judge.spans) if tokens else [None] * len(found)
        detections = tuple(
            Detection(label, _plain(box) if size_wh is None else box, score)
            for (label, box), score in zip(found, scores, strict=True)
        )
        return ParsedDetections(detections, tuple(judge.problems), health(detections, judge.problems), judge.repeats)

    def plain(self, text: str) -> list[tuple[str, Ints]] | None:
        """The (label, box) pairs of a text that is nothing but well-formed boxes in whole numbers, else None.

        A short cut: what it gives is what ``scan`` gives. Most answers are of this kind.
        """
        del text
        return None

    def _parse_plain(
        self, text: str, size_wh: Size | None, categories: Sequence[str] | None
    ) -> ParsedDetections | None:
        """A text without any problem, read fast; None where one must look closer."""
        pairs = self.plain(text)
        if not pairs or len(set(pairs)) < len(pairs):
            return None
        wide, high = self.frame(size_wh)
        known = _known(tuple(categories)) if categories is not None else None
        width, height = size_wh or (wide, high)
        found: list[Detection] = []
        for label, pair in pairs:
            x1, y1, x2, y2 = pair
            if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high) or (known is not None and label not in known):
                return None
            pixels = (x1 * width / wide, y1 * height / high, x2 * width / wide, y2 * height / high)
            found.append(Detection(label, pixels if size_wh else pair))
        return ParsedDetections(tuple(found), (), "ok")

    def is_empty(self, text: str) -> bool:
        """Whether a text says that there is nothing."""
        return text.strip().rstrip(".").casefold() in {"", self.empty.rstrip(".").casefold(), "[]"}


def runs(objects: Sequence[tuple[str, Form]], *, group: bool) -> list[tuple[str, list[Form]]]:
    """Labels with the boxes that stand behind each: one, or with ``group`` all of that label."""
    if not group:
        return [(label, [box]) for label, box in objects]
    boxes: dict[str, list[Form]] = {}
    for label, box in objects:
        boxes.setdefault(label, []).append(box)
    return list(boxes.items())


@functools.lru_cache(maxsize=4)
def _known(categories: tuple[str, ...]) -> frozenset[str]:
    return frozenset(categories)


def _whole(start: float, end: float, side: float, frame: float, most: float) -> tuple[int, int]:
    most = int(min(frame, most))
    first, last = min(round(start / side * frame), most), min(round(end / side * frame), most)
    if first != last or start == end:
        return first, last
    return (first, last + 1) if last < most else (first - 1, last)


def _plain(box: Box) -> Box:
    """Whole numbers as integers, so that they are written as they were read."""
    x1, y1, x2, y2 = (int(value) if value == int(value) else value for value in box)
    return (x1, y1, x2, y2)
