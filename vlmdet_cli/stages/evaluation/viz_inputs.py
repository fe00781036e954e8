"""The input of ``viz``: files named on the command line, or a prepared split with its answers and its run's curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import GetProject, Project, runs
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
from vlmdet_cli.stages.evaluation.viz import OtherAnswers, VizRequest


class AnsweredFiles(NamedTuple):
    """Answers of a project, None where there are none, and what they belong to: truth, pictures, results, protocol."""

    project: Project
    results: ResultFolder
    name: str
    truth: Path
    predictions: Path | None
    images: Path
    protocol: EvalProtocol


def viz_job(project: GetProject, request: EvalRequest, *, images: Path | None, output: Path | None) -> VizRequest:
    """The files and settings to draw with. The project is loaded where truth or ``images`` is not named.

    The truth belongs to the answers, as for ``eval``.
    """
    if request.truth and images:
        return VizRequest(
            truth=request.truth,
            predictions=request.predictions,
            images=images,
            output=output or Path("viz"),
        )
    files = answered_files(project, request, images)
    return VizRequest(
        truth=files.truth,
        predictions=files.predictions,
        images=files.images,
        output=output or files.results.viz(files.name),
        limit=files.project.config.viz.pictures,
        order=files.project.config.viz.order,
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


def comparison_job(project: GetProject, models: Sequence[str], request: EvalRequest, output: Path | None) -> VizRequest:
    """As ``viz_job``, of the second of two models, compared with the first; each is a run's name, or the name of
    answers of a model that is no run.

    Raises ``UsageError`` for another number of models, for files that are named, and for answers that are not there.
    """
    if len(models) != 2:
        raise UsageError(
            f"Two runs are compared, not {len(models)}",
            hint="vlmdet viz run-001 run-002; without names: the latest run.",
        )
    if request.truth or request.predictions or request.run:
        raise UsageError("Runs are named, and files or --run too", hint="Leave out --truth, --predictions and --run.")
    loaded = project()
    before, after = (_answers_of(loaded, model, request) for model in models)
    own = EvalRequest(predictions=after.path, name=after.path.stem, split=request.split, run=after.run)
    output = output or after.results.viz(f"{after.path.stem}-{before.model}")
    job = viz_job(project, own, images=None, output=output)
    return msgspec.structs.replace(job, other=OtherAnswers(before.path, (before.model, after.model)))


class _ModelAnswers(NamedTuple):
    """The answers of a model by its name; ``run`` is empty where it is no run."""

    model: str
    run: str
    results: ResultFolder
    path: Path


def _answers_of(project: Project, model: str, request: EvalRequest) -> _ModelAnswers:
    is_run = model in {run.name for run in runs.runs(project.runs)}
    if not is_run and project.results.answers(model).is_file():
        return _ModelAnswers(model, "", project.results, project.results.answers(model))
    run = project.run(model)  # raises where there is none
    path = run.answers(answers_name(project, request))
    if not path.is_file():
        raise UsageError(f"No answers of {model}: {path}", hint=f"Run `vlmdet infer --run {model}` first.")
    return _ModelAnswers(model, model, run, path)


def _curve(project: Project, results: ResultFolder) -> Path | None:
    """The training log of the run whose answers are drawn, else of the newest run that has one."""
    newest = reversed(runs.runs(project.runs))
    logs = (run.training_log() for run in ([results] if isinstance(results, Run) else newest))
    return next((log for log in logs if log), None)
