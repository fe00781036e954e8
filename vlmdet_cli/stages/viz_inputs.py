"""The input of ``viz``: files named on the command line, or a prepared split with its answers and its run's curve."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from vlmdet_cli.project import Project, Viz, runs
from vlmdet_cli.project.runs import ResultFolder, Run
from vlmdet_cli.stages.eval_inputs import eval_protocol, prepared_truth, results_with
from vlmdet_cli.stages.evaluate import EvalProtocol

GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none


class VizJob(msgspec.Struct, frozen=True, kw_only=True):
    """The files to draw and the settings; without predictions, viz draws the truth alone."""

    truth: Path
    predictions: Path | None
    images: Path
    output: Path
    settings: Viz
    protocol: EvalProtocol
    curve: Path | None


def viz_job(
    project: GetProject,
    *,
    truth: Path | None,
    predictions: Path | None,
    images: Path | None,
    output: Path | None,
    name: str,
) -> VizJob:
    """The files and settings to draw with. The project is loaded where ``truth`` or ``images`` is not named."""
    if truth and images:
        settings = Viz()
        return VizJob(
            truth=truth,
            predictions=predictions,
            images=images,
            output=output or Path("viz"),
            settings=settings,
            protocol=EvalProtocol(),
            curve=None,
        )
    loaded = project()
    name = name or loaded.config.infer.split
    split = loaded.config.infer.split
    results = results_with(loaded, name)
    return VizJob(
        truth=truth or prepared_truth(loaded),
        predictions=predictions or (path if (path := results.answers(name)).is_file() else None),
        images=images or loaded.images(split),
        output=output or results.viz(name),
        settings=loaded.config.viz,
        protocol=eval_protocol(loaded.config.eval),
        curve=_curve(loaded, results),
    )


def _curve(project: Project, results: ResultFolder) -> Path | None:
    """The training log of the run whose answers are drawn, else of the newest run that has one."""
    newest = reversed(runs.runs(project.runs))
    logs = (run.training_log() for run in ([results] if isinstance(results, Run) else newest))
    return next((log for log in logs if log), None)
