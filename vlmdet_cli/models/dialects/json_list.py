"""Families that answer in JSON: ``[{"bbox_2d": [x1, y1, x2, y2], "label": "L"}, …]``.

Qwen3-VL writes thousandths. Qwen2.5-VL writes pixels of the picture as swift trains on it, sides multiples of 28;
``frame`` computes that size from the original's and from the training's pixel limit. An answer is read object by
object, so that one bad object or a cut tail costs no other.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.models.dialects.base import BOX_PLACEHOLDER, REF_PLACEHOLDER, Dialect, FrameBox
from vlmdet_cli.models.dialects.items import Item, Size, box_item, problem_item
from vlmdet_cli.models.dialects.scores import Span
from vlmdet_cli.models.image_sizes import trained_size, trained_sizes

SIDE = 28  # the sides of Qwen2.5-VL's resized pictures are multiples of this
# where an object begins: no JSON string holds this, for its quotes would be escaped
_OBJECT = re.compile(r'\{(?=\s*"[\w -]*"\s*:)')
_NUMBERS = re.compile(r'"bbox(?:_2d)?"\s*:\s*(\[[^\[\]]*\])')
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_FENCE = re.compile(r"```(?:json)?")


class JsonList(Dialect):
    """A list of objects, each with a box and a label."""

    name, empty = "qwen3_vl", "[]"
    concatenated = objects_group = False
    closing = re.compile(r"\s*\}")
    box_pattern = re.compile(r"\[(?P<x1>[0-9]{1,6}), (?P<y1>[0-9]{1,6}), (?P<x2>[0-9]{1,6}), (?P<y2>[0-9]{1,6})\]")

    def as_ref(self, label: str) -> str:
        """The label inside a JSON string's quotes."""
        return _escaped(label)

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"[{x1}, {y1}, {x2}, {y2}]"

    def write_object(self, label: str, box: FrameBox) -> str:
        return _object(self.write_box(box), self.as_ref(label))

    def write(self, objects: Sequence[tuple[str, FrameBox]], *, group: bool = False) -> str:
        del group  # an object has one label and one box
        return f"[{', '.join([self.write_object(label, box) for label, box in objects])}]"

    def placeholders(self, counts: Sequence[int]) -> str:
        return f"[{', '.join([_object(BOX_PLACEHOLDER, REF_PLACEHOLDER)] * len(counts))}]"

    def is_empty(self, text: str) -> bool:
        return super().is_empty(_FENCE.sub("", text))

    def scan(self, text: str) -> Iterator[Item]:
        starts = [match.start() for match in _OBJECT.finditer(text)]
        before, rest = text[: starts[0]] if starts else text, ""
        yield from _stray(before, last=not starts)
        for start, end in itertools.pairwise([*starts, len(text)]):
            segment, last = text[start:end], end == len(text)  # an object, and what follows it
            numbers, label = _NUMBERS.search(segment), _LABEL.search(segment)
            item = _item(numbers, label, start) if numbers and label else None
            if item is not None:
                yield item
            closed = segment.find("}", max(match.end() if match else 0 for match in (numbers, label))) + 1
            if not closed and last:
                yield problem_item("truncated", segment)
            elif item is None and (closed or numbers or label):  # else the opening brace around a list of objects
                yield problem_item("unparsed", segment[:closed] or segment)
            rest = segment[closed:] if closed else "]"
            yield from _stray(rest, last=last)
        if starts and "[" in before and not {"]", "{"} & set(rest):  # the list's end is missing
            yield problem_item("truncated", rest.strip() or text[-20:])


class ResizedJsonList(JsonList):
    """The same in pixels of the resized picture. ``max_pixels``: ms-swift's limit of training, 0 for none."""

    name = "qwen2_5_vl"

    def __init__(self, max_pixels: int = 0) -> None:
        self._max_pixels = max_pixels

    def limited(self, max_pixels: int) -> "ResizedJsonList":
        return ResizedJsonList(max_pixels)

    def frame(self, size_wh: Size | None) -> Size:
        return (math.inf, math.inf) if size_wh is None else trained_size(size_wh, self._max_pixels, SIDE)

    def frames(self, sizes_wh: Any) -> Boxes:
        return trained_sizes(sizes_wh, self._max_pixels, SIDE)


def _object(box: str, label: str) -> str:
    return f'{{"bbox_2d": {box}, "label": "{label}"}}'


@functools.lru_cache(maxsize=4096)
def _escaped(label: str) -> str:
    return json.dumps(label, ensure_ascii=False)[1:-1]


def _stray(text: str, *, last: bool) -> Iterator[Item]:
    """Text between objects: a problem where it has an opening brace; ``last``: at the answer's end."""
    brace = text.find("{")
    if brace >= 0:
        yield problem_item("truncated" if last and "}" not in text[brace:] else "unparsed", text[brace:].strip())


def _item(numbers: "re.Match[str]", label: "re.Match[str]", start: int) -> Item | None:
    """The box of an object's two fields, None where either is wrong."""
    try:
        values, name = json.loads(numbers[1]), json.loads(label[1])
    except (ValueError, RecursionError):
        return None
    if len(values) != 4 or not all(map(_is_number, values)) or not name.strip():
        return None
    x1, y1, x2, y2 = map(float, values)
    return box_item(name, (x1, y1, x2, y2), _span(label, start), _span(numbers, start))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9


def _span(match: "re.Match[str]", start: int) -> Span:
    return (start + match.start(1), start + match.end(1))


QWEN2_5_VL = ResizedJsonList()
QWEN3_VL = JsonList()
