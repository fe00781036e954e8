"""What viz shows of predictions and truth: pictures with marked boxes, their order and captions. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import Picture
from vlmdet_cli.drawing.outline import State
from vlmdet_cli.drawing.panel import Mark, count_states
from vlmdet_cli.metrics.matching import Bools, Floats, Match, ObjectBoxes, PredictedBoxes

COMPARED_STATES: tuple[State, ...] = ("found", "false", "missed")
COUNT_NAMES: Mapping[State, str] = {"truth": "annotated", "aside": "not counted"}  # others are called as they are


class MarkedPicture(msgspec.Struct, frozen=True):
    """A picture and its marked boxes. ``answered`` is false where predictions were given, but none for this picture."""

    picture: Picture
    marks: tuple[Mark, ...]
    answered: bool = True


class MatchedBoxes(NamedTuple):
    """Objects and predictions as ``eval`` counts them, with their matching; ``names`` are the classes by index."""

    names: Sequence[str]
    objects: ObjectBoxes
    predictions: PredictedBoxes
    match: Match


def judge(
    pictures: Sequence[Picture], matched: MatchedBoxes | None = None, answered: Collection[int] = ()
) -> list[MarkedPicture]:
    """Mark each picture's objects and predictions; without ``matched``, its objects alone.

    ``answered`` holds the indices of the pictures that have an answer.
    """
    marks: list[list[Mark]] = [[] for _ in pictures]
    for index, mark in _annotated(pictures) if matched is None else _compared(matched):
        marks[index].append(mark)
    return [
        MarkedPicture(picture, tuple(marks[index]), matched is None or index in answered)
        for index, picture in enumerate(pictures)
    ]


def _annotated(pictures: Sequence[Picture]) -> Iterator[tuple[int, Mark]]:
    for index, picture in enumerate(pictures):
        for target in picture.objects:
            yield index, Mark(target.label, target.box, "crowd" if target.crowd else "truth")


def _compared(boxes: MatchedBoxes) -> Iterator[tuple[int, Mark]]:
    """The marks of the missed objects, the crowds and all predictions, each with its picture's index."""
    objects, predictions, match = boxes.objects, boxes.predictions, boxes.match
    missed = objects.targets
    missed[match.object[match.hit]] = False
    of_objects: dict[State, Bools] = {"missed": missed, "crowd": objects.crowd}
    for state, mask in of_objects.items():
        yield from _marks(boxes.names, objects.where(mask), state)
    of_predictions: dict[State, Bools] = {"found": match.hit, "false": match.false, "aside": match.ignored}
    for state, mask in of_predictions.items():
        yield from _marks(boxes.names, predictions.where(mask), state, match.iou[mask])


def _marks(
    names: Sequence[str], boxes: ObjectBoxes | PredictedBoxes, state: State, iou: Floats | None = None
) -> Iterator[tuple[int, Mark]]:
    overlaps = np.zeros(len(boxes.label)) if iou is None else iou
    columns = (boxes.picture.tolist(), boxes.label.tolist(), boxes.box.tolist(), overlaps.tolist())
    for picture, label, box, overlap in zip(*columns, strict=True):
        yield picture, Mark(names[label], tuple(box), state, overlap)


def worst_first(marked: Sequence[MarkedPicture]) -> list[MarkedPicture]:
    """Most errors (false and missed) first, then fewest found, then the given order."""
    return sorted(marked, key=errors_key)


def errors_key(marked: MarkedPicture) -> tuple[int, int]:
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
