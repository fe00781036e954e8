"""What to show of a comparison: pictures judged, put in order, captioned, counted by class. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from vlmdet_cli.drawing import Mark, State, tally
from vlmdet_cli.lettering import GREY, Colour
from vlmdet_cli.page import Class
from vlmdet_cli.records import Detection, Picture

COMPARED: tuple[State, ...] = ("found", "false", "missed")
COUNTED: Mapping[State, str] = {"truth": "annotated", "crowd": "crowd regions", "aside": "in crowds"}


class Judged(msgspec.Struct, frozen=True):
    """A picture with what became of each of its boxes."""

    picture: Picture
    marks: tuple[Mark, ...]


def judge(picture: Picture, found: Sequence[Detection] | None, iou: float) -> Judged:
    """The picture's objects and what was found in it, matched at ``iou``; without predictions, the objects alone."""
    crowds = [Mark(o.label, o.box, "crowd") for o in picture.objects if o.crowd]
    if found is None:
        return Judged(picture, (*crowds, *(Mark(o.label, o.box, "truth") for o in picture.targets)))
    return Judged(picture, (*crowds, *_matched(picture, found, iou)))


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
    return " · ".join(
        f"{counts[state]} {COUNTED.get(state, state)}"
        for state in states
        if counts[state] or state not in ("crowd", "aside")
    )


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
