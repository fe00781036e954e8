"""What viz shows of predictions and truth: pictures with marked boxes, their order, captions and class counts. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.core.answers import PredictedBox
from vlmdet_cli.drawing.lettering import GREY, Colour
from vlmdet_cli.drawing.page import ClassRow
from vlmdet_cli.drawing.panel import Mark, State, count_states
from vlmdet_cli.metrics.matching import flat, match, overlapping

COMPARED_STATES: tuple[State, ...] = ("found", "false", "missed")
COUNT_NAMES: Mapping[State, str] = {"truth": "annotated", "aside": "in a crowd"}  # others are called as they are


class MarkedPicture(msgspec.Struct, frozen=True):
    """A picture and its marked boxes. ``answered`` is false where predictions were given, but none for this picture."""

    picture: Picture
    marks: tuple[Mark, ...]
    answered: bool = True


def judge(
    pictures: Sequence[Picture], predicted: Sequence[PredictedBox] | None, answered: Collection[int], iou: float
) -> list[MarkedPicture]:
    """Mark each picture's objects and the predictions matched to them at the threshold ``iou``.

    Without ``predicted``, the objects alone are marked. ``answered`` holds the indices of the pictures that have an
    answer.
    """
    objects = [(index, target) for index, picture in enumerate(pictures) for target in picture.objects]
    marks: list[list[Mark]] = [[] for _ in pictures]
    for index, mark in _annotated(objects) if predicted is None else _compared(objects, predicted, iou):
        marks[index].append(mark)
    return [
        MarkedPicture(picture, tuple(marks[index]), predicted is None or index in answered)
        for index, picture in enumerate(pictures)
    ]


def _annotated(objects: Sequence[tuple[int, Object]]) -> Iterator[tuple[int, Mark]]:
    for index, target in objects:
        yield index, Mark(target.label, target.box, "crowd" if target.crowd else "truth")


def _compared(
    objects: Sequence[tuple[int, Object]], detections: Sequence[PredictedBox], iou: float
) -> Iterator[tuple[int, Mark]]:
    """The marks of the missed objects, the crowds and all predictions, each with its picture's index."""
    names = dict.fromkeys([*(target.label for _, target in objects), *(box.label for box in detections)])
    labels = {name: number for number, name in enumerate(names)}
    predicted = flat([(box.picture, labels[box.label], box.box, False) for box in detections])
    targets = flat([(index, labels[target.label], target.box, target.crowd) for index, target in objects])
    pairs, crowd_pairs = overlapping(predicted, targets)
    matches = match(pairs, crowd_pairs, len(detections), iou)
    matched = set(matches.object.tolist())
    for number, (index, target) in enumerate(objects):
        if target.crowd or number not in matched:
            yield index, Mark(target.label, target.box, "crowd" if target.crowd else "missed")
    for detection, partner, overlap, ignored in zip(
        detections, matches.object.tolist(), matches.iou.tolist(), matches.ignored.tolist(), strict=True
    ):
        state: State = "aside" if ignored else "false" if partner < 0 else "found"
        yield detection.picture, Mark(detection.label, detection.box, state, overlap)


def worst_first(marked: Sequence[MarkedPicture]) -> list[MarkedPicture]:
    """Most errors (false and missed) first, then fewest found, then the given order."""
    return sorted(marked, key=_worst_key)


def _worst_key(marked: MarkedPicture) -> tuple[int, int]:
    counts = count_states(marked.marks)
    return -(counts["false"] + counts["missed"]), counts["found"]


def states_of(marked: Sequence[MarkedPicture], *, compared: bool) -> tuple[State, ...]:
    """The states to explain and count: those of the comparison, and crowds where there are any."""
    counts = total(marked)
    extra: tuple[State, ...] = ("crowd", "aside")
    return (*(COMPARED_STATES if compared else ("truth",)), *(state for state in extra if counts[state]))


def total(marked: Sequence[MarkedPicture]) -> dict[State, int]:
    """The number of boxes of each state in all pictures."""
    return count_states(mark for picture in marked for mark in picture.marks)


def caption(marked: MarkedPicture, states: Sequence[State]) -> str:
    """``3 found · 1 false · 0 missed``; crowds only where there are any."""
    counts = count_states(marked.marks)
    words = [f"{counts[s]} {COUNT_NAMES.get(s, s)}" for s in states if counts[s] or s not in ("crowd", "aside")]
    return " · ".join([*words, *([] if marked.answered else ["no answer"])])


def class_rows(
    marked: Sequence[MarkedPicture], colours: Mapping[str, Colour], states: Sequence[State]
) -> list[ClassRow]:
    """The categories that occur, in the order of ``colours``, with their counts.

    Labels that are no category share the last row.
    """
    counts = Counter((mark.label, mark.state) for picture in marked for mark in picture.marks)
    present = {label for label, _ in counts}
    rows = [
        ClassRow(name, colour, tuple(counts[name, state] for state in states))
        for name, colour in colours.items()
        if name in present
    ]
    unknown = sorted(present - colours.keys())
    if unknown:
        name = f"no category of the truth: {unknown[0]}" + (f" and {len(unknown) - 1:,} more" if unknown[1:] else "")
        rows.append(ClassRow(name, GREY, tuple(sum(counts[label, state] for label in unknown) for state in states)))
    return rows
