"""The items that every dialect's scanner yields, and the rules that judge them.

The rules are the same for all dialects: corners in order, numbers inside the frame, no boxes without area, duplicates
and loops, known labels, the health of the answer.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection, Health, ParsedDetections, Problem, Token
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, ScoreRule
from vlmdet_cli.models.dialects.scores import Span, box_scores

Size = tuple[float, float]
LOOP = 5  # identical boxes in a row that are a loop
SHORT = 80  # characters of a problem's text


class Item(NamedTuple):
    """A scanned box with its label (numbers of the frame, as written), or a problem and its text.

    ``spans``: (start, end) of the label and of the box in characters of the text. That of a box holds its four numbers
    and no others.
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


def spellings(categories: Sequence[str] | None) -> Mapping[str, str] | None:
    """Each category's name by its form without case and superfluous spaces; the first of equal ones."""
    return None if categories is None else {_key(name): name for name in reversed(categories)}


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


def short(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


class DetectionCollector:
    """Keeps the good boxes of an answer, and a named problem for each bad one."""

    def __init__(self, frame: Size, spelling: Mapping[str, str] | None) -> None:
        self._counts = Counter[tuple[str, Box]]()  # of each label and box, in the order of their first appearance
        self._spans: list[tuple[Span, Span]] = []
        self._problems: list[Problem] = []
        self._frame = frame
        self._spelling = spelling
        self._names: dict[str, tuple[str, bool]] = {}  # of written labels: a long one may have many boxes
        self._previous: tuple[str, Box] | None = None
        self._repeats = 0  # of the previous box, in a row
        self._previous_is_known = False  # whether the previous box stood somewhere before its row of repeats

    def add(self, item: Item) -> None:
        if item.box is None:
            self._note(item.problem, item.text)
            return
        ordered = _ordered(item.box)
        clamped = self._clamped(ordered)
        text = f"{short(item.label)} {item.box}"
        if clamped[0] >= clamped[2] or clamped[1] >= clamped[3]:
            self._note("degenerate", text)
            return
        if ordered != item.box:
            self._note("inverted", text)
        if clamped != ordered:
            self._note("out_of_range", text)
        self._keep(item, clamped, text)

    def parsed(
        self,
        text: str,
        tokens: Sequence[Token],
        to_pixels: Callable[[Box], Box] | None = None,
        rule: ScoreRule = DEFAULT_SCORE_RULE,
    ) -> ParsedDetections:
        """The result after the last item; ``text`` is the whole answer. Without ``to_pixels`` boxes stay as written.

        ``rule``: of the scores, which boxes have where there are tokens.
        """
        self._end_repeats()
        if not self._counts and not self._problems:
            self._note("unparsed", text)
        scores = box_scores(text, tokens, self._spans, rule) if tokens else [None] * len(self._counts)
        convert = to_pixels or _with_integers
        detections = tuple(
            Detection(label, convert(box), score) for (label, box), score in zip(self._counts, scores, strict=True)
        )
        repeats = tuple(count - 1 for count in self._counts.values())
        return ParsedDetections(
            detections, tuple(self._problems), health(detections, self._problems), repeats if any(repeats) else ()
        )

    def _clamped(self, box: Box) -> Box:
        width, height = self._frame
        return (_clamp(box[0], width), _clamp(box[1], height), _clamp(box[2], width), _clamp(box[3], height))

    def _name(self, label: str) -> tuple[str, bool]:
        """The category's spelling of a written label, and whether there is such a category."""
        if label not in self._names:
            name = label.strip()
            category = name if self._spelling is None else self._spelling.get(_key(name))
            self._names[label] = (name, False) if category is None else (category, True)
        return self._names[label]

    def _keep(self, item: Item, box: Box, text: str) -> None:
        name, known = self._name(item.label)
        labelled_box = (name, box)
        self._counts[labelled_box] += 1
        if labelled_box == self._previous:
            self._repeats += 1
            return
        self._end_repeats()
        self._previous, self._previous_is_known = labelled_box, self._counts[labelled_box] > 1
        if self._previous_is_known:
            return
        self._spans.append(item.spans)
        if not known:
            self._note("unknown_label", text)

    def _end_repeats(self) -> None:
        """Judge the identical boxes in a row that have just ended: none, some duplicates, or a loop."""
        if self._previous is None:
            return
        label, box = self._previous
        text = f"{short(label)} {box}"
        if self._repeats + 1 >= LOOP:
            self._note("loop", f"{text}, {self._repeats + 1} times")
        else:
            for _ in range(self._repeats + self._previous_is_known):
                self._note("duplicate", text)
        self._previous, self._repeats = None, 0

    def _note(self, kind: str, text: str) -> None:
        self._problems.append(Problem(kind, short(text)))


def health(detections: Sequence[Detection], problems: Sequence[Problem]) -> Health:
    if not problems:
        return "ok" if detections else "empty"
    return "partial" if detections else "unparsed"


def _ordered(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _clamp(value: float, limit: float) -> float:
    return 0.0 if value < 0 or math.isnan(value) else min(value, limit)


def _with_integers(box: Box) -> Box:
    """Whole numbers as integers, so that they are written as they were read."""
    x1, y1, x2, y2 = (int(value) if value == int(value) else value for value in box)
    return (x1, y1, x2, y2)
