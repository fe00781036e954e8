"""The settings of instruction rows: how they are written, and which questions are added."""

from typing import Annotated, Literal

import msgspec

from vlmdet_cli.core.rows import QuestionKind
from vlmdet_cli.core.settings import Count, Positive, Table, Text

Phrases = Text | Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]  # one, or several that are drawn from


class Format(Table, frozen=True, kw_only=True):
    """How rows are written. ``ask``: all classes in one row, those present, each in a row of its own, or some drawn
    ones; ``absent``: how many classes that a picture does not have are asked for beside those (for ``each``, ``some``).
    ``too_long``: what becomes of train rows over ``train.max_length`` tokens.
    """

    dialect: str = ""  # empty: the model family's
    prompt: Phrases = "Draw the bounding box of objects"
    class_prompt: Phrases = "Draw the bounding box of objects of these categories: {classes}"
    ask: Literal["all", "present", "each", "some"] = "all"
    absent: Count = 1
    order: Literal["position", "area", "annotation"] = "position"
    group: bool = False
    rows: Literal["text", "objects"] = "text"
    too_long: Literal["split", "largest", "drop", "stop"] = "split"
    also: tuple[Literal["yolo"], ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        return _phrases(self.prompt)

    @property
    def class_prompts(self) -> tuple[str, ...]:
        return _phrases(self.class_prompt)


def _phrases(given: Phrases) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


class Augment(Table, frozen=True, kw_only=True):
    """``per_picture`` questions of each kind a picture; ``per_kind`` rows of a kind at most (0: no limit);
    ``mix``: question rows in the mixed train file, at most this many for each detection row.
    """

    questions: tuple[QuestionKind, ...] = ("count", "full", "partial", "none")
    per_picture: Positive = 1
    per_kind: Count = 0
    mix: Annotated[float, msgspec.Meta(ge=0)] = 1.0
