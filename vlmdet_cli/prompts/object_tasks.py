"""Four kinds of questions that point: at an area, at a size, at a side.

    region   draw each object inside an area: every annotated object lies wholly inside or does not touch it
    class    name the object in an area, which is its own box: no object of another label is much the same box
    largest  draw the largest object of a category: it has at least 1.2 times the area of the next one
    left     how many objects of a category lie left of an object's box: none of them crosses its left border

A question is true of the area as written, after rounding to the dialect's frame, and of every annotated object:
crowds and objects that are no targets included. What names or counts all objects of a category is asked only where
all of them are annotated one by one. Boxes must lie within the picture (``Dataset.clipped``); a target without area
can be no answer and is treated as no target.

All kinds have one signature. They draw from ``random`` alone: the same state gives the same question.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.base import TRIES, Refused, holds, iou, is_flat, size_of, touches

REGION = "<image> Please draw the bounding box of each object inside the area {area}."
CLASS = "<image> Please name the category of the object in the area {area}."
LARGEST = '<image> Please draw the bounding box of the largest "{label}".'
LEFT = '<image> Please count how many objects of the category "{label}" lie left of the area {area}.'

CLASS_ANSWER = 'The object in the area {area} is a "{label}".'
LEFT_ANSWER = '{number} objects of the category "{label}" lie left of the area {area}.'

# what a question of each kind has in it, and no other text is likely to have
MARKS: tuple[tuple[str, QuestionKind], ...] = (
    ("Please draw the bounding box of each object inside the area", "region"),
    ("Please name the category of the object in the area", "class"),
    ('Please draw the bounding box of the largest "', "largest"),
    ('Please count how many objects of the category "', "left"),
)
SAME_PLACE = 0.5  # from this IoU on two boxes are much the same
CLEARLY_LARGER = 1.2  # times the area of the second

Ask = Callable[[Picture, Sequence[str], Dialect, Random], InstructionRow | Refused]


def region(picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random) -> InstructionRow | Refused:
    """The objects inside an area around one target or several; from top to bottom, then left to right, as written."""
    targets, others = _parted(picture)
    if not targets:
        return Refused("no object")
    if picture.exhaustive_categories is not None and not set(categories) <= set(picture.exhaustive_categories):
        return Refused("not every category was looked for")
    size = (picture.width, picture.height)
    for _ in range(TRIES):
        area = dialect.as_written(_around(targets, size, random), size)
        inside = _inside(area, targets, others)
        if inside:
            inside.sort(key=lambda one: dialect.to_frame(one.box, size)[1::-1])
            objects = tuple((one.label, one.box) for one in inside)
            prompt = REGION.format(area=dialect.render_box(area, size))
            return _sample("region", picture, prompt, dialect.render(objects, size), area=area, objects=objects)
    return Refused("no area parts targets from all else")


def category(picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random) -> InstructionRow | Refused:
    """The category of one target, by its box: the kind ``class``."""
    del categories
    targets, others = _parted(picture)
    if not targets:
        return Refused("no object")
    size = (picture.width, picture.height)
    for one in random.sample(targets, min(TRIES, len(targets))):
        area = dialect.as_written(one.box, size)
        if all(o.label == one.label or iou(o.box, area) < SAME_PLACE for o in (*targets, *others)):
            text = dialect.render_box(one.box, size)
            answer = CLASS_ANSWER.format(area=text, label=one.label)
            return _sample("class", picture, CLASS.format(area=text), answer, area=area)
    return Refused("another category's object in the same place")


def largest(picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random) -> InstructionRow | Refused:
    """The largest object of a category, by the area of its box."""
    ranked = {label: sorted(boxes, key=size_of, reverse=True) for label, boxes in _whole(picture, categories).items()}
    clear = [
        (label, boxes[0])
        for label, boxes in ranked.items()
        if len(boxes) > 1 and size_of(boxes[0]) >= CLEARLY_LARGER * size_of(boxes[1])
    ]
    if not clear:
        return Refused("no category has a clearly largest object")
    label, box = random.choice(clear)
    answer = dialect.render([(label, box)], (picture.width, picture.height))
    return _sample("largest", picture, LARGEST.format(label=label), answer, objects=((label, box),))


def left(picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random) -> InstructionRow | Refused:
    """How many objects of a category end at or before the left border of a target's box."""
    targets, whole = _parted(picture)[0], _whole(picture, categories)
    if not whole:
        return Refused("no category can be counted")
    size = (picture.width, picture.height)
    for _ in range(TRIES):
        at, label = random.choice(targets), random.choice(list(whole))
        area = dialect.as_written(at.box, size)
        border = area[0]
        boxes = [one.box for one in targets if one.label == label and one is not at]
        if not any(box[0] < border < box[2] for box in boxes):
            number = sum(box[2] <= border for box in boxes)
            text = dialect.render_box(at.box, size)
            answer = LEFT_ANSWER.format(number=number, label=label, area=text)
            return _sample("left", picture, LEFT.format(label=label, area=text), answer, area=area)
    return Refused("an object crosses every border drawn")


def _sample(kind: QuestionKind, picture: Picture, prompt: str, answer: str, **boxes: Any) -> InstructionRow:
    return InstructionRow(image=picture.image, prompt=prompt, answer=answer, kind=kind, **boxes)


def _parted(picture: Picture) -> tuple[list[Object], list[Object]]:
    """The targets that have an area, and all else that is annotated."""
    targets = [one for one in picture.targets if not is_flat(one.box)]
    rest = [one for one in picture.objects if one.crowd or is_flat(one.box)]
    return targets, [*rest, *picture.ignored]


def _whole(picture: Picture, categories: Sequence[str]) -> dict[str, list[Box]]:
    """Targets by category, in the categories' order: of those whose objects are all annotated, each as a target."""
    targets, others = _parted(picture)
    doubtful = {one.label for one in others}
    if picture.exhaustive_categories is not None:
        doubtful |= set(categories) - set(picture.exhaustive_categories)
    boxes: dict[str, list[Box]] = {name: [] for name in categories if name not in doubtful}
    for one in targets:
        if one.label in boxes:
            boxes[one.label].append(one.box)
    return {name: found for name, found in boxes.items() if found}


def _inside(area: Box, targets: Sequence[Object], others: Sequence[Object]) -> list[Object]:
    """The targets inside the area; none where it cuts one of them or touches anything else."""
    touched = [one for one in targets if touches(one.box, area)]
    cut = not all(holds(area, one.box) for one in touched)
    return [] if cut or any(touches(one.box, area) for one in others) else touched


def _around(targets: Sequence[Object], size: tuple[int, int], random: Random) -> Box:
    """An area around one target or the nearest of several, with a margin of its own on each side, in the picture."""
    first, many = random.choice(targets).box, random.choice((1, random.randint(1, len(targets))))
    boxes = [first] if many == 1 else sorted((one.box for one in targets), key=lambda box: _gap(first, box))[:many]
    left, top, right, bottom = zip(*boxes, strict=True)
    x1, x2 = _widened(min(left), max(right), size[0], random)
    y1, y2 = _widened(min(top), max(bottom), size[1], random)
    return (x1, y1, x2, y2)


def _gap(one: Box, two: Box) -> float:
    """The pixels between two boxes, across and down; 0 where they touch."""
    across = max(one[0], two[0]) - min(one[2], two[2])
    down = max(one[1], two[1]) - min(one[3], two[3])
    return max(across, 0.0) + max(down, 0.0)


def _widened(start: float, end: float, side: int, random: Random) -> tuple[float, float]:
    most = side / 50 + (end - start) / 2
    return max(start - random.random() * most, 0.0), min(end + random.random() * most, float(side))
