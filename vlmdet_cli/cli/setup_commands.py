"""The commands that set up and check: ``init``, ``doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from vlmdet_cli.cli import step_tables
from vlmdet_cli.cli.session import Session


def init(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write into.", show_default=False)
    ] = Path(),
    demo: Annotated[
        bool, typer.Option("--demo", metavar="", help="Write the demo: pictures, a tiny model, its project.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help="The model to train, a folder or a hub's name: sets what fits its family."),
    ] = "",
) -> None:
    """Write a project file with every key explained, or the whole demo.

    Example: vlmdet init mine --model Qwen/Qwen3-VL-4B-Instruct
    """
    from vlmdet_cli.stages import init as stage

    session: Session = context.obj
    with session.output.progress():
        result = stage.init(folder, demo=demo, model=model)
    session.output.result(result, *step_tables.init(result))


def doctor(context: typer.Context) -> int:
    """Check versions, GPU, swift, paths and disk; say what to do.

    Exits with 1 if a check is a problem.
    """
    from vlmdet_cli.stages import doctor as stage

    session: Session = context.obj
    checks = stage.doctor(session.project_file, session.options.sets)
    session.output.result(checks, *step_tables.doctor(checks))
    return int(any(check.state == "problem" for check in checks))
