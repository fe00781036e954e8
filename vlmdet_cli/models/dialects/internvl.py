"""InternVL: ``<ref>L</ref><box>[[x1, y1, x2, y2], …]</box>``, thousandths."""

import re
from collections.abc import Iterator, Sequence

from vlmdet_cli.models.dialects.base import Dialect, FrameBox, boxes_by_label
from vlmdet_cli.models.dialects.items import Item, problem_item
from vlmdet_cli.models.dialects.tags import TagScanner

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_BRACKETS = re.compile(r"\[[^\[\]]*\]?")
_SEPARATORS = " \t\r\n,;:"


class InternVL(Dialect):
    """``<ref>`` and ``<box>`` tags."""

    name, objects_group = "internvl", False  # swift's template writes a pair of tags a box
    closing = re.compile(r"\s*\]\s*</box>")
    box_pattern = re.compile(
        r"<box>\[\[(?P<x1>[0-9]{1,6}), (?P<y1>[0-9]{1,6}), (?P<x2>[0-9]{1,6}), (?P<y2>[0-9]{1,6})\]\]</box>"
    )

    def write_ref(self, ref: str) -> str:
        return f"<ref>{ref}</ref>"

    def write_box(self, box: FrameBox) -> str:
        x1, y1, x2, y2 = box
        return f"<box>[[{x1}, {y1}, {x2}, {y2}]]</box>"

    def write(self, objects: Sequence[tuple[str, FrameBox]], *, group: bool = False) -> str:
        if not group:
            return super().write(objects)
        return "".join([
            f"{self.write_ref(label)}<box>{list(map(list, boxes))}</box>"
            for label, boxes in boxes_by_label(objects, group=True)
        ]) or self.empty  # fmt: skip

    def scan(self, text: str) -> Iterator[Item]:
        return _Scanner().items(text)


class _Scanner(TagScanner):
    tags = re.compile(r"(</?(?:ref|box)>)")
    label_tag, box_tag = "<ref>", "<box>"

    def boxes(self, content: str, start: int, *, cut: bool) -> Iterator[Item]:
        """A list of boxes; each inner list that is no box is a problem of its own."""
        lists = list(_BRACKETS.finditer(content, content.find("[") + 1))
        for brackets in lists:
            match = _BOX.fullmatch(content, *brackets.span())
            if match and self.label:
                yield self.box(match, start)
            elif brackets[0].endswith("]") or not cut:
                yield problem_item("unparsed", brackets[0])
        if cut:
            yield problem_item("truncated", content or self.box_tag)
        elif not lists:
            yield problem_item("unparsed", content)

    def between(self, text: str, start: int, *, last: bool) -> Iterator[Item]:
        del start, last
        if text.strip(_SEPARATORS):
            yield from self.end_label()
            yield problem_item("unparsed", text.strip())


INTERNVL = InternVL()
