"""What every command shares: the global options, the session made of them, and the class of a command.

The global options are declared once, on the app (``command_line.global_options``). ``Command`` accepts the same
options behind the command's name and hands the command a ``Session`` as ``context.obj``.
"""

import os
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from vlmdet_cli.cli import completion
from vlmdet_cli.console import Output, exit_code_of
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import FILE_NAME, Project, load

_PANEL = "Global options"
DEFAULT_DIALECT = "qwen2_vl"  # of texts that belong to no project
ProjectFile = Annotated[
    Path | None,
    typer.Option("-p", "--project", metavar="FILE", rich_help_panel=_PANEL, help="Project file, or its folder."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
        help="Override a setting; repeatable.",
        autocompletion=completion.settings,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", metavar="", rich_help_panel=_PANEL, help="Print the result as a JSON document.")
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", metavar="", rich_help_panel=_PANEL, help="Show only errors and warnings.")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", metavar="", rich_help_panel=_PANEL, help="Show more detail.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", rich_help_panel=_PANEL, help="Show tracebacks.")]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", metavar="", rich_help_panel=_PANEL, help="Show no progress bars.")
]

Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Work on the I-th of N parts of the pictures.", show_default="all")
]


def run_option(text: str, default: str) -> Any:
    """``--run``, which the shell completes. ``text``: its help; ``default``: what happens without it."""
    return typer.Option("--run", metavar="NAME", autocompletion=completion.runs, help=text, show_default=default)


def split_option(text: str, default: str) -> Any:
    """``--split``, as ``run_option``."""
    return typer.Option("--split", metavar="SPLIT", autocompletion=completion.splits, help=text, show_default=default)


def shard_of(text: str) -> tuple[int, int]:
    """The shard that an option names. Raises ``UsageError`` where it is not I/N with 1 ≤ I ≤ N."""
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise UsageError(f"No such shard: {text}", hint="Name it as I/N, from 1/N to N/N.")
    return int(number), int(total)


class GlobalOptions(NamedTuple):
    """The values of the global options. Each field has the name of its parameter in ``global_options``."""

    project: Path | None = None
    sets: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    no_progress: bool = False

    def joined(self, later: "GlobalOptions") -> "GlobalOptions":
        """Both sets of options as one: the later project file wins, overrides add up, a flag given once holds."""
        flags = (before or after for before, after in zip(self[2:], later[2:], strict=True))
        return GlobalOptions(later.project or self.project, self.sets + later.sets, *flags)


class Session:
    """What a command works with: the global options, the console, and the project when it asks for it."""

    def __init__(self, options: GlobalOptions) -> None:
        self.options = options
        self.output = Output(
            json=options.json, quiet=options.quiet, verbose=options.verbose, progress=not options.no_progress
        )

    @property
    def is_project_named(self) -> bool:
        """Whether ``-p`` or ``VLMDET_PROJECT`` names a project."""
        return bool(self.options.project or os.environ.get("VLMDET_PROJECT"))

    @property
    def project_file(self) -> Path:
        """The file or folder that ``-p`` names, else ``VLMDET_PROJECT``, else ``vlmdet.toml`` here."""
        return self.options.project or Path(os.environ.get("VLMDET_PROJECT") or FILE_NAME)

    def project(self) -> Project:
        """The project with the ``--set`` overrides applied. Raises ``UsageError`` for a wrong or missing file."""
        project = load(self.project_file, self.options.sets)
        for note in project.notes:
            self.warn(note)
        return project

    def dialect(self, name: str, file: Path | None) -> tuple[str, int | None]:
        """How texts of ``file`` write boxes, and the pixel limit of their pictures: the dialect ``name``, else that of
        the project whose file lies above ``file`` or which the options name, else Qwen2-VL's.
        """
        if name:
            return name, None
        folders = [] if file is None or self.is_project_named else file.absolute().parents
        project_file = next((path for folder in folders if (path := folder / FILE_NAME).is_file()), self.project_file)
        if not project_file.exists() and not self.is_project_named:
            return DEFAULT_DIALECT, None
        project = load(project_file, self.options.sets)
        return project.dialect_name, project.max_pixels

    def suggest(self, *command: str, run: str = "") -> None:
        """Say which command comes next, with the project and the run that are named."""
        project = ["-p", str(self.options.project)] if self.options.project else []
        named_run = ["--run", run] if run else []
        self.output.next_command(shlex.join(["vlmdet", *command, *named_run, *project]))

    def warn(self, text: str) -> None:
        """Show a warning unless ``text`` is empty."""
        if text:
            self.output.warning(text)


class Command(TyperCommand):
    """A command that takes the global options too. Its function may return an exit code; errors become one."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own parameters and the app's global options, as ``parse_args`` and ``--help`` ask for them."""
        shared = [parameter for parameter in ctx.parent.command.params if parameter.name in GlobalOptions._fields]
        return [*super().get_params(ctx), *shared]

    def invoke(self, ctx: Any) -> None:
        """Run the function with a ``Session`` as ``context.obj``. Raises ``typer.Exit`` with the exit code."""
        values = {name: ctx.params.pop(name) for name in GlobalOptions._fields}
        options = GlobalOptions(**{**values, "sets": tuple(values["sets"] or ())})
        session = ctx.obj = Session(ctx.obj.joined(options))
        body = partial(super().invoke, ctx)
        raise typer.Exit(exit_code_of(body, session.output, debug=session.options.debug))
