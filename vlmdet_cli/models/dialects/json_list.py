"""Families that answer in JSON: ``[{"bbox_2d": [x1, y1, x2, y2], "label": "L"}, …]``.

Qwen3-VL writes thousandths. Qwen2.5-VL writes pixels of the picture as swift trains on it, sides multiples of 28;
``frame`` computes that size from the original's and from the training's pixel limit. An answer is read object by
object, so that one bad object or a cut tail costs no other.
"""

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.models.dialects.base import BOX_PLACE, END_OF_TURN, REF_PLACE, Dialect, Ints
from vlmdet_cli.models.dialects.items import Item, Size, Span, box_item, problem_item
from vlmdet_cli.models.image_sizes import trained_size, trained_sizes

_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(rf"\{{(?:[^{{}}\"]|{_STRING})*\}}")
_NUMBERS = re.compile(r'"bbox(?:_2d)?"\s*:\s*(\[[^\[\]]*\])')
_LABEL = re.compile(rf'"label"\s*:\s*({_STRING})')
SIDE = 28  # the sides of the resized picture are multiples of this
_FENCE = re.compile(r"```(?:json)?")


class JsonList(Dialect):
    """A list of objects; a box is written behind its label's key in each of them."""

    name, empty = "qwen3_vl", "[]"
    objects_group = False
    swift_environment: ClassVar[Mapping[str, str]] = {"QWENVL_BBOX_FORMAT": "new"}  # else as Qwen2-VL writes

    def as_ref(self, label: str) -> str:
        """The label inside a JSON string's quotes."""
        return _escaped(label)

    def write_box(self, ints: Ints) -> str:
        x1, y1, x2, y2 = ints
        return f"[{x1}, {y1}, {x2}, {y2}]"

    def write(self, objects: Sequence[tuple[str, Ints]], *, group: bool = False) -> str:
        del group  # an object has one label and one box
        return _listed([(self.write_box(box), self.as_ref(label)) for label, box in objects])

    def places(self, counts: Sequence[int]) -> str:
        return _listed([(BOX_PLACE, REF_PLACE)] * len(counts))

    def is_empty(self, text: str) -> bool:
        return super().is_empty(_FENCE.sub("", END_OF_TURN.split(text, maxsplit=1)[0]))

    def scan(self, text: str) -> Iterator[Item]:
        text = END_OF_TURN.split(text, maxsplit=1)[0]
        end = 0
        for match in _OBJECT.finditer(text):
            end = match.end()
            yield _read(match[0], match.start()) or problem_item("unparsed", match[0])
        yield from _tail(text, end)


class ResizedJsonList(JsonList):
    """The same in pixels of the resized picture. ``max_pixels``: shrunk to that before, as ms-swift's option does."""

    name = "qwen2_5_vl"

    def __init__(self, max_pixels: int = 0) -> None:
        self._max_pixels = max_pixels

    def limited(self, max_pixels: int) -> "ResizedJsonList":
        return ResizedJsonList(max_pixels)

    def frame(self, size_wh: Size | None) -> Size:
        if size_wh is None:
            return (math.inf, math.inf)
        return trained_size(size_wh, self._max_pixels, SIDE)

    def frames(self, sizes_wh: Any) -> Boxes:
        return trained_sizes(sizes_wh, self._max_pixels, SIDE)


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    """The list of (box, label) pairs, both as they stand in it."""
    objects = [f'{{"bbox_2d": {box}, "label": "{label}"}}' for box, label in pairs]
    return f"[{', '.join(objects)}]"


@functools.lru_cache(maxsize=4096)
def _escaped(label: str) -> str:
    return json.dumps(label, ensure_ascii=False)[1:-1]


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


QWEN2_5_VL = ResizedJsonList()
QWEN3_VL = JsonList()
