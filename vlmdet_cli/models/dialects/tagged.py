"""Families that mark boxes with tags or location tokens, each read by one regular expression.

    internvl    <ref>L</ref><box>[[x1, y1, x2, y2], …]</box>              thousandths
    paligemma   <locYYYY><locXXXX><locYYYY><locXXXX> L ; …               1024 bins, y before x
    florence2   L<loc_x1><loc_y1><loc_x2><loc_y2>…                       1000 bins

The last bin is 1023, or 999: the far border, which would be one more, is written as that.
"""

import re
from collections.abc import Iterator, Sequence

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.models.dialects.base import Dialect, Ints, runs
from vlmdet_cli.models.dialects.items import Item, Span, box_item, problem_item

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>|</s>|<eos>|<pad>")
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BLANK = " \t\r\n,;:"


class InternVL(Dialect):
    """``<ref>`` and ``<box>`` tags, which a decoder may have stripped of neither or both."""

    name, objects_group = "internvl", False  # swift's template writes a pair of tags a box
    _TAG = re.compile(r"(</?(?:ref|box)>)")
    _BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
    _ANY = re.compile(r"\[[^\[\]]*\]?")

    def write_ref(self, ref: str) -> str:
        return f"<ref>{ref}</ref>"

    def write_box(self, ints: Ints) -> str:
        x1, y1, x2, y2 = ints
        return f"<box>[[{x1}, {y1}, {x2}, {y2}]]</box>"

    def write(self, objects: Sequence[tuple[str, Ints]], *, group: bool = False) -> str:
        if not group or not objects:
            return super().write(objects)
        return "".join([
            f"{self.write_ref(label)}<box>{list(map(list, boxes))}</box>" for label, boxes in runs(objects, group=True)
        ])  # fmt: skip

    def scan(self, text: str) -> Iterator[Item]:
        label, span, used = "", (0, 0), True
        for place, piece, at, last in self._places(_END_OF_TURN.split(text, maxsplit=1)[0]):
            if place == "box":
                used = True
                yield from self._boxes(piece, at, label, span, cut=last)
                continue
            if not used:
                yield problem_item("unparsed", label)
            used = place != "ref" or last
            if place == "ref":
                label, span = piece.strip(), (at, at + len(piece))
            if used:
                yield problem_item("truncated" if place else "unparsed", piece.strip() or "<ref>")
        if not used:
            yield problem_item("truncated", label)

    def _places(self, text: str) -> Iterator[tuple[str, str, int, bool]]:
        """What stands inside ``ref`` or ``box`` tags or, with an empty place, outside: (place, text, start, last)."""
        pieces, at, place = self._TAG.split(text), 0, ""
        for number, piece in enumerate(pieces):
            if number % 2:
                place = "" if piece.startswith("</") else piece.strip("<>")
            elif place or piece.strip(_BLANK):
                yield place, piece, at, number == len(pieces) - 1
            at += len(piece)

    def _boxes(self, content: str, at: int, label: str, span: Span, *, cut: bool) -> Iterator[Item]:
        """The boxes between ``<box>`` and its end, or the text's."""
        outer = content.find("[") + 1
        found = 0
        for match in self._ANY.finditer(content, outer):
            found += 1
            box = self._BOX.fullmatch(match[0])
            if box is not None and label:
                x1, y1, x2, y2 = map(float, box.groups())
                yield box_item(label, (x1, y1, x2, y2), span, (at + match.start(), at + match.end()))
            elif match[0].endswith("]") or not cut:
                yield problem_item("unparsed", match[0])
        if cut:
            yield problem_item("truncated", content or "<box>")
        elif not found:
            yield problem_item("unparsed", content)


class Located(Dialect):
    """Boxes of four location tokens in a row beside a label."""

    _RUN: "re.Pattern[str]"  # location tokens, and the label before or behind them
    _label_first: bool
    _HALF = re.compile(r"<(?:l(?:o(?:c(?:_?\d*)?)?)?)?$")
    _DIGITS = re.compile(r"\d+")

    def scan(self, text: str) -> Iterator[Item]:
        text = _END_OF_TURN.split(text, maxsplit=1)[0]
        half = self._HALF.search(text)
        whole, end = text[: half.start()] if half else text, 0
        for match in self._RUN.finditer(whole):
            yield from self._stray(whole[end : match.start()], "unparsed")
            end = match.end()
            yield from self._boxes(match, last=not whole[end:].strip(_BLANK), cut=half is not None)
        yield from self._stray(whole[end:], "truncated" if self._label_first and end else "unparsed")
        if half is not None and not whole.strip(_BLANK):
            yield problem_item("truncated", text)

    def _stray(self, text: str, kind: str) -> Iterator[Item]:
        if text.strip(_BLANK):
            yield problem_item(kind, text.strip(_BLANK))

    def _boxes(self, match: "re.Match[str]", *, last: bool, cut: bool) -> Iterator[Item]:
        """The boxes of one run: four numbers each; a rest of fewer, or no label, is a problem."""
        label = match["label"].strip(_BLANK)
        numbers = list(map(int, self._DIGITS.findall(match["places"])))
        if not label:
            yield problem_item("truncated" if last and not self._label_first else "unparsed", match["places"])
            return
        for start in range(0, len(numbers) // 4 * 4, 4):
            yield box_item(label, self._box(numbers[start : start + 4]), match.span("label"), match.span("places"))
        if len(numbers) % 4 or (last and cut):
            yield problem_item("truncated" if last else "unparsed", match["places"][-40:])

    def _box(self, numbers: Sequence[int]) -> Box:
        x1, y1, x2, y2 = map(float, numbers)
        return (x1, y1, x2, y2)


class PaliGemma(Located):
    """Four tokens, y before x, then the label; objects are joined by `` ; ``."""

    name, side, last = "paligemma", 1024, 1023
    objects_form = False  # swift's template of the family writes brackets
    _RUN = re.compile(r"(?P<places>(?:<loc\d{4}>)+)(?P<label>[^<;]*)")
    _label_first = False

    def write_box(self, ints: Ints) -> str:
        x1, y1, x2, y2 = ints
        return f"<loc{y1:04d}><loc{x1:04d}><loc{y2:04d}><loc{x2:04d}>"

    def write(self, objects: Sequence[tuple[str, Ints]], *, group: bool = False) -> str:
        del group  # each box has its own label behind it
        return " ; ".join([f"{self.write_box(box)} {label}" for label, box in objects]) or self.empty

    def _box(self, numbers: Sequence[int]) -> Box:
        y1, x1, y2, x2 = map(float, numbers)
        return (x1, y1, x2, y2)


class Florence2(Located):
    """A label, then four tokens for each of its boxes."""

    name, last = "florence2", 999
    _RUN = re.compile(r"(?P<label>[^<]*)(?P<places>(?:<loc_\d{1,4}>)+)")
    _label_first = True

    def write_box(self, ints: Ints) -> str:
        x1, y1, x2, y2 = ints
        return f"<loc_{x1}><loc_{y1}><loc_{x2}><loc_{y2}>"


INTERNVL, PALIGEMMA, FLORENCE2 = InternVL(), PaliGemma(), Florence2()
