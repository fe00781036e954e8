"""Files that are written whole, and read with an error that names them."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import msgspec
import orjson

from vlmdet_cli.errors import DataError


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
    with open_file(path, what) as file:
        return file.read()


@contextlib.contextmanager
def open_file(path: Path, what: str) -> Iterator[IO[bytes]]:
    """A file to read, or a ``DataError`` that names it where it cannot be read; ``what`` says what it should be."""
    try:
        with path.open("rb") as file:
            yield file
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


def file_hash(path: Path) -> str:
    """A file's content as a short hash."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
