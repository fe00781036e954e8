"""ms-swift's ``objects`` form of an instruction row, and the same row as text.

    {"messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"},
                  {"role": "assistant", "content": "<ref-object><bbox>"}],
     "images": ["images/7.jpg"], "objects": {"ref": ["person"], "bbox": [[339.8, 29.3, 493.4, 430.1]]}}

Boxes are xyxy pixels of the stored picture; swift's template of the model scales them and writes them and their labels
into the places, in the order of the text, the question first. What is written here makes it come to the dialect's own
text, to the character: swift rounds as we do, and where our rules go further (a thin box keeps one unit, a family has
no number for the far border) the pixels say so. The families that answer in JSON need the dialect's
``swift_environment`` in training.

Numbers in ``bbox`` are always floats and ``ref`` is always there: readers that guess a column's type from its first
rows then guess the same of every file.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.boxes import Boxes, Size, as_boxes, as_sizes
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import BOX_PLACE, REF_PLACE, Ints, runs

_PLACES = re.compile(f"{REF_PLACE}|{BOX_PLACE}")


def check(dialect: Dialect) -> None:
    """Raises ``UsageError`` for a dialect whose texts swift cannot make of ``objects``."""
    if not dialect.objects_form:
        able = [name for name in dialects.names() if dialects.get(name).objects_form]
        raise UsageError(
            f"The dialect {dialect.name} has no form with `objects`",
            why="ms-swift's template of that family does not write boxes as the family reads them.",
            hint=f"Write its rows as text. The form is there for: {', '.join(able)}.",
        )


def pixels(xyxy: Any, sizes_wh: Any, dialect: Dialect) -> Boxes:
    """What stands in ``bbox`` for boxes, ``(N, 4)`` pixels, of pictures ``(N, 2)``: clipped, else as they are.

    A coordinate that swift would write as another number than the dialect does is that number's own place.
    """
    sizes = as_sizes(sizes_wh)
    clipped = np.clip(as_boxes(xyxy), 0.0, np.hstack([sizes, sizes]))
    ours, frames = dialect.to_frames(clipped, sizes), dialect.frames(sizes)
    theirs = np.rint(clipped / np.hstack([sizes, sizes]) * np.hstack([frames, frames]))
    return np.where(theirs == ours, clipped, dialect.from_frames(ours, sizes))


def detection(
    objects: Sequence[tuple[str, Box]], dialect: Dialect, *, group: bool = False
) -> tuple[str, list[tuple[str, Box]]]:
    """A detection row's answer with places, and the (label, box) pairs that fill them; see ``placed``.

    With ``group`` the boxes of a label stand behind it, and all but its first have an empty one; families in which
    swift can write no such thing take no notice.
    """
    if not objects:
        return dialect.empty, []
    behind = runs(objects, group=group and dialect.objects_group)
    pairs = [("" if number else label, box) for label, boxes in behind for number, box in enumerate(boxes)]
    return dialect.places([len(boxes) for _, boxes in behind]), pairs


def placed(image: str, prompt: str, answer: str, boxes: Sequence[tuple[str, Box]], dialect: Dialect) -> dict[str, Any]:
    """The row whose places, in question and answer, are filled with ``boxes``: (label, box as ``pixels`` gives it).

    A box whose label is not to be written, as a question's area, has an empty one. Without boxes the row has no
    ``objects``. Raises ``ValueError`` where texts have more or fewer places than that, ``UsageError`` as ``check``.
    """
    check(dialect)
    refs = [dialect.as_ref(label) for label, _ in boxes if label]
    _count(prompt + answer, refs, boxes)
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    row: dict[str, Any] = {"messages": [user, assistant], "images": [image]}
    if boxes:
        row["objects"] = {"ref": refs, "bbox": [list(map(float, box)) for _, box in boxes]}
    return row


def filled(row: Mapping[str, Any], dialect: Dialect, size_wh: Size) -> dict[str, Any]:
    """A row in ``objects`` form as text: what swift's template makes of it for a picture of ``size_wh``.

    A row without ``objects`` is as before. Raises ``ValueError`` where it has more or fewer places than labels or
    boxes, or a box that is none; ``UsageError`` as ``check``.
    """
    objects = row.get("objects")
    if not objects:
        return dict(row)
    check(dialect)
    messages = row.get("messages") or []
    refs = list(map(dialect.write_ref, objects.get("ref") or []))
    boxes = list(map(dialect.write_box, _rounded(objects, dialect.frame(size_wh), size_wh)))
    _count("".join(map(_text, messages)), refs, boxes)
    texts = {REF_PLACE: iter(refs), BOX_PLACE: iter(boxes)}
    made = [{**one, "content": _PLACES.sub(lambda place: next(texts[place[0]]), _text(one))} for one in messages]
    return {**{key: value for key, value in row.items() if key != "objects"}, "messages": made}


def texts(row: Mapping[str, Any], dialect: Dialect, size_wh: Size, where: str) -> tuple[str, str]:
    """Question and answer of a row in either form, as text. ``DataError`` that names ``where`` it stands."""
    try:
        user, assistant = filled(row, dialect, size_wh)["messages"]
    except ValueError as error:
        raise DataError(
            f"A row is malformed: {where}", why=f"{error}.", hint="Run `vlmdet prepare` and `vlmdet augment` again."
        ) from None
    return user["content"], assistant["content"]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError("a message whose content is no text")  # noqa: TRY004  (a file's value, as all others here)
    return content


def _count(text: str, refs: Sequence[Any], boxes: Sequence[Any]) -> None:
    for place, values in ((REF_PLACE, refs), (BOX_PLACE, boxes)):
        if text.count(place) != len(values):
            raise ValueError(f"{text.count(place)} times {place} in the text, and {len(values)} to put there")


def _rounded(objects: Mapping[str, Any], frame: Size, size_wh: Size) -> Iterator[Ints]:
    """The boxes in whole numbers of the frame: corners put in order, rounded, and not clamped, as swift does."""
    if any(objects.get("image_id") or []):
        raise ValueError("boxes of a second picture")
    wide, high = (1, 1) if objects.get("bbox_type") == "norm1" else size_wh
    for box in objects.get("bbox") or []:
        if not _is_box(box):
            raise ValueError(f"no box of four numbers: {box}")
        (x1, x2), (y1, y2) = sorted(box[::2]), sorted(box[1::2])
        yield (
            round(x1 / wide * frame[0]),
            round(y1 / high * frame[1]),
            round(x2 / wide * frame[0]),
            round(y2 / high * frame[1]),
        )


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(isinstance(one, int | float) and math.isfinite(one) for one in box)
    )
