"""The input of ``viz``: files named on the command line, or a prepared split with its answers and its run's curve."""

from pathlib import Path

import msgspec

from vlmdet_cli.project import GetProject, Project, Viz, runs
from vlmdet_cli.project.runs import ResultFolder, Run
from vlmdet_cli.stages.evaluation.eval_inputs import (
    EvalRequest,
    answers_name,
    eval_protocol,
    results_with,
    split_of,
    truth_of,
)
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol


class VizJob(msgspec.Struct, frozen=True, kw_only=True):
    """The files to draw and the settings; without predictions, viz draws the truth alone."""

    truth: Path
    predictions: Path | None
    images: Path
    output: Path
    settings: Viz
    protocol: EvalProtocol
    curve: Path | None


def viz_job(project: GetProject, request: EvalRequest, *, images: Path | None, output: Path | None) -> VizJob:
    """The files and settings to draw with. The project is loaded where truth or ``images`` is not named.

    The truth belongs to the answers, as for ``eval``.
    """
    if request.truth and images:
        return VizJob(
            truth=request.truth,
            predictions=request.predictions,
            images=images,
            output=output or Path("viz"),
            settings=Viz(),
            protocol=EvalProtocol(),
            curve=None,
        )
    loaded = project()
    name = answers_name(loaded, request)
    results = results_with(loaded, name, request.run)
    loaded = loaded.with_data_of(results)
    answers = results.answers(name)
    predictions = request.predictions or (answers if answers.is_file() else None)
    belongs = split_of(loaded, predictions or answers, request.split)
    return VizJob(
        truth=request.truth or truth_of(loaded, predictions or answers, belongs),
        predictions=predictions,
        images=images or loaded.images(belongs.name),
        output=output or results.viz(name),
        settings=loaded.config.viz,
        protocol=eval_protocol(loaded.config.eval, rows_must_fit=not (request.truth or belongs.stated)),
        curve=_curve(loaded, results),
    )


def _curve(project: Project, results: ResultFolder) -> Path | None:
    """The training log of the run whose answers are drawn, else of the newest run that has one."""
    newest = reversed(runs.runs(project.runs))
    logs = (run.training_log() for run in ([results] if isinstance(results, Run) else newest))
    return next((log for log in logs if log), None)
