"""The answers file: a model's raw answers, kept for ever, and beside it an account of whose answers they are.

    answers/test.jsonl            an ``Answer`` a line, appended as it comes; at the end in the order of the rows
            test.meta.json        an ``AnswersMeta``
            test.1.jsonl          answers set aside, with test.1.meta.json

A row is known by its picture, prompt and kind. A row that has its answer is not asked again, in any order. Where the
truth of a row has changed since, the file gets the new one. Answers of another identity, and answers to rows that are
not asked any more, are set aside under the next free number.
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import msgspec

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.files import whole_file, write_json
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.core.settings import Ask
from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.errors import DataError


class AnswersMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Whose answers a file holds, and to which rows.

    ``engine``: the engine's identity. ``model`` and ``adapter``: name and hash. ``max_pixels``: the limit to
    which pictures were resized. ``system``: the system prompt, None for the family's own. ``split`` and ``data``: the
    prepared split and the hash of its ground-truth file, None for named pictures. ``ask`` and ``prompt``: which rows
    were asked, see ``prompts.asking``. ``run``: the run whose model it is.
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
    split: str | None = None
    data: str | None = None
    run: str | None = None
    schema: int = 1

    def identity(self) -> dict[str, Any]:
        """All that decides the answers and which rows they are to: two files with the same identity hold the same
        answers to the same rows of a split.
        """
        names = ("engine", "family", "dialect", "max_tokens", "max_pixels", "system", "scores", "ask", "prompt")
        return {name: getattr(self, name) for name in names}


class InferRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row to answer: what the answers file says of it, and ``path``, its picture on disk."""

    image: str
    path: Path
    prompt: str
    kind: Kind = "detection"
    image_id: ImageId = ""
    size: tuple[int, int] = (0, 0)
    expected: str | None = None
    asked: list[str] | None = None

    def request(self, key: str) -> Request:
        return Request(key=key, image=self.path, prompt=self.prompt, size=self.size)

    def answer(self, completion: Completion, meta: AnswersMeta) -> Answer:
        return Answer(
            image=self.image,
            image_id=self.image_id,
            size=self.size,
            kind=self.kind,
            prompt=self.prompt,
            text=completion.text,
            finish=completion.finish,
            error=completion.error,
            expected=self.expected,
            dialect=meta.dialect,
            max_pixels=meta.max_pixels or 0,
            asked=self.asked,
            tokens=completion.tokens,
        )

    def refreshed(self, answer: Answer) -> Answer:
        """The same answer with the truth of today."""
        return msgspec.structs.replace(
            answer, image_id=self.image_id, size=self.size, expected=self.expected, asked=self.asked
        )


class Resumed(NamedTuple):
    """What an answers file already held: answers by key, how many got a new truth, how many were set aside."""

    answers: dict[str, Answer]
    refreshed: int
    set_aside: int


class AnswersFile:
    """The answers file at ``path``, open for appending inside a ``with`` block. The caller holds its lock."""

    def __init__(self, path: Path, meta: AnswersMeta) -> None:
        self.path = path
        self.meta = meta
        self._file: IO[bytes] | None = None

    def resume(self, rows: Mapping[str, InferRow], *, retry_failed: bool = False) -> Resumed:
        """Bring the file up to the rows (by key): afterwards it holds only answers of this identity to these rows.

        ``retry_failed``: answers whose picture was bad are taken out, so that they are asked again.
        """
        answers = read_answers(self.path)
        stored = read_meta(self.path)
        if answers and (stored is None or stored.identity() != self.meta.identity()):
            _set_aside(self.path)
            set_aside, kept = len(answers), dict[str, Answer]()
        else:
            by_key = dict(zip(keys(answers), answers, strict=True))
            others = [answer for key, answer in by_key.items() if key not in rows]
            if others:
                _set_aside(self.path, others)
            set_aside, kept = len(others), {key: answer for key, answer in by_key.items() if key in rows}
        if retry_failed:
            kept = {key: answer for key, answer in kept.items() if answer.finish != "error"}
        current = {key: rows[key].refreshed(answer) for key, answer in kept.items()}
        self.write(current.values())
        write_json(meta_path(self.path), self.meta)
        return Resumed(current, sum(current[key] != kept[key] for key in kept), set_aside)

    def __enter__(self) -> "AnswersFile":
        self._file = self.path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing writes again what ``append`` could not, and has raised
                self._file.close()

    def append(self, answer: Answer) -> None:
        """One line, on its way to the disk when this returns. Raises ``DataError`` where it cannot be written."""
        if self._file is None:
            raise ValueError("the answers file is not open")
        with _write_errors(self.path):
            self._file.write(_line(answer))
            self._file.flush()

    def write(self, answers: Iterable[Answer]) -> None:
        """The whole file, in the order given; it is not touched where it stands so already."""
        data = b"".join(map(_line, answers))
        if not self.path.is_file() or self.path.read_bytes() != data:
            with _write_errors(self.path), whole_file(self.path) as temporary:
                temporary.write_bytes(data)


def keys(rows: Iterable[InferRow | Answer]) -> Iterator[str]:
    """The key of each row: a hash of picture, prompt and kind; a row that repeats another has a key of its own."""
    seen = Counter[str]()
    for row in rows:
        known_by = "\0".join((row.image, row.prompt, row.kind))
        yield blake2b(f"{known_by}\0{seen[known_by]}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        seen[known_by] += 1


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file that may be missing. A line that is no answer, such as a torn last one, is left out."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [answer for line in lines if line.endswith(b"\n") and (answer := _decoded(line)) is not None]


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


def _line(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


def _decoded(line: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError:
        return None


def _set_aside(answers: Path, rows: Sequence[Answer] | None = None) -> None:
    """Keep the whole file, or only ``rows``, under the next free number, together with its meta.

    The meta is copied first: a stop in between loses nothing.
    """
    number = next(n for n in range(1, 1_000_000) if not answers.with_suffix(f".{n}.jsonl").exists())
    target = answers.with_suffix(f".{number}.jsonl")
    if meta_path(answers).is_file():
        shutil.copyfile(meta_path(answers), meta_path(target))
    if rows is not None:
        with whole_file(target) as temporary:
            temporary.write_bytes(b"".join(map(_line, rows)))
        return
    if detections_path(answers).is_file():
        detections_path(answers).replace(detections_path(target))
    answers.replace(target)
