"""parse: raw model text in, one JSON line out for each line in.

A line is plain answer text, or a JSON object with ``text`` or ``response`` and, if known, ``size`` ([width,
height]), ``dialect``, ``max_pixels``, ``crop`` (the part of the picture that the text is about, xyxy) and
``categories``. A blank line is an empty answer; a line that only begins like
an object is answer text. A JSON object of another form is an error that names the line.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson

from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.core.tiles import shifted
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects

Side = Annotated[float, msgspec.Meta(gt=0)]
HINT = "A line is plain text, or an object with `text` or `response` and, if known, `size` and `categories`."


class Line(msgspec.Struct, frozen=True):
    """A line as an object; the command line gives the values that it lacks."""

    text: str | None = None
    response: str | None = None
    size: tuple[Side, Side] | None = None
    dialect: str | None = None
    max_pixels: int | None = None
    crop: tuple[int, int, int, int] | None = None
    categories: list[str] | None = None


def parse_file(
    file: Path | None,
    *,
    dialect: str,
    max_pixels: int | None = None,
    size: str = "",
    categories: Sequence[str] | None = None,
    dedupe: float = 0.0,
) -> Iterator[str]:
    """A line of JSON for each line of a file, or of standard input where ``file`` is None or ``-``.

    ``size`` is ``640x480`` or empty. ``dedupe``: the IoU from which two boxes of a class in a line are taken for one, 0
    for never. Raises ``UsageError`` for the options, ``DataError`` for the file and its lines.
    """
    dialects.get(dialect)
    default = Line(
        size=_size(size),
        dialect=dialect,
        max_pixels=max_pixels,
        categories=list(categories) if categories else None,
    )
    lines: Iterable[bytes] = sys.stdin.buffer
    if file is not None and str(file) != "-":
        lines = read_bytes(file, "answers").splitlines()
    for number, line in enumerate(lines, 1):
        parsed = _parse(line, default, number)
        if dedupe:
            from vlmdet_cli.metrics.repeats import without_near_repeats  # with numpy: `parse` starts without it

            parsed = without_near_repeats(parsed, dedupe)
        yield orjson.dumps(as_dict(parsed)).decode()


def as_dict(parsed: ParsedDetections) -> dict[str, Any]:
    """``{"object": …, "problems": …, "health": …}``."""
    problems = [{"kind": problem.kind, "text": problem.text} for problem in parsed.problems]
    return {"object": parsed.by_label(), "problems": problems, "health": parsed.health}


def _size(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"Not a picture size: {text}", hint="A size is WIDTHxHEIGHT, such as 640x480.")
    return (float(width), float(height))


def _parse(data: bytes, default: Line, number: int) -> ParsedDetections:
    line = _line(data.rstrip(b"\r\n"), number)
    text = line.text if line.text is not None else line.response or ""
    max_pixels = line.max_pixels or (default.max_pixels if line.dialect is None else None)
    dialect = dialects.get(line.dialect or default.dialect or "", max_pixels)
    categories = line.categories or default.categories
    if line.crop is None:
        return dialect.parse(text, line.size or default.size, categories)
    left, top, right, bottom = line.crop
    parsed = dialect.parse(text, (right - left, bottom - top), categories)
    boxes = [msgspec.structs.replace(d, box=shifted(d.box, (left, top))) for d in parsed.detections]
    return msgspec.structs.replace(parsed, detections=tuple(boxes))


def _line(data: bytes, number: int) -> Line:
    """The ``number``-th line; plain text becomes a line with that ``text``."""
    try:
        document = orjson.loads(data) if data.lstrip()[:1] == b"{" else None
    except orjson.JSONDecodeError:
        document = None
    if document is None:
        return Line(text=data.decode("utf-8", "replace"))
    try:
        line = msgspec.convert(document, Line)
    except msgspec.ValidationError as error:
        raise DataError(f"Line {number} is no answer", why=f"{error}.", hint=HINT) from None
    if line.text is None and line.response is None:
        raise DataError(f"Line {number} is no answer", why="It has neither `text` nor `response`.", hint=HINT)
    return line
