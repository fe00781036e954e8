"""The neutral stream of items that every dialect's scanner yields, and the rules that judge it.

The rules are the same for all dialects: corners in order, values inside the frame, no boxes without area, duplicates
and loops, known labels, the health of the answer.
"""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection, Health, Problem, Token

Size = tuple[float, float]
Span = tuple[int, int]
LOOP = 5  # so many identical boxes in a row are a loop


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


def spellings(categories: Sequence[str] | None) -> Mapping[str, str] | None:
    return None if categories is None else {_key(name): name for name in reversed(categories)}


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


def health(found: Sequence[Detection], problems: Sequence[Problem]) -> Health:
    if not problems:
        return "ok" if found else "empty"
    return "partial" if found else "unparsed"


def short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


class Judge:
    """Takes items one by one and keeps what is good, with a named problem for what is not."""

    def __init__(self, frame: Size, spelling: Mapping[str, str] | None) -> None:
        self.found: list[tuple[str, Box]] = []
        self.spans: list[tuple[Span, Span]] = []
        self.problems: list[Problem] = []
        self._frame = frame
        self._spelling = spelling
        self._times = Counter[tuple[str, Box]]()
        self._run: tuple[str, Box] | None = None
        self._again = 0
        self._known_before = False

    @property
    def repeats(self) -> tuple[int, ...]:
        """How many more times each box of ``found`` came; empty where none came twice."""
        again = tuple(self._times[one] - 1 for one in self.found)
        return again if any(again) else ()

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
        self._times[one] += 1
        if one == self._run:
            self._again += 1
            return
        self.end_run()
        self._run, self._known_before = one, self._times[one] > 1
        if self._known_before:
            return
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
        self.problems.append(Problem(kind, short(text)))


def _ordered(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _clamp(value: float, most: float) -> float:
    return 0.0 if value < 0 or math.isnan(value) else min(value, most)
