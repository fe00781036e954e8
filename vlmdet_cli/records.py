"""What flows between the stages, the ledger, and files that are written whole or appended row by row.

Records are frozen. Boxes in them are float pixels, xyxy, of the original picture (see ``boxes``).
``image`` is the picture's path as rows name it: relative to the output folder in a project, so that a
project can be moved; as given elsewhere.
"""

import contextlib
import fcntl
import gc
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import orjson

from vlmdet_cli.errors import DataError, UsageError

Box = tuple[float, float, float, float]
ImageId = int | str
Classes = Literal["all", "present"]  # which classes count in a picture
ScoreSource = Literal["auto", "constant", "file", "logprob"]
Token = tuple[str, float]  # a piece of an answer's text and its log-probability
QuestionKind = Literal["count", "full", "partial", "none", "region", "class", "largest", "left"]
Kind = Literal["detection"] | QuestionKind
Health = Literal["empty", "ok", "partial", "unparsed"]
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)


class Object(msgspec.Struct, frozen=True, gc=False):
    """One annotated object: its category's name and its box; a crowd is a region of many."""

    label: str
    box: Box
    crowd: bool = False


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One picture with its truth. ``image_id`` as in the annotations; ``ignored`` are annotated objects that
    are no targets (other categories, too small, dropped crowds) but that a question about space must heed.
    ``verified``: the categories whose objects are all annotated, None where that holds for every one.
    """

    image_id: ImageId
    image: str
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    ignored: tuple[Object, ...] = ()
    verified: tuple[str, ...] | None = None

    @property
    def targets(self) -> tuple[Object, ...]:
        """The objects a model should name: all but crowds."""
        return tuple(o for o in self.objects if not o.crowd)

    def clipped(self) -> "Picture":
        """The same picture with every box cut off at its borders."""
        objects = tuple(self._clip(one) for one in self.objects)
        return msgspec.structs.replace(self, objects=objects, ignored=tuple(self._clip(one) for one in self.ignored))

    def _clip(self, one: Object) -> Object:
        x1, y1, x2, y2 = one.box
        wide, high = float(self.width), float(self.height)
        if 0 <= x1 <= x2 <= wide and 0 <= y1 <= y2 <= high:
            return one
        box = (min(max(x1, 0), wide), min(max(y1, 0), high), min(max(x2, 0), wide), min(max(y2, 0), high))
        return Object(one.label, box, one.crowd)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction row: a picture, a question without the ``<image>`` tag's path, and the true answer.

    ``area``: the box that question and answer name, in pixels as written; ``objects``: those that the answer draws.
    """

    image: str
    prompt: str
    answer: str
    kind: Kind = "detection"
    area: Box | None = None
    objects: tuple[tuple[str, Box], ...] | None = None

    def row(self) -> dict[str, Any]:
        """The row that ms-swift reads."""
        user = {"role": "user", "content": self.prompt}
        return {"messages": [user, {"role": "assistant", "content": self.answer}], "images": [self.image]}


class Problem(msgspec.Struct, frozen=True):
    """A named flaw of an answer, with the piece of text that has it."""

    kind: str
    text: str


class Detection(msgspec.Struct, frozen=True):
    """One box read from an answer; ``score`` where there is one."""

    label: str
    box: Box
    score: float | None = None


class Parsed(msgspec.Struct, frozen=True):
    """What an answer means: the boxes in the order of the text, the problems, and its health."""

    detections: tuple[Detection, ...]
    problems: tuple[Problem, ...]
    health: Health

    def by_label(self) -> dict[str, list[list[float]]]:
        """Label to boxes, as detection JSON has it."""
        out: dict[str, list[list[float]]] = {}
        for found in self.detections:
            out.setdefault(found.label, []).append(list(found.box))
        return out


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One raw answer of a model, kept for ever. ``finish``: ``stop``, ``length`` (cut by the token limit) or
    ``error`` (the picture could not be read; ``error`` says why). ``size``: the picture's width and height in
    pixels, (0, 0) where unknown. ``expected``: the true answer, where the question came with one. ``max_pixels``:
    the limit to which the picture was shrunk, 0 where there was none. ``asked``: the classes that the prompt named,
    None where it asked for all. ``tokens``: the text in pieces with their log-probabilities, where they were asked for.
    """

    image: str
    image_id: ImageId = ""
    size: tuple[int, int] = (0, 0)
    kind: Kind = "detection"
    prompt: str = ""
    text: str = ""
    finish: Literal["stop", "length", "error"] = "stop"
    error: str = ""
    expected: str | None = None
    dialect: str = "qwen2_vl"
    max_pixels: int = 0
    asked: list[str] | None = None
    tokens: list[Token] = []


class Ledger:
    """The account of a stage: for each thing counted (pictures, boxes, rows), in = kept + dropped by reason."""

    def __init__(self) -> None:
        self._kept: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}

    def keep(self, thing: str, count: int = 1) -> None:
        self._kept[thing] += count

    def drop(self, thing: str, reason: str, count: int = 1) -> None:
        if count:
            self._dropped.setdefault(thing, Counter())[reason] += count

    def move(self, thing: str, reason: str, count: int) -> None:
        """What was counted as kept is dropped after all."""
        self._kept[thing] -= count
        self.drop(thing, reason, count)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """``{thing: {"in": …, "kept": …, "dropped": {reason: …}}}``, reasons in order of their count."""
        things = dict.fromkeys([*self._kept, *self._dropped])
        return {thing: self._line(thing) for thing in things}

    def _line(self, thing: str) -> dict[str, Any]:
        dropped = dict(self._dropped.get(thing, Counter()).most_common())
        kept = self._kept[thing]
        return {"in": kept + sum(dropped.values()), "kept": kept, "dropped": dropped}


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without a search for cycles: among millions of small tuples that come and stay, it takes as long as the work."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone; a second one that wants it gets a ``UsageError`` at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"Another vlmdet is at work in this folder: {folder}", hint="Wait for it, or stop it."
            ) from None
        yield


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # with a short part of the name: a whole one may be as long as the file system allows
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """One JSON document, written whole."""
    with whole_file(path) as temporary:
        temporary.write_bytes(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE, default=to_builtins))


def write_text(path: Path, text: str) -> None:
    """A text with a line's end, written whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", "utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """A row a line, written whole."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE, default=to_builtins) for row in rows)


def to_builtins(record: Any) -> Any:
    """Records and numpy values as plain JSON values."""
    return record.tolist() if hasattr(record, "tolist") else msgspec.to_builtins(record)


def read_bytes(path: Path, what: str) -> bytes:
    """A file's bytes, or a ``DataError`` that names it; ``what`` says what the file should be."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"Cannot read the {what}: {path}", why=f"{reason}.", hint="Check the path.") from None


def read_json(path: Path, what: str) -> Any:
    """One JSON document; a syntax error is reported with its line and column."""
    return parse_json(read_bytes(path, what), str(path), what)


def parse_json(data: bytes, name: str, what: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"The {what} is not valid JSON: {name}",
            why=f"Line {error.lineno}, column {error.colno}: {error.msg}.",
            hint="Was it cut while being copied? Check the file's end.",
        ) from None
