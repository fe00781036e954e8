"""The lines of an answers file: an ``Answer`` a line, read and written one at a time."""

import io
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.files import whole_file

_DECODER = msgspec.json.Decoder(Answer)


def line(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


def decode(data: bytes) -> Answer:
    """Raises ``msgspec.DecodeError`` for a line that is no answer."""
    return _DECODER.decode(data)


def scan(path: Path, starts: list[int]) -> Iterator[Answer]:
    """The answers of a file; the byte at which each begins is added to ``starts``."""
    start = 0
    with path.open("rb") if path.is_file() else io.BytesIO() as file:
        for data in file:
            answer = _decoded(data)
            if answer is not None and data.endswith(b"\n"):
                starts.append(start)
                yield answer
            start += len(data)


def write_lines(path: Path, lines: Iterator[bytes]) -> None:
    """A file of these lines, written whole; one that stands so already is not touched."""
    same, different = 0, b""  # the length of the beginning that stands so already, and the line after it
    with path.open("rb") if path.is_file() else io.BytesIO() as current:
        for data in lines:
            if current.read(len(data)) != data:
                different = data
                break
            same += len(data)
        if not different and path.is_file() and not current.read(1):
            return
        with whole_file(path) as temporary, temporary.open("wb") as file:
            current.seek(0)
            while same:
                same -= file.write(current.read(min(same, 1 << 20)))
            file.write(different)
            file.writelines(lines)


def _decoded(data: bytes) -> Answer | None:
    try:
        return decode(data)
    except msgspec.DecodeError:
        return None
