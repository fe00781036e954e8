"""parse: raw model text in, one JSON line out for each line in.

A line is plain answer text, or a JSON object with ``text`` or ``response`` and, if known, ``size`` ([width,
height]), ``dialect`` and ``categories``. A blank line is an empty answer; a line that merely begins like an
object is answer text. A JSON object of another form is an error that names the line.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson

from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects

Side = Annotated[float, msgspec.Meta(gt=0)]
WHAT = "answers"


class Line(msgspec.Struct, frozen=True):
    """One line as an object; what it does not say, the command line says."""

    text: str | None = None
    response: str | None = None
    size: tuple[Side, Side] | None = None
    dialect: str | None = None
    max_pixels: int | None = None
    categories: list[str] | None = None


def parse_file(
    file: Path | None, *, dialect: str, size: str = "", categories: Sequence[str] | None = None
) -> Iterator[str]:
    """Lines of a file, or of standard input where it is None or ``-``; ``size`` is ``640x480`` or empty."""
    dialects.get(dialect)
    default = Line(size=_size(size), dialect=dialect, categories=list(categories) if categories else None)
    lines: Iterable[bytes] = sys.stdin.buffer
    if file is not None and str(file) != "-":
        lines = read_bytes(file, WHAT).splitlines()
    for number, line in enumerate(lines, 1):
        yield orjson.dumps(as_dict(_parse(line, default, number))).decode()


def as_dict(parsed: ParsedDetections) -> dict[str, Any]:
    """``{"object": …, "problems": …, "health": …}``."""
    problems = [{"kind": one.kind, "text": one.text} for one in parsed.problems]
    return {"object": parsed.by_label(), "problems": problems, "health": parsed.health}


def _size(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"Not a picture size: {text}", hint="A size is WIDTHxHEIGHT, such as 640x480.")
    return (float(width), float(height))


def _parse(line: bytes, default: Line, number: int) -> ParsedDetections:
    one = _line(line.rstrip(b"\r\n"), number)
    text = one.text if one.text is not None else one.response or ""
    dialect = dialects.get(one.dialect or default.dialect or "qwen2_vl", one.max_pixels)
    return dialect.parse(text, one.size or default.size, one.categories or default.categories)


def _line(line: bytes, number: int) -> Line:
    try:
        document = orjson.loads(line) if line.lstrip()[:1] == b"{" else None
    except orjson.JSONDecodeError:
        document = None
    if document is None:
        return Line(text=line.decode("utf-8", "replace"))
    try:
        one = msgspec.convert(document, Line)
    except msgspec.ValidationError as error:
        raise DataError(f"Line {number} is no answer", why=f"{error}.", hint=_HINT) from None
    if one.text is None and one.response is None:
        raise DataError(f"Line {number} is no answer", why="It has neither `text` nor `response`.", hint=_HINT)
    return one


_HINT = "A line is plain text, or an object with `text` or `response` and, if known, `size` and `categories`."
