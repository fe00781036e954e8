"""The rows of an inference, and how they are known: what is asked about which picture.

A row of a crowded picture takes some kilobytes, most of them its true answer. So a ``RowSpool`` keeps rows in a
temporary file, and in memory only their keys and where each begins.
"""

import contextlib
import os
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.core.tiles import Crop
from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.errors import DataError

if TYPE_CHECKING:
    from vlmdet_cli.engines.answers import AnswersMeta


class InferRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row to answer: what the answers file says of it, and ``path``, its picture on disk."""

    image: str
    path: str
    prompt: str
    kind: Kind = "detection"
    image_id: ImageId = ""
    size: tuple[int, int] = (0, 0)
    expected: str | None = None
    asked: list[str] | None = None
    crop: Crop | None = None

    def request(self, key: str) -> Request:
        return Request(key=key, image=Path(self.path), prompt=self.prompt, size=self.size, crop=self.crop)

    def answer(self, completion: Completion, meta: "AnswersMeta") -> Answer:
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
            crop=self.crop,
            tokens=completion.tokens,
        )

    def refreshed(self, answer: Answer) -> Answer:
        """The same answer with the truth of today."""
        return msgspec.structs.replace(
            answer, image_id=self.image_id, size=self.size, expected=self.expected, asked=self.asked
        )


Row = TypeVar("Row", InferRow, Answer)


def keyed(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Each row with its key: a hash of picture, crop, prompt and kind; a row that repeats another has a key of its
    own.
    """
    repeats = Counter[str]()
    for row in rows:
        key = _hash(row.image, row.prompt, row.kind, *map(str, row.crop or ()))
        repeat, repeats[key] = repeats[key], repeats[key] + 1
        yield _hash(key, str(repeat)) if repeat else key, row


def _hash(*texts: str) -> str:
    return blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot write temporary files: {tempfile.gettempdir()}",
            why=f"{error.strerror or error}.",
            hint="Free some space there, or name another folder in the environment variable TMPDIR.",
        ) from None


def _close(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # closing writes again what could not be written, and has been said
        file.close()


class RowSpool(Mapping[str, InferRow]):
    """Rows by key, in their order, read from a temporary file; several threads may read. The file goes with the
    object.
    """

    def __init__(self, rows: Iterable[InferRow]) -> None:
        """Raises ``DataError`` where the temporary folder is full."""
        self._numbers: dict[str, int] = {}
        self._starts = array("Q", [0])  # (N + 1,): the bytes at which the rows begin, and the end of the last
        self._decoder = msgspec.msgpack.Decoder(InferRow)
        encoder = msgspec.msgpack.Encoder()
        self._file = tempfile.TemporaryFile(prefix="vlmdet-")  # noqa: SIM115 - open as long as the object lives
        weakref.finalize(self, _close, self._file)
        for key, row in keyed(rows):
            data = encoder.encode(row)
            self._numbers[key] = len(self._numbers)
            self._starts.append(self._starts[-1] + len(data))
            with _write_errors():
                self._file.write(data)
        with _write_errors():
            self._file.flush()

    def __getitem__(self, key: str) -> InferRow:
        number = self._numbers[key]
        start, end = self._starts[number], self._starts[number + 1]
        return self._decoder.decode(os.pread(self._file.fileno(), end - start, start))

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
