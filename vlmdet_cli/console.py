"""The only module that prints: results to stdout; progress, warnings and errors to stderr.

Text from files and models is data: it is never parsed as markup, and its control characters are printed as escapes, so
that no category name colours a table or moves the cursor.
"""

import contextlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vlmdet_cli.core.files import to_builtins
from vlmdet_cli.errors import DATA, DONE, INTERRUPTED, VlmdetError

INTERNAL = 70
_ALLOWED = {"\n", "\t"}
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, format, surrogate, line and paragraph separator


def safe(text: object) -> str:
    """Text with every control, format and lone surrogate character written as an escape."""
    return "".join(c if c in _ALLOWED or unicodedata.category(c) not in _UNSAFE else _escape(c) for c in str(text))


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _console(*, stderr: bool) -> Console:
    """A console that prints texts as they are; without any escape where ``NO_COLOR`` is set."""
    console = Console(
        stderr=stderr,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False, highlight=False, emoji=False, soft_wrap=stderr,
    )  # fmt: skip
    if console.is_dumb_terminal:  # whose width Rich takes for 80
        console.size = shutil.get_terminal_size()
    return console


class Output:
    """The output of a command: ``json`` and ``quiet`` choose its form, ``progress`` allows moving bars.

    ``shows_progress``: whether bars move; they do only on a terminal.
    """

    def __init__(
        self, *, json: bool = False, quiet: bool = False, verbose: bool = False, progress: bool = True
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._out, self._err = _console(stderr=False), _console(stderr=True)
        self.shows_progress = progress and not quiet and self._err.is_terminal and not self._err.is_dumb_terminal

    def result(self, document: Any, *renderables: RenderableType) -> None:
        """Print the command's result: a JSON document with ``--json``, else tables and text."""
        if self.json:
            self.data(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=to_builtins).decode())
        elif not self.quiet:
            for renderable in renderables:
                self._out.print(renderable, crop=False)  # what is longer than a line, as a path, is whole

    def data(self, text: str) -> None:
        """Write a line or a document to stdout, unchanged."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a line to stderr, but not with ``--quiet``."""
        if not self.quiet:
            self._err.print(Text(safe(text)))

    def next_command(self, command: str) -> None:
        """Say which command comes next, to a person at a terminal."""
        if self._err.is_terminal and not (self.quiet or self.json):
            self._err.print(Text.assemble(("next        ", "dim"), safe(command)))

    def detail(self, text: str) -> None:
        """Print a line to stderr, only with ``--verbose``."""
        if self.verbose:
            self._err.print(Text(safe(text), style="dim"))

    def warning(self, text: str) -> None:
        self._err.print(Text.assemble(("warning: ", "bold yellow"), safe(text)))

    def error(self, error: VlmdetError) -> None:
        """Print an error's three parts to stderr; the text alone tells them apart, without colour."""
        self._err.print(Text.assemble(("error: ", "bold red"), (safe(error.what), "bold")))
        for line in error.why:
            self._err.print(Text("  " + safe(line)))
        if error.hint:
            self._err.print(Text.assemble(("hint: ", "bold cyan"), safe(error.hint)))

    @contextlib.contextmanager
    def progress(self) -> Iterator["Bars"]:
        """Show moving bars on a terminal; elsewhere, nothing."""
        if not self.shows_progress:
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
    """Progress bars by title. A call moves the bar of its title, or does nothing where there is no terminal."""

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


def exit_code_of(body: Callable[[], int | None], output: Output, *, debug: bool) -> int:
    """Run a command's body and return its exit code. A failure is printed, or raised again with ``debug``."""
    try:
        return body() or DONE
    except KeyboardInterrupt as stop:
        hint = str(stop.args[0]) if stop.args else "Run the same command again: it goes on, or starts over cleanly."
        output.error(VlmdetError("Interrupted", hint=hint))
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of the pipe has closed it, as `head` does: nobody reads stdout, not even the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            raise
        return _report(error, output)


def _report(error: Exception, output: Output) -> int:
    """Print the error and return its exit code. An error that is no user's and no system's is a bug of ours."""
    if isinstance(error, VlmdetError):
        output.error(error)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename else ""
        output.error(VlmdetError(f"{error.strerror}{name}", hint="Check the path, its rights and the free space."))
        return DATA
    kind = type(error).__name__
    output.error(VlmdetError(f"Unexpected {kind}: {error}", hint="This is a bug; --debug shows where it happened."))
    return INTERNAL
