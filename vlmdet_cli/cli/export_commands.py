"""The command on files of other programs: ``export``."""

from pathlib import Path
from typing import Annotated

import typer

from vlmdet_cli.cli import step_tables
from vlmdet_cli.cli.inference_commands import AnsweredSplit, AnsweringRun, AnswersName
from vlmdet_cli.cli.session import Session


def export(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="fiftyone, supervision, coco, cvat, label-studio.")],
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="Ground truth: COCO or detection JSON.")] = None,
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help="The same files as for eval.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the pictures.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the files.", show_default="export/ beside the answers"),
    ] = None,
    name: AnswersName = "",
    split: AnsweredSplit = "",
    run: AnsweringRun = "",
    address: Annotated[
        str,
        typer.Option(
            metavar="URL", help="What Label Studio finds a picture's name behind.", show_default="local files"
        ),
    ] = "",
) -> None:
    """Write truth and predictions as files of other programs.

    Example: vlmdet export --to label-studio
    """
    from vlmdet_cli.stages.evaluation import export as stage
    from vlmdet_cli.stages.evaluation import export_inputs
    from vlmdet_cli.stages.evaluation.eval_inputs import EvalRequest

    session: Session = context.obj
    request = EvalRequest(truth=truth, predictions=predictions, name=name, split=split, run=run)
    job = export_inputs.export_job(session.project, request, images=images, output=output)
    result = stage.export(job, to, address)
    session.output.result(result, *step_tables.export(result))
