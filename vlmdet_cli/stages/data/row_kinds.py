"""The kinds of questions that a train file asks, counted."""

from collections import Counter
from pathlib import Path

import msgspec

from vlmdet_cli.errors import DataError
from vlmdet_cli.prompts import questions


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Row(msgspec.Struct):
    messages: list[_Message]


_ROW = msgspec.json.Decoder(_Row)


def count_kinds(path: Path) -> dict[str, int]:
    """Rows of a train file (JSONL) by the kind of their question, most frequent first.

    Raises ``DataError`` for a file that cannot be read, and for a line that is no row.
    """
    counts = Counter[str]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    counts[questions.kind_of(_question(path, line, number))] += 1
    except OSError as error:
        raise DataError(f"Cannot read the train file: {path}", why=f"{error.strerror}.", hint="Check it.") from None
    return dict(counts.most_common())


def _question(path: Path, line: bytes, number: int) -> str:
    try:
        return next(message.content for message in _ROW.decode(line).messages if message.role == "user")
    except (msgspec.DecodeError, StopIteration) as error:
        why = str(error) or "It has no message of the user"
        raise DataError(
            f"Not a row: {path}, line {number}", why=f"{why}.", hint="A row has `messages`, as swift reads them."
        ) from None
