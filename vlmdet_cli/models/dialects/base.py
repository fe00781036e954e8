"""What a dialect is: the text form in which one model family writes labels and boxes.

A dialect gives its syntax in both directions: ``scan`` (text to items) and ``write_box`` with ``write_ref`` (labels and
whole numbers of the frame to text). ``write`` puts them together; a dialect with more around its boxes has its own. The
rules that judge what was scanned are the same for all dialects: see ``items``.

The frame is the range of numbers in which a dialect writes coordinates: a picture's right and lower borders are written
as the frame's width and height. Most dialects have the same frame for all pictures. A change of frame exists for one
box (tuples) and for arrays of boxes, with results equal to the bit. One box alone takes 1 µs as a tuple and 13 µs as an
array; an answer is read box by box, and reading starts without numpy.
"""

import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection, ParsedDetections, Token
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, ScoreRule
from vlmdet_cli.models.dialects.items import DetectionCollector, Item, Size, spellings
from vlmdet_cli.models.dialects.scores import NUMBER, Span

if TYPE_CHECKING:
    from vlmdet_cli.core.boxes import Boxes, WholeBoxes

FrameBox = tuple[int, int, int, int]  # xyxy in whole numbers of the frame
AnyBox = TypeVar("AnyBox")  # in numbers of the frame or in pixels
REF_PLACEHOLDER, BOX_PLACEHOLDER = "<ref-object>", "<bbox>"  # ms-swift replaces them by a label and a box
_END = re.compile(r"<\|(?:im_end|endoftext)\|>|</s>|<eos>|<pad>")  # the tokens that end an answer
_START = re.compile(r"(?:\s|<s>|</s>|<bos>|<pad>)+(?=\S)")  # a decoder that starts with `</s><s>` repeats them
_EMPTY = {"", "no objects", "[]"}


class Dialect(ABC):
    """The text form of one model family's boxes.

    ``empty``: the answer for a picture without objects. ``side``: of the frame, where it is the same for all pictures.
    ``last``: the largest number that the dialect can write, where it cannot write the frame's far border.
    ``box_pattern``: matches what ``write_box`` writes, with the groups ``x1``, ``y1``, ``x2``, ``y2``.
    ``closing``: matches what closes an object behind its label and its box.
    ``concatenated``: whether an answer without groups is the texts of its objects, one behind the other.
    ``objects_form``: whether a template of ms-swift writes the boxes of ``objects`` rows as this dialect does (see
    ``prompts.object_rows``); ``objects_group``: whether it writes several boxes behind one label.
    """

    name: str
    empty: str = "No objects."
    side: float = 1000
    last: float = math.inf
    box_pattern: "re.Pattern[str]"
    closing: "re.Pattern[str]" = re.compile("")
    concatenated: bool = True
    objects_form: bool = True
    objects_group: bool = True

    @abstractmethod
    def scan(self, text: str) -> Iterator[Item]:
        """The items of an answer in their order, in time linear in the text's length; never raises.

        The text has no end token.
        """

    @abstractmethod
    def write_box(self, box: FrameBox) -> str:
        """One box alone, as a question names an area."""

    def write_ref(self, ref: str) -> str:
        """A reference, as ``as_ref`` gives it, in an answer."""
        return ref

    def as_ref(self, label: str) -> str:
        """A label in the ``ref`` of an ``objects`` row."""
        return label

    def write_object(self, label: str, box: FrameBox) -> str:
        """One object of an answer."""
        return self.write_ref(self.as_ref(label)) + self.write_box(box)

    def write(self, objects: Sequence[tuple[str, FrameBox]], *, group: bool = False) -> str:
        """The answer that names (label, box) pairs; boxes are in whole numbers of the frame.

        ``group`` puts all boxes of a label behind it, labels in order of their first box; a dialect that has no such
        form ignores it.
        """
        return "".join([
            self.write_ref(self.as_ref(label)) + "".join(map(self.write_box, boxes))
            for label, boxes in boxes_by_label(objects, group=group)
        ]) or self.empty  # fmt: skip

    def object_texts(self, labels: Sequence[str], boxes: "WholeBoxes") -> list[str] | None:
        """``write_object`` of ``(N,)`` labels and ``(N, 4)`` boxes, for dialects whose answers are ``concatenated``.

        None for other dialects.
        """
        return list(map(self.write_object, labels, boxes.tolist())) if self.concatenated else None

    def placeholders(self, counts: Sequence[int]) -> str:
        """The answer of an ``objects`` row: placeholders for each label and for its number of boxes."""
        return "".join([REF_PLACEHOLDER + BOX_PLACEHOLDER * count for count in counts])

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        """``write`` for boxes that are xyxy pixels of a picture of ``size_wh``."""
        return self.write([(label, self.to_frame(box, size_wh)) for label, box in objects], group=group)

    def render_box(self, box: Box, size_wh: Size) -> str:
        """``write_box`` for xyxy pixels of a picture of ``size_wh``."""
        return self.write_box(self.to_frame(box, size_wh))

    def find_boxes(self, text: str) -> list[FrameBox]:
        """The boxes of a text, such as a question, that are written exactly as ``write_box`` writes them."""
        return [
            (int(match["x1"]), int(match["y1"]), int(match["x2"]), int(match["y2"]))
            for match in self.box_pattern.finditer(text)
        ]

    def coordinates(self, text: str) -> Iterator[tuple[str, list[Span]]]:
        """The label of each box of an answer, and where its coordinates stand: (start, end) in characters."""
        for item in self.scan(text):
            if item.box is not None:
                yield item.label, [match.span() for match in NUMBER.finditer(text, *item.spans[1])]

    def object_end(self, text: str, item: Item) -> int:
        """Where the object of a scanned box ends in its text."""
        end = len(text[: max(end for _, end in item.spans)].rstrip())
        closing = self.closing.match(text, end)
        return closing.end() if closing else end

    def limited(self, max_pixels: int) -> "Dialect":
        """The dialect of pictures that are shrunk to ``max_pixels`` first; the same where the frame is fixed."""
        del max_pixels
        return self

    def frame(self, size_wh: Size | None) -> Size:
        """The frame's width and height for a picture.

        Infinite for a picture of unknown size where the frame depends on it.
        """
        del size_wh
        return (self.side, self.side)

    def frames(self, sizes_wh: Any) -> "Boxes":
        """``frame`` of pictures, ``(N, 2)`` sizes to ``(N, 2)``."""
        import numpy as np

        return np.full((len(sizes_wh), 2), self.side, np.float64)

    def to_frame(self, box: Box, size_wh: Size) -> FrameBox:
        """Pixels to the frame's whole numbers, rounded as ms-swift rounds (half to even).

        A box that would lose its area keeps one unit: it could not be read back otherwise.
        """
        width, height = self.frame(size_wh)
        x1, x2 = _rounded(box[0], box[2], size_wh[0], width, self.last)
        y1, y2 = _rounded(box[1], box[3], size_wh[1], height, self.last)
        return (x1, y1, x2, y2)

    def to_frames(self, xyxy: Any, sizes_wh: Any) -> "WholeBoxes":
        """``to_frame`` of ``(N, 4)`` pixels and each box's picture size ``(N, 2)``: ``(N, 4)`` int64."""
        from vlmdet_cli.core import boxes

        return boxes.to_frames(xyxy, sizes_wh, self.frames(sizes_wh), self.last)

    def to_pixels(self, box: Box, size_wh: Size) -> Box:
        """The frame's numbers to float pixels; the far border is the picture's own to the bit."""
        (frame_width, frame_height), (width, height) = self.frame(size_wh), size_wh
        x1, y1, x2, y2 = box
        return (x1 * width / frame_width, y1 * height / frame_height, x2 * width / frame_width,
                y2 * height / frame_height)  # fmt: skip

    def from_frames(self, boxes: Any, sizes_wh: Any) -> "Boxes":
        """``to_pixels`` of ``(N, 4)`` numbers of the frame and ``(N, 2)`` picture sizes: ``(N, 4)`` pixels."""
        from vlmdet_cli.core import boxes as geometry

        return geometry.from_frames(boxes, sizes_wh, self.frames(sizes_wh))

    def as_written(self, box: Box, size_wh: Size) -> Box:
        """A box in pixels after it has been written and read back."""
        return self.to_pixels(self.to_frame(box, size_wh), size_wh)

    def parse(
        self,
        text: str,
        size_wh: Size | None,
        categories: Sequence[str] | None = None,
        tokens: Sequence[Token] = (),
        rule: ScoreRule = DEFAULT_SCORE_RULE,
    ) -> ParsedDetections:
        """The boxes and the problems of an answer; never raises.

        Boxes are pixels, or the frame's own numbers where no size is given. With ``categories`` a label gets the
        category's own spelling; a label that matches none stays as it is. With ``tokens``, the pieces of the text and
        their log-probabilities, each box gets a score by ``rule`` (see ``scores``).
        """
        text = without_end(text)
        if self.is_empty(text):
            return ParsedDetections((), (), "empty")
        if not tokens and (parsed := self._parse_well_formed(text, size_wh, categories)) is not None:
            return parsed
        collector = DetectionCollector(self.frame(size_wh), spellings(categories))
        for item in self.scan(text):
            collector.add(item)
        to_pixels = functools.partial(self.to_pixels, size_wh=size_wh) if size_wh else None
        return collector.parsed(text, tokens, to_pixels, rule)

    def well_formed(self, text: str) -> list[tuple[str, FrameBox]] | None:
        """The (label, box) pairs of a text that is nothing but well-formed boxes in whole numbers, else None.

        A short cut that gives what ``scan`` gives. Most answers are well-formed: for Qwen2-VL the short cut reads a box
        in 2.6 µs, where the scanner and its rules take 9.6 µs.
        """
        del text
        return None

    def _parse_well_formed(
        self, text: str, size_wh: Size | None, categories: Sequence[str] | None
    ) -> ParsedDetections | None:
        """What ``parse`` gives for an answer without any problem; None for an answer that may have one."""
        pairs = self.well_formed(text)
        if not pairs or len(set(pairs)) < len(pairs):
            return None
        width, height = self.frame(size_wh)
        known = _names(tuple(categories)) if categories is not None else None
        for label, (x1, y1, x2, y2) in pairs:
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height) or (known is not None and label not in known):
                return None
        if size_wh is None:
            return ParsedDetections(tuple([Detection(label, box) for label, box in pairs]), (), "ok")
        return ParsedDetections(
            tuple([Detection(label, self.to_pixels(box, size_wh)) for label, box in pairs]), (), "ok"
        )

    def is_empty(self, text: str) -> bool:
        """Whether an answer says that there are no objects."""
        return text.strip().rstrip(". ").casefold() in _EMPTY


def without_end(text: str) -> str:
    """The answer up to its first end token. Offsets into the text stay what they were."""
    start = _START.match(text)
    if start is not None and "<" in start[0]:
        text = " " * start.end() + text[start.end() :]
    return _END.split(text, maxsplit=1)[0]


def boxes_by_label(objects: Sequence[tuple[str, AnyBox]], *, group: bool) -> list[tuple[str, list[AnyBox]]]:
    """Each label with the boxes behind it: one, or with ``group`` all boxes of that label."""
    if not group:
        return [(label, [box]) for label, box in objects]
    boxes: dict[str, list[AnyBox]] = {}
    for label, box in objects:
        boxes.setdefault(label, []).append(box)
    return list(boxes.items())


def number_texts(numbers: "WholeBoxes") -> list[list[str]]:
    """The digits of each whole number, none of which is negative: ``(N, M)`` to N lists of M texts.

    Each text is written once: a million boxes take 0.1 s, where writing all of their numbers takes 0.4 s.
    """
    import numpy as np

    digits = np.array(list(map(str, range(numbers.max(initial=0) + 1))), object)
    texts: list[list[str]] = digits[numbers].tolist()
    return texts


@functools.lru_cache(maxsize=4)
def _names(categories: tuple[str, ...]) -> frozenset[str]:
    return frozenset(categories)


def _rounded(start: float, end: float, side: float, frame: float, last: float) -> tuple[int, int]:
    """One axis of ``to_frame``: ``start`` and ``end`` in pixels of a picture whose side is ``side`` pixels."""
    limit = int(min(frame, last))
    first, second = min(round(start / side * frame), limit), min(round(end / side * frame), limit)
    if first != second or start == end:
        return first, second
    return (first, second + 1) if second < limit else (first - 1, second)
