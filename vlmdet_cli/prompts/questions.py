"""Questions about a data set's pictures, by kind, and the kind of a row.

count, full, partial, none        the four documented kinds, for all pictures at once      ``region_tasks``
region, class, largest, left      four more, which ask for objects, picture by picture     ``object_tasks``
"""

from collections.abc import Sequence
from random import Random

import msgspec

from vlmdet_cli.core.rows import InstructionRow, Kind, QuestionKind
from vlmdet_cli.data.dataset import Column, Dataset
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_tasks, region_tasks
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.draws import derive_keys

_PHRASES = (*region_tasks.PHRASES, *object_tasks.PHRASES)


def kind_of(prompt: str) -> Kind:
    """The kind of a row by its prompt; ``detection`` for any text that holds no phrase of a question."""
    return next((kind for phrase, kind in _PHRASES if phrase in prompt), "detection")


def generate_questions(
    kind: QuestionKind, data: Dataset, keys: Column, dialect: Dialect, *, number: int = 0, images: str = ""
) -> Sequence[InstructionRow | NoQuestion]:
    """A question of ``kind`` for each of P pictures, or the reason why there is none.

    Draws depend on ``keys`` (P,), unsigned 64-bit numbers, on the kind, and on ``number``, which tells several
    questions about a picture apart. ``images`` is put before the file names in rows.
    """
    keys = derive_keys(keys, f"{kind}:{number}")
    if kind not in object_tasks.GENERATORS:
        return region_tasks.generate(kind, data, keys, dialect, images)
    generate = object_tasks.GENERATORS[kind]
    pictures = (
        msgspec.structs.replace(picture, image=images + picture.image) for picture in data.pictures(clipped=True)
    )
    return [
        generate(picture, data.categories, dialect, Random(key))  # noqa: S311  (a draw, no secret)
        for picture, key in zip(pictures, keys.tolist(), strict=True)
    ]
