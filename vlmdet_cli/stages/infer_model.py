"""The model that ``infer`` asks, the form in which it is asked, and the folder of its answers.

A model is asked as it was trained: its pixel limit, system prompt and dialect come from what is recorded beside it
(``project.runs.trained_settings``); today's project file speaks only for a model of which nothing is recorded.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.project import Format, Project
from vlmdet_cli.project.runs import ResultFolder, Run, runs, trained_settings
from vlmdet_cli.stages.merge import merged_model


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``infer``; what is empty or None comes from the project."""

    images: Sequence[Path] = ()
    model: Path | None = None
    adapter: Path | None = None
    run: str = ""
    split: str = ""
    name: str = ""
    output: Path | None = None


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The model to ask. ``results``: the folder of its answers, None where there is no project. ``prefix``: what comes
    before the split in its answers' default name. ``run``: the run whose model or checkpoint it is.
    """

    model: Path
    adapter: Path | None = None
    results: ResultFolder | None = None
    prefix: str = ""
    run: Run | None = None
    warning: str = ""


class AskedAs(msgspec.Struct, frozen=True, kw_only=True):
    """In which form the model is asked and answers."""

    family: Family
    dialect: str
    max_pixels: int | None
    system: str | None


def choose_model(project: Project | None, request: InferRequest) -> ModelChoice:
    """A model folder by name, an adapter on its base model, or the merged model of a run."""
    if request.adapter is not None:
        return _adapter(project, request, request.adapter)
    if request.model is not None:
        run = project.run(request.run) if project and request.run else None
        results = run or (project.results if project else None)
        model = _model_folder(request.model)
        return ModelChoice(model=model, results=results, run=run, prefix=f"{model.absolute().name}-")
    if project is None:
        raise UsageError("No model is named", hint="Name a folder with --model, or a project with -p.")
    run = project.run(request.run)
    model, warning = merged_model(run)
    return ModelChoice(model=model, results=run, run=run, warning=warning)


def _adapter(project: Project | None, request: InferRequest, adapter: Path) -> ModelChoice:
    if not (adapter / "adapter_config.json").is_file():
        raise UsageError(f"No LoRA adapter: {adapter}", hint="An adapter folder holds adapter_config.json.")
    run = _run_of(project, adapter) if project else None
    if project and request.run:
        run = project.run(request.run)
    results = run or (project.results if project else None)
    model = _model_folder(request.model or _base_model(project, adapter))
    return ModelChoice(model=model, adapter=adapter, results=results, run=run, prefix=f"{adapter.absolute().name}-")


def _run_of(project: Project, checkpoint: Path) -> Run | None:
    """The run that a checkpoint lies in."""
    parents = set(checkpoint.resolve().parents)
    return next((run for run in runs(project.runs) if run.folder.resolve() in parents), None)


def _base_model(project: Project | None, adapter: Path) -> Path | None:
    """The model that an adapter was trained on: as recorded, where that is a folder here, else the project's."""
    trained = trained_settings(adapter)
    if trained and trained.model and Path(trained.model).is_dir():
        return Path(trained.model)
    return Path(project.model(project.config.train.model)) if project else None


def _model_folder(model: Path | None) -> Path:
    if model is None or not (model / "config.json").is_file():
        raise UsageError(f"No model folder: {model}", hint="A model folder holds config.json and weights.")
    return model


def asked_as(project: Project | None, choice: ModelChoice) -> AskedAs:
    """What is recorded of the model's training; where nothing is, what the project file says, else the family."""
    family = registry.family_of(str(choice.model))
    trained = trained_settings(choice.adapter or choice.model)
    format_ = project.config.format if project else Format()
    flags = project.config.train.swift if project else {}
    if trained is not None:
        dialect, max_pixels, system = trained.dialect, trained.max_pixels, trained.system
    else:
        limit, prompt = flags.get("max_pixels"), flags.get("system")
        dialect = ""
        max_pixels = limit if isinstance(limit, int) else family.pixel_limit(choice.model)
        system = prompt if isinstance(prompt, str) else None
    return AskedAs(
        family=family, dialect=dialect or format_.dialect or family.dialect, max_pixels=max_pixels, system=system
    )
