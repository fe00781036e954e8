"""The only module that prints: results to stdout; progress, warnings and errors to stderr.

Text from files and models is data: it is never read as markup, and control characters in it are shown as
escapes, so that no category name colours a table or moves the cursor.
"""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import orjson
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vlmdet_cli.core.files import to_builtins
from vlmdet_cli.errors import DATA, INTERRUPTED, VlmdetError

INTERNAL = 70
_SHOWN = {"\n", "\t"}


def safe(text: object) -> str:
    """Text with every control, format and lone surrogate character written as an escape."""
    return "".join(c if c in _SHOWN or unicodedata.category(c) not in _UNSAFE else _escape(c) for c in str(text))


_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Talk:
    """How one command speaks: ``json`` and ``quiet`` choose the form, ``progress`` allows moving bars."""

    def __init__(
        self, *, json: bool = False, quiet: bool = False, verbose: bool = False, progress: bool = True
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._out = Console(markup=False, highlight=False, emoji=False, soft_wrap=False)
        self._err = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._bars = progress and not quiet and self._err.is_terminal

    def result(self, document: Any, *renderables: RenderableType) -> None:
        """The command's result: one JSON document with ``--json``, else tables and text for people."""
        if self.json:
            self.data(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=to_builtins).decode())
        elif not self.quiet:
            for one in renderables:
                self._out.print(one)

    def data(self, text: str) -> None:
        """One line or document of data on stdout, as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A line of talk for people; not with ``--quiet``."""
        if not self.quiet:
            self._err.print(Text(safe(text)))

    def detail(self, text: str) -> None:
        """A line of talk for the curious: only with ``--verbose``."""
        if self.verbose:
            self._err.print(Text(safe(text), style="dim"))

    def warning(self, text: str) -> None:
        self._err.print(Text.assemble(("warning: ", "bold yellow"), safe(text)))

    def error(self, error: VlmdetError) -> None:
        """An error's three parts; it reads the same without colour."""
        self._err.print(Text.assemble(("error: ", "bold red"), (safe(error.what), "bold")))
        for line in error.why:
            self._err.print(Text("  " + safe(line)))
        if error.hint:
            self._err.print(Text.assemble(("hint: ", "bold cyan"), safe(error.hint)))

    @contextlib.contextmanager
    def progress(self) -> Iterator["Bars"]:
        """Moving bars on a terminal, nothing elsewhere."""
        if not self._bars:
            yield Bars(None)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[extra]}", markup=False),
        )
        with Progress(*columns, console=self._err, transient=True) as bars:
            yield Bars(bars)


class Bars:
    """Named progress bars; a call moves the one of its title. Does nothing where there is no terminal."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self.moving = bars is not None
        self._tasks: dict[str, Any] = {}

    def __call__(self, title: str, done: int, total: int, extra: str = "") -> None:
        if self._bars is None:
            return
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(safe(title), extra="")
        self._bars.update(self._tasks[title], completed=done, total=total, extra=safe(extra))


@contextlib.contextmanager
def guard(talk: Talk, *, debug: bool) -> Iterator[list[int]]:
    """Run a command's body; every failure becomes a message and an exit code, put into the list it yields."""
    codes = [0]
    try:
        yield codes
    except VlmdetError as error:
        if debug:
            raise
        talk.error(error)
        codes[0] = error.exit_code
    except KeyboardInterrupt as stop:
        hint = str(stop.args[0]) if stop.args else "Run the same command again: it goes on, or starts over cleanly."
        talk.error(VlmdetError("Interrupted", hint=hint))
        codes[0] = INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe went away, as `head` does: nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if debug:
            raise
        codes[0] = _unexpected(talk, error)


def _unexpected(talk: Talk, error: Exception) -> int:
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename else ""
        talk.error(VlmdetError(f"{error.strerror}{name}", hint="Check the path, its rights and the free space."))
        return DATA
    kind = type(error).__name__
    talk.error(VlmdetError(f"Unexpected {kind}: {error}", hint="This is a bug; --debug shows where it happened."))
    return INTERNAL
