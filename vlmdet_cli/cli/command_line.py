"""The Typer app: the list of commands, the global options, and ``main``.

A command is a function in a ``*_commands`` module. Stages are imported inside the commands, so that help and light
commands start fast.
"""

import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from vlmdet_cli import __version__
from vlmdet_cli.cli import data_commands, export_commands, inference_commands, setup_commands, training_commands
from vlmdet_cli.cli.session import (
    Command,
    Debug,
    GlobalOptions,
    Json,
    NoProgress,
    ProjectFile,
    Quiet,
    Sets,
    Verbose,
)
from vlmdet_cli.console import Output

app = typer.Typer(
    name="vlmdet",
    help="Fine-tune vision-language models for object detection: from COCO data to a metric table.",
    epilog="Begin with `vlmdet init`, or see it all run: `vlmdet init --demo demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Function = Callable[..., int | None]  # its parameters are the command's options; it may return an exit code
# in the order of the help
STEPS: dict[str, Function] = {
    "prepare": data_commands.prepare,
    "augment": data_commands.augment,
    "train": training_commands.train,
    "merge": training_commands.merge,
    "infer": inference_commands.infer,
    "eval": inference_commands.evaluate,
    "viz": inference_commands.viz,
}
MORE: dict[str, Function] = {
    "status": setup_commands.status,
    "runs": training_commands.runs,
    "experiment": training_commands.experiment,
    "init": setup_commands.init,
    "compare": inference_commands.compare,
    "parse": inference_commands.parse,
    "show": data_commands.show,
    "export": export_commands.export,
    "doctor": setup_commands.doctor,
}
for name, function in STEPS.items():
    app.command(name, cls=Command, rich_help_panel="The seven steps")(function)
for name, function in MORE.items():
    app.command(name, cls=Command, rich_help_panel="More commands")(function)


def _show_version(*, verbose: bool) -> None:
    output = Output()
    output.data(f"vlmdet {__version__}")
    if verbose:
        from vlmdet_cli.stages.doctor import environment

        for name, version in environment().items():
            output.data(f"{name:<15} {version}")


Version = Annotated[
    bool,
    typer.Option("--version", metavar="", help="Show the version and exit; with -v all that a report of a bug needs."),
]


@app.callback(invoke_without_command=True)
def global_options(
    context: typer.Context,
    version: Version = False,
    project: ProjectFile = None,
    sets: Sets = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    no_progress: NoProgress = False,
) -> None:
    """Keep the global options that stand before the command's name; ``Command`` adds those behind it."""
    if version:
        _show_version(verbose=verbose)
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("Missing command.")
    context.obj = GlobalOptions(project, tuple(sets or ()), json, quiet, verbose, debug, no_progress)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. A request to end counts as an interrupt, so that child processes are ended too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    app()
