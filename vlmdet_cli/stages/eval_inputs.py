"""What ``eval`` compares: two files named on the command line, or those of the project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Eval, Project
from vlmdet_cli.project.runs import ResultFolder
from vlmdet_cli.stages.evaluate import EvalProtocol

GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none


class EvalJob(msgspec.Struct, frozen=True, kw_only=True):
    truth: Path
    predictions: Path
    protocol: EvalProtocol
    gates: tuple[str, ...]
    report: Path | None


def eval_job(
    project: GetProject, *, truth: Path | None, predictions: Path | None, name: str, **overrides: Any
) -> EvalJob:
    """The two files to compare; both named, or the missing one from the project.

    ``overrides``: fields of the protocol that are used in place of the settings, where they are not None.
    """
    chosen = {key: value for key, value in overrides.items() if value is not None}
    if truth and predictions:
        protocol = eval_protocol(Eval(), **chosen)
        return EvalJob(truth=truth, predictions=predictions, protocol=protocol, gates=(), report=None)
    loaded = project()
    results = results_with(loaded, name or loaded.config.infer.split)
    truth = truth or prepared_truth(loaded)
    predictions = predictions or _answers(results, name or loaded.config.infer.split)
    context = {"seed": loaded.config.project.seed, "config": _settings(loaded, predictions)}
    return EvalJob(
        truth=truth,
        predictions=predictions,
        protocol=eval_protocol(loaded.config.eval, **context, **chosen),
        gates=loaded.config.eval.fail_under,
        report=results.report(predictions.stem),
    )


def eval_protocol(settings: Eval, **chosen: Any) -> EvalProtocol:
    """The protocol of the project's settings, with what was chosen in their place."""
    names = ("iou", "classes", "duplicates", "scores")
    return msgspec.convert({name: getattr(settings, name) for name in names} | chosen, EvalProtocol)


def _settings(project: Project, predictions: Path) -> dict[str, Any]:
    """The project's settings and whose answers these are: what a comparison tells runs apart by."""
    settings: dict[str, Any] = msgspec.to_builtins(project.config)
    meta = predictions.with_suffix(".meta.json")
    return settings | {"answered_by": file_hash(meta)[:12] if meta.is_file() else None}


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
