"""show: rows in readable form, with the boxes of question and answer; see ``show_rows`` for the files.

Boxes are pixels where the picture's size is known, else the numbers that the dialect writes. A picture's path is
relative to ``root``, else to a folder above the file that has it, else to the current folder.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Answer, Detection, ParsedDetections, Problem
from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.data import image_files
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.metrics.tasks import BOX_KINDS
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_rows, questions
from vlmdet_cli.stages.data.show_rows import Row, SwiftRow, select_rows

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One row; ``number`` is its number in the file, from 1. ``size``: (0, 0) where unknown.

    ``boxes``: those of the answer, for kinds that are answered by boxes; ``areas``: those in the question.
    ``expected``: the true answer, where ``answer`` is a model's. ``remark``: why boxes are not in pixels.
    """

    number: int
    kind: Kind
    image: str
    size: tuple[int, int]
    question: str
    answer: str
    expected: str | None = None
    boxes: list[Detection] = []
    areas: list[Box] = []
    problems: list[Problem] = []
    finish: str = ""
    remark: str = ""


def show(
    file: Path,
    number: int | None,
    *,
    kind: str = "",
    dialect: str = "qwen2_vl",
    max_pixels: int | None = None,
    root: Path | None = None,
    draw: Path | None = None,
) -> list[Shown]:
    """The first five rows, or the ``number``-th (from 1), of all or of one ``kind``; ``draw`` names a picture to write.

    With ``draw`` and without a number, the row is the first. Answers have a dialect of their own; ``max_pixels`` is
    the pixel limit of the rows' pictures.

    Raises ``DataError`` for a file that has no rows and for a picture that cannot be drawn, ``UsageError`` for an
    unknown number, kind, dialect or format to draw in.
    """
    image_format = _format(draw) if draw else ""
    reader = _Reader(file, dialects.get(dialect, max_pixels), root)
    if draw and number is None:
        number = 1
    shown = [reader.shown(index, row) for index, row in select_rows(file, number, kind)]
    if draw:
        _draw(shown[0], reader.path(shown[0].image), draw, image_format)
    return shown


class _Reader(msgspec.Struct, frozen=True):
    """The settings with which all rows of a file are shown."""

    file: Path
    dialect: Dialect
    root: Path | None

    def path(self, image: str) -> Path | None:
        """The path of a picture, None where there is no such file."""
        folders = [self.root] if self.root else [*self.file.absolute().parents, Path()]
        paths = (folder / image for folder in folders)
        return next((path for path in paths if image and os.path.isfile(path)), None)  # noqa: PTH113  (never raises)

    def shown(self, number: int, row: Row) -> Shown:
        return self._of_answer(number, row) if isinstance(row, Answer) else self._of_swift_row(number, row)

    def _of_answer(self, number: int, row: Answer) -> Shown:
        size, remark = (row.size, "") if all(row.size) else self._size(row.image)
        shown = Shown(
            number=number,
            kind=row.kind,
            image=row.image,
            size=size,
            question=row.prompt,
            answer=row.text,
            expected=row.expected,
            finish=row.finish,
            remark=f"The picture could not be read: {row.error}" if row.finish == "error" else remark,
        )
        if row.finish == "error":
            return shown
        return self._with_boxes(shown, dialects.get(row.dialect, row.max_pixels or None), row)

    def _of_swift_row(self, number: int, row: SwiftRow) -> Shown:
        size, remark = self._size(row.image)
        question, truth = row.question, row.truth
        if row.objects and not remark:
            question, truth = self._filled(row, size, number)
        is_result = row.response is not None
        shown = Shown(
            number=number,
            kind=questions.kind_of(question),
            image=row.image,
            size=size,
            question=question,
            answer=(row.response if is_result else truth) or "",
            expected=truth if is_result else None,
            remark=remark,
        )
        if row.objects and remark:  # placeholders cannot be filled without the picture's size
            return shown
        return self._with_boxes(shown, self.dialect, None)

    def _filled(self, row: SwiftRow, size: tuple[int, int], number: int) -> tuple[str, str | None]:
        """Question and true answer with the boxes of ``objects`` in place of the placeholders."""
        texts = [row.question, *([] if row.truth is None else [row.truth])]
        messages = [{"role": "user", "content": text} for text in texts]
        try:
            filled = object_rows.filled({"messages": messages, "objects": row.objects}, self.dialect, size)["messages"]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"A row with wrong `objects`: {self.file}, row {number:,}",
                why=f"{error}.",
                hint="Each <ref-object> needs a `ref`, and each <bbox> a box of four numbers.",
            ) from None
        return filled[0]["content"], filled[1]["content"] if row.truth is not None else None

    def _with_boxes(self, shown: Shown, dialect: Dialect, answer: Answer | None) -> Shown:
        """With boxes, areas and problems."""
        size = shown.size if all(shown.size) else None
        parsed = ParsedDetections((), (), "empty")
        if shown.kind in {"detection", *BOX_KINDS}:
            parsed = dialect.parse(shown.answer, size, None, answer.tokens if answer else ())
        return msgspec.structs.replace(
            shown,
            boxes=list(parsed.detections),
            areas=areas(shown.question, dialect, size),
            problems=list(parsed.problems),
        )

    def _size(self, image: str) -> tuple[tuple[int, int], str]:
        """A picture's size as it is stored, or why it is not known."""
        path = self.path(image)
        if not image or path is None:
            return (0, 0), f"The picture is {image_files.MISSING}" if image else "The row has no picture"
        try:
            header = image_files.read_header(path)
        except image_files.Unreadable as error:
            return (0, 0), f"The picture cannot be read: {error}"
        return (header.width, header.height), ""


def areas(question: str, dialect: Dialect, size_wh: tuple[int, int] | None) -> list[Box]:
    """The boxes in a question, in pixels; in the dialect's own numbers where no size is given."""
    boxes: list[Box] = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in dialect.find_boxes(question)]
    return boxes if size_wh is None else [dialect.to_pixels(box, size_wh) for box in boxes]


# --- the drawing ---------------------------------------------------------------------------------------------


def _format(draw: Path) -> str:
    if draw.suffix.lower() not in FORMATS:
        raise UsageError(f"No format to draw in: {draw}", hint=f"Name a file that ends in {', '.join(FORMATS)}.")
    return FORMATS[draw.suffix.lower()]


def _draw(row: Shown, path: Path | None, target: Path, image_format: str) -> None:
    """The picture with the answer's boxes by label, and the question's areas in grey."""
    if path is None:
        raise DataError(
            f"The picture of row {row.number:,} is not there: {row.image or 'the row names none'}",
            hint="Picture paths are relative to the project's output folder, or to a folder above the file.",
        )
    if target.exists() and target.samefile(path):
        raise UsageError(f"The drawing would replace the picture itself: {target}", hint="Choose another name.")
    if not all(row.size):
        raise DataError(f"Nothing to draw on: {path}", why=f"{row.remark}.")
    drawing = _drawing(row, path)
    with whole_file(target) as temporary:
        drawing.save(temporary, image_format, quality=90)


def _drawing(row: Shown, path: Path) -> Any:
    from vlmdet_cli.drawing.lettering import palette
    from vlmdet_cli.drawing.panel import Mark, draw_panel

    marks = [Mark(detection.label, detection.box, "answer") for detection in row.boxes]
    marks += [Mark("area", box, "area") for box in row.areas]
    labels = list(dict.fromkeys(detection.label for detection in row.boxes))
    try:
        picture = image_files.open_upright(path, row.size)
    except image_files.Unreadable as error:
        raise DataError(f"The picture cannot be read: {path}", why=f"{error}.") from None
    return draw_panel(picture, marks, palette(labels), frame=row.size)
