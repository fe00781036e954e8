"""Families that mark boxes with tags or location tokens, each read by one regular expression.

    internvl    <ref>L</ref><box>[[x1, y1, x2, y2], …]</box>              thousandths
    paligemma   <locYYYY><locXXXX><locYYYY><locXXXX> L ; …               1024 bins, y before x
    florence2   L<loc_x1><loc_y1><loc_x2><loc_y2>…                       1000 bins

The last bin is 1023, or 999: the far border, which would be one more, is written as that.
"""

import re
from collections.abc import Iterator, Sequence

from vlmdet_cli.dialects.base import Dialect, Item, Size, Span, box_item, problem_item
from vlmdet_cli.records import Box

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>|</s>|<eos>|<pad>")
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BLANK = " \t\r\n,;:"


class Tagged(Dialect):
    """What the three share: a frame of equal sides."""

    side: float

    def frame(self, size_wh: Size | None) -> Size:
        del size_wh
        return (self.side, self.side)


class InternVL(Tagged):
    """``<ref>`` and ``<box>`` tags, which a decoder may have stripped of neither or both."""

    name, side = "internvl", 1000
    _TAG = re.compile(r"(</?(?:ref|box)>)")
    _BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
    _ANY = re.compile(r"\[[^\[\]]*\]?")

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        if not objects:
            return self.empty
        if not group:
            return "".join(f"<ref>{label}</ref>{self.render_box(box, size_wh)}" for label, box in objects)
        boxes: dict[str, list[str]] = {}
        for label, box in objects:
            boxes.setdefault(label, []).append(str(list(self.to_frame(box, size_wh))))
        return "".join(f"<ref>{label}</ref><box>[{', '.join(texts)}]</box>" for label, texts in boxes.items())

    def render_box(self, box: Box, size_wh: Size) -> str:
        return f"<box>[{list(self.to_frame(box, size_wh))}]</box>"

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


class Located(Tagged):
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
    _RUN = re.compile(r"(?P<places>(?:<loc\d{4}>)+)(?P<label>[^<;]*)")
    _label_first = False

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        del group
        return (
            self.empty
            if not objects
            else " ; ".join(f"{self.render_box(box, size_wh)} {label}" for label, box in objects)
        )

    def render_box(self, box: Box, size_wh: Size) -> str:
        x1, y1, x2, y2 = self.to_frame(box, size_wh)
        return "".join(f"<loc{value:04d}>" for value in (y1, x1, y2, x2))

    def _box(self, numbers: Sequence[int]) -> Box:
        y1, x1, y2, x2 = map(float, numbers)
        return (x1, y1, x2, y2)


class Florence2(Located):
    """A label, then four tokens for each of its boxes."""

    name, side, last = "florence2", 1000, 999
    _RUN = re.compile(r"(?P<label>[^<]*)(?P<places>(?:<loc_\d{1,4}>)+)")
    _label_first = True

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        if not objects:
            return self.empty
        boxes: dict[tuple[str, int], str] = {}
        for number, (label, box) in enumerate(objects):
            key = (label, 0 if group else number)
            boxes[key] = boxes.get(key, "") + self.render_box(box, size_wh)
        return "".join(label + text for (label, _), text in boxes.items())

    def render_box(self, box: Box, size_wh: Size) -> str:
        return "".join(f"<loc_{value}>" for value in self.to_frame(box, size_wh))


INTERNVL, PALIGEMMA, FLORENCE2 = InternVL(), PaliGemma(), Florence2()
