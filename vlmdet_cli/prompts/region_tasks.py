"""The four documented kinds of questions, asked of many pictures at once.

    count    how many objects of each category      one question a picture
    full     an area that fully contains exactly one object
    partial  an area that one single object overlaps, with 10–90 % of its box inside
    none     an area that no object overlaps

An area is judged as it is written, after rounding to the dialect's frame, against every annotated object: crowds and
objects that are no targets included. Where a data set was not searched for every category, nothing is counted and no
area is called free. A picture that admits no true question of a kind gives none, with the reason.

Areas vary in size and place. They are drawn for all pictures in one array; those that fail are drawn again. A draw
depends on the seed, the kind, the picture's id and the question's number alone, so a subset gives each of its pictures
the same questions as the whole.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data.dataset import Column, Dataset, non_exhaustive_images
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.base import TRIES, Refused

COUNT = "<image> Please count how many objects of each category are in the image."
FULL = "<image> Please check the area {area} and describe if it fully contains any object from the COCO categories."
PARTIAL = "<image> Please check the area {area} and describe the category and degree of inclusion."
NONE = "<image> Please check the area {area} and determine if any object is present."

FULL_ANSWER = 'The area {area} fully contains a "{label}".'
PARTIAL_ANSWER = 'The area {area} partially contains a "{label}", about {percent}% is visible.'
NONE_ANSWER = "The area {area} does not contain any object from the COCO categories."

MARKS: tuple[tuple[str, QuestionKind], ...] = (
    ("how many objects of each category", "count"),
    ("fully contains any object", "full"),
    ("degree of inclusion", "partial"),
    ("if any object is present", "none"),
)
NO_OBJECT = "no object"
UNCOUNTABLE = "a crowd or left-out object cannot be counted"
UNSURE = "not every category was looked for"
SMALLEST = 50  # an area's sides are at least this part of the picture's

Uniform = Callable[[], Column]  # the next random number in [0, 1) of each picture


# --- random numbers ------------------------------------------------------------------------------------------


def scrambled(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input changes half of the output's."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    made: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return made


def keys_of(base: npt.NDArray[np.uint64], purpose: str) -> npt.NDArray[np.uint64]:
    """Keys for one purpose, made of pictures' own keys (P,)."""
    number = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "big")
    return scrambled(base ^ np.uint64(number))


def _uniform(keys: npt.NDArray[np.uint64], attempt: int) -> Uniform:
    """SplitMix64 streams: one for each key, and for each attempt a part of its own."""
    drop_reason = scrambled(keys + np.uint64(attempt * 0xD1342543DE82EF95 % 2**64))

    def draw() -> Column:
        nonlocal drop_reason
        drop_reason = drop_reason + np.uint64(0x9E3779B97F4A7C15)
        number: Column = (scrambled(drop_reason) >> np.uint64(11)) * 2.0**-53
        return number

    return draw


# --- areas ---------------------------------------------------------------------------------------------------


class _Scene(NamedTuple):
    """Pictures as arrays. ``boxes`` (N, 4) are clipped pixels of all annotated objects, ``columns`` the same, (4, N),
    picture by picture, those of picture p at ``starts[p]:starts[p + 1]``; ``target`` (N,) tells which a model should
    name; ``targets`` (T,) are their places, those of picture p at ``first[p]:first[p + 1]``. ``sizes`` (P, 2).
    """

    boxes: Column
    columns: Column
    starts: Column
    target: Column
    targets: Column
    first: Column
    sizes: Column


class _Found(NamedTuple):
    """For each picture: the area in whole numbers of the frame (P, 4), the object that it is about (P,), -1 for none,
    the share of that inside (P,), and whether there is any question (P,).
    """

    ints: Column
    about: Column
    share: Column
    good: Column


def _scene(data: Dataset) -> _Scene:
    places = np.flatnonzero(data.is_target)
    first = np.searchsorted(data.image[places], np.arange(len(data.images) + 1))
    columns = np.ascontiguousarray(data.clipped.T)
    return _Scene(data.clipped, columns, data.starts, data.is_target, places, first, data.sizes)


def _drawn_box(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """The box of one target of each picture, ``(A, 4)``."""
    many = scene.first[pictures + 1] - scene.first[pictures]
    boxes: Column = scene.boxes[scene.targets[scene.first[pictures] + (draw() * many).astype(np.int64)]]
    return boxes


def _slack(sides: Column, sizes: Column, draw: Uniform) -> Column:
    """A margin for boxes with ``sides`` (A, 2): a hundredth of the picture and 10 to 80 % of the side."""
    return sizes / 100 + (0.1 + 0.7 * np.stack([draw(), draw()], axis=1)) * sides


def _around(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas around one object, with a margin of its own on each side."""
    boxes, sizes = _drawn_box(scene, pictures, draw), scene.sizes[pictures]
    slack = _slack(boxes[:, 2:] - boxes[:, :2], sizes, draw)
    before, behind = (np.stack([draw(), draw()], axis=1) * slack for _ in range(2))
    return np.hstack([boxes[:, :2] - before, boxes[:, 2:] + behind])


def _across(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas with one corner inside an object and the other away from it, or bands across it."""
    boxes, sizes = _drawn_box(scene, pictures, draw), scene.sizes[pictures]
    low, high = boxes[:, :2], boxes[:, 2:]
    before, behind = low - _slack(high - low, sizes, draw), high + _slack(high - low, sizes, draw)
    across = np.floor(draw() * 3)  # 0: a corner, 1: a column, 2: a row
    cut = np.stack([across != 2, across != 1], axis=1)
    at = low + np.stack([draw(), draw()], axis=1) * (high - low)
    ends = np.stack([draw(), draw()], axis=1) < 0.5
    return np.hstack([np.where(cut & ~ends, at, before), np.where(cut & ends, at, behind)])


def _anywhere(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas of any place; sides from 5 to 60 % of the picture's, small ones as likely as large ones."""
    sizes = scene.sizes[pictures]
    sides = 0.05 * 12 ** np.stack([draw(), draw()], axis=1) * sizes
    corner = np.stack([draw(), draw()], axis=1) * (sizes - sides)
    return np.hstack([corner, corner + sides])


class _Judged(NamedTuple):
    """Each annotated object of each drawn area's picture: which area (M,), which object (M,), the share of the object
    inside (M,; exactly 1 only if all of it is), and whether the two have anything in common (M,).
    """

    area: Column
    object: Column
    share: Column
    touched: Column


def _judge(scene: _Scene, pictures: Column, areas: Column) -> _Judged:
    many = scene.starts[pictures + 1] - scene.starts[pictures]
    area = np.repeat(np.arange(len(pictures)), many)
    start = np.repeat(scene.starts[pictures] - np.cumsum(many) + many, many)
    places = start + np.arange(len(area))
    # column by column: numpy is several times slower along an axis of two
    left, top, right, bottom = (column[places] for column in scene.columns)
    area_left, area_top, area_right, area_bottom = (areas[:, n][area] for n in range(4))
    wide = np.minimum(right, area_right) - np.maximum(left, area_left)
    high = np.minimum(bottom, area_bottom) - np.maximum(top, area_top)
    own, overlap = (right - left) * (bottom - top), np.maximum(wide, 0) * np.maximum(high, 0)
    inside = (area_left <= left) & (area_top <= top) & (right <= area_right) & (bottom <= area_bottom)
    part = np.divide(overlap, own, out=np.zeros_like(own), where=own > 0)
    # a box without area overlaps nothing by measure: it counts where it lies, border included
    flat = (own <= 0) & (wide >= 0) & (high >= 0)
    share = np.where(inside, 1.0, np.minimum(part, np.nextafter(1.0, 0.0)))
    return _Judged(area, places, share, (overlap > 0) | flat)


def _only(judged: _Judged, chosen: Column, many: int) -> tuple[Column, Column]:
    """For each area how many objects are chosen (A,), and the sum of their places among the judged (A,)."""
    area = judged.area[chosen]
    return np.bincount(area, minlength=many), np.bincount(area, np.flatnonzero(chosen), many).astype(np.int64)


Rule = Callable[[_Scene, _Judged, int], tuple[Column, Column]]  # which areas are good (A,), and the judged pair


def _holds_one(scene: _Scene, judged: _Judged, many: int) -> tuple[Column, Column]:
    count, place = _only(judged, judged.share >= 1, many)
    place = np.where(count == 1, place, 0)
    return (count == 1) & scene.target[judged.object[place]], place


def _cuts_one(scene: _Scene, judged: _Judged, many: int) -> tuple[Column, Column]:
    count, place = _only(judged, judged.touched, many)
    place = np.where(count == 1, place, 0)
    share = judged.share[place]
    return (count == 1) & scene.target[judged.object[place]] & (share >= 0.1) & (share <= 0.9), place


def _is_free(_scene: _Scene, judged: _Judged, many: int) -> tuple[Column, Column]:
    count, _ = _only(judged, judged.touched, many)
    return count == 0, np.zeros(many, np.int64)


class _Way(NamedTuple):
    """How one kind draws and judges its areas."""

    draw: Callable[[_Scene, Column, Uniform], Column]
    rule: Rule
    failed: str
    needs_target: bool


_WAYS: dict[QuestionKind, _Way] = {
    "full": _Way(_around, _holds_one, "no area holds exactly one object", needs_target=True),
    "partial": _Way(_across, _cuts_one, "no area cuts exactly one object", needs_target=True),
    "none": _Way(_anywhere, _is_free, "no free area", needs_target=False),
}


def _search(scene: _Scene, way: _Way, pictures: Column, keys: Column, dialect: Dialect) -> _Found:
    """Draw areas for ``pictures`` (places) until each has a good one or has had its tries."""
    total = len(scene.sizes)
    found = _Found(np.zeros((total, 4), np.int64), np.full(total, -1), np.zeros(total), np.zeros(total, bool))
    for attempt in range(TRIES):
        if not len(pictures):
            break
        sizes = scene.sizes[pictures]
        drawn = way.draw(scene, pictures, _uniform(keys[pictures], attempt))
        areas = np.clip(drawn, 0.0, np.hstack([sizes, sizes]))
        sides = (areas[:, 2:] - areas[:, :2]) >= sizes / SMALLEST
        wide = sides[:, 0] & sides[:, 1]
        ints = dialect.to_frames(areas, sizes)
        judged = _judge(scene, pictures, dialect.from_frames(ints, sizes))
        if len(judged.area):
            good, place = way.rule(scene, judged, len(pictures))
            about, share = judged.object[place], judged.share[place]
        else:  # pictures without any annotated object
            good, about, share = np.ones(len(pictures), bool), np.full(len(pictures), -1), np.zeros(len(pictures))
        good = good & wide
        ended = pictures[good]
        found.ints[ended], found.about[ended], found.share[ended] = ints[good], about[good], share[good]
        found.good[ended] = True
        pictures = pictures[~good]
    return found


# --- questions -----------------------------------------------------------------------------------------------


def ask(
    kind: QuestionKind, data: Dataset, keys: Column, dialect: Dialect, images: str
) -> list[InstructionRow | Refused]:
    """One question of ``kind``, or the reason why there is none, for each picture.

    ``keys`` (P,) are unsigned 64-bit numbers that the draws depend on; ``images`` stands before file names in rows.
    """
    if kind == "count":
        return list(_counts(data, dialect, images))
    scene, way = _scene(data), _WAYS[kind]
    bare = way.needs_target & (scene.first[1:] == scene.first[:-1])
    doubtful = non_exhaustive_images(data) if kind == "none" else np.zeros(len(data.images), bool)
    found = _search(scene, way, np.flatnonzero(~bare & ~doubtful), keys, dialect)
    return list(_area_samples(kind, data, found, bare, doubtful, dialect, images))


def _area_samples(
    kind: QuestionKind, data: Dataset, found: _Found, bare: Column, doubtful: Column, dialect: Dialect, images: str
) -> Iterator[InstructionRow | Refused]:
    question, answer = _TEXTS[kind]
    about, percent = found.about.tolist(), (np.floor(found.share * 10 + 0.5) * 10).astype(int).tolist()
    label = data.label.tolist()
    corners = dialect.from_frames(found.ints, data.sizes).tolist()
    failed = [Refused(NO_OBJECT) if one else None for one in bare.tolist()]
    failed = [Refused(UNSURE) if one else other for one, other in zip(doubtful.tolist(), failed, strict=True)]
    for place, (image, ints, good) in enumerate(
        zip(data.images, found.ints.tolist(), found.good.tolist(), strict=True)
    ):
        if not good:
            yield failed[place] or Refused(_WAYS[kind].failed)
            continue
        area, name = dialect.write_box(ints), data.labels[label[about[place]]] if about[place] >= 0 else ""
        yield InstructionRow(
            image=images + image.file_name,
            prompt=question.format(area=area),
            answer=answer.format(area=area, label=name, percent=percent[place]),
            kind=kind,
            area=tuple(corners[place]),
        )


_TEXTS: dict[QuestionKind, tuple[str, str]] = {
    "full": (FULL, FULL_ANSWER),
    "partial": (PARTIAL, PARTIAL_ANSWER),
    "none": (NONE, NONE_ANSWER),
}


def _counts(data: Dataset, dialect: Dialect, images: str) -> Iterator[InstructionRow | Refused]:
    """Categories that are there, in the data set's order; crowds and left-out objects cannot be counted."""
    hidden = (data.crowd | (data.drop_reason != 0)) & (data.label < data.num_categories)
    uncountable = (np.bincount(data.image[hidden], minlength=len(data.images)) > 0).tolist()
    width = max(len(data.labels), 1)
    pairs, counts = np.unique(data.image[data.is_target] * width + data.label[data.is_target], return_counts=True)
    lines: list[list[str]] = [[] for _ in data.images]
    for image, label, count in zip((pairs // width).tolist(), (pairs % width).tolist(), counts.tolist(), strict=True):
        lines[image].append(f"{data.labels[label]}: {count}")
    for place, (image, doubtful) in enumerate(zip(data.images, non_exhaustive_images(data).tolist(), strict=True)):
        if uncountable[place]:
            yield Refused(UNCOUNTABLE)
        elif doubtful:
            yield Refused(UNSURE)
        else:
            answer = "\n".join(lines[place]) or dialect.empty
            yield InstructionRow(image=images + image.file_name, prompt=COUNT, answer=answer, kind="count")
