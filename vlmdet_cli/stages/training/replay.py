"""Rows of a general data set beside the project's own (``train.replay``), against forgetting.

The file has a ms-swift row a line: messages that end with an answer, and the paths of their pictures, relative to the
file's folder or absolute:

    {"messages": [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": "A dog."}],
     "images": ["pictures/7.jpg"]}

``train.replay_ratio`` limits their number; which rows are taken is drawn by seed. Of the others, those with one
question about one picture are kept beside the train file, at most ``MAX_HELD_OUT``: ``doctor --forgetting`` asks them.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.errors import DataError, counted, first_few
from vlmdet_cli.prompts.lengths import TokenCounter
from vlmdet_cli.stages.training.train_rows import Pictures, Row

_ROLES = {"system", "user", "assistant", "tool", "tool_call", "tool_response"}
_COLUMNS = ("messages", "images", "objects", "tools")
UNIT = "replay rows"
HELD_OUT, MAX_HELD_OUT = "replay_held_out.jsonl", 200


class ReplayRows(NamedTuple):
    """``drawn``: rows to train on. ``held_out``: others, to ask."""

    drawn: list[Row]
    held_out: list[Row]


def replay_rows(file: Path, count: int, seed: int, counter: TokenCounter, limit: int, ledger: Ledger) -> ReplayRows:
    """At most ``count`` rows of ``file`` in their order, with absolute paths; the ledger counts the others.

    Rows of one question about one picture with more than ``limit`` tokens are left out; others are not counted. Raises
    ``DataError`` for a malformed row and for pictures that cannot be read.
    """
    rows = [_absolute(row, file.parent) for row in _read(file)]
    pictures = Pictures(file.parent)
    fitting = [row for row in rows if _fits(row, pictures, counter, limit)]
    if pictures.unreadable:
        raise DataError(
            f"Cannot read {counted(len(pictures.unreadable), 'picture')} of train.replay: {file}",
            why=first_few(pictures.unreadable),
            hint="Paths are relative to the file's folder, or absolute.",
        )
    order = list(range(len(fitting)))
    Random(f"{seed}:replay").shuffle(order)  # noqa: S311
    drawn, others = sorted(order[:count]), [index for index in order[count:] if _is_question(fitting[index])]
    ledger.keep(UNIT, len(drawn))
    ledger.drop(UNIT, "over max_length", len(rows) - len(fitting))
    ledger.drop(UNIT, "over replay_ratio", len(fitting) - len(drawn))
    held_out = [fitting[index] for index in sorted(others[:MAX_HELD_OUT])]
    return ReplayRows([fitting[index] for index in drawn], held_out)


def _read(file: Path) -> Iterator[Row]:
    for number, line in enumerate(read_bytes(file, "replay rows").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            _check(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"A row of train.replay is malformed: {file}, line {number}",
                why=f"{error}." if str(error) else (),
                hint='{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}], "images": ["…"]}',
            ) from None
        yield {name: row[name] for name in _COLUMNS if row.get(name) is not None}


def _check(row: Any) -> None:
    """Raise ``ValueError`` or ``TypeError`` for a row that swift would not take as it is meant."""
    messages, images = row["messages"], row.get("images") or []
    if not messages or any(message["role"] not in _ROLES for message in messages):
        raise ValueError("no messages, or one of an unknown role")
    if messages[-1]["role"] != "assistant" or not all(isinstance(m["content"], str) for m in messages):
        raise ValueError("the last message must be the assistant's, and every content a text")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("images must be a list of paths")
    tags = sum(message["content"].count("<image>") for message in messages)
    if tags not in {0, len(images)}:
        raise ValueError(f"{tags} times <image> for {counted(len(images), 'picture')}")


def _absolute(row: Row, folder: Path) -> Row:
    images = [str((folder / image).resolve()) for image in row.get("images", ())]
    return {**row, "images": images} if images else {name: row[name] for name in row if name != "images"}


def _is_question(row: Row) -> bool:
    """Whether a row is one question about one picture, and its answer."""
    roles = [message["role"] for message in row["messages"]]
    return roles == ["user", "assistant"] and len(row.get("images", ())) == 1


def _fits(row: Row, pictures: Pictures, counter: TokenCounter, limit: int) -> bool:
    """Whether the row has at most ``limit`` tokens, as far as that is known. Its pictures are opened."""
    sizes = [pictures.size(image) for image in row.get("images", ())]
    if not _is_question(row) or sizes[0] is None:
        return True
    question, answer = (message["content"] for message in row["messages"])
    return counter.row(question, answer, sizes[0]) <= limit
