"""What ``eval`` compares: two files named on the command line, or those of the project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Eval, Project
from vlmdet_cli.project.runs import ResultFolder
from vlmdet_cli.stages import evaluate

GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none


class EvalJob(msgspec.Struct, frozen=True, kw_only=True):
    truth: Path
    predictions: Path
    how: evaluate.EvalProtocol
    gates: tuple[str, ...]
    report: Path | None


def eval_job(project: GetProject, *, truth: Path | None, predictions: Path | None, name: str, **how: Any) -> EvalJob:
    """The two files to compare; both named, or the missing one from the project. ``how``: what overrides settings."""
    loaded = None if truth and predictions else project()
    settings = loaded.config.eval if loaded else Eval()
    results = None
    if loaded:
        truth = truth or prepared_truth(loaded)
        results = results_with(loaded, name or loaded.config.infer.split)
        predictions = predictions or _answers(results, name or loaded.config.infer.split)
    assert truth is not None  # noqa: S101  (named, or the project's)
    assert predictions is not None  # noqa: S101
    plain: dict[str, Any] = {"iou": settings.iou, "classes": settings.classes, "scores": settings.scores}
    if loaded:
        plain |= {"seed": loaded.config.project.seed, "config": _settings(loaded, predictions)}
    return EvalJob(
        truth=truth,
        predictions=predictions,
        how=msgspec.convert(
            plain | {key: value for key, value in how.items() if value is not None}, evaluate.EvalProtocol
        ),
        gates=settings.fail_under,
        report=results.report(predictions.stem) if results else None,
    )


def _settings(project: Project, predictions: Path) -> dict[str, Any]:
    """The project's settings and whose answers these are: what a comparison tells runs apart by."""
    made: dict[str, Any] = msgspec.to_builtins(project.config)
    meta = predictions.with_suffix(".meta.json")
    return made | {"answered_by": file_hash(meta)[:12] if meta.is_file() else None}


def prepared_truth(project: Project) -> Path:
    split = project.config.infer.split
    if not project.subset(split).is_file():
        raise UsageError(f"The split {split} is not prepared: {project.subset(split)}", hint="Run `vlmdet prepare`.")
    return project.subset(split)


def results_with(project: Project, name: str) -> ResultFolder:
    """The latest done run, if it has answers ``name`` or the models that are no run have none; else theirs."""
    run = project.results_of()
    return run if run.answers(name).is_file() or not project.results.answers(name).is_file() else project.results


def _answers(results: ResultFolder, name: str) -> Path:
    path = results.answers(name)
    if not path.is_file():
        raise UsageError(f"No answers: {path}", hint="Run `vlmdet infer` first, or name a file with --predictions.")
    return path
