"""ms-swift's ``objects`` form of an instruction row, and the same row as text.

    {"messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"},
                  {"role": "assistant", "content": "<ref-object><bbox>"}],
     "images": ["images/7.jpg"], "objects": {"ref": ["person"], "bbox": [[339.8, 29.3, 493.4, 430.1]]}}

Boxes are xyxy pixels of the stored picture. swift's template of the model scales them and puts them and their labels in
place of the placeholders, in the order of the text, the question first. The rows written here come to the dialect's own
text, to the character: swift rounds as we do, and where our rules go further (a thin box keeps one unit, a dialect has
no number for the far border) the pixels are adjusted. The model family names the environment variables that training
needs for it.

Numbers in ``bbox`` are always floats and ``ref`` is always there: readers that guess a column's type from its first
rows then guess the same type for every file.
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
from vlmdet_cli.models.dialects.base import BOX_PLACEHOLDER, REF_PLACEHOLDER, FrameBox, boxes_by_label

_PLACEHOLDERS = re.compile(f"{REF_PLACEHOLDER}|{BOX_PLACEHOLDER}")


def check(dialect: Dialect) -> None:
    """Raises ``UsageError`` for a dialect that no template of swift's writes from ``objects``."""
    if not dialect.objects_form:
        able = [name for name in dialects.names() if dialects.get(name).objects_form]
        raise UsageError(
            f"The dialect {dialect.name} has no form with `objects`",
            why="ms-swift's template of that family does not write boxes as the family reads them.",
            hint=f"Write its rows as text. The form is there for: {', '.join(able)}.",
        )


def pixels(xyxy: Any, sizes_wh: Any, dialect: Dialect) -> Boxes:
    """The values of ``bbox`` for boxes, ``(N, 4)`` pixels, of pictures ``(N, 2)``: clipped, and otherwise unchanged.

    A coordinate that swift would write as another number than the dialect does becomes the pixel of that number.
    """
    sizes = as_sizes(sizes_wh)
    clipped = np.clip(as_boxes(xyxy), 0.0, np.hstack([sizes, sizes]))
    written, frames = dialect.to_frames(clipped, sizes), dialect.frames(sizes)
    written_by_swift = np.rint(clipped / np.hstack([sizes, sizes]) * np.hstack([frames, frames]))
    return np.where(written_by_swift == written, clipped, dialect.from_frames(written, sizes))


def detection(
    objects: Sequence[tuple[str, Box]], dialect: Dialect, *, group: bool = False
) -> tuple[str, list[tuple[str, Box]]]:
    """A detection row's answer with placeholders, and the (label, box) pairs for them; see ``placed``.

    With ``group`` the boxes of a label follow it, and all but its first have an empty label; a family in which swift
    cannot write that ignores it.
    """
    if not objects:
        return dialect.empty, []
    groups = boxes_by_label(objects, group=group and dialect.objects_group)
    pairs = [("" if index else label, box) for label, boxes in groups for index, box in enumerate(boxes)]
    return dialect.placeholders([len(boxes) for _, boxes in groups]), pairs


def placed(image: str, prompt: str, answer: str, boxes: Sequence[tuple[str, Box]], dialect: Dialect) -> dict[str, Any]:
    """The row whose placeholders, in question and answer, stand for ``boxes``: (label, box as ``pixels`` gives it).

    A box whose label is not written, as a question's area, has an empty label. Without boxes the row has no
    ``objects``. Raises ``ValueError`` where the texts have more or fewer placeholders, ``UsageError`` as ``check``.
    """
    check(dialect)
    refs = [dialect.as_ref(label) for label, _ in boxes if label]
    _check_counts(prompt + answer, refs, boxes)
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    row: dict[str, Any] = {"messages": [user, assistant], "images": [image]}
    if boxes:
        row["objects"] = {"ref": refs, "bbox": [list(map(float, box)) for _, box in boxes]}
    return row


def filled(row: Mapping[str, Any], dialect: Dialect, size_wh: Size) -> dict[str, Any]:
    """A row in ``objects`` form as text: what swift's template writes for a picture of ``size_wh``.

    A row without ``objects`` is unchanged. Raises ``ValueError`` where it has more or fewer placeholders than labels or
    boxes, or a box without four numbers; ``UsageError`` as ``check``.
    """
    objects = row.get("objects")
    if not objects:
        return dict(row)
    check(dialect)
    messages = row.get("messages") or []
    refs = list(map(dialect.write_ref, objects.get("ref") or []))
    boxes = list(map(dialect.write_box, _frame_boxes(objects, dialect.frame(size_wh), size_wh)))
    _check_counts("".join(map(_content, messages)), refs, boxes)
    texts = {REF_PLACEHOLDER: iter(refs), BOX_PLACEHOLDER: iter(boxes)}
    as_text = [
        {**message, "content": _PLACEHOLDERS.sub(lambda match: next(texts[match[0]]), _content(message))}
        for message in messages
    ]
    return {**{key: value for key, value in row.items() if key != "objects"}, "messages": as_text}


def texts(row: Mapping[str, Any], dialect: Dialect, size_wh: Size, location: str) -> tuple[str, str]:
    """Question and answer of a row in either form, as text. Raises ``DataError`` that names the row's ``location``."""
    try:
        user, assistant = filled(row, dialect, size_wh)["messages"]
    except ValueError as error:
        raise DataError(
            f"A row is malformed: {location}",
            why=f"{error}.",
            hint="Run `vlmdet prepare` and `vlmdet augment` again.",
        ) from None
    return user["content"], assistant["content"]


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError("a message whose content is no text")  # noqa: TRY004  (a file's value, as all others here)
    return content


def _check_counts(text: str, refs: Sequence[Any], boxes: Sequence[Any]) -> None:
    for placeholder, values in ((REF_PLACEHOLDER, refs), (BOX_PLACEHOLDER, boxes)):
        if text.count(placeholder) != len(values):
            raise ValueError(f"{text.count(placeholder)} times {placeholder} in the text, and {len(values)} for it")


def _frame_boxes(objects: Mapping[str, Any], frame: Size, size_wh: Size) -> Iterator[FrameBox]:
    """The boxes in whole numbers of the frame: corners in order, rounded and not clamped, as swift does."""
    if any(objects.get("image_id") or []):
        raise ValueError("boxes of a second picture")
    width, height = (1, 1) if objects.get("bbox_type") == "norm1" else size_wh
    for box in objects.get("bbox") or []:
        if not _is_box(box):
            raise ValueError(f"no box of four numbers: {box}")
        (x1, x2), (y1, y2) = sorted(box[::2]), sorted(box[1::2])
        yield (
            round(x1 / width * frame[0]),
            round(y1 / height * frame[1]),
            round(x2 / width * frame[0]),
            round(y2 / height * frame[1]),
        )


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )
