"""show: rows as a person reads them: instruction rows, a model's answers, a result file of swift.

Rows are told by what they have, not by the file's name: ``messages`` (with ``objects`` where boxes stand apart), with
``response`` beside them swift infer's result, or ``image`` with ``text`` or ``finish`` an answer of ``vlmdet infer``. A
file has a row a line, and of such a file no more is read than is shown; or it is one JSON array.

Boxes are pixels where the picture's size is known, else the numbers that the dialect writes. A picture's path is
relative to ``root``, else to a folder above the file that has it, else to the folder at hand.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Answer, Detection, ParsedDetections, Problem
from vlmdet_cli.core.files import read_json, whole_file
from vlmdet_cli.core.rows import QUESTION_KINDS, Kind
from vlmdet_cli.data import image_files
from vlmdet_cli.errors import DataError, UsageError, nearest
from vlmdet_cli.metrics.tasks import BOX_KINDS
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_rows, questions
from vlmdet_cli.prompts.lengths import TokenCounter

WHAT = "rows"
FIRST = 5  # rows that are shown where none is named
KINDS: tuple[Kind, ...] = ("detection", *QUESTION_KINDS)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One row; ``number`` is its place in the file, from 1. ``size``: (0, 0) where unknown.

    ``boxes``: those of the answer, for kinds that are answered by boxes; ``areas``: those in the question.
    ``expected``: the true answer, where ``answer`` is a model's. ``remark``: what hinders the showing. ``tokens``: of
    the whole row, where they are counted, ``exact`` or as an upper bound.
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
    tokens: int | None = None
    exact: bool = True


def show(
    file: Path,
    number: int | None,
    *,
    kind: str = "",
    dialect: str = "qwen2_vl",
    root: Path | None = None,
    draw: Path | None = None,
    counter: TokenCounter | None = None,
) -> list[Shown]:
    """The first five rows, or the ``number``-th (from 1), of all or of one ``kind``; ``draw`` names a picture to write.

    Where something is drawn and no number given, it is the first row. Answers have a dialect of their own; ``counter``
    counts the tokens of the rows and tells to how many pixels pictures are shrunk.

    Raises ``DataError`` for a file that has no rows and for a picture that cannot be drawn, ``UsageError`` for what
    there is not: a row of that number, a kind, a dialect, a format to draw in.
    """
    form = _format(draw) if draw else ""
    reader = _Reader(file, dialects.get(dialect, counter.max_pixels if counter else None), root, counter)
    if draw and number is None:
        number = 1
    shown = [reader.shown(place, row) for place, row in _chosen(file, number, _kind(kind))]
    if draw:
        _draw(shown[0], reader.path(shown[0].image), draw, form)
    return shown


def _kind(name: str) -> str:
    if name and name not in KINDS:
        raise UsageError(f"No such kind of rows: {nearest(name, KINDS)}", hint=f"There are: {', '.join(KINDS)}.")
    return name


# --- the file ------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    role: str
    content: str


class _Image(msgspec.Struct):
    path: str


class _Row(msgspec.Struct):
    """A row as swift reads or writes it; ``labels`` is the true answer beside a ``response``."""

    messages: list[_Message]
    images: list[str | _Image | None] = []
    objects: dict[str, Any] | None = None
    response: str | None = None
    labels: str | None = None

    @property
    def question(self) -> str:
        return next((one.content for one in self.messages if one.role == "user"), "")

    @property
    def truth(self) -> str | None:
        """The true answer: beside a response ``labels``, else the assistant's message."""
        if self.response is not None:
            return self.labels
        return next((one.content for one in self.messages if one.role == "assistant"), "")

    @property
    def image(self) -> str:
        first = self.images[0] if self.images else None
        return first.path if isinstance(first, _Image) else first or ""


_Any = Answer | _Row


def _kind_of(row: _Any) -> Kind:
    return row.kind if isinstance(row, Answer) else questions.kind_of(row.question)


def _chosen(file: Path, number: int | None, kind: str) -> list[tuple[int, _Any]]:
    """The rows to show with their numbers in the file; at least one."""
    if number is not None and number < 1:
        raise UsageError(f"No such row: {number}", hint="Rows are counted from 1.")
    given = _values(file)
    if kind:
        given = ((place, row) for place, row in _rows(file, given) if _kind_of(row) == kind)
    first, many = (0, FIRST) if number is None else (number - 1, 1)
    before = sum(1 for _ in islice(given, first))  # not looked into, unless a kind is asked for
    found = list(islice(given, many))
    if not found:
        raise _none(file, number, kind, before)
    return found if kind else list(_rows(file, found))


def _none(file: Path, number: int | None, kind: str, seen: int) -> DataError | UsageError:
    of_kind = f" of the kind {kind}" if kind else ""
    if number is not None and seen:
        there = "is 1" if seen == 1 else f"are {seen:,}"
        return UsageError(f"There is no row {number:,}{of_kind}: {file}", hint=f"There {there}.")
    if kind:
        return UsageError(f"There is no row{of_kind}: {file}", hint="Leave --kind out to see what there is.")
    return DataError(f"The file has no rows: {file}", hint="Did the run that writes it end early?")


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    """Numbers of rows, and their bytes; of a JSON array, their values."""
    try:
        with file.open("rb") as lines:
            start = lines.read(64).lstrip()[:1]
            lines.seek(0)
            if start != b"[":
                yield from enumerate((line for line in lines if line.strip()), 1)
                return
    except OSError as error:
        why = f"{error.strerror}."
        raise DataError(f"Cannot read the {WHAT}: {file}", why=why, hint="Check the path.") from None
    yield from enumerate(read_json(file, WHAT), 1)


def _rows(file: Path, given: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, _Any]]:
    for number, value in given:
        try:
            yield number, _row(orjson.loads(value) if isinstance(value, bytes) else value)
        except (msgspec.ValidationError, orjson.JSONDecodeError) as error:
            raise DataError(
                f"Not a row: {file}, row {number:,}",
                why=f"{error}.",
                hint="Known are instruction rows, answers of `vlmdet infer` and swift infer's result file.",
            ) from None


def _row(value: Any) -> _Any:
    if isinstance(value, dict) and "messages" not in value and {"text", "finish"} & set(value):
        return msgspec.convert(value, Answer)
    return msgspec.convert(value, _Row)


# --- one row -------------------------------------------------------------------------------------------------


class _Reader(msgspec.Struct, frozen=True):
    """What all rows of a file are shown with."""

    file: Path
    dialect: Dialect
    root: Path | None
    counter: TokenCounter | None

    def path(self, image: str) -> Path | None:
        """Where a picture is, None where it is nowhere."""
        folders = [self.root] if self.root else [*self.file.absolute().parents, Path()]
        paths = (folder / image for folder in folders)
        return next((path for path in paths if image and os.path.isfile(path)), None)  # noqa: PTH113  (never raises)

    def shown(self, number: int, row: _Any) -> Shown:
        return self._of_answer(number, row) if isinstance(row, Answer) else self._of_row(number, row)

    def _of_answer(self, number: int, row: Answer) -> Shown:
        dialect = dialects.get(row.dialect, row.max_pixels or None)
        size, remark = (row.size, "") if all(row.size) else self._size(row.image)
        made = Shown(
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
        return made if row.finish == "error" else self._read(made, dialect, row)

    def _of_row(self, number: int, row: _Row) -> Shown:
        size, remark = self._size(row.image)
        question, truth = row.question, row.truth
        if row.objects and not remark:
            question, truth = self._filled(row, size, number)
        said = row.response is not None
        made = Shown(
            number=number,
            kind=questions.kind_of(question),
            image=row.image,
            size=size,
            question=question,
            answer=(row.response if said else truth) or "",
            expected=truth if said else None,
            remark=remark,
        )
        if row.objects and remark:  # places that cannot be filled
            return made
        return self._read(made, self.dialect, None)

    def _filled(self, row: _Row, size: tuple[int, int], number: int) -> tuple[str, str | None]:
        """Question and true answer with the boxes of ``objects`` in their places."""
        texts = [row.question, *([] if row.truth is None else [row.truth])]
        messages = [{"role": "user", "content": text} for text in texts]
        try:
            made = object_rows.filled({"messages": messages, "objects": row.objects}, self.dialect, size)["messages"]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"A row with wrong `objects`: {self.file}, row {number:,}",
                why=f"{error}.",
                hint="Each <ref-object> needs a `ref`, and each <bbox> a box of four numbers.",
            ) from None
        return made[0]["content"], made[1]["content"] if row.truth is not None else None

    def _read(self, made: Shown, dialect: Dialect, row: Answer | None) -> Shown:
        """With boxes, areas, problems and tokens."""
        size = made.size if all(made.size) else None
        parsed = ParsedDetections((), (), "empty")
        if made.kind in {"detection", *BOX_KINDS}:
            parsed = dialect.parse(made.answer, size, None, row.tokens if row else ())
        tokens = self.counter.row(made.question, made.answer, made.size) if self.counter and size else None
        return msgspec.structs.replace(
            made,
            boxes=list(parsed.detections),
            areas=areas(made.question, dialect, size),
            problems=list(parsed.problems),
            tokens=tokens,
            exact=tokens is None or self.counter is None or self.counter.exact,
        )

    def _size(self, image: str) -> tuple[tuple[int, int], str]:
        """A picture's size as it is stored, or why it is not known."""
        path = self.path(image)
        if not image or path is None:
            return (0, 0), f"The picture is {image_files.MISSING}" if image else "The row has no picture"
        try:
            found = image_files.read_header(path)
        except image_files.Unreadable as error:
            return (0, 0), f"The picture cannot be read: {error}"
        return (found.width, found.height), ""


def areas(question: str, dialect: Dialect, size_wh: tuple[int, int] | None) -> list[Box]:
    """The boxes that stand in a question, in pixels; in the dialect's own numbers where no size is given."""
    boxes: list[Box] = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in dialect.find_boxes(question)]
    return boxes if size_wh is None else [dialect.to_pixels(box, size_wh) for box in boxes]


# --- the drawing ---------------------------------------------------------------------------------------------


def _format(draw: Path) -> str:
    if draw.suffix.lower() not in FORMATS:
        raise UsageError(f"No format to draw in: {draw}", hint=f"Name a file that ends in {', '.join(FORMATS)}.")
    return FORMATS[draw.suffix.lower()]


def _draw(row: Shown, path: Path | None, target: Path, form: str) -> None:
    """The picture with the answer's boxes by label, and the question's areas in grey."""
    if path is None:
        raise DataError(
            f"The picture of row {row.number:,} is not there: {row.image or 'none is named'}",
            hint="Pictures are looked for from the project's output folder on.",
        )
    if target.exists() and target.samefile(path):
        raise UsageError(f"The drawing would replace the picture itself: {target}", hint="Choose another name.")
    if not all(row.size):
        raise DataError(f"Nothing to draw on: {path}", why=f"{row.remark}.")
    drawn = _drawn(row, path)
    with whole_file(target) as temporary:
        drawn.save(temporary, form, quality=90)


def _drawn(row: Shown, path: Path) -> Any:
    from vlmdet_cli.drawing.lettering import palette
    from vlmdet_cli.drawing.panel import Mark, draw_panel

    marks = [Mark(one.label, one.box, "truth") for one in row.boxes]
    marks += [Mark("area", box, "truth") for box in row.areas]
    labels = list(dict.fromkeys(one.label for one in row.boxes))
    try:
        picture = image_files.open_upright(path, row.size)
    except image_files.Unreadable as error:
        raise DataError(f"The picture cannot be read: {path}", why=f"{error}.") from None
    return draw_panel(picture, marks, palette(labels), frame=row.size)
