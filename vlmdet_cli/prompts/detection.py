"""Detection rows: which classes a row asks for, in which words, and the boxes of its answer.

    {"messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"},
                  {"role": "assistant", "content": "<|object_ref_start|>cat<|object_ref_end|><|box_start|>…"}],
     "images": ["data/subset/images/train/7.jpg"]}

``format.ask`` decides how many rows a picture has and what they ask for:

    all      every class, without naming one                                a row a picture
    present  the classes that the picture has                               a row a picture
    each     one class: those that the picture has, and some that it lacks  a row a class
    some     a draw of the picture's classes, and some that it lacks        a row a picture

A picture lacks a class only if no object of it is annotated (crowds and objects left out count as objects), and the
class is exhaustively annotated in it. A row that asks for such classes alone has the dialect's answer for no objects.

Every draw depends on the seed and the picture's id alone, so that a subset keeps the rows of the whole.
"""

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from vlmdet_cli.core import boxes
from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.data.dataset import Column, Dataset, image_hashes
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import FrameBox
from vlmdet_cli.prompts.draws import splitmix64
from vlmdet_cli.prompts.settings import Format

CLASSES = "{classes}"
LabelledBox = tuple[str, FrameBox]  # a label and a box in whole numbers of the dialect's frame


class RowPlan(NamedTuple):
    """A row before it is written: the index of its picture, its prompt, the classes that the prompt names (None: it
    asks for all), and the boxes of its answer, as indices among the picture's targets.
    """

    picture: int
    prompt: str
    asked: tuple[str, ...] | None
    targets: Sequence[int]


class AnswerBoxes(NamedTuple):
    """The T targets of all pictures, in the order of the answers; those of picture p are at
    ``starts[p]:starts[p + 1]``.

    ``label_indices`` (T,) are indices among the data set's labels, ``labels`` the names. ``frame_boxes`` (T, 4) are
    whole numbers of the dialect's frame, ``pixel_boxes`` (T, 4) pixels, cut off at the picture's borders. ``texts``
    are the targets as an answer writes them, for dialects whose answers only concatenate them, else None.
    """

    label_indices: Column
    labels: list[str]
    frame_boxes: Column
    pixel_boxes: Column
    starts: list[int]
    texts: list[str] | None

    def indices(self, plan: RowPlan) -> Sequence[int]:
        """The plan's targets as indices among all T."""
        first, last = self.starts[plan.picture], self.starts[plan.picture + 1]
        return range(first, last) if len(plan.targets) == last - first else [first + n for n in plan.targets]

    def labelled_boxes(self, plan: RowPlan) -> list[LabelledBox]:
        """The plan's targets as (label, box in whole numbers of the frame)."""
        indices = self.indices(plan)
        rows: list[FrameBox] = self.frame_boxes[list(indices)].tolist()  # dialects take lists of four as well as tuples
        return [(self.labels[index], row) for index, row in zip(indices, rows, strict=True)]


def answer_boxes(data: Dataset, dialect: Dialect, order: str, seed: int = 0) -> AnswerBoxes:
    """The targets in the order of ``format.order``: ``position`` (top to bottom, then left to right, as written),
    ``area`` (largest first), ``annotation`` (the source's own) or ``random`` (drawn by ``seed``, the same in every
    epoch). Ties keep the source's order.
    """
    targets = np.flatnonzero(data.is_target)
    image, pixel_boxes = data.image[targets], data.clipped[targets]
    frame_boxes = dialect.to_frames(pixel_boxes, data.sizes[image])
    if order == "position":
        # one sort key for picture, top and left: frames have fewer than 2**20 units
        sort = np.argsort((image << 40) + (frame_boxes[:, 1] << 20) + frame_boxes[:, 0], kind="stable")
    elif order == "area":
        sort = np.lexsort((-boxes.area(pixel_boxes), image))
    elif order == "random":
        keys = image_hashes(data.images, seed, "order")[image]
        numbers = np.arange(len(image)) - np.searchsorted(image, image)  # of the targets of each picture
        sort = np.lexsort((splitmix64(keys + numbers.astype(np.uint64)), image))
    else:
        sort = np.arange(len(targets))
    label_indices, frame_boxes = data.label[targets[sort]], frame_boxes[sort]
    labels = np.array(data.labels, object)[label_indices].tolist()
    starts = np.searchsorted(image, np.arange(len(data.images) + 1)).tolist()
    texts = dialect.object_texts(labels, frame_boxes)
    return AnswerBoxes(label_indices, labels, frame_boxes, pixel_boxes[sort], starts, texts)


def plan_rows(data: Dataset, answers: AnswerBoxes, settings: Format, seed: int) -> Iterator[RowPlan]:
    """The rows of each picture, in the pictures' order. A picture that has no object and surely lacks no class gets
    none, unless ``ask`` is ``all``.
    """
    if settings.ask == "all":
        phrases = settings.prompts
        constant = phrases[0] if len(phrases) == 1 and CLASSES not in phrases[0] else ""
        for index, (first, last) in enumerate(zip(answers.starts, answers.starts[1:], strict=False)):
            prompt = constant or _prompt(phrases, data.categories, seed, data.images[index].id)
            yield RowPlan(index, prompt, None, range(last - first))
        return
    absent = _absent_classes(data)
    for index in range(len(data.images)):
        yield from _rows_by_class(data, answers, settings, seed, index, absent[index])


def class_prompt(settings: Format, classes: Sequence[str], seed: int, image_id: ImageId, number: int = 0) -> str:
    """The prompt that asks for ``classes``; ``number`` tells the rows of a picture apart."""
    return _prompt(settings.class_prompts, classes, seed, image_id, number)


def classes_named(prompt: str, settings: Format, categories: Sequence[str]) -> tuple[str, ...] | None:
    """The classes that a prompt of ``class_prompt`` names; None for any other prompt."""
    if not categories:
        return None
    longest_first = sorted(map(re.escape, categories), key=len, reverse=True)
    name = f"(?:{'|'.join(longest_first)})"
    for phrase in settings.class_prompts:
        before, _, behind = phrase.partition(CLASSES)
        match = re.search(f"{re.escape(before)}({name}(?:, {name})*){re.escape(behind)}$", prompt)
        if CLASSES in phrase and match:
            return tuple(re.findall(name, match[1]))
    return None


def _prompt(phrases: Sequence[str], classes: Sequence[str], seed: int, image_id: ImageId, number: int = 0) -> str:
    """A phrase, drawn for the picture, with the classes in it."""
    phrase = phrases[0] if len(phrases) == 1 else _random(seed, "phrase", image_id, number).choice(phrases)
    return phrase.replace(CLASSES, ", ".join(classes))


def _random(seed: int, purpose: str, image_id: ImageId, number: int = 0) -> Random:
    return Random(f"{seed}:{purpose}:{image_id}:{number}")  # noqa: S311  (a draw, no secret)


def _absent_classes(data: Dataset) -> list[list[str]]:
    """For each picture the categories that it surely lacks, in the data set's order."""
    annotated = np.zeros((len(data.images), len(data.labels)), bool)
    annotated[data.image, data.label] = True
    rows = annotated[:, : data.num_categories].tolist()
    return [
        [
            name
            for name, is_annotated in zip(data.categories, row, strict=True)
            if not is_annotated and (image.exhaustive_categories is None or name in image.exhaustive_categories)
        ]
        for row, image in zip(rows, data.images, strict=True)
    ]


def _rows_by_class(
    data: Dataset, answers: AnswerBoxes, settings: Format, seed: int, index: int, absent: Sequence[str]
) -> Iterator[RowPlan]:
    """The rows of a picture that name their classes."""
    image_id = data.images[index].id
    labels = answers.labels[answers.starts[index] : answers.starts[index + 1]]
    present = [name for name in data.categories if name in set(labels)]
    random = _random(seed, "ask", image_id)
    for number, asked in enumerate(_asked_classes(present, absent, settings, random)):
        targets = [n for n, label in enumerate(labels) if label in asked]
        yield RowPlan(index, class_prompt(settings, asked, seed, image_id, number), asked, targets)


def _asked_classes(
    present: Sequence[str], absent: Sequence[str], settings: Format, random: Random
) -> Iterator[tuple[str, ...]]:
    """The classes of each row. A picture without objects is asked for at least one class that it lacks."""
    low, high = settings.negatives_range
    per_row = low if low == high else random.randint(low, high)
    requested = max(per_row, 1) if not present else 0 if settings.ask == "present" else per_row
    negatives = random.sample(absent, min(requested, len(absent)))
    if settings.ask == "each":
        yield from ((name,) for name in [*present, *negatives])
        return
    positives = list(present)
    if settings.ask == "some" and present:
        positives = random.sample(positives, random.randint(0 if negatives else 1, len(positives)))
    names = [*positives, *negatives]
    if settings.ask == "some":
        random.shuffle(names)
    if names:
        yield tuple(names)
