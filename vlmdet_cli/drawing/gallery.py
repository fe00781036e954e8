"""What to show of a comparison: pictures judged, put in order, captioned, counted by class. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.core.answers import PredictedBox
from vlmdet_cli.drawing.lettering import GREY, Colour
from vlmdet_cli.drawing.page import Class
from vlmdet_cli.drawing.panel import Mark, State, tally
from vlmdet_cli.metrics.matching import flat, match, overlapping

COMPARED: tuple[State, ...] = ("found", "false", "missed")
COUNTED: Mapping[State, str] = {"truth": "annotated", "aside": "in a crowd"}


class Judged(msgspec.Struct, frozen=True):
    """A picture with what became of each of its boxes; ``answered``: whether there are predictions for it at all."""

    picture: Picture
    marks: tuple[Mark, ...]
    answered: bool = True


def judge(
    pictures: Sequence[Picture], predicted: Sequence[PredictedBox] | None, answered: Collection[int], iou: float
) -> list[Judged]:
    """Each picture with its objects and the predictions matched to them at ``iou``; without ``predicted``, with its
    objects alone. ``answered``: indices of the pictures that have an answer.
    """
    objects = [(index, target) for index, picture in enumerate(pictures) for target in picture.objects]
    marks: list[list[Mark]] = [[] for _ in pictures]
    for index, mark in _annotated(objects) if predicted is None else _compared(objects, predicted, iou):
        marks[index].append(mark)
    return [
        Judged(picture, tuple(marks[index]), predicted is None or index in answered)
        for index, picture in enumerate(pictures)
    ]


def _annotated(objects: Sequence[tuple[int, Object]]) -> Iterator[tuple[int, Mark]]:
    for place, one in objects:
        yield place, Mark(one.label, one.box, "crowd" if one.crowd else "truth")


def _compared(
    objects: Sequence[tuple[int, Object]], found: Sequence[PredictedBox], iou: float
) -> Iterator[tuple[int, Mark]]:
    """The marks of all objects that are not found, and of all predictions, each with its picture's index."""
    names = dict.fromkeys([*(o.label for _, o in objects), *(f.label for f in found)])
    labels = {name: number for number, name in enumerate(names)}
    predicted = flat([(f.picture, labels[f.label], f.box, False) for f in found])
    pairs, crowd_pairs = overlapping(predicted, flat([(p, labels[o.label], o.box, o.crowd) for p, o in objects]))
    at = match(pairs, crowd_pairs, len(found), iou)
    taken = set(at.object.tolist())
    for number, (place, one) in enumerate(objects):
        if one.crowd or number not in taken:
            yield place, Mark(one.label, one.box, "crowd" if one.crowd else "missed")
    for detection, partner, overlap, aside in zip(
        found, at.object.tolist(), at.iou.tolist(), at.ignored.tolist(), strict=True
    ):
        state: State = "aside" if aside else "false" if partner < 0 else "found"
        yield detection.picture, Mark(detection.label, detection.box, state, overlap)


def worst_first(judged: Sequence[Judged]) -> list[Judged]:
    """Most errors (false and missed) first, then fewest found, then as they stand."""
    return sorted(judged, key=_badness)


def _badness(one: Judged) -> tuple[int, int]:
    counts = tally(one.marks)
    return -(counts["false"] + counts["missed"]), counts["found"]


def states_of(judged: Sequence[Judged], *, compared: bool) -> tuple[State, ...]:
    """The states to explain and count: those of the comparison, and crowds where there are any."""
    counts = total(judged)
    extra: tuple[State, ...] = ("crowd", "aside")
    return (*(COMPARED if compared else ("truth",)), *(state for state in extra if counts[state]))


def total(judged: Sequence[Judged]) -> dict[State, int]:
    """How many boxes of each state there are in all pictures."""
    return tally(mark for one in judged for mark in one.marks)


def caption(one: Judged, states: Sequence[State]) -> str:
    """``3 found · 1 false · 0 missed``; crowds only where there are any."""
    counts = tally(one.marks)
    words = [f"{counts[s]} {COUNTED.get(s, s)}" for s in states if counts[s] or s not in ("crowd", "aside")]
    return " · ".join([*words, *([] if one.answered else ["no answer"])])


def classes(judged: Sequence[Judged], colours: Mapping[str, Colour], states: Sequence[State]) -> list[Class]:
    """The categories that occur, in their order, with their counts; all labels that are none are one row."""
    counts = Counter((mark.label, mark.state) for one in judged for mark in one.marks)
    present = {label for label, _ in counts}
    rows = [
        Class(name, colour, tuple(counts[name, state] for state in states))
        for name, colour in colours.items()
        if name in present
    ]
    strange = sorted(present - colours.keys())
    if strange:
        name = f"no category of the truth: {strange[0]}" + (f" and {len(strange) - 1:,} more" if strange[1:] else "")
        rows.append(Class(name, GREY, tuple(sum(counts[one, state] for one in strange) for state in states)))
    return rows
