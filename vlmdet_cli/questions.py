"""Instruction rows: the detection row, and the augmentation questions that teach a model space.

    detection  every object of the picture; boxes stand in an order that the picture alone gives
    count    how many objects of each category      one question a picture
    full     an area that fully contains exactly one object
    partial  an area that one single object overlaps, with 10–90 % of its box inside
    none     an area that no object overlaps

An area is judged as it is written, after rounding to the dialect's frame, against every annotated object:
crowds and objects that are no targets included. A picture that admits no true question of a kind gives none,
with the reason. Areas vary in size and place; they depend on the seed, the picture and the kind alone, so a
subset gives each of its pictures the same questions as the whole.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from vlmdet_cli.dialects import Dialect
from vlmdet_cli.records import QUESTION_KINDS, Box, Kind, Object, Picture, Sample

COUNT = "<image> Please count how many objects of each category are in the image."
FULL = "<image> Please check the area {area} and describe if it fully contains any object from the COCO categories."
PARTIAL = "<image> Please check the area {area} and describe the category and degree of inclusion."
NONE = "<image> Please check the area {area} and determine if any object is present."

FULL_ANSWER = 'The area {area} fully contains a "{label}".'
PARTIAL_ANSWER = 'The area {area} partially contains a "{label}", about {percent}% is visible.'
NONE_ANSWER = "The area {area} does not contain any object from the COCO categories."

TRIES = 60
_MARKS: tuple[tuple[str, Kind], ...] = (
    ("how many objects of each category", "count"),
    ("fully contains any object", "full"),
    ("degree of inclusion", "partial"),
    ("if any object is present", "none"),
)


class Refused(NamedTuple):
    """Why a picture admits no question of a kind."""

    reason: str


def kind_of(prompt: str) -> Kind:
    """The kind of a row by its question; ``detection`` for any other text."""
    return next((kind for mark, kind in _MARKS if mark in prompt), "detection")


def detection(picture: Picture, dialect: Dialect, prompt: str, order: str, *, group: bool) -> Sample:
    """The detection row. ``order``: ``position`` (top to bottom, then left to right, as written), ``area``
    (largest first) or ``annotation`` (the file's own); equal ones stay in the file's order.
    """
    size = (picture.width, picture.height)
    objects = [(one.label, one.box) for one in picture.targets]
    if order == "position":
        objects.sort(key=lambda pair: dialect.as_written(pair[1], size)[1::-1])
    elif order == "area":
        objects.sort(key=lambda pair: -(pair[1][2] - pair[1][0]) * (pair[1][3] - pair[1][1]))
    answer = dialect.render(objects, size, group=group)
    return Sample(image=picture.image, prompt=f"<image>{prompt}", answer=answer)


def ask(
    kind: Kind, picture: Picture, categories: Sequence[str], dialect: Dialect, seed: int, number: int = 0
) -> Sample | Refused:
    """One question of ``kind``; ``number`` tells several of a picture apart."""
    if kind == "count":
        return _count(picture, categories, dialect)
    random = Random(f"{seed}:{kind}:{picture.image_id}:{number}")  # noqa: S311  (a draw, no secret)
    return _AREA_KINDS[kind](picture, dialect, random)


def _count(picture: Picture, categories: Sequence[str], dialect: Dialect) -> Sample | Refused:
    """Categories that are there, in the data set's order; crowds and left-out objects cannot be counted."""
    if any(o.crowd for o in picture.objects) or any(o.label in categories for o in picture.ignored):
        return Refused("a crowd or left-out object cannot be counted")
    counts = Counter(o.label for o in picture.targets)
    answer = "\n".join(f"{name}: {counts[name]}" for name in categories if counts[name])
    return Sample(image=picture.image, prompt=COUNT, answer=answer or dialect.empty, kind="count")


def _full(picture: Picture, dialect: Dialect, random: Random) -> Sample | Refused:
    if not picture.targets:
        return Refused("no object")
    everything = (*picture.objects, *picture.ignored)
    for area in _areas(picture, dialect, random, _around):
        inside = [o for o in everything if _share_inside(o.box, area) >= 1]
        if len(inside) == 1 and inside[0] in picture.targets:
            return _sample("full", picture, dialect, area, FULL, FULL_ANSWER, label=inside[0].label)
    return Refused("no area holds exactly one object")


def _partial(picture: Picture, dialect: Dialect, random: Random) -> Sample | Refused:
    if not picture.targets:
        return Refused("no object")
    for area in _areas(picture, dialect, random, _across):
        touched = _touched(picture, area)
        if len(touched) == 1 and touched[0] in picture.targets:
            share = _share_inside(touched[0].box, area)
            if 0.1 <= share <= 0.9:
                label, percent = touched[0].label, math.floor(share * 10 + 0.5) * 10
                return _sample("partial", picture, dialect, area, PARTIAL, PARTIAL_ANSWER, label=label, percent=percent)
    return Refused("no area cuts exactly one object")


def _none(picture: Picture, dialect: Dialect, random: Random) -> Sample | Refused:
    for area in _areas(picture, dialect, random, _anywhere):
        if not _touched(picture, area):
            return _sample("none", picture, dialect, area, NONE, NONE_ANSWER)
    return Refused("no free area")


_AREA_KINDS: dict[Kind, Callable[[Picture, Dialect, Random], Sample | Refused]] = {
    "full": _full,
    "partial": _partial,
    "none": _none,
}
assert {"count", *_AREA_KINDS} == set(QUESTION_KINDS)  # noqa: S101  (a slip of ours, not of a user)


def _sample(
    kind: Kind, picture: Picture, dialect: Dialect, area: Box, question: str, answer: str, **values: str | int
) -> Sample:
    text = dialect.render_box(area, (picture.width, picture.height))
    return Sample(
        image=picture.image,
        prompt=question.format(area=text),
        answer=answer.format(area=text, **values),
        kind=kind,
    )


def _touched(picture: Picture, area: Box) -> list[Object]:
    return [o for o in (*picture.objects, *picture.ignored) if _overlap(o.box, area) > 0 or _point_in(o.box, area)]


def _overlap(one: Box, two: Box) -> float:
    width, height = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    return width * height if width > 0 and height > 0 else 0.0


def _point_in(box: Box, area: Box) -> bool:
    """Whether a box without area, which overlaps nothing by measure, lies in the area all the same."""
    flat = box[2] <= box[0] or box[3] <= box[1]
    return flat and area[0] <= box[0] <= area[2] and area[1] <= box[1] <= area[3]


def _share_inside(box: Box, area: Box) -> float:
    """The share of the box's own area that lies in ``area``; exactly 1 only when all of it does."""
    if area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]:
        return 1.0
    own = (box[2] - box[0]) * (box[3] - box[1])
    return min(_overlap(box, area) / own, math.nextafter(1, 0)) if own > 0 else 0.0


def _areas(picture: Picture, dialect: Dialect, random: Random, draw: Callable[[Picture, Random], Box]) -> Iterator[Box]:
    """Random areas of the picture in pixels, each exactly as the dialect writes it."""
    size = (picture.width, picture.height)
    for _ in range(TRIES):
        x1, y1, x2, y2 = draw(picture, random)
        inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
        if inside[2] - inside[0] < size[0] / 50 or inside[3] - inside[1] < size[1] / 50:
            continue
        yield dialect.as_written(inside, size)


def _around(picture: Picture, random: Random) -> Box:
    """An area around one object, with a margin of its own on each side."""
    x1, y1, x2, y2 = random.choice(picture.targets).box
    wide, high = _slack(x2 - x1, picture.width, random), _slack(y2 - y1, picture.height, random)
    left, top, right, bottom = (random.random() for _ in range(4))
    return (x1 - left * wide, y1 - top * high, x2 + right * wide, y2 + bottom * high)


def _slack(side: float, picture_side: int, random: Random) -> float:
    return picture_side / 100 + random.uniform(0.1, 0.8) * side


def _across(picture: Picture, random: Random) -> Box:
    """An area with one corner inside an object and the other away from it, or a band across it."""
    x1, y1, x2, y2 = random.choice(picture.targets).box
    across = random.choice(("corner", "column", "row"))
    left, right = (x1 - _slack(x2 - x1, picture.width, random), x2 + _slack(x2 - x1, picture.width, random))
    top, bottom = (y1 - _slack(y2 - y1, picture.height, random), y2 + _slack(y2 - y1, picture.height, random))
    if across != "row":
        left, right = _cut(left, right, random.uniform(x1, x2), random)
    if across != "column":
        top, bottom = _cut(top, bottom, random.uniform(y1, y2), random)
    return (left, top, right, bottom)


def _cut(start: float, end: float, at: float, random: Random) -> tuple[float, float]:
    return (start, at) if random.random() < 0.5 else (at, end)


def _anywhere(picture: Picture, random: Random) -> Box:
    """An area of any place; sides from 5 to 60 % of the picture's, small ones as likely as large ones."""
    wide, high = (0.05 * 12 ** random.random() * side for side in (picture.width, picture.height))
    x1, y1 = random.uniform(0, picture.width - wide), random.uniform(0, picture.height - high)
    return (x1, y1, x1 + wide, y1 + high)
