"""Families that answer in JSON: ``[{"bbox_2d": [x1, y1, x2, y2], "label": "L"}, …]``.

Qwen3-VL writes thousandths. Qwen2.5-VL writes pixels of the picture as its processor resizes it, sides multiples of
28; ``frame`` computes that size from the original's. An answer is read object by object, so that one bad object or a
cut tail costs no other.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vlmdet_cli.boxes import MAX_PIXELS, MIN_PIXELS, resized
from vlmdet_cli.dialects.base import END_OF_TURN, Dialect, Item, Size, Span, box_item, problem_item
from vlmdet_cli.records import Box

_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(rf"\{{(?:[^{{}}\"]|{_STRING})*\}}")
_NUMBERS = re.compile(r'"bbox(?:_2d)?"\s*:\s*(\[[^\[\]]*\])')
_LABEL = re.compile(rf'"label"\s*:\s*({_STRING})')
_FENCE = re.compile(r"```(?:json)?")


class JsonList(Dialect):
    """A list of objects; a box is written behind its label's key in each of them."""

    empty = "[]"

    def __init__(self, name: str, *, resized_pixels: bool) -> None:
        self.name = name
        self._resized_pixels = resized_pixels

    def frame(self, size_wh: Size | None) -> Size:
        if not self._resized_pixels:
            return (1000, 1000)
        return (
            (math.inf, math.inf)
            if size_wh is None
            else resized(int(size_wh[0]), int(size_wh[1]), MIN_PIXELS, MAX_PIXELS)
        )

    def render(self, objects: Sequence[tuple[str, Box]], size_wh: Size, *, group: bool = False) -> str:
        del group  # an object has one label and one box
        return f"[{', '.join(self._object(label, box, size_wh) for label, box in objects)}]"

    def _object(self, label: str, box: Box, size_wh: Size) -> str:
        return f'{{"bbox_2d": {self.render_box(box, size_wh)}, "label": {json.dumps(label, ensure_ascii=False)}}}'

    def render_box(self, box: Box, size_wh: Size) -> str:
        return str(list(self.to_frame(box, size_wh)))

    def is_empty(self, text: str) -> bool:
        return super().is_empty(_FENCE.sub("", END_OF_TURN.split(text, maxsplit=1)[0]))

    def scan(self, text: str) -> Iterator[Item]:
        text = END_OF_TURN.split(text, maxsplit=1)[0]
        end = 0
        for match in _OBJECT.finditer(text):
            end = match.end()
            yield _read(match[0], match.start()) or problem_item("unparsed", match[0])
        yield from _tail(text, end)


def _tail(text: str, at: int) -> Iterator[Item]:
    """What stands behind the last whole object: a cut one, or the list's end, or its lack."""
    rest = text[at:]
    if "{" in rest:
        start = at + rest.index("{")
        found = _read(text[start:], start)
        if found is not None:
            yield found
        yield problem_item("truncated", text[start:])
    elif at and "[" in text[:at].partition("{")[0] and "]" not in rest:
        yield problem_item("truncated", rest.strip() or text[max(at - 20, 0) : at])


def _read(text: str, at: int) -> Item | None:
    """One object's label and box, whether or not its own end is there; None if either is not whole."""
    numbers, label = _NUMBERS.search(text), _LABEL.search(text)
    if numbers is None or label is None:
        return None
    try:
        values, name = json.loads(numbers[1]), json.loads(label[1])
    except ValueError:
        return None
    if len(values) != 4 or not all(map(_is_number, values)) or not name.strip():
        return None
    x1, y1, x2, y2 = map(float, values)
    return box_item(name, (x1, y1, x2, y2), _span(label, at), _span(numbers, at))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9


def _span(match: "re.Match[str]", at: int) -> Span:
    return (at + match.start(1), at + match.end(1))


QWEN2_5_VL = JsonList("qwen2_5_vl", resized_pixels=True)
QWEN3_VL = JsonList("qwen3_vl", resized_pixels=False)
