"""The input of ``viz``: files named on the command line, or a prepared split with its answers and its run's curve."""

from pathlib import Path
from typing import NamedTuple

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


class AnsweredFiles(NamedTuple):
    """Answers of a project, None where there are none, and what they belong to: truth, pictures, results, protocol."""

    project: Project
    results: ResultFolder
    name: str
    truth: Path
    predictions: Path | None
    images: Path
    protocol: EvalProtocol


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
    files = answered_files(project, request, images)
    return VizJob(
        truth=files.truth,
        predictions=files.predictions,
        images=files.images,
        output=output or files.results.viz(files.name),
        settings=files.project.config.viz,
        protocol=files.protocol,
        curve=_curve(files.project, files.results),
    )


def answered_files(project: GetProject, request: EvalRequest, images: Path | None) -> AnsweredFiles:
    """What the project has of the answers that are meant; files that the request names take their place."""
    loaded = project()
    name = answers_name(loaded, request)
    results = results_with(loaded, name, request.run)
    loaded = loaded.with_data_of(results)
    answers = results.answers(name)
    predictions = request.predictions or (answers if answers.is_file() else None)
    belongs = split_of(loaded, predictions or answers, request.split)
    return AnsweredFiles(
        project=loaded,
        results=results,
        name=name,
        truth=request.truth or truth_of(loaded, predictions or answers, belongs),
        predictions=predictions,
        images=images or loaded.images(belongs.name),
        protocol=eval_protocol(loaded.config.eval, rows_must_fit=not (request.truth or belongs.stated)),
    )


def _curve(project: Project, results: ResultFolder) -> Path | None:
    """The training log of the run whose answers are drawn, else of the newest run that has one."""
    newest = reversed(runs.runs(project.runs))
    logs = (run.training_log() for run in ([results] if isinstance(results, Run) else newest))
    return next((log for log in logs if log), None)
