"""The rows of a file that ``show`` shows: instruction rows, answers of ``vlmdet infer``, swift infer's result rows.

A row's keys tell its form: ``messages`` (with ``objects`` where boxes stand apart from the text), ``response`` too in
swift infer's result, or ``image`` with ``text`` or ``finish`` in an answer of ``vlmdet infer``. A file has a row a
line, and no more lines are parsed than are shown; or it is one JSON array.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.answers import Answer, is_answer
from vlmdet_cli.core.files import read_json
from vlmdet_cli.core.rows import QUESTION_KINDS, Kind
from vlmdet_cli.errors import DataError, UsageError, nearest
from vlmdet_cli.prompts import questions

FIRST_ROWS = 5  # shown where no row is named
KINDS: tuple[Kind, ...] = ("detection", *QUESTION_KINDS)


class _Message(msgspec.Struct):
    role: str
    content: str


class _Image(msgspec.Struct):
    path: str


class SwiftRow(msgspec.Struct):
    """A row as swift reads or writes it; ``labels`` is the true answer beside a ``response``."""

    messages: list[_Message]
    images: list[str | _Image | None] = []
    objects: dict[str, Any] | None = None
    response: str | None = None
    labels: str | None = None

    @property
    def question(self) -> str:
        return next((message.content for message in self.messages if message.role == "user"), "")

    @property
    def truth(self) -> str | None:
        """The true answer: beside a response ``labels``, else the assistant's message."""
        if self.response is not None:
            return self.labels
        return next((message.content for message in self.messages if message.role == "assistant"), "")

    @property
    def image(self) -> str:
        first = self.images[0] if self.images else None
        return first.path if isinstance(first, _Image) else first or ""


Row = Answer | SwiftRow
Numbered = tuple[int, Row]  # a row and its number in the file, from 1


def select_rows(file: Path, number: int | None, kind: str) -> list[Numbered]:
    """The ``number``-th row (from 1), or the first ones, of all or of one ``kind``; at least one row.

    Raises ``DataError`` for a file without rows, ``UsageError`` for a number or a kind that there is not.
    """
    _check_kind(kind)
    if number is not None and number < 1:
        raise UsageError(f"No such row: {number}", hint="Rows are counted from 1.")
    values: Iterator[tuple[int, Any]] = _values(file)
    if kind:
        values = ((index, row) for index, row in _parse_rows(file, values) if _kind_of(row) == kind)
    skip, count = (0, FIRST_ROWS) if number is None else (number - 1, 1)
    skipped = sum(1 for _ in islice(values, skip))  # not parsed, unless a kind is asked for
    selected = list(islice(values, count))
    if not selected:
        raise _no_row(file, number, kind, skipped)
    return selected if kind else list(_parse_rows(file, selected))


def _check_kind(name: str) -> None:
    if name and name not in KINDS:
        raise UsageError(f"No such kind of rows: {nearest(name, KINDS)}", hint=f"There are: {', '.join(KINDS)}.")


def _kind_of(row: Row) -> Kind:
    return row.kind if isinstance(row, Answer) else questions.kind_of(row.question)


def _no_row(file: Path, number: int | None, kind: str, skipped: int) -> DataError | UsageError:
    of_kind = f" of the kind {kind}" if kind else ""
    if number is not None and skipped:
        there = "is 1" if skipped == 1 else f"are {skipped:,}"
        return UsageError(f"There is no row {number:,}{of_kind}: {file}", hint=f"There {there}.")
    if kind:
        return UsageError(f"There is no row{of_kind}: {file}", hint="Leave --kind out to see what there is.")
    return DataError(f"The file has no rows: {file}", hint="Did the run that writes it end early?")


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    """Each row's number and its bytes, or its value in a JSON array."""
    try:
        with file.open("rb") as lines:
            start = lines.read(64).lstrip()[:1]
            lines.seek(0)
            if start != b"[":
                yield from enumerate((line for line in lines if line.strip()), 1)
                return
    except OSError as error:
        why = f"{error.strerror}."
        raise DataError(f"Cannot read the rows: {file}", why=why, hint="Check the path.") from None
    yield from enumerate(read_json(file, "rows"), 1)


def _parse_rows(file: Path, values: Iterable[tuple[int, Any]]) -> Iterator[Numbered]:
    for number, value in values:
        try:
            yield number, _parse_row(orjson.loads(value) if isinstance(value, bytes) else value)
        except (msgspec.ValidationError, orjson.JSONDecodeError) as error:
            raise DataError(
                f"Not a row: {file}, row {number:,}",
                why=f"{error}.",
                hint="Known are instruction rows, answers of `vlmdet infer` and swift infer's result file.",
            ) from None


def _parse_row(value: Any) -> Row:
    if is_answer(value) and "messages" not in value:
        return msgspec.convert(value, Answer)
    return msgspec.convert(value, SwiftRow)
