"""Qwen2-VL: ``<|object_ref_start|>L<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``, thousandths.

The scanner takes the special tokens whole, stripped or half there. Between tokens a label is what stands before
a box; ``(…)`` without digits and commas is part of a label, so ``phone (red)(1,2),(3,4)`` reads as one would.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from vlmdet_cli.models.dialects.base import END_OF_TURN, Dialect, Ints
from vlmdet_cli.models.dialects.items import Item, Span, box_item, problem_item

if TYPE_CHECKING:
    from vlmdet_cli.core.boxes import WholeBoxes

REF, REF_END, BOX, BOX_END = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"
_TO_BOX = f"{REF_END}{BOX}("

_N = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_WHOLE = re.compile(rf"\s*\({_N},{_N}\)\s*,\s*\({_N},{_N}\)\s*")
_NO_BRACKET = re.compile(rf"\s*\({_N},{_N}\)\s*,\s*\({_N},{_N}")
# bracketed groups of numbers, joined by commas: a box or a bad one
_GROUP = r"\([\s\d.+-]*,[\s\d.,+-]*\)"
_GROUPS = re.compile(rf"{_GROUP}(?:\s*,\s*(?:{_GROUP}|\([\s\d.+-]*\)))*")
# a box that the text's end cuts: one corner and a comma, or an open bracket
_OPEN_TAIL = re.compile(r"\([\s\d.,+-]*\)\s*,\s*$|(?:\([\s\d.,+-]*\)\s*,\s*)?\([\s\d.,+-]*$")
_TOKENS = re.compile(r"(<\|(?:object_ref|box|quad)_(?:start|end)\|>)")
_HALF_TOKEN = re.compile(r"<(?:\|[a-z_]*\|?)?$")
# a label of words and its boxes, whole and without a space too many
_CORNER = r"\([0-9]{1,4},[0-9]{1,4}\)"
_PLAIN = re.compile(
    r"<\|object_ref_start\|>(\w+(?:[ -]\w+)*)<\|object_ref_end\|>"
    rf"((?:<\|box_start\|>{_CORNER},{_CORNER}<\|box_end\|>)+)"
)
_NUMBER = re.compile(r"[0-9]+")
_BLANK = " \t\r\n,;:."


class Qwen2VL(Dialect):
    """The dialect of Qwen2-VL."""

    name = "qwen2_vl"
    swift_environment: ClassVar[Mapping[str, str]] = {"QWENVL_BBOX_FORMAT": "legacy"}

    def write_ref(self, ref: str) -> str:
        return f"{REF}{ref}{REF_END}"

    def write_box(self, ints: Ints) -> str:
        x1, y1, x2, y2 = ints
        return f"{BOX}({x1},{y1}),({x2},{y2}){BOX_END}"

    def write(self, objects: Sequence[tuple[str, Ints]], *, group: bool = False) -> str:
        if group or not objects:
            return super().write(objects, group=group)
        # the same in one piece a box: most rows of a large data set are made here
        return "".join([
            f"{REF}{label}{_TO_BOX}{x1},{y1}),({x2},{y2}){BOX_END}" for label, (x1, y1, x2, y2) in objects
        ])  # fmt: skip

    def objects(self, labels: Sequence[str], ints: "WholeBoxes") -> list[str] | None:
        import orjson

        if not len(ints):
            return []
        # all corners are written as one list, [[531,61],[771,896],…], and cut apart
        text = orjson.dumps(ints.reshape(-1, 2), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].decode()
        corners = iter(text.split("],["))
        return [
            f"{REF}{label}{_TO_BOX}{first}),({second}){BOX_END}"
            for label, first, second in zip(labels, corners, corners, strict=True)
        ]

    def plain(self, text: str) -> list[tuple[str, Ints]] | None:
        found, end = list[tuple[str, Ints]](), 0
        for match in _PLAIN.finditer(text):
            if match.start() != end:
                return None
            end = match.end()
            label, boxes = match.groups()
            numbers = list(map(int, _NUMBER.findall(boxes)))
            found += [(label, box) for box in zip(*[iter(numbers)] * 4, strict=True)]
        return found if not text[end:].strip() else None

    def scan(self, text: str) -> Iterator[Item]:
        text = END_OF_TURN.split(text, maxsplit=1)[0]
        half = _HALF_TOKEN.search(text)
        scanner = _Scanner(cut=half is not None)
        pieces, at = _TOKENS.split(text[: half.start()] if half else text), 0
        for number, piece in enumerate(pieces):
            if number % 2:
                yield from scanner.token(piece)
            elif piece:
                yield from scanner.text(piece, at, last=number == len(pieces) - 1)
            at += len(piece)
        yield from scanner.end()


class _Scanner:
    """Where in the syntax a text stands: in a label, in a box, or between them."""

    def __init__(self, *, cut: bool) -> None:
        self._cut = cut
        self._place = ""  # "ref", "box" or between
        self._label: str | None = None
        self._label_span: Span = (0, 0)
        self._used = True  # whether the label has a box, or a problem in a box's place
        self._content = ""
        self._start = 0  # of the content in the text

    def token(self, token: str) -> Iterator[Item]:
        """A special token: what was open before it is closed, whether or not its own end came."""
        if self._place == "box":
            yield from self._close_box(cut=False)
        elif self._place == "ref":
            yield from self._close_label()
        self._place, self._content = {REF: "ref", BOX: "box"}.get(token, ""), ""

    def text(self, text: str, at: int, *, last: bool) -> Iterator[Item]:
        """A piece between special tokens that begins at ``at``."""
        if self._place:
            self._content, self._start = text, at
        else:
            yield from self._between(text, at, last=last)

    def end(self) -> Iterator[Item]:
        """The text's end: what is still open was cut."""
        if self._place == "box":
            yield from self._close_box(cut=True)
        elif self._place == "ref":
            yield problem_item("truncated", self._content or REF)
        elif not self._used:
            yield problem_item("truncated", self._label or "")
        elif self._cut:
            yield problem_item("truncated", "a token cut in the middle")

    def _close_label(self) -> Iterator[Item]:
        yield from self._new_label(self._content.strip(), self._start, len(self._content))

    def _new_label(self, label: str, at: int, length: int) -> Iterator[Item]:
        if not self._used:
            yield problem_item("unparsed", self._label or "")
        self._label, self._used, self._label_span = label, False, (at, at + length)

    def _close_box(self, *, cut: bool) -> Iterator[Item]:
        content = self._content
        whole = _WHOLE.fullmatch(content) or (_NO_BRACKET.fullmatch(content) if cut else None)
        if whole is None:
            self._used = True
            yield problem_item("truncated" if cut else "unparsed", content or BOX)
            return
        yield self._box(whole, self._start)
        if cut:
            yield problem_item("truncated", content)

    def _box(self, match: "re.Match[str]", at: int) -> Item:
        self._used = True
        if not self._label:
            return problem_item("unparsed", match[0])
        x1, y1, x2, y2 = map(float, match.groups())
        return box_item(self._label, (x1, y1, x2, y2), self._label_span, (at + match.start(), at + match.end()))

    def _between(self, text: str, at: int, *, last: bool) -> Iterator[Item]:
        """Text outside tokens: labels and boxes of an answer without its tokens, or mere separators."""
        tail = _OPEN_TAIL.search(text) if last else None
        text = text[: tail.start()] if tail else text
        place = 0
        for groups in _GROUPS.finditer(text):
            yield from self._plain(text[place : groups.start()], at + place)
            place = groups.end()
            whole = _WHOLE.fullmatch(groups[0])
            if whole:
                yield self._box(whole, at + groups.start())
            else:
                self._used = True
                yield problem_item("unparsed", groups[0])
        yield from self._plain(text[place:], at + place, last=last and tail is None)
        if tail:
            yield from self._tail(tail[0], at + tail.start())

    def _plain(self, text: str, at: int, *, last: bool = False) -> Iterator[Item]:
        label = text.strip(_BLANK) if not last else text.strip()
        if not label.strip(_BLANK):
            return
        if last and (label[-1] in ".!?" or self._label is None):
            self._used = True
            yield problem_item("unparsed", label)
        else:
            yield from self._new_label(label.strip(_BLANK), at, len(text))

    def _tail(self, text: str, at: int) -> Iterator[Item]:
        """A box that the text's end cuts: kept if only its last bracket is missing."""
        whole = _NO_BRACKET.fullmatch(text)
        if whole:
            yield self._box(whole, at)
        self._used = True
        yield problem_item("truncated", text)


QWEN2_VL = Qwen2VL()
