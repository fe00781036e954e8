"""The form in which ms-swift's templates write boxes unless they have one of their own: ``L[(x1,y1),(x2,y2)]``.

Thousandths. Several boxes may stand behind one label.
"""

import re
from collections.abc import Iterator

from vlmdet_cli.models.dialects.base import Dialect, FrameBox
from vlmdet_cli.models.dialects.items import Item, box_item, problem_item
from vlmdet_cli.models.dialects.scores import Span

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(rf"\[\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*\]")
_BRACKETS = re.compile(r"\[\s{0,9}\([^\[\]]*\]?")
_SEPARATORS = " \t\r\n,;:."


class SwiftDefault(Dialect):
    """Labels as plain text, boxes in brackets."""

    name = "swift"
    box_pattern = re.compile(r"\[\((?P<x1>[0-9]{1,6}),(?P<y1>[0-9]{1,6})\),\((?P<x2>[0-9]{1,6}),(?P<y2>[0-9]{1,6})\)\]")

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"[({x1},{y1}),({x2},{y2})]"

    def scan(self, text: str) -> Iterator[Item]:
        label, label_span, end = "", (0, 0), 0
        for brackets in _BRACKETS.finditer(text):
            words, start = text[end : brackets.start()], end
            end = brackets.end()
            if words.strip(_SEPARATORS):
                label, label_span = words.strip(_SEPARATORS), (start, brackets.start())
            yield _item(brackets, label, label_span, is_last=end == len(text))
        if text[end:].strip(_SEPARATORS):
            yield problem_item("truncated" if label else "unparsed", text[end:].strip())


def _item(brackets: "re.Match[str]", label: str, label_span: Span, *, is_last: bool) -> Item:
    match = _BOX.fullmatch(brackets[0])
    if match and label:
        x1, y1, x2, y2 = map(float, match.groups())
        return box_item(label, (x1, y1, x2, y2), label_span, brackets.span())
    is_cut = is_last and not brackets[0].endswith("]")
    return problem_item("truncated" if is_cut else "unparsed", brackets[0])


SWIFT = SwiftDefault()
