"""The scanner of the dialects that put labels and boxes between special tokens: Qwen2-VL and InternVL.

What stands between a token that opens a label or a box and the next token is that label or box, whether or not the
right token closes it. A label owns all boxes up to the next label.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.models.dialects.items import Item, box_item, problem_item
from vlmdet_cli.models.dialects.scores import Span


class TagScanner(ABC):
    """Scans one answer.

    ``tags``: matches any special token, in one group; ``label_tag`` and ``box_tag`` are those that open a label and a
    box. Subclasses read a box's content, and the text outside labels and boxes.
    """

    tags: ClassVar["re.Pattern[str]"]
    label_tag: ClassVar[str]
    box_tag: ClassVar[str]

    def __init__(self) -> None:
        self.label = ""  # the last one; empty before the first
        self.label_span: Span = (0, 0)
        self.label_waits = False  # whether neither a box nor a problem in a box's place has followed it

    def items(self, text: str, *, cut: bool = False) -> Iterator[Item]:
        """The items of a text; ``cut`` says that a part of a token was taken off its end."""
        pieces, start, tag = self.tags.split(text), 0, ""
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            if index % 2:  # a token
                tag = piece
            elif tag == self.box_tag:
                self.label_waits = False
                yield from self.boxes(piece, start, cut=last)
            elif tag == self.label_tag:
                yield from self.new_label(piece.strip(), start, len(piece), cut=last)
            elif piece:
                yield from self.between(piece, start, last=last)
            start += len(piece)
        if self.label_waits:
            yield problem_item("truncated", self.label)
        elif cut and tag not in {self.label_tag, self.box_tag}:
            yield problem_item("truncated", "a token cut in the middle")

    @abstractmethod
    def boxes(self, content: str, start: int, *, cut: bool) -> Iterator[Item]:
        """What stands behind ``box_tag``, at ``start`` of the text; ``cut``: up to the text's end."""

    @abstractmethod
    def between(self, text: str, start: int, *, last: bool) -> Iterator[Item]:
        """What stands outside labels and boxes, at ``start`` of the text; ``last``: at the text's end."""

    def new_label(self, label: str, start: int, length: int, *, cut: bool = False) -> Iterator[Item]:
        """A label of ``length`` characters at ``start`` of the text; ``cut``: the text ends in it."""
        yield from self.end_label()
        if cut:
            yield problem_item("truncated", label or self.label_tag)
            return
        self.label, self.label_span, self.label_waits = label, (start, start + length), True

    def end_label(self) -> Iterator[Item]:
        """No box can follow the last label any more."""
        if self.label_waits:
            yield problem_item("unparsed", self.label)
        self.label_waits = False

    def box(self, match: "re.Match[str]", start: int) -> Item:
        """The box whose four numbers are the groups of a match in a piece at ``start`` of the text."""
        self.label_waits = False
        if not self.label:
            return problem_item("unparsed", match[0])
        x1, y1, x2, y2 = map(float, match.groups())
        box: Box = (x1, y1, x2, y2)
        return box_item(self.label, box, self.label_span, (start + match.start(), start + match.end()))
