"""The input of ``export``: files named on the command line, or a prepared split with its answers."""

from pathlib import Path

from vlmdet_cli.project import GetProject
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.evaluation.eval_inputs import EvalRequest
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol
from vlmdet_cli.stages.evaluation.export import ExportJob
from vlmdet_cli.stages.evaluation.viz_inputs import answered_files


def export_job(project: GetProject, request: EvalRequest, *, images: Path | None, output: Path | None) -> ExportJob:
    """The files to export. The project is loaded where no truth is named."""
    if request.truth:
        return ExportJob(
            truth=request.truth,
            predictions=request.predictions,
            images=images,
            output=output or Path("export"),
            model=request.predictions.stem if request.predictions else "",
            protocol=EvalProtocol(),
        )
    files = answered_files(project, request, images)
    return ExportJob(
        truth=files.truth,
        predictions=files.predictions,
        images=files.images,
        output=output or files.results.export(files.name),
        model=files.results.name if isinstance(files.results, Run) else files.name,
        protocol=files.protocol,
    )
