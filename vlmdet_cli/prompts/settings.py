"""The settings of instruction rows: ``[format]`` says how they are written, ``[augment]`` which questions are added."""

from typing import Annotated, Literal

import msgspec

from vlmdet_cli.core.rows import QuestionKind
from vlmdet_cli.core.settings import Count, Positive, Table, Text

Phrases = Text | Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]  # with several, each row draws one

# a tuple of two types, beside a number with a bound, makes msgspec 0.20 crash
Range = Annotated[tuple[Count, ...], msgspec.Meta(min_length=2, max_length=2)]


class Format(Table, frozen=True, kw_only=True):
    """How rows are written.

    ``ask``: all classes in a row, those present, a row for each class, or a draw. ``negatives_per_row``: how many
    classes that the picture lacks a row also asks for (with ``each``: that many more rows a picture); of two numbers,
    one between them is drawn for each picture.
    ``too_long``: what becomes of train rows over ``train.max_length`` tokens. ``extra_formats``: what ``prepare``
    writes besides COCO and detection JSON.
    """

    dialect: str = ""  # empty: the model family's
    prompt: Phrases = "Draw the bounding box of objects"
    class_prompt: Phrases = "Draw the bounding box of objects of these categories: {classes}"
    ask: Literal["all", "present", "each", "some"] = "all"
    negatives_per_row: Count | Range = 1
    order: Literal["position", "area", "annotation", "random"] = "position"
    group: bool = False
    rows: Literal["text", "objects"] = "text"
    too_long: Literal["split", "largest", "drop", "stop"] = "split"
    extra_formats: tuple[Literal["yolo"], ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        return _as_tuple(self.prompt)

    @property
    def negatives_range(self) -> tuple[int, int]:
        """The least and the largest number of ``negatives_per_row``."""
        number = self.negatives_per_row
        return (number, number) if isinstance(number, int) else (min(number), max(number))

    @property
    def class_prompts(self) -> tuple[str, ...]:
        return _as_tuple(self.class_prompt)


def _as_tuple(phrases: Phrases) -> tuple[str, ...]:
    return (phrases,) if isinstance(phrases, str) else phrases


class Augment(Table, frozen=True, kw_only=True):
    """Which questions are added. ``per_picture``: questions of each kind a picture (of ``count``, one).
    ``per_kind``: at most this many rows of a kind in a split, 0 for no limit; a table has limits by kind.
    ``question_ratio``: question rows in the mixed train file, at most this many for each detection row.
    """

    questions: tuple[QuestionKind, ...] = ("count", "full", "partial", "none")
    per_picture: Positive = 1
    per_kind: Count | dict[QuestionKind, Count] = 0
    question_ratio: Annotated[float, msgspec.Meta(ge=0)] = 1.0

    def limit(self, kind: QuestionKind) -> int:
        """At most this many rows of ``kind``; 0 for no limit."""
        return self.per_kind.get(kind, 0) if isinstance(self.per_kind, dict) else self.per_kind
