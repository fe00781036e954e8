"""Detection rows of many pictures: which classes a row asks for, in what words, and the boxes of its answer.

    all      every class, named by none                                    one row a picture
    present  the classes that the picture has                              one row a picture
    each     one class; those that the picture has, and some it has not    a row a class
    some     a draw of the picture's classes, and some it has not          one row a picture

A class is absent from a picture only where no object of it is annotated (crowds and left-out objects are objects), and
where the data set was searched for it. Asked for absent classes alone, the answer is the dialect's for nothing.
Boxes stand in an order that the picture alone gives. Draws depend on the seed and the picture's id alone.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.data.dataset import Column, Dataset
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import Ints
from vlmdet_cli.prompts.settings import Format

CLASSES = "{classes}"
Pair = tuple[str, Ints]  # a label and a box in the frame's whole numbers


class Plan(NamedTuple):
    """One row to be: the picture's place, its prompt, the classes it names (None: it asks for all), and the boxes of
    its answer, as places among the picture's targets.
    """

    place: int
    prompt: str
    asked: tuple[str, ...] | None
    chosen: Sequence[int]


class Targets(NamedTuple):
    """The targets of each picture in the answer's order: their labels by number (T,) and name, their boxes in whole
    numbers of the frame (T, 4) and in pixels, cut off at the borders (T, 4). Picture p's stand at
    ``starts[p]:starts[p + 1]``. ``texts``: what each is in an answer, for dialects that put them together as they are.
    """

    numbers: Column
    labels: list[str]
    ints: Column
    pixels: Column
    starts: list[int]
    texts: list[str] | None

    def places(self, plan: Plan) -> Sequence[int]:
        """Where the plan's boxes stand."""
        first, last = self.starts[plan.place], self.starts[plan.place + 1]
        return range(first, last) if len(plan.chosen) == last - first else [first + one for one in plan.chosen]

    def of(self, plan: Plan) -> list[Pair]:
        """The plan's (label, box) pairs."""
        places = self.places(plan)
        boxes: list[Ints] = self.ints[list(places)].tolist()  # lists of four do as well as tuples
        return [(self.labels[one], box) for one, box in zip(places, boxes, strict=True)]


def targets(data: Dataset, dialect: Dialect, order: str) -> Targets:
    """``order``: ``position`` (top to bottom, then left to right, as written), ``area`` (largest first) or
    ``annotation`` (the source's own); equal ones stay in the source's order.
    """
    places = np.flatnonzero(data.is_target)
    image, pixels = data.image[places], data.clipped[places]
    ints = dialect.to_frames(pixels, data.sizes[image])
    if order == "position":
        # one key in place of three: frames have fewer than 2**20 units
        sort = np.argsort((image << 40) + (ints[:, 1] << 20) + ints[:, 0], kind="stable")
    elif order == "area":
        sort = np.lexsort((-(pixels[:, 2] - pixels[:, 0]) * (pixels[:, 3] - pixels[:, 1]), image))
    else:
        sort = np.arange(len(places))
    numbers, ints = data.label[places[sort]], ints[sort]
    labels = [data.labels[number] for number in numbers.tolist()]
    starts = np.searchsorted(image, np.arange(len(data.images) + 1)).tolist()
    return Targets(numbers, labels, ints, pixels[sort], starts, dialect.objects(labels, ints))


def plans(data: Dataset, found: Targets, how: Format, seed: int) -> Iterator[Plan]:
    """The rows of each picture, in the pictures' order; a picture may have none (see ``ask``)."""
    if how.ask == "all":
        plain = how.prompts[0] if len(how.prompts) == 1 and CLASSES not in how.prompts[0] else ""
        for place, (first, last) in enumerate(zip(found.starts, found.starts[1:], strict=False)):
            prompt = plain or _worded(how.prompts, data.categories, seed, data.images[place].id)
            yield Plan(place, prompt, None, range(last - first))
        return
    absent = _absent(data)
    for place in range(len(data.images)):
        yield from _asking(data, found, how, seed, place, absent[place])


def _worded(phrases: Sequence[str], classes: Sequence[str], seed: int, image_id: ImageId, number: int = 0) -> str:
    """One of the phrases, drawn for the picture, with the classes in it."""
    phrase = phrases[0] if len(phrases) == 1 else _random(seed, "phrase", image_id, number).choice(phrases)
    return phrase.replace(CLASSES, ", ".join(classes))


def worded(how: Format, classes: Sequence[str], seed: int, image_id: ImageId, number: int = 0) -> str:
    """The prompt that asks for ``classes``."""
    return _worded(how.class_prompts, classes, seed, image_id, number)


def _random(seed: int, purpose: str, image_id: ImageId, number: int = 0) -> Random:
    return Random(f"{seed}:{purpose}:{image_id}:{number}")  # noqa: S311  (a draw, no secret)


def _absent(data: Dataset) -> list[list[str]]:
    """For each picture the categories that it surely does not have, in the data set's order."""
    there = np.zeros((len(data.images), len(data.labels)), bool)
    there[data.image, data.label] = True
    rows = there[:, : data.num_categories].tolist()
    return [
        [
            name
            for name, has in zip(data.categories, row, strict=True)
            if not has and (one.exhaustive_categories is None or name in one.exhaustive_categories)
        ]
        for row, one in zip(rows, data.images, strict=True)
    ]


def _asking(data: Dataset, found: Targets, how: Format, seed: int, place: int, absent: Sequence[str]) -> Iterator[Plan]:
    """The rows of one picture that name their classes."""
    image_id = data.images[place].id
    labels = found.labels[found.starts[place] : found.starts[place + 1]]
    present = [name for name in data.categories if name in set(labels)]
    random = _random(seed, "ask", image_id)
    for number, asked in enumerate(_asked(present, absent, how, random)):
        chosen = [one for one, label in enumerate(labels) if label in asked]
        yield Plan(place, worded(how, asked, seed, image_id, number), asked, chosen)


def _asked(present: Sequence[str], absent: Sequence[str], how: Format, random: Random) -> Iterator[tuple[str, ...]]:
    """The classes of each row. A picture without objects is asked for one absent class at least."""
    wanted = max(how.absent, 1) if not present else 0 if how.ask == "present" else how.absent
    drawn = random.sample(absent, min(wanted, len(absent)))
    if how.ask == "each":
        yield from ((name,) for name in [*present, *drawn])
        return
    shown = list(present)
    if how.ask == "some" and present:
        shown = random.sample(shown, random.randint(0 if drawn else 1, len(shown)))
    names = [*shown, *drawn]
    if how.ask == "some":
        random.shuffle(names)
    if names:
        yield tuple(names)
