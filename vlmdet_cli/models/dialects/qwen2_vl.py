"""Qwen2-VL: ``<|object_ref_start|>L<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``, thousandths.

The scanner takes the special tokens whole, stripped or in part. Between tokens a label is what stands before a box;
``(…)`` without digits and commas is part of a label, so ``phone (red)(1,2),(3,4)`` has the label ``phone (red)``.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vlmdet_cli.models.dialects.base import Dialect, FrameBox, number_texts
from vlmdet_cli.models.dialects.items import Item, problem_item
from vlmdet_cli.models.dialects.tags import TagScanner

if TYPE_CHECKING:
    from vlmdet_cli.core.boxes import WholeBoxes

REF, REF_END, BOX, BOX_END = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"
_REF_END_BOX = f"{REF_END}{BOX}"
_SEPARATORS = " \t\r\n,;:."

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(rf"\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*")
_BOX_WITHOUT_BRACKET = re.compile(rf"\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}")
# bracketed groups of numbers, joined by commas: a box or a bad one
_GROUP = r"\([\s\d.+-]*,[\s\d.,+-]*\)"
_GROUPS = re.compile(rf"{_GROUP}(?:\s*,\s*(?:{_GROUP}|\([\s\d.+-]*\)))*")
# a box that the text's end cuts: one corner and a comma, or an open bracket
_CUT_BOX = re.compile(r"\([\s\d.,+-]*\)\s*,\s*$|(?:\([\s\d.,+-]*\)\s*,\s*)?\([\s\d.,+-]*$")
_CUT_TOKEN = re.compile(r"<(?:\|[a-z_]*\|?)?$")
# labels of words with their boxes, whole and without a superfluous space
_CORNER = r"\([0-9]{1,4},[0-9]{1,4}\)"
_WELL_FORMED = re.compile(
    r"<\|object_ref_start\|>(\w+(?:[ -]\w+)*)<\|object_ref_end\|>"
    rf"((?:<\|box_start\|>{_CORNER},{_CORNER}<\|box_end\|>)+)"
)
_DIGITS = re.compile(r"[0-9]+")


class Qwen2VL(Dialect):
    """The dialect of Qwen2-VL."""

    name = "qwen2_vl"
    closing = re.compile(r"\)?<\|box_end\|>")
    box_pattern = re.compile(
        r"<\|box_start\|>\((?P<x1>[0-9]{1,6}),(?P<y1>[0-9]{1,6})\),\((?P<x2>[0-9]{1,6}),(?P<y2>[0-9]{1,6})\)<\|box_end\|>"
    )

    def write_ref(self, ref: str) -> str:
        return f"{REF}{ref}{REF_END}"

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"{BOX}({x1},{y1}),({x2},{y2}){BOX_END}"

    def object_texts(self, labels: Sequence[str], boxes: "WholeBoxes") -> list[str]:
        # a large data set has a million objects: in one piece, of the texts of the numbers
        return [
            f"{REF}{label}{_REF_END_BOX}({x1},{y1}),({x2},{y2}){BOX_END}"
            for label, x1, y1, x2, y2 in zip(labels, *number_texts(boxes.T), strict=True)
        ]

    def well_formed(self, text: str) -> list[tuple[str, FrameBox]] | None:
        pairs, end = list[tuple[str, FrameBox]](), 0
        for match in _WELL_FORMED.finditer(text):
            if match.start() != end:
                return None
            end = match.end()
            label, boxes = match.groups()
            numbers = list(map(int, _DIGITS.findall(boxes)))
            pairs += [(label, box) for box in zip(*[iter(numbers)] * 4, strict=True)]
        return pairs if not text[end:].strip() else None

    def scan(self, text: str) -> Iterator[Item]:
        cut = _CUT_TOKEN.search(text)
        return _Scanner().items(text[: cut.start()] if cut else text, cut=cut is not None)


class _Scanner(TagScanner):
    tags = re.compile(r"(<\|(?:object_ref|box|quad)_(?:start|end)\|>)")
    label_tag, box_tag = REF, BOX

    def boxes(self, content: str, start: int, *, cut: bool) -> Iterator[Item]:
        match = _BOX.fullmatch(content) or (_BOX_WITHOUT_BRACKET.fullmatch(content) if cut else None)
        if match is None:
            yield problem_item("truncated" if cut else "unparsed", content or BOX)
            return
        yield self.box(match, start)
        if cut:
            yield problem_item("truncated", content)

    def between(self, text: str, start: int, *, last: bool) -> Iterator[Item]:
        """Labels and boxes of an answer without its tokens, or mere separators."""
        cut_box = _CUT_BOX.search(text) if last else None
        text, end = text[: cut_box.start()] if cut_box else text, 0
        for groups in _GROUPS.finditer(text):
            yield from self._words(text[end : groups.start()], start + end)
            end = groups.end()
            self.label_waits = False
            match = _BOX.fullmatch(groups[0])
            yield self.box(match, start + groups.start()) if match else problem_item("unparsed", groups[0])
        yield from self._words(text[end:], start + end, last=last and cut_box is None)
        if cut_box:
            yield from self._cut_box(cut_box[0], start + cut_box.start())

    def _words(self, text: str, start: int, *, last: bool = False) -> Iterator[Item]:
        """A label without its tokens, or the prose that ends an answer."""
        label = text.strip(_SEPARATORS)
        if not label:
            return
        if last and (text.rstrip()[-1] in ".!?" or not self.label):
            self.label_waits = False
            yield problem_item("unparsed", text.strip())
        else:
            yield from self.new_label(label, start, len(text))

    def _cut_box(self, text: str, start: int) -> Iterator[Item]:
        """A box that the text's end cuts: kept if only its last bracket is missing."""
        self.label_waits = False
        match = _BOX_WITHOUT_BRACKET.fullmatch(text)
        if match:
            yield self.box(match, start)
        yield problem_item("truncated", text)


QWEN2_VL = Qwen2VL()
