"""The commands that train: ``train``, ``merge``."""

from typing import Annotated

import typer

from vlmdet_cli.cli import step_tables
from vlmdet_cli.cli.session import Session


def train(
    context: typer.Context,
    swift_arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- SWIFT ARGUMENT", help="Arguments to pass to swift unchanged.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on from the latest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Print swift's command and stop.")] = False,
) -> None:
    """Fine-tune the model with `swift sft`.

    Example: vlmdet train -- --gradient_checkpointing true
    """
    from vlmdet_cli.stages import train as stage

    session: Session = context.obj
    project = session.project()
    planned = stage.plan(project, swift_arguments or (), resume=resume)
    if dry_run:
        session.talk.data(planned.command.quoted())
        return
    session.talk.detail(planned.command.quoted())
    with session.talk.progress() as bars:
        result = stage.train(project, planned, step_tables.TrainingProgress(session.talk, bars), session.warn)
    session.talk.result(result, *step_tables.train(result))


def merge(
    context: typer.Context,
    checkpoint: Annotated[
        str, typer.Option(metavar="DIR|STEP", help="Checkpoint folder or step.", show_default="the latest")
    ] = "",
) -> None:
    """Merge the trained adapter into a model folder.

    Example: vlmdet merge --checkpoint 500
    """
    from vlmdet_cli.stages import merge as stage

    session: Session = context.obj
    project = session.project()
    with session.talk.progress() as bars:
        result = stage.merge(project, checkpoint, lambda: bars("merge", 0, 0))
    session.talk.result(result, *step_tables.merge(result))
