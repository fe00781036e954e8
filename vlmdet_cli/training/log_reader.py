"""What swift's own files say while it trains: its steps, and the number of rows that it took."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import orjson

from vlmdet_cli.errors import EngineError


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A row of swift's training log: of training, with ``loss``, or of an evaluation, with ``f1``.

    ``reward``: of a training by reward, the mean since the row before; ``detection``: that of the reward for detection.
    ``left``: the remaining time, as swift writes it.
    """

    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    f1: float | None = None
    reward: float | None = None
    detection: float | None = None
    left: str = ""


Report = Callable[[Step], None]


class AppendedBytes:
    """What was appended to a file since the last call; what is there at the start counts only with ``from_start``."""

    def __init__(self, file: Path, *, from_start: bool = False) -> None:
        self._file = file
        self._offset = 0 if from_start or not file.is_file() else file.stat().st_size
        self._cut = b""

    def __call__(self) -> bytes:
        if not self._file.is_file():
            return b""
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        return data

    def lines(self) -> list[bytes]:
        """The lines that are written to their end."""
        *lines, self._cut = (self._cut + self()).split(b"\n")
        return lines


class RowCount:
    """Searches swift's log for the number of rows that it trains on; a call reads what is new.

    swift leaves out rows that it does not accept and goes on with the rest. Raises ``EngineError`` where it took
    another number than it was given, or warns where ``must_match`` is false.
    """

    _PART = re.compile(rb"(train|val)_dataset: (?:None|\w*Dataset\(\{.*?num_rows: (\d+))", re.DOTALL)
    _LONGEST = 1 << 16  # of such a part, features included

    def __init__(self, log: Path, rows: int, warn: Callable[[str], None], *, must_match: bool) -> None:
        self._log = log
        self._rows = rows
        self._warn = warn
        self._must_match = must_match
        self._new = AppendedBytes(log)
        self._text = b""  # the end of what was read: a part may be cut there
        self._taken: dict[bytes, int] = {}
        self._done = False

    def __call__(self) -> None:
        if self._done:
            return
        self._text += self._new()
        end = 0
        for part in self._PART.finditer(self._text):
            self._taken[part[1]] = int(part[2] or 0)
            end = part.end()
        self._text = self._text[end:][-self._LONGEST :]
        if b"train" in self._taken and b"val" in self._taken:  # the second is written right behind the first
            self._done = True
            self._compare(sum(self._taken.values()), self._taken[b"val"])

    def _compare(self, taken: int, held_out: int) -> None:
        """Rows that swift itself keeps for validation (``split_dataset_ratio``) count as taken."""
        if taken == self._rows or taken - held_out == self._rows:
            return
        message = f"swift took {taken:,} of {self._rows:,} rows"
        if self._must_match:
            raise EngineError(
                message,
                why=f"Its log has the reasons for the others: {self._log}",
                hint="Correct the rows, or set train.rows_must_match = false.",
            )
        self._warn(f"{message}; see its log: {self._log}")


class Silence:
    """Notices where swift writes nothing to its log for long; a call looks once.

    It warns after ``WARN`` minutes. After ``limit`` minutes, 0 for never, it raises ``EngineError``.
    """

    WARN = 20.0

    def __init__(self, log: Path, warn: Callable[[str], None], limit: float) -> None:
        self._log = log
        self._warn = warn
        self._limit = limit
        self._size = -1
        self._since = time.monotonic()
        self._warned = False

    def __call__(self) -> None:
        size = self._log.stat().st_size if self._log.is_file() else 0
        if size != self._size:
            self._size, self._since, self._warned = size, time.monotonic(), False
        minutes = (time.monotonic() - self._since) / 60
        if self._limit and minutes >= self._limit:
            raise EngineError(
                f"swift has written nothing for {self._limit:g} minutes and was stopped",
                why=f"The end of its log may say what it waits for: {self._log}",
                hint="`vlmdet train --resume` goes on from the last checkpoint. train.stop_silent sets the minutes.",
            )
        if minutes >= self.WARN and not self._warned:
            self._warned = True
            self._warn(f"swift has written nothing for {self.WARN:g} minutes; it may hang. Its log: {self._log}")


class Watcher:
    """Follows the ``logging.jsonl`` that swift writes into a run's folder; a call reads what is new.

    A resumed training writes into a new folder, or appends to the file of the earlier one.
    """

    def __init__(self, folder: Path, on_step: Report) -> None:
        self.last: Step | None = None
        self._folder = folder
        self._on_step = on_step
        self._logs = {path: AppendedBytes(path) for path in self._files()}

    def _files(self) -> list[Path]:
        return [*self._folder.glob("logging.jsonl"), *self._folder.glob("*/logging.jsonl")]

    def __call__(self) -> None:
        for path in self._files():
            log = self._logs.setdefault(path, AppendedBytes(path, from_start=True))
            for line in log.lines():
                if step := parse_step(line):
                    self.last = step if step.f1 is None else self.last
                    self._on_step(step)


def last_step(log: Path) -> Step | None:
    """The last step of training in a ``logging.jsonl``."""
    rows = map(parse_step, log.read_bytes().splitlines())
    steps = [step for step in rows if step and step.f1 is None]
    return steps[-1] if steps else None


def parse_step(line: bytes) -> Step | None:
    """The step that a row of ``logging.jsonl`` tells, None for a row of another kind."""
    try:
        row = orjson.loads(line)
        step, steps = map(int, row["global_step/max_steps"].split("/"))
        loss, f1 = row.get("loss"), row.get("eval_f1")
        rewards = (row.get("reward"), row.get("rewards/detection/mean"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if loss is None and f1 is None:
        return None
    left = str(row.get("remaining_time", ""))
    return Step(
        step=step,
        steps=steps,
        loss=loss,
        learning_rate=row.get("learning_rate"),
        f1=f1,
        reward=rewards[0],
        detection=rewards[1],
        left=left,
    )
