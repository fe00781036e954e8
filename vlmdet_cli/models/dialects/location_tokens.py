"""Families with location tokens: four in a row are a box, beside its label.

    paligemma   <locYYYY><locXXXX><locYYYY><locXXXX> L ; …               1024 bins, y before x
    florence2   L<loc_x1><loc_y1><loc_x2><loc_y2>…                       1000 bins

The last bin is 1023, or 999: the far border, which would be one more, is written as that.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.models.dialects.base import Dialect, FrameBox
from vlmdet_cli.models.dialects.items import Item, box_item, problem_item
from vlmdet_cli.models.dialects.scores import Span

_SEPARATORS = " \t\r\n,;:"
_CUT_TOKEN = re.compile(r"<(?:l(?:o(?:c(?:_?\d*)?)?)?)?$")
_DIGITS = re.compile(r"\d+")
_LABEL = re.compile(r"[^<;]*")


class LocationTokens(Dialect):
    """``run``: matches location tokens in a row. ``label_first``: whether the label stands before them."""

    closing = re.compile(">")
    run: "re.Pattern[str]"
    label_first: bool

    @abstractmethod
    def label_span(self, text: str, run: Span, previous: int) -> Span:
        """Where the label of a run of tokens stands; ``previous`` is the end of the run before with its label."""

    def coordinates(self, text: str) -> Iterator[tuple[str, list[Span]]]:
        """A coordinate is a whole token, not the number in it."""
        for label, numbers in super().coordinates(text):
            yield label, [(text.rindex("<", 0, start), end + 1) for start, end in numbers]

    @abstractmethod
    def in_order(self, numbers: Sequence[int]) -> Box:
        """Xyxy of four numbers in the order of the tokens."""

    def scan(self, text: str) -> Iterator[Item]:
        cut = _CUT_TOKEN.search(text)
        whole, end = text[: cut.start()] if cut else text, 0
        stop = len(whole.rstrip(_SEPARATORS))
        for match in self.run.finditer(whole):
            run, label = match.span(), self.label_span(whole, match.span(), end)
            yield from self._stray(whole[end : min(run[0], label[0])], "unparsed")
            end = max(run[1], label[1])
            yield from self._boxes(whole, label, run, last=end >= stop, cut=cut is not None)
        yield from self._stray(whole[end:], "truncated" if self.label_first and end else "unparsed")
        if cut is not None and not stop:
            yield problem_item("truncated", text)

    def _stray(self, text: str, kind: str) -> Iterator[Item]:
        """Text that belongs to no box."""
        if text.strip(_SEPARATORS):
            yield problem_item(kind, text.strip(_SEPARATORS))

    def _boxes(self, text: str, label_span: Span, run: Span, *, last: bool, cut: bool) -> Iterator[Item]:
        """The boxes of one run: four numbers each; a rest of fewer, or no label, is a problem."""
        label = text[slice(*label_span)].strip(_SEPARATORS)
        if not label:
            yield problem_item("truncated" if last and not self.label_first else "unparsed", text[slice(*run)])
            return
        numbers = list(_DIGITS.finditer(text, *run))
        for start in range(0, len(numbers) // 4 * 4, 4):
            four = numbers[start : start + 4]
            box = self.in_order([int(number[0]) for number in four])
            yield box_item(label, box, label_span, (four[0].start(), four[-1].end()))
        if len(numbers) % 4 or (last and cut):
            yield problem_item("truncated" if last else "unparsed", text[slice(*run)][-40:])


class PaliGemma(LocationTokens):
    """Four tokens, y before x, then the label; objects are joined by `` ; ``."""

    name, side, last = "paligemma", 1024, 1023
    concatenated = False
    objects_form = False  # swift's template of the family writes brackets
    run, label_first = re.compile(r"(?:<loc\d{4}>)+"), False
    box_pattern = re.compile(r"<loc(?P<y1>[0-9]{4})><loc(?P<x1>[0-9]{4})><loc(?P<y2>[0-9]{4})><loc(?P<x2>[0-9]{4})>")

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"<loc{y1:04d}><loc{x1:04d}><loc{y2:04d}><loc{x2:04d}>"

    def write_object(self, label: str, box: FrameBox) -> str:
        return f"{self.write_box(box)} {label}"

    def write(self, objects: Sequence[tuple[str, FrameBox]], *, group: bool = False) -> str:
        del group  # each box has its own label behind it
        return " ; ".join([self.write_object(label, box) for label, box in objects]) or self.empty

    def label_span(self, text: str, run: Span, previous: int) -> Span:
        del previous
        label = _LABEL.match(text, run[1])
        return (run[1], label.end() if label else run[1])

    def in_order(self, numbers: Sequence[int]) -> Box:
        y1, x1, y2, x2 = map(float, numbers)
        return (x1, y1, x2, y2)


class Florence2(LocationTokens):
    """A label, then four tokens for each of its boxes."""

    name, last = "florence2", 999
    run, label_first = re.compile(r"(?:<loc_\d{1,4}>)+"), True
    box_pattern = re.compile(
        r"<loc_(?P<x1>[0-9]{1,4})><loc_(?P<y1>[0-9]{1,4})><loc_(?P<x2>[0-9]{1,4})><loc_(?P<y2>[0-9]{1,4})>"
    )

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"<loc_{x1}><loc_{y1}><loc_{x2}><loc_{y2}>"

    def label_span(self, text: str, run: Span, previous: int) -> Span:
        return (max(previous, text.rfind("<", previous, run[0]) + 1), run[0])

    def in_order(self, numbers: Sequence[int]) -> Box:
        x1, y1, x2, y2 = map(float, numbers)
        return (x1, y1, x2, y2)


PALIGEMMA, FLORENCE2 = PaliGemma(), Florence2()
