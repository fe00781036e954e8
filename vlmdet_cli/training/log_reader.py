"""What swift's own files tell while it trains: its steps, and how many rows it took."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import orjson

from vlmdet_cli.errors import EngineError


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One row of swift's training log."""

    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    left: str = ""


Report = Callable[[Step], None]


class RowCount:
    """Looks in swift's log for the number of rows that it trains on; a call reads on until it is there.

    swift leaves out rows that it does not like and goes on with the rest. Raises ``EngineError`` where it took another
    number than it was given, or warns where that is allowed.
    """

    _PART = re.compile(rb"(train|val)_dataset: (?:None|\w*Dataset\(\{.*?num_rows: (\d+))", re.DOTALL)

    def __init__(self, log: Path, rows: int, warn: Callable[[str], None], *, must_match: bool) -> None:
        self._log = log
        self._rows = rows
        self._warn = warn
        self._must_match = must_match
        self._from = log.stat().st_size if log.is_file() else 0  # a resumed run's log goes on
        self._done = False

    def __call__(self) -> None:
        if self._done or not self._log.is_file():
            return
        with self._log.open("rb") as file:
            file.seek(self._from)
            found = {kind: int(number or 0) for kind, number in self._PART.findall(file.read())}
        if b"train" in found and b"val" in found:  # the second is written right behind the first
            self._done = True
            self._compare(found[b"train"] + found[b"val"], found[b"val"])

    def _compare(self, taken: int, held_out: int) -> None:
        """Rows that swift itself keeps for validation (``split_dataset_ratio``) are taken, too."""
        if taken == self._rows or taken - held_out == self._rows:
            return
        said = f"swift took {taken:,} of {self._rows:,} rows"
        if self._must_match:
            raise EngineError(
                said,
                why=f"The others stand with their reasons in its log: {self._log}",
                hint="Mend the rows, or set train.rows_must_match = false.",
            )
        self._warn(f"{said}; see its log: {self._log}")


class Watcher:
    """Follows the ``logging.jsonl`` that swift writes into a run's folder; a call reads what is new."""

    def __init__(self, folder: Path, on_step: Report) -> None:
        self.last: Step | None = None
        self._folder = folder
        self._on_step = on_step
        self._known = set(folder.rglob("logging.jsonl"))
        self._file: Path | None = None
        self._read = 0

    def __call__(self) -> None:
        if self._file is None:
            new = [path for path in self._folder.glob("**/logging.jsonl") if path not in self._known]
            if not new:
                return
            self._file = new[0]
        with self._file.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            row = orjson.loads(line)
            step, steps = map(int, row["global_step/max_steps"].split("/"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if row.get("loss") is None:
            return
        left = str(row.get("remaining_time", ""))
        self.last = Step(step=step, steps=steps, loss=row["loss"], learning_rate=row.get("learning_rate"), left=left)
        self._on_step(self.last)
