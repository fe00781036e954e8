"""What all dialects share: the neutral stream of items that a scanner yields, and the rules that judge it.

A dialect gives three things: ``scan`` (its syntax, text to items), ``render_objects`` and ``render_box`` (records
to text), and its frame. The rules of this module are the same for all: corners in order, values inside the
frame, no boxes without area, duplicates and loops, known labels, the health of the answer.
"""

import bisect
import functools
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from vlmdet_cli.records import Box, Detection, Health, Parsed, Problem, Token

Size = tuple[float, float]
LOOP = 5  # so many identical boxes in a row are a loop


Span = tuple[int, int]
END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>")  # of the Qwen families


class Item(NamedTuple):
    """What a scanner found: a box under a label (numbers of the frame, as written), or a problem and its text.

    ``spans``: where in the text the label and the box stand, as (start, end) in characters.
    """

    label: str
    box: Box | None
    problem: str = ""
    text: str = ""
    spans: tuple[Span, Span] = ((0, 0), (0, 0))


def box_item(label: str, box: Box, label_span: Span, box_span: Span) -> Item:
    return Item(label, box, spans=(label_span, box_span))


def problem_item(kind: str, text: str) -> Item:
    return Item("", None, kind, text)


class Dialect(ABC):
    """One model family's way to write boxes.

    ``empty`` is the answer for a picture without objects; ``last`` the largest number that the family can write,
    where its frame's far border is not one.
    """

    name: str
    empty: str = "No objects."
    last: float = math.inf

    @abstractmethod
    def scan(self, text: str) -> Iterator[Item]:
        """The items of a text in their order; never raises."""

    @abstractmethod
    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        """The answer that names (label, box) pairs; boxes are xyxy pixels of a picture of ``size_wh``.

        ``group`` puts all boxes of a label behind it, labels in order of their first box.
        """

    @abstractmethod
    def render_box(self, box: Box, size_wh: Size) -> str:
        """One box alone, as questions name an area."""

    @abstractmethod
    def frame(self, size_wh: Size | None) -> Size:
        """The frame's width and height for a picture: what its right and lower border are written as.

        Infinite for a picture of unknown size where the frame depends on it.
        """

    def to_frame(self, box: Box, size_wh: Size) -> tuple[int, int, int, int]:
        """Pixels to the frame's whole numbers, rounded as ms-swift rounds (half to even).

        A box that would lose its area keeps one unit: it could not be read back otherwise.
        """
        wide, high = self.frame(size_wh)
        x1, x2 = _whole(box[0], box[2], size_wh[0], wide, self.last)
        y1, y2 = _whole(box[1], box[3], size_wh[1], high, self.last)
        return (x1, y1, x2, y2)

    def to_pixels(self, box: Box, size_wh: Size) -> Box:
        """The frame's numbers to float pixels."""
        wide, high = self.frame(size_wh)
        across, down = size_wh[0] / wide, size_wh[1] / high
        return (box[0] * across, box[1] * down, box[2] * across, box[3] * down)

    def as_written(self, box: Box, size_wh: Size) -> Box:
        """A box in pixels after it has been written and read back."""
        return self.to_pixels(self.to_frame(box, size_wh), size_wh)

    def parse(
        self, text: str, size_wh: Size | None, categories: Sequence[str] | None = None, tokens: Sequence[Token] = ()
    ) -> Parsed:
        """What a text means; never raises. Boxes are pixels, or the frame's own numbers where no size is given.

        With ``categories`` a label gets the category's own spelling; one that matches none stays as it is. With
        ``tokens``, the text's pieces and their log-probabilities, each box gets a score (see ``box_scores``).
        """
        if self.is_empty(text):
            return Parsed((), (), "empty")
        if not tokens and (plain := self._parse_plain(text, size_wh, categories)) is not None:
            return plain
        judge = _Judge(self.frame(size_wh), _spelling(categories))
        for item in self.scan(text):
            judge.take(item)
        judge.end_run()
        if not judge.found and not judge.problems:
            judge.problems.append(Problem("unparsed", _short(text)))
        found = judge.found if size_wh is None else [(n, self.to_pixels(box, size_wh)) for n, box in judge.found]
        scores = box_scores(tokens, judge.spans) if tokens else [None] * len(found)
        detections = tuple(
            Detection(label, _plain(box) if size_wh is None else box, score)
            for (label, box), score in zip(found, scores, strict=True)
        )
        return Parsed(detections, tuple(judge.problems), _health(detections, judge.problems))

    def plain(self, text: str) -> list[tuple[str, tuple[int, int, int, int]]] | None:
        """The (label, box) pairs of a text that is nothing but well-formed boxes in whole numbers, else None.

        A short cut: what it gives is what ``scan`` gives. Most answers are of this kind.
        """
        del text
        return None

    def _parse_plain(self, text: str, size_wh: Size | None, categories: Sequence[str] | None) -> Parsed | None:
        """A text without any problem, read fast; None where one must look closer."""
        pairs = self.plain(text)
        if not pairs or len(set(pairs)) < len(pairs):
            return None
        wide, high = self.frame(size_wh)
        known = _known(tuple(categories)) if categories is not None else None
        across, down = (size_wh[0] / wide, size_wh[1] / high) if size_wh else (1, 1)
        found: list[Detection] = []
        for label, (x1, y1, x2, y2) in pairs:
            if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high) or (known is not None and label not in known):
                return None
            found.append(Detection(label, (x1 * across, y1 * down, x2 * across, y2 * down)))
        return Parsed(tuple(found), (), "ok")

    def is_empty(self, text: str) -> bool:
        """Whether a text says that there is nothing."""
        return text.strip().rstrip(".").casefold() in {"", self.empty.rstrip(".").casefold(), "[]"}


def box_scores(tokens: Sequence[Token], spans: Sequence[tuple[Span, Span]]) -> list[float | None]:
    """A score between 0 and 1 for each (label, box) span of a text that is the tokens put together.

    The probability of the label's tokens, times the mean (geometric) probability of the four coordinates:
    ``exp(sum of the label's log-probabilities + sum of the coordinates' / 4)``. A label is right or wrong as a
    whole; a coordinate may be off by some thousandths, and the box is right all the same.
    """
    ends = list(itertools.accumulate(len(text) for text, _ in tokens))
    sums = [0.0, *itertools.accumulate(probability for _, probability in tokens)]

    def total(span: Span) -> float:
        """Of all tokens that touch a span."""
        first, last = bisect.bisect_right(ends, span[0]), bisect.bisect_left(ends, span[1])
        return sums[min(last + 1, len(tokens))] - sums[first]

    return [math.exp(min(total(label) + total(box) / 4, 0.0)) for label, box in spans]


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


def _spelling(categories: Sequence[str] | None) -> Mapping[str, str] | None:
    return None if categories is None else {_key(name): name for name in reversed(categories)}


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


def _health(found: Sequence[Detection], problems: Sequence[Problem]) -> Health:
    if not problems:
        return "ok" if found else "empty"
    return "partial" if found else "unparsed"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


class _Judge:
    """Takes items one by one and keeps what is good, with a named problem for what is not."""

    def __init__(self, frame: Size, spelling: Mapping[str, str] | None) -> None:
        self.found: list[tuple[str, Box]] = []
        self.spans: list[tuple[Span, Span]] = []
        self.problems: list[Problem] = []
        self._frame = frame
        self._spelling = spelling
        self._seen: set[tuple[str, Box]] = set()
        self._run: tuple[str, Box] | None = None
        self._again = 0
        self._known_before = False

    def take(self, item: Item) -> None:
        if item.box is None:
            self._note(item.problem, item.text)
            return
        text = f"{item.label} {item.box}"
        box = self._inside(_ordered(item.box), item.box, text)
        if box is not None:
            self._keep(self._named(item.label), box, text, item.spans)

    def _inside(self, box: Box, written: Box, text: str) -> Box | None:
        wide, high = self._frame
        clamped = (_clamp(box[0], wide), _clamp(box[1], high), _clamp(box[2], wide), _clamp(box[3], high))
        if clamped[0] >= clamped[2] or clamped[1] >= clamped[3]:
            self._note("degenerate", text)
            return None
        if box != written:
            self._note("inverted", text)
        if clamped != box:
            self._note("out_of_range", text)
        return clamped

    def _named(self, label: str) -> str:
        label = label.strip()
        return label if self._spelling is None else self._spelling.get(_key(label), label)

    def _keep(self, label: str, box: Box, text: str, spans: tuple[Span, Span]) -> None:
        one = (label, box)
        if one == self._run:
            self._again += 1
            return
        self.end_run()
        self._run, self._known_before = one, one in self._seen
        if self._known_before:
            return
        self._seen.add(one)
        self.found.append(one)
        self.spans.append(spans)
        if self._spelling is not None and _key(label) not in self._spelling:
            self._note("unknown_label", text)

    def end_run(self) -> None:
        """Judge the identical boxes in a row that have just ended: none, some duplicates, or a loop."""
        if self._run is None:
            return
        more, text = self._again + self._known_before, f"{self._run[0]} {self._run[1]}"
        if self._again + 1 >= LOOP:
            self._note("loop", f"{text}, {self._again + 1} times")
        else:
            for _ in range(more):
                self._note("duplicate", text)
        self._run, self._again = None, 0

    def _note(self, kind: str, text: str) -> None:
        self.problems.append(Problem(kind, _short(text)))


def _ordered(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _clamp(value: float, most: float) -> float:
    return 0.0 if value < 0 or math.isnan(value) else min(value, most)
