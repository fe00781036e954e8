"""The file that swift trains on where it is not the prepared one: a run's own, ``runs/NAME/train.jsonl``.

``train.noise_boxes`` adds invented boxes to the answers of detection rows (``prompts.noise``). The same settings and
seed give the same bytes, so a continuation writes the file again. ``train.replay`` adds rows of another file
(``replay``) at the end; swift shuffles all rows itself.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from vlmdet_cli.core.files import write_json, write_jsonl
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.errors import DataError
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.project import Project
from vlmdet_cli.prompts.lengths import TokenCounter
from vlmdet_cli.prompts.noise import NOISE_LABEL, number_of_boxes, objects_of, with_noise
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.stages.data import chunks
from vlmdet_cli.stages.training.replay import HELD_OUT, ReplayRows, replay_rows
from vlmdet_cli.stages.training.train_rows import BATCH, Pictures, Row, Size, batches, read_rows
from vlmdet_cli.training.settings import Train

NAME = "train.jsonl"


def is_own(train: Train) -> bool:
    """Whether a run with these settings has a train file of its own."""
    return bool(train.noise_boxes or train.replay)


class TrainFile(msgspec.Struct, frozen=True, kw_only=True):
    """``replayed``: the number of rows from ``train.replay``. ``ledger``: of what was added."""

    replayed: int
    ledger: dict[str, dict[str, Any]]


def write_train_file(project: Project, dataset: Path, file: Path) -> TrainFile:
    """Write the run's ``file`` from the prepared rows and those of ``train.replay``, and a ledger beside it.

    Raises ``DataError`` where a category has the name of the noise class, and for rows to replay that are malformed.
    """
    ledger, train = Ledger(), project.config.train
    rows = read_rows(dataset)
    if train.noise_boxes:
        rows = NoisyRows(project, ledger).rows(rows)
    replay = _replay(project, dataset, ledger) if train.replay else ReplayRows([], [])
    write_jsonl(file, itertools.chain(rows, replay.drawn))
    if replay.held_out:
        write_jsonl(file.with_name(HELD_OUT), replay.held_out)
    counts = ledger.as_dict()
    write_json(file.with_name("train.ledger.json"), counts)
    return TrainFile(replayed=len(replay.drawn), ledger=counts)


def _replay(project: Project, dataset: Path, ledger: Ledger) -> ReplayRows:
    train = project.config.train
    own = sum(1 for _ in read_rows(dataset))
    counter = chunks.row_settings(project, "train").length_limit.counter
    count, seed = int(train.replay_ratio * own + 1e-9), project.config.project.seed
    return replay_rows(project.path(train.replay), count, seed, counter, train.max_length, ledger)


class NoisyRows:
    """Adds noise to the answers of detection rows, as many boxes as the settings say and ``max_length`` allows."""

    def __init__(self, project: Project, ledger: Ledger) -> None:
        settings = chunks.row_settings(project, "train")
        self._noise_boxes = project.config.train.noise_boxes
        self._limit = project.config.train.max_length
        self._seed = project.config.project.seed
        self._group = project.config.format.group
        self._dialect: Dialect = settings.dialect
        self._counter: TokenCounter = settings.length_limit.counter
        self._pictures = Pictures(project.data_folder)
        self._ledger = ledger

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        for batch in batches(rows, BATCH):
            yield from self._batch(batch)

    def _batch(self, rows: list[Row]) -> Iterator[Row]:
        """Rows that are too long with noise stay without."""
        sizes = [self._pictures.size(row["images"][0]) or (1, 1) for row in rows]
        noisy = [self._noisy(row, size) for row, size in zip(rows, sizes, strict=True)]
        tokens = self._counter.rows(*_texts([changed for changed, _ in noisy]), sizes)
        for row, (changed, added), count in zip(rows, noisy, tokens.tolist(), strict=True):
            if added and count > self._limit:
                self._ledger.drop("noise boxes", "over max_length", added)
                yield row
            else:
                self._ledger.keep("noise boxes", added)
                yield changed

    def _noisy(self, row: Row, size: Size) -> tuple[Row, int]:
        """The row with noise, and the number of boxes that were added; the row as it is where it names no boxes."""
        user, assistant = row["messages"]
        objects = objects_of(assistant["content"], self._dialect, group=self._group)
        if objects is None or kind_of(user["content"]) != "detection":
            return row, 0
        if any(label.casefold() == NOISE_LABEL for label, _ in objects):
            raise DataError(
                f"The data has a category called {NOISE_LABEL}, and train.noise_boxes needs that name",
                hint='Give it another name: [data.categories] noise = "…"',
            )
        count = number_of_boxes(self._noise_boxes, len(objects))
        limits = [int(min(side, self._dialect.last)) for side in self._dialect.frame(size)]
        drawn = with_noise(objects, (limits[0], limits[1]), count, self._random(row))
        self._ledger.drop("noise boxes", "no room beside the true boxes", count + len(objects) - len(drawn))
        answer = self._dialect.write(drawn, group=self._group)
        return {**row, "messages": [user, {**assistant, "content": answer}]}, len(drawn) - len(objects)

    def _random(self, row: Row) -> Random:
        """Of the seed, the picture and the question alone, so that a subset keeps the rows of the whole."""
        return Random(f"{self._seed}:noise:{row['images'][0]}:{row['messages'][0]['content']}")  # noqa: S311


def _texts(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """Questions and answers."""
    pairs = [[message["content"] for message in row["messages"]] for row in rows]
    return [question for question, _ in pairs], [answer for _, answer in pairs]
