"""The errors that a user is meant to read, and the exit code of each kind.

An error has three parts: *what* failed (a line), *why* (any number of lines, with file, row and key by name) and a
*hint*: what to do about it. Only ``console`` prints them.
"""

import difflib
from collections.abc import Iterable, Sequence

DONE, ANSWER_IS_NO, USAGE, DATA, ENGINE, INTERRUPTED = 0, 1, 2, 3, 4, 130


class VlmdetError(Exception):
    """The base of these errors. The process ends with ``exit_code``."""

    exit_code = ENGINE

    def __init__(self, what: str, *, why: str | Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = (why,) if isinstance(why, str) else tuple(why)
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join([self.what, *self.why, *([self.hint] if self.hint else [])])


class UsageError(VlmdetError):
    """The command line or the project file is wrong."""

    exit_code = USAGE


class DataError(VlmdetError):
    """An input file (annotations, images, answers) is missing or wrong."""

    exit_code = DATA


class EngineError(VlmdetError):
    """swift or an inference engine failed; its own exit code is in the message."""

    exit_code = ENGINE


def first_few(items: Sequence[str], limit: int = 3) -> list[str]:
    """The first ``limit`` items and a line that counts the others, for the *why* of an error."""
    rest = len(items) - limit
    return [*items[:limit], *([f"… and {rest:,} more"] if rest > 0 else [])]


def counted(number: int, singular: str, plural: str = "") -> str:
    """``1 box``, ``2,000 boxes``: a number and its noun; the plural's default is the singular and an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The name, followed by the most similar known name if there is any."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return name + (f": did you mean {near[0]}?" if near else "")
