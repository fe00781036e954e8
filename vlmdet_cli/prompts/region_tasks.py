"""The four documented kinds of questions, for many pictures at once.

    count    how many objects each category has      one question a picture
    full     an area that fully contains one object and less than 90 % of the box of any other
    partial  an area that overlaps exactly one object and holds 10–90 % of its box
    none     an area that keeps at least a pixel away from every object

    <image> Please check the area <|box_start|>(12,40),(310,702)<|box_end|> and determine if any object is present.
    The area <|box_start|>(12,40),(310,702)<|box_end|> does not contain any object from the COCO categories.

The truth of an area is that of the area as written, after rounding to the dialect's frame, against every annotated
object, crowds and objects that are no targets included. Pictures in which some category is not exhaustively annotated
get no ``count`` and no ``none``. A picture that admits no true question of a kind gets a ``NoQuestion``.

``full`` and ``none`` are stricter than their sentences: an area with 99 % of a racket's box shows the racket, and
annotated borders are a pixel off now and then.

Areas vary in size and position. One area a picture is drawn for all pictures as one array; pictures whose area fails
draw again, ``MAX_ATTEMPTS`` times at most. A draw depends on the picture's key alone (see ``draws``), so a subset keeps
the questions of the whole.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vlmdet_cli.core import boxes
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data.dataset import Column, Dataset, non_exhaustive_images
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.base import MAX_ATTEMPTS, NoQuestion
from vlmdet_cli.prompts.draws import Uniform, uniform_streams

COUNT = "<image> Please count how many objects of each category are in the image."
FULL = "<image> Please check the area {area} and describe if it fully contains any object from the COCO categories."
PARTIAL = "<image> Please check the area {area} and describe the category and degree of inclusion."
NONE = "<image> Please check the area {area} and determine if any object is present."

FULL_ANSWER = 'The area {area} fully contains a "{label}".'
PARTIAL_ANSWER = 'The area {area} partially contains a "{label}", about {percent}% is visible.'
NONE_ANSWER = "The area {area} does not contain any object from the COCO categories."

# a phrase that the prompts of one kind have and no other text is likely to have
PHRASES: tuple[tuple[str, QuestionKind], ...] = (
    ("how many objects of each category", "count"),
    ("fully contains any object", "full"),
    ("degree of inclusion", "partial"),
    ("if any object is present", "none"),
)
NO_OBJECT = "no object"
UNCOUNTABLE = "a crowd or left-out object cannot be counted"
NOT_EXHAUSTIVE = "not every category was looked for"
NEARLY_ALL = 0.9  # share of a second object's box that makes an area show two objects
MARGIN = 1.0  # pixels of the original picture between an area and an object that is not in it
MIN_AREA_SIDE = 1 / 50  # of an area, as a share of the picture's side


class _Scene(NamedTuple):
    """P pictures with their N annotated objects as arrays; the objects of picture p are at ``starts[p]:starts[p + 1]``.

    ``boxes`` (N, 4) are xyxy pixels cut off at the borders, ``is_target`` (N,) tells which objects a model should
    name. ``targets`` (T,) are the indices of those, the ones of picture p at
    ``target_starts[p]:target_starts[p + 1]``. ``sizes`` (P, 2) are widths and heights.
    """

    boxes: Column
    starts: Column
    is_target: Column
    targets: Column
    target_starts: Column
    sizes: Column


class _Areas(NamedTuple):
    """An area for each of P pictures: its box in whole numbers of the frame (P, 4), the object that the question is
    about (P,), -1 for none, the share of that object inside the area (P,), and whether the picture has an area (P,).
    """

    frame_boxes: Column
    object: Column
    share: Column
    exists: Column


def _scene(data: Dataset) -> _Scene:
    targets = np.flatnonzero(data.is_target)
    target_starts = np.searchsorted(data.image[targets], np.arange(len(data.images) + 1))
    # coordinate by coordinate in memory: what follows takes a column at a time
    clipped = np.asfortranarray(data.clipped)
    return _Scene(clipped, data.starts, data.is_target, targets, target_starts, data.sizes)


# --- drawing areas -------------------------------------------------------------------------------------------


def _random_target(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """The box of a random target of each picture, ``(A, 4)``."""
    counts = scene.target_starts[pictures + 1] - scene.target_starts[pictures]
    chosen: Column = scene.boxes[scene.targets[scene.target_starts[pictures] + (draw() * counts).astype(np.int64)]]
    return chosen


def _pair(draw: Uniform) -> Column:
    """Two random numbers a picture, ``(A, 2)``."""
    return np.stack([draw(), draw()], axis=1)


def _max_margin(sides: Column, sizes: Column, draw: Uniform) -> Column:
    """A margin for boxes with ``sides`` (A, 2): a hundredth of the picture and 10 to 80 % of the side."""
    return sizes / 100 + (0.1 + 0.7 * _pair(draw)) * sides


def _around_target(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas around a target, with a margin of its own on each side."""
    targets, sizes = _random_target(scene, pictures, draw), scene.sizes[pictures]
    margin = _max_margin(targets[:, 2:] - targets[:, :2], sizes, draw)
    before, behind = (_pair(draw) * margin for _ in range(2))
    return np.hstack([targets[:, :2] - before, targets[:, 2:] + behind])


def _across_target(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas with one corner inside a target and the other outside, or bands across it."""
    targets, sizes = _random_target(scene, pictures, draw), scene.sizes[pictures]
    low, high = targets[:, :2], targets[:, 2:]
    before, behind = low - _max_margin(high - low, sizes, draw), high + _max_margin(high - low, sizes, draw)
    shape = np.floor(draw() * 3)  # 0: a corner, 1: a column, 2: a row
    is_cut = np.stack([shape != 2, shape != 1], axis=1)
    cut = low + _pair(draw) * (high - low)
    ends_inside = _pair(draw) < 0.5
    return np.hstack([np.where(is_cut & ~ends_inside, cut, before), np.where(is_cut & ends_inside, cut, behind)])


def _anywhere(scene: _Scene, pictures: Column, draw: Uniform) -> Column:
    """Areas at any position; sides from 5 to 60 % of the picture's, uniform in their logarithm."""
    sizes = scene.sizes[pictures]
    sides = 0.05 * 12 ** _pair(draw) * sizes
    corner = _pair(draw) * (sizes - sides)
    return np.hstack([corner, corner + sides])


# --- the truth of areas --------------------------------------------------------------------------------------


class _Overlaps(NamedTuple):
    """The M pairs of a drawn area and an annotated object of its picture that touch or lie less than ``MARGIN`` apart:
    indices of area and object (M,), the share of the object's box inside the area (M,), exactly 1 only if all of it
    is, and whether the two touch (M,).
    """

    area: Column
    object: Column
    share: Column
    touches: Column


def _overlaps(scene: _Scene, pictures: Column, areas: Column) -> _Overlaps:
    """``areas`` (A, 4) are pixels, one of each picture in ``pictures`` (A,)."""
    counts = scene.starts[pictures + 1] - scene.starts[pictures]
    area = np.repeat(np.arange(len(pictures)), counts)
    start = np.repeat(scene.starts[pictures] - np.cumsum(counts) + counts, counts)
    objects = start + np.arange(len(area))
    width, height = boxes.overlap_sides(_selected(scene.boxes, objects), _selected(areas, area))
    near = np.flatnonzero((width > -MARGIN) & (height > -MARGIN))  # few of all pairs: all else is of them alone
    area, objects, width, height = area[near], objects[near], width[near], height[near]
    inner, outer = scene.boxes[objects], areas[area]
    own, common = boxes.area(inner), np.maximum(width, 0) * np.maximum(height, 0)
    share = np.divide(common, own, out=np.zeros_like(own), where=own > 0)
    share = np.where(boxes.contains(outer, inner), 1.0, np.minimum(share, np.nextafter(1.0, 0.0)))
    # a box without area has no area in common with any: it touches the area it lies in, border included
    flat_inside = (own <= 0) & (width >= 0) & (height >= 0)
    return _Overlaps(area, objects, share, (common > 0) | flat_inside)


def _selected(all_boxes: Column, indices: Column) -> Column:
    """``all_boxes[indices]``, coordinate by coordinate in memory."""
    selected: Column = np.take(all_boxes.T, indices, axis=1).T
    return selected


class _TrueAreas(NamedTuple):
    """The K areas that are true: their indices among the drawn areas (K,), and the objects they are about and the
    shares of these inside (K,), as in ``_Areas``.
    """

    area: Column
    object: Column
    share: Column


Rule = Callable[[_Scene, _Overlaps, int], _TrueAreas]  # the number is that of all drawn areas


def _single_pairs(overlaps: _Overlaps, chosen: Column, areas: int) -> Column:
    """The indices of the chosen pairs that are the only chosen pair of their area."""
    pairs = np.flatnonzero(chosen)
    area = overlaps.area[pairs]
    single: Column = pairs[np.bincount(area, minlength=areas)[area] == 1]
    return single


def _about(overlaps: _Overlaps, pairs: Column) -> _TrueAreas:
    return _TrueAreas(overlaps.area[pairs], overlaps.object[pairs], overlaps.share[pairs])


def _contains_one(scene: _Scene, overlaps: _Overlaps, areas: int) -> _TrueAreas:
    pairs = _single_pairs(overlaps, overlaps.share >= NEARLY_ALL, areas)
    return _about(overlaps, pairs[(overlaps.share[pairs] >= 1) & scene.is_target[overlaps.object[pairs]]])


def _cuts_one(scene: _Scene, overlaps: _Overlaps, areas: int) -> _TrueAreas:
    pairs = _single_pairs(overlaps, overlaps.touches, areas)
    share = overlaps.share[pairs]
    return _about(overlaps, pairs[scene.is_target[overlaps.object[pairs]] & (share >= 0.1) & (share <= 0.9)])


def _is_free(_scene: _Scene, overlaps: _Overlaps, areas: int) -> _TrueAreas:
    free = np.flatnonzero(np.bincount(overlaps.area, minlength=areas) == 0)
    return _TrueAreas(free, np.full(len(free), -1), np.zeros(len(free)))


class _Task(NamedTuple):
    """How a kind draws its areas, which of them are true, its texts, and why a picture has none."""

    draw: Callable[[_Scene, Column, Uniform], Column]
    rule: Rule
    prompt: str
    answer: str
    failure: str
    needs_target: bool = True


_TASKS: dict[QuestionKind, _Task] = {
    "full": _Task(_around_target, _contains_one, FULL, FULL_ANSWER, "no area holds exactly one object"),
    "partial": _Task(_across_target, _cuts_one, PARTIAL, PARTIAL_ANSWER, "no area cuts exactly one object"),
    "none": _Task(_anywhere, _is_free, NONE, NONE_ANSWER, "no free area", needs_target=False),
}


def _find_areas(scene: _Scene, task: _Task, pictures: Column, keys: Column, dialect: Dialect) -> _Areas:
    """Draw areas for ``pictures`` (indices) until each has a true one or has had its attempts."""
    total = len(scene.sizes)
    result = _Areas(np.zeros((total, 4), np.int64), np.full(total, -1), np.zeros(total), np.zeros(total, bool))
    for attempt in range(MAX_ATTEMPTS):
        if not len(pictures):
            break
        sizes = scene.sizes[pictures]
        drawn = task.draw(scene, pictures, uniform_streams(keys[pictures], attempt))
        areas = np.clip(drawn, 0.0, np.hstack([sizes, sizes]))
        long_enough = (areas[:, 2:] - areas[:, :2]) >= sizes * MIN_AREA_SIDE
        frame_boxes = dialect.to_frames(areas, sizes)
        overlaps = _overlaps(scene, pictures, dialect.from_frames(frame_boxes, sizes))
        true = task.rule(scene, overlaps, len(pictures))
        true = _TrueAreas(*(column[long_enough[true.area].all(axis=1)] for column in true))
        done = pictures[true.area]
        for column, values in zip(result, (frame_boxes[true.area], true.object, true.share, True), strict=True):
            column[done] = values
        pictures = np.delete(pictures, true.area)
    return result


# --- rows ----------------------------------------------------------------------------------------------------


def generate(
    kind: QuestionKind, data: Dataset, keys: Column, dialect: Dialect, images: str
) -> list[InstructionRow | NoQuestion]:
    """A question of ``kind``, or the reason why there is none, for each of P pictures.

    ``keys`` (P,) are unsigned 64-bit numbers on which the draws depend; ``images`` is put before the file names in
    rows.
    """
    if kind == "count":
        return list(_counts(data, dialect, images))
    scene, task = _scene(data), _TASKS[kind]
    no_target = task.needs_target & (scene.target_starts[1:] == scene.target_starts[:-1])
    not_exhaustive = non_exhaustive_images(data) if kind == "none" else np.zeros(len(data.images), bool)
    areas = _find_areas(scene, task, np.flatnonzero(~no_target & ~not_exhaustive), keys, dialect)
    reasons = np.select([not_exhaustive, no_target], [NOT_EXHAUSTIVE, NO_OBJECT], task.failure).tolist()
    return list(_rows(kind, data, areas, reasons, dialect, images))


def _rows(
    kind: QuestionKind, data: Dataset, areas: _Areas, reasons: list[str], dialect: Dialect, images: str
) -> Iterator[InstructionRow | NoQuestion]:
    """The rows of areas; ``reasons`` (P,) for pictures without one."""
    task, pixels = _TASKS[kind], dialect.from_frames(areas.frame_boxes, data.sizes).tolist()
    percents = (np.floor(areas.share * 10 + 0.5) * 10).astype(int).tolist()  # half up
    labels = [data.labels[data.label[index]] if index >= 0 else "" for index in areas.object.tolist()]
    columns = (areas.exists.tolist(), areas.frame_boxes.tolist(), pixels, labels, percents, reasons)
    for image, exists, frame_box, pixel_box, label, percent, reason in zip(data.images, *columns, strict=True):
        if not exists:
            yield NoQuestion(reason)
            continue
        area = dialect.write_box(frame_box)
        yield InstructionRow(
            image=images + image.file_name,
            prompt=task.prompt.format(area=area),
            answer=task.answer.format(area=area, label=label, percent=percent),
            kind=kind,
            area=tuple(pixel_box),
        )


def _counts(data: Dataset, dialect: Dialect, images: str) -> Iterator[InstructionRow | NoQuestion]:
    """The number of objects of each category that the picture has, in the data set's order.

    A picture with a crowd or a left-out object of a category gets no question: those cannot be counted.
    """
    hidden = (data.crowd | (data.drop_reason != 0)) & (data.label < data.num_categories)
    is_uncountable = np.bincount(data.image[hidden], minlength=len(data.images)) > 0
    reasons = np.select([is_uncountable, non_exhaustive_images(data)], [UNCOUNTABLE, NOT_EXHAUSTIVE], "").tolist()
    width = max(len(data.labels), 1)
    pairs, counts = np.unique(data.image[data.is_target] * width + data.label[data.is_target], return_counts=True)
    lines: list[list[str]] = [[] for _ in data.images]
    for image, label, count in zip((pairs // width).tolist(), (pairs % width).tolist(), counts.tolist(), strict=True):
        lines[image].append(f"{data.labels[label]}: {count}")
    for source, reason, answer in zip(data.images, reasons, lines, strict=True):
        if reason:
            yield NoQuestion(reason)
        else:
            text = "\n".join(answer) or dialect.empty
            yield InstructionRow(image=images + source.file_name, prompt=COUNT, answer=text, kind="count")
