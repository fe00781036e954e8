"""What ``viz`` draws: files named on the command line, or a prepared split with its answers and its run's curve."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from vlmdet_cli.project import Project, Viz, runs
from vlmdet_cli.stages.eval_inputs import prepared_truth

GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none


class VizJob(msgspec.Struct, frozen=True, kw_only=True):
    truth: Path
    predictions: Path | None
    images: Path
    output: Path
    settings: Viz
    iou: float
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
    """What to draw: named files, or the project's prepared split with its answers and its latest run's curve."""
    if truth and images:
        settings = Viz()
        return VizJob(
            truth=truth,
            predictions=predictions,
            images=images,
            output=output or Path("viz"),
            settings=settings,
            iou=0.5,
            curve=None,
        )
    loaded = project()
    name = name or loaded.config.infer.split
    split = loaded.config.infer.split
    return VizJob(
        truth=truth or prepared_truth(loaded),
        predictions=predictions or (path if (path := loaded.answers(name)).is_file() else None),
        images=images or loaded.images(split),
        output=output or loaded.viz(name),
        settings=loaded.config.viz,
        iou=loaded.config.eval.iou,
        curve=_curve(loaded),
    )


def _curve(project: Project) -> Path | None:
    """The training log of the newest run that has one."""
    for run in reversed(runs.run_folders(project.runs)):
        if logs := sorted(run.glob("*/logging.jsonl")):
            return logs[-1]
    return None
