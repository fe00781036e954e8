"""Four kinds of questions that ask for objects, in an area or of a category, for one picture at a time.

    region   draw each object inside an area: every annotated object lies wholly inside or does not touch it
    class    name the object in an area, which is its own box: no object of another category has nearly the same box
    largest  draw the largest object of a category: it has at least 1.2 times the area of the second
    left     how many objects of a category lie left of an object's box: none of them crosses its left border

    <image> Please name the category of the object in the area <|box_start|>(500,500),(600,600)<|box_end|>.
    The object in the area <|box_start|>(500,500),(600,600)<|box_end|> is a "dog".

The truth of an area is that of the area as written, after rounding to the dialect's frame, against every annotated
object, crowds and objects that are no targets included. A question that names or counts all objects of a category is
asked only where each of them is annotated as a target. Boxes must lie within the picture (``Dataset.clipped``); a
target without area can be no answer and counts as no target.

All kinds share one signature. They draw from ``random`` alone: the same state gives the same question.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from vlmdet_cli.core.annotations import Box, Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.base import MAX_ATTEMPTS, NoQuestion, area_of, contains, iou, is_flat, touches

REGION = "<image> Please draw the bounding box of each object inside the area {area}."
CLASS = "<image> Please name the category of the object in the area {area}."
LARGEST = '<image> Please draw the bounding box of the largest "{label}".'
LEFT = '<image> Please count how many objects of the category "{label}" lie left of the area {area}.'

CLASS_ANSWER = 'The object in the area {area} is a "{label}".'
LEFT_ANSWER = '{number} objects of the category "{label}" lie left of the area {area}.'

# a phrase that the prompts of one kind have and no other text is likely to have
PHRASES: tuple[tuple[str, QuestionKind], ...] = (
    ("Please draw the bounding box of each object inside the area", "region"),
    ("Please name the category of the object in the area", "class"),
    ('Please draw the bounding box of the largest "', "largest"),
    ('Please count how many objects of the category "', "left"),
)
SAME_BOX_IOU = 0.5  # from this IoU on, two boxes are nearly the same
CLEARLY_LARGER = 1.2  # times the area of the second

Generator = Callable[[Picture, Sequence[str], Dialect, Random], InstructionRow | NoQuestion]


def region(
    picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random
) -> InstructionRow | NoQuestion:
    """The objects inside an area around a target or several; from top to bottom, then left to right, as written."""
    targets, others = _targets_and_others(picture)
    if not targets:
        return NoQuestion("no object")
    if picture.exhaustive_categories is not None and not set(categories) <= set(picture.exhaustive_categories):
        return NoQuestion("not every category was looked for")
    size = (picture.width, picture.height)
    for _ in range(MAX_ATTEMPTS):
        area = dialect.as_written(_random_area(targets, size, random), size)
        inside = _contained(area, targets, others)
        if inside:
            inside.sort(key=lambda target: dialect.to_frame(target.box, size)[1::-1])
            objects = tuple((target.label, target.box) for target in inside)
            prompt = REGION.format(area=dialect.render_box(area, size))
            return _row("region", picture, prompt, dialect.render(objects, size), area=area, objects=objects)
    return NoQuestion("no area parts targets from all else")


def category(
    picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random
) -> InstructionRow | NoQuestion:
    """The category of a target, by its box: the kind ``class``."""
    del categories
    targets, others = _targets_and_others(picture)
    if not targets:
        return NoQuestion("no object")
    size = (picture.width, picture.height)
    for target in random.sample(targets, min(MAX_ATTEMPTS, len(targets))):
        area = dialect.as_written(target.box, size)
        if all(other.label == target.label or iou(other.box, area) < SAME_BOX_IOU for other in (*targets, *others)):
            text = dialect.render_box(target.box, size)
            answer = CLASS_ANSWER.format(area=text, label=target.label)
            return _row("class", picture, CLASS.format(area=text), answer, area=area)
    return NoQuestion("another category's object in the same place")


def largest(
    picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random
) -> InstructionRow | NoQuestion:
    """The largest object of a category, by the area of its box."""
    countable = _countable_boxes(picture, categories)
    ranked = {label: sorted(boxes, key=area_of, reverse=True) for label, boxes in countable.items()}
    candidates = [
        (label, boxes[0])
        for label, boxes in ranked.items()
        if len(boxes) > 1 and area_of(boxes[0]) >= CLEARLY_LARGER * area_of(boxes[1])
    ]
    if not candidates:
        return NoQuestion("no category has a clearly largest object")
    label, box = random.choice(candidates)
    answer = dialect.render([(label, box)], (picture.width, picture.height))
    return _row("largest", picture, LARGEST.format(label=label), answer, objects=((label, box),))


def left(picture: Picture, categories: Sequence[str], dialect: Dialect, random: Random) -> InstructionRow | NoQuestion:
    """How many objects of a category end at or before the left border of a target's box."""
    targets, countable = _targets_and_others(picture)[0], _countable_boxes(picture, categories)
    if not countable:
        return NoQuestion("no category can be counted")
    size = (picture.width, picture.height)
    for _ in range(MAX_ATTEMPTS):
        anchor, label = random.choice(targets), random.choice(list(countable))
        area = dialect.as_written(anchor.box, size)
        border = area[0]
        boxes = [target.box for target in targets if target.label == label and target is not anchor]
        if not any(box[0] < border < box[2] for box in boxes):
            number = sum(box[2] <= border for box in boxes)
            text = dialect.render_box(anchor.box, size)
            answer = LEFT_ANSWER.format(number=number, label=label, area=text)
            return _row("left", picture, LEFT.format(label=label, area=text), answer, area=area)
    return NoQuestion("an object crosses every border drawn")


GENERATORS: dict[QuestionKind, Generator] = {"region": region, "class": category, "largest": largest, "left": left}


def _row(kind: QuestionKind, picture: Picture, prompt: str, answer: str, **boxes: Any) -> InstructionRow:
    return InstructionRow(image=picture.image, prompt=prompt, answer=answer, kind=kind, **boxes)


def _targets_and_others(picture: Picture) -> tuple[list[Object], list[Object]]:
    """The targets that have an area, and all other annotated objects."""
    targets = [target for target in picture.targets if not is_flat(target.box)]
    rest = [other for other in picture.objects if other.crowd or is_flat(other.box)]
    return targets, [*rest, *picture.ignored]


def _countable_boxes(picture: Picture, categories: Sequence[str]) -> dict[str, list[Box]]:
    """The targets' boxes by category, in the categories' order, for categories whose objects are all targets."""
    targets, others = _targets_and_others(picture)
    uncountable = {other.label for other in others}
    if picture.exhaustive_categories is not None:
        uncountable |= set(categories) - set(picture.exhaustive_categories)
    boxes: dict[str, list[Box]] = {name: [] for name in categories if name not in uncountable}
    for target in targets:
        if target.label in boxes:
            boxes[target.label].append(target.box)
    return {name: rows for name, rows in boxes.items() if rows}


def _contained(area: Box, targets: Sequence[Object], others: Sequence[Object]) -> list[Object]:
    """The targets inside the area; none where it cuts one of them or touches any other object."""
    touching = [target for target in targets if touches(target.box, area)]
    if any(touches(other.box, area) for other in others):
        return []
    return touching if all(contains(area, target.box) for target in touching) else []


def _random_area(targets: Sequence[Object], size_wh: tuple[int, int], random: Random) -> Box:
    """An area around a target, or around it and its nearest, with a margin of its own on each side, in the picture."""
    first, count = random.choice(targets).box, random.choice((1, random.randint(1, len(targets))))
    nearest = sorted((target.box for target in targets), key=lambda box: _gap(first, box))
    boxes = [first] if count == 1 else nearest[:count]
    x1s, y1s, x2s, y2s = zip(*boxes, strict=True)
    x1, x2 = _widened(min(x1s), max(x2s), size_wh[0], random)
    y1, y2 = _widened(min(y1s), max(y2s), size_wh[1], random)
    return (x1, y1, x2, y2)


def _gap(first: Box, second: Box) -> float:
    """The pixels between two boxes, across and down; 0 where they touch."""
    across = max(first[0], second[0]) - min(first[2], second[2])
    down = max(first[1], second[1]) - min(first[3], second[3])
    return max(across, 0.0) + max(down, 0.0)


def _widened(start: float, end: float, side: int, random: Random) -> tuple[float, float]:
    """An interval with random margins, within a picture's side."""
    margin = side / 50 + (end - start) / 2
    return max(start - random.random() * margin, 0.0), min(end + random.random() * margin, float(side))
