"""Instruction rows: the detection row, and eight kinds of questions that teach a model space.

detection  every object of the picture, or those of the classes that the row names    detection, fitting
count, full, partial, none        the four documented kinds                            space
region, class, largest, left      four more, which point at something                  pointing
"""

from collections.abc import Sequence
from random import Random

import msgspec

from vlmdet_cli.core.rows import InstructionRow, Kind, QuestionKind
from vlmdet_cli.data.dataset import Column, Dataset
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_tasks as pointing
from vlmdet_cli.prompts import region_tasks as space
from vlmdet_cli.prompts.base import Refused

__all__ = ["Refused", "ask", "kind_of"]

_MARKS = (*space.MARKS, *pointing.MARKS)
_POINTING: dict[QuestionKind, pointing.Ask] = {
    "region": pointing.region,
    "class": pointing.category,
    "largest": pointing.largest,
    "left": pointing.left,
}


def kind_of(prompt: str) -> Kind:
    """The kind of a row by its question; ``detection`` for any other text."""
    return next((kind for mark, kind in _MARKS if mark in prompt), "detection")


def ask(
    kind: QuestionKind, data: Dataset, keys: Column, dialect: Dialect, *, number: int = 0, images: str = ""
) -> Sequence[InstructionRow | Refused]:
    """One question of ``kind`` for each picture, or the reason why there is none.

    Draws depend on ``keys`` (P,), unsigned 64-bit numbers, on the kind, and on ``number``, which tells several of a
    picture apart. ``images`` stands before file names in rows.
    """
    own = space.keys_of(keys, f"{kind}:{number}")
    if kind not in _POINTING:
        return space.ask(kind, data, own, dialect, images)
    pictures = (msgspec.structs.replace(one, image=images + one.image) for one in data.pictures(clipped=True))
    return [
        _POINTING[kind](picture, data.categories, dialect, Random(key))  # noqa: S311  (a draw, no secret)
        for picture, key in zip(pictures, own.tolist(), strict=True)
    ]
