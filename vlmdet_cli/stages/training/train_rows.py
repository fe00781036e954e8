"""The rows that ``train`` gives to swift, checked for what swift would drop without a word.

That is a malformed row, a missing picture, and more tokens than ``max_length``. Rows are read, and their tokens
counted, a batch at a time: memory does not grow with their number.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.files import file_hash, read_json
from vlmdet_cli.data.dataset import escapes_folder
from vlmdet_cli.errors import DataError, UsageError, counted, first_few
from vlmdet_cli.project import Project
from vlmdet_cli.prompts import lengths
from vlmdet_cli.prompts.object_rows import texts
from vlmdet_cli.stages.data import chunks, shards

BATCH = 2000  # rows whose tokens are counted at once
Row = dict[str, Any]
Size = tuple[int, int]


class RowCheck(msgspec.Struct, frozen=True, kw_only=True):
    """``too_long``: line number and tokens of the rows over ``max_length``. ``exact``: not an upper bound of tokens."""

    rows: int
    too_long: tuple[tuple[int, int], ...]
    exact: bool


def dataset_of(project: Project) -> Path:
    """The mixed file where ``augment`` has written one of the present data, else the detection rows."""
    shards.join(project)
    mixed, rows = project.train_file, project.rows("train")
    if not mixed.is_file():
        return rows
    ledger = project.data_folder / "augment" / "ledger.json"
    # a file that was put together of shards has no ledger beside it
    source = read_json(ledger, "ledger of augment").get("source") if ledger.is_file() else None
    if source and rows.is_file() and source != file_hash(rows):
        raise UsageError(f"The augmented rows are of other data: {mixed}", hint="Run `vlmdet augment` again.")
    return mixed


def check_rows(project: Project, dataset: Path) -> RowCheck:
    """Read all rows. Raises ``DataError`` for a row that swift would not take, or for missing pictures."""
    settings = chunks.row_settings(project, "train")
    counter, dialect = settings.length_limit.counter, settings.dialect
    pictures, count, too_long = Pictures(project.data_folder), 0, list[tuple[int, int]]()
    for batch in batches(read_rows(dataset), BATCH):
        measured = [
            (*texts(row, dialect, size, f"{dataset}, line {number}"), size)
            for number, row in enumerate(batch, count + 1)
            if (size := pictures.size(row["images"][0]))
        ]
        if not pictures.unreadable:
            long = lengths.too_long(measured, counter, project.config.train.max_length)
            too_long += [(count + number, tokens) for number, tokens in long]
        count += len(batch)
    if not count:
        raise DataError(f"No rows to train on: {dataset}", hint="Run `vlmdet prepare` again.")
    if pictures.unreadable:
        raise DataError(
            f"Cannot read {counted(len(pictures.unreadable), 'picture')} of the train file: {dataset}",
            why=first_few(pictures.unreadable),
            hint="Run `vlmdet prepare` again.",
        )
    return RowCheck(rows=count, too_long=tuple(too_long), exact=counter.exact)


def batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def read_rows(dataset: Path) -> Iterator[Row]:
    """The rows of the train file, one at a time. Raises ``DataError`` for one that swift would not take."""
    if not dataset.is_file():
        raise UsageError(f"No rows to train on: {dataset}", hint="Run `vlmdet prepare` first.")
    with dataset.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _parse(line)
            if row is None:
                raise DataError(
                    f"A row is malformed: {dataset}, line {number}",
                    why="A row has one user and one assistant message, one <image> and one path in `images`.",
                    hint="Run `vlmdet prepare` and `vlmdet augment` again.",
                )
            yield row


def _parse(line: bytes) -> Row | None:
    """A row of the form that swift takes, else None."""
    try:
        row: Row = orjson.loads(line)
        (user, assistant), (image,) = row["messages"], row["images"]
        roles, question, answer = (user["role"], assistant["role"]), user["content"], assistant["content"]
        valid = roles == ("user", "assistant") and question.count("<image>") == 1
        return row if valid and isinstance(answer, str) and isinstance(image, str) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Pictures:
    """Sizes of the pictures in a folder, each read once from its header; what cannot be read is listed."""

    def __init__(self, folder: Path) -> None:
        self.unreadable: list[str] = []
        self._folder = folder
        self._sizes: dict[str, Size | None] = {}

    def size(self, image: str) -> Size | None:
        """(width, height) in pixels, None for a picture that cannot be read."""
        if image not in self._sizes:
            self._sizes[image] = self._read(image)
            if self._sizes[image] is None:
                self.unreadable.append(image)
        return self._sizes[image]

    def _read(self, image: str) -> Size | None:
        from PIL import Image, UnidentifiedImageError

        if escapes_folder(image) and not Path(image).is_absolute():
            return None
        try:
            with Image.open(self._folder / image) as opened:
                width, height = opened.size
                return width, height
        except (OSError, ValueError, UnidentifiedImageError):
            return None
