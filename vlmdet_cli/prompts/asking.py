"""Which classes inference asks for, and in which words, where it does not take the rows as they were prepared.

``infer.ask`` decides how many prompts a picture has and what they ask for:

    rows     as the split was prepared (``format.ask``)
    all      every class                                                               a prompt a picture
    each     one class: every one that was searched for in the picture                 a prompt a class
    present  the classes of which the picture has objects, which only the truth knows  a prompt a picture; none without

A class that was not searched for in a picture (LVIS, Open Images, joined sources) and has no object there can neither
be right nor wrong: ``each`` leaves it out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlmdet_cli.core.settings import Ask
from vlmdet_cli.data.dataset import Column, Dataset
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.family import IMAGE_TAG
from vlmdet_cli.prompts.detection import CLASSES
from vlmdet_cli.prompts.settings import Format

Asked = tuple[str, ...] | None  # the classes that a prompt asks for, by name; None: all


class Wording(NamedTuple):
    """``all_phrase`` asks for all classes, ``class_phrase`` for those that it names. ``key``: where that is set."""

    all_phrase: str
    class_phrase: str
    key: str

    def prompt(self, asked: Asked, categories: Sequence[str] = ()) -> str:
        """The prompt for classes; ``categories`` are all that there are, for a phrase that names them.

        Raises ``UsageError`` for classes that the phrase does not name.
        """
        phrase = self.all_phrase if asked is None else self.class_phrase
        if asked is not None and CLASSES not in phrase:
            raise UsageError(
                f"{self.key} does not say which classes are asked for: {phrase}",
                hint=f"Put {CLASSES} where their names belong.",
            )
        text = phrase.replace(CLASSES, ", ".join(categories if asked is None else asked))
        return text if IMAGE_TAG in text else IMAGE_TAG + text


def wording(format_: Format, prompt: str = "") -> Wording:
    """The first phrases that rows are written with, or ``prompt`` in place of both."""
    if prompt:
        return Wording(prompt, prompt, "infer.prompt")
    class_phrase = format_.class_prompts[0]
    return Wording(format_.prompts[0] if format_.ask == "all" else class_phrase, class_phrase, "format.class_prompt")


def classes_by_prompt(data: Dataset, ask: Ask) -> list[list[Asked]]:
    """For each picture what each of its prompts asks for. ``ask`` is not ``rows``."""
    if ask == "all":
        return [[None] for _ in data.images]
    present = _named(data, data.is_target)
    if ask == "present":
        return [[names] if names else [] for names in present]
    annotated = _named(data, np.ones(len(data.label), bool))
    return [
        [
            (name,)
            for name in data.categories
            if image.exhaustive_categories is None or name in image.exhaustive_categories or name in names
        ]
        for image, names in zip(data.images, annotated, strict=True)
    ]


def _named(data: Dataset, mask: Column) -> list[tuple[str, ...]]:
    """For each picture the categories of its objects in ``mask`` (N,), in the data set's order."""
    has = np.zeros((len(data.images), len(data.labels)), bool)
    has[data.image[mask], data.label[mask]] = True
    rows = has[:, : data.num_categories]
    return [tuple(data.categories[index] for index in np.flatnonzero(row).tolist()) for row in rows]
