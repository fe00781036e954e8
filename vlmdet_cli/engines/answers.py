"""The answers file: a model's raw answers, kept for ever, and beside it an account of whose answers they are.

    answers/test.jsonl            an ``Answer`` a line, appended as it comes; at the end in the order of the rows
            test.meta.json        an ``AnswersMeta``
            test.1.jsonl          answers set aside, with test.1.meta.json

A row is known by its picture, prompt and kind. A row that has its answer is not asked again, in any order. Where the
truth of a row has changed since, the file gets the new one. Answers of another identity, and answers to rows that are
not asked any more, are set aside under the next free number.
"""

import contextlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import msgspec

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.files import whole_file, write_json
from vlmdet_cli.core.settings import Ask
from vlmdet_cli.core.tiles import Tiling
from vlmdet_cli.engines.answer_lines import decode, line, scan, write_lines
from vlmdet_cli.engines.infer_rows import InferRow, keyed
from vlmdet_cli.errors import DataError


class AnswersMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Whose answers a file holds, and to which rows.

    ``engine``: the engine's identity. ``model`` and ``adapter``: name and hash. ``max_pixels``: the limit to
    which pictures were resized. ``system``: the system prompt, None for the family's own. ``split`` and ``data``: the
    prepared split and the hash of its ground-truth file, None for named pictures. ``ask`` and ``prompt``: which rows
    were asked, see ``prompts.asking``; ``tiles``: the parts of the pictures that they are about, None for the whole
    ones. ``dedupe`` and ``noise_label``: how the answers are read; they do not depend on it. ``stop_loops``: of the
    settings.
    ``run``: the run whose model it is.
    """

    engine: dict[str, Any]
    model: dict[str, Any]
    family: str
    dialect: str
    max_tokens: int
    adapter: dict[str, Any] | None = None
    max_pixels: int | None = None
    system: str | None = None
    scores: bool = False
    ask: Ask = "rows"
    prompt: str = ""
    tiles: Tiling | None = None
    dedupe: float = 0.0
    noise_label: str = ""
    stop_loops: int = 0
    split: str | None = None
    data: str | None = None
    run: str | None = None
    schema: int = 1

    def identity(self) -> dict[str, Any]:
        """All that decides the answers and which rows they are to: two files with the same identity hold the same
        answers to the same rows of a split.
        """
        names = ("engine", "family", "dialect", "max_tokens", "max_pixels", "system", "scores", "stop_loops")
        return {name: getattr(self, name) for name in (*names, "ask", "prompt", "tiles")}


class Resumed(NamedTuple):
    """What was done to an answers file before it goes on: how many answers got a new truth, how many were set aside."""

    refreshed: int
    set_aside: int


class StoredAnswers:
    """The answers in the file ``path`` by key. Only the byte at which each begins is kept in memory."""

    def __init__(self, path: Path, starts: dict[str, int]) -> None:
        self.path = path
        self._starts = starts

    @classmethod
    def of(cls, path: Path) -> "StoredAnswers":
        """The answers of a file that may be missing, in its order; see ``read_answers``."""
        starts = list[int]()
        names = [key for key, _ in keyed(scan(path, starts))]
        return cls(path, dict(zip(names, starts, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, key: str) -> bool:
        return key in self._starts

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def add(self, key: str, start: int) -> None:
        """A line that was written at the byte ``start``."""
        self._starts[key] = start

    def items(self, names: Iterable[str]) -> Iterator[tuple[str, Answer]]:
        """These keys and their answers, read one at a time. Raises ``KeyError`` for a key that has no answer."""
        with self.path.open("rb") if self._starts else io.BytesIO() as file:
            for key in names:
                file.seek(self._starts[key])
                yield key, decode(file.readline())


class AnswersFile:
    """The answers file at ``path``, open for appending inside a ``with`` block. The caller holds its lock.

    ``stored`` are the answers that it holds, from ``resume`` on.
    """

    def __init__(self, path: Path, meta: AnswersMeta) -> None:
        self.path = path
        self.meta = meta
        self.stored = StoredAnswers(path, {})
        self._file: IO[bytes] | None = None

    def resume(self, rows: Mapping[str, InferRow], *, retry_failed: bool = False) -> Resumed:
        """Bring the file up to the rows (by key): afterwards it holds only answers of this identity to these rows.

        ``retry_failed``: answers whose picture was bad are taken out, so that they are asked again.
        """
        self.stored, meta = StoredAnswers.of(self.path), read_meta(self.path)
        others = [key for key in self.stored if key not in rows]
        if len(self.stored) and (meta is None or meta.identity() != self.meta.identity()):
            others = list(self.stored)
            _set_aside(self.path)
            self.stored = StoredAnswers(self.path, {})
        elif others:
            _set_aside(self.path, self.stored.items(others))
        refreshed = 0

        def current() -> Iterator[tuple[str, Answer]]:
            nonlocal refreshed
            kept = [key for key in self.stored if key in rows]
            for key, answer in self.stored.items(kept):
                if not (retry_failed and answer.finish == "error"):
                    today = rows[key].refreshed(answer)
                    refreshed += today != answer
                    yield key, today

        self.write(current())
        write_json(meta_path(self.path), self.meta)
        return Resumed(refreshed, len(others))

    def __enter__(self) -> "AnswersFile":
        self._file = self.path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing writes again what ``append`` could not, and has raised
                self._file.close()

    def append(self, key: str, answer: Answer) -> None:
        """One line, on its way to the disk when this returns. Raises ``DataError`` where it cannot be written."""
        if self._file is None:
            raise ValueError("the answers file is not open")
        start = self._file.tell()
        with _write_errors(self.path):
            self._file.write(line(answer))
            self._file.flush()
        self.stored.add(key, start)

    def write(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """The whole file, in the order given; it is not touched where it stands so already.

        The answers may come from this file itself: they are taken one at a time.
        """
        starts = dict[str, int]()

        def lines() -> Iterator[bytes]:
            end = 0
            for key, answer in answers:
                starts[key] = end
                data = line(answer)
                end += len(data)
                yield data

        with _write_errors(self.path):
            write_lines(self.path, lines())
        self.stored = StoredAnswers(self.path, starts)


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a file that may be missing. A line that is no answer, such as a torn last one, is left out."""
    return scan(path, [])


def read_meta(answers: Path) -> AnswersMeta | None:
    """The account beside an answers file; None where there is none in today's form."""
    try:
        return msgspec.json.decode(meta_path(answers).read_bytes(), type=AnswersMeta)
    except (OSError, msgspec.DecodeError):
        return None


def meta_path(answers: Path) -> Path:
    return answers.with_suffix(".meta.json")


def detections_path(answers: Path) -> Path:
    return answers.with_suffix(".detections.json")


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """The system's error as a ``DataError`` that names the file: an error of writing names none itself."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot write the answers: {path}",
            why=f"{error.strerror or error}.",
            hint="Free some space and run the same command again: what is answered is kept.",
        ) from None


def _set_aside(answers: Path, rows: Iterable[tuple[str, Answer]] | None = None) -> None:
    """Keep the whole file, or only ``rows``, under the next free number, together with its meta.

    The meta is copied first: a stop in between loses nothing.
    """
    number = next(n for n in range(1, 1_000_000) if not answers.with_suffix(f".{n}.jsonl").exists())
    target = answers.with_suffix(f".{number}.jsonl")
    if meta_path(answers).is_file():
        shutil.copyfile(meta_path(answers), meta_path(target))
    if rows is not None:
        with whole_file(target) as temporary, temporary.open("wb") as file:
            file.writelines(line(answer) for _, answer in rows)
        return
    if detections_path(answers).is_file():
        detections_path(answers).replace(detections_path(target))
    answers.replace(target)
