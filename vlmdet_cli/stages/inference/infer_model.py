"""The model that ``infer`` asks, the form in which it is asked, and the folder of its answers.

A model is asked as it was trained: its pixel limit, system prompt and dialect come from what is recorded beside it
(``project.runs.trained_settings``); today's project file speaks only for a model of which nothing is recorded.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from vlmdet_cli.engines import SwiftModel
from vlmdet_cli.engines.choice import asks_server
from vlmdet_cli.engines.server import engine as server
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.errors import UsageError, first_few
from vlmdet_cli.models import adapters, registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.project import Format, Infer, Project
from vlmdet_cli.project.run_record import TrainedSettings
from vlmdet_cli.project.runs import ResultFolder, Run, runs, trained_settings
from vlmdet_cli.stages.inference.infer_shards import Shard
from vlmdet_cli.stages.merging.merged_model import merged_model
from vlmdet_cli.training import hub


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``infer``; what is empty or None comes from the project.

    ``model``: a folder, a hub's name, or a name at a server. ``shard``: (i, n) for the i-th of n parts of a prepared
    split. ``categories``: those to ask for in named pictures. ``in_project``: whether the command line names a project.
    ``sets``: ``KEY=VALUE`` settings, for pictures that are asked without a project. ``show_download``: show the bars of
    a hub's download.
    """

    images: Sequence[Path] = ()
    model: str = ""
    adapter: Path | None = None
    run: str = ""
    split: str = ""
    name: str = ""
    output: Path | None = None
    shard: Shard | None = None
    categories: Sequence[str] = ()
    in_project: bool = False
    sets: Sequence[str] = ()
    show_download: bool = False


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The model to ask. ``name``: its folder, its hub's name, or its name at a server. ``results``: the folder of its
    answers, None where there is no project. ``prefix``: what comes before the split in its answers' default name.
    ``run``: the run whose model or checkpoint it is.
    """

    model: Path
    name: str
    adapter: Path | None = None
    results: ResultFolder | None = None
    prefix: str = ""
    run: Run | None = None
    warning: str = ""


class AskedAs(msgspec.Struct, frozen=True, kw_only=True):
    """In which form the model is asked and answers. ``noise_label``: see ``TrainedSettings``."""

    family: Family
    dialect: str
    max_pixels: int | None
    system: str | None
    swift: SwiftModel
    noise_label: str = ""


class ResultChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model's answers are kept: ``results``, ``prefix`` and ``run`` of ``ModelChoice``."""

    results: ResultFolder | None
    prefix: str
    run: Run | None


def choose_results(project: Project | None, request: InferRequest) -> ResultChoice:
    """The folder of the answers; the model itself may be on another machine.

    Raises ``UsageError`` for a run that is not there, or where neither a model nor a project is named.
    """
    run = project.run(request.run) if project and request.run else None
    if request.adapter is not None:
        run = run or _run_of(project, request.adapter)
        prefix = f"{request.adapter.absolute().name}-"
    elif model := request.model or (_server_model(project) if not request.run else ""):
        prefix = f"{Path(model).absolute().name}-"
    elif project is not None:
        run, prefix = run or project.run(), ""
    else:
        raise UsageError("No model is named", hint="Name one with --model, or a project with -p.")
    return ResultChoice(results=run or (project.results if project else None), prefix=prefix, run=run)


def choose_model(project: Project | None, request: InferRequest, settings: Infer) -> ModelChoice:
    """A model by name, an adapter on its base model, or the merged model of a run."""
    if asks_server(settings):
        return _served_model(project, request, settings.server)
    if request.adapter is not None and not (request.adapter / "adapter_config.json").is_file():
        raise UsageError(f"No LoRA adapter: {request.adapter}", hint="An adapter folder holds adapter_config.json.")
    kept = choose_results(project, request)
    warning = ""
    if request.adapter is None and not request.model and kept.run is not None:
        model, warning = merged_model(kept.run)
        name = str(model)
    else:
        name = request.model or (_base_model(project, request.adapter) if request.adapter else "")
        model = _model_folder(name, request, project.config.format.dialect if project else "")
        warning = _base_warning(request.adapter, model, name) if request.adapter else ""
    return ModelChoice(
        model=model,
        name=name,
        adapter=request.adapter,
        results=kept.results,
        prefix=kept.prefix,
        run=kept.run,
        warning=warning,
    )


def _served_model(project: Project | None, request: InferRequest, options: ServerOptions) -> ModelChoice:
    """A model of a server, without a name its only one. Its folder need not be here; what is known of it comes from the
    folder that is named, from its run, from the server's own folder on this machine, or from a name.
    """
    is_named = project or request.model or request.adapter
    kept = choose_results(project, request) if is_named else ResultChoice(results=None, prefix="", run=None)
    merged = str(kept.run.merged) if kept.run else ""
    named = str(request.adapter or request.model or merged or options.model)
    served = server.served_model(options, named)
    names = [name for name in (named, merged, served.root) if name]
    known = next((name for name in names if Path(name).expanduser().is_dir()), merged)
    known = known or next(filter(_tells_family, [*names, served.name]), served.name)
    return ModelChoice(
        model=Path(known).expanduser(), name=served.name, results=kept.results, prefix=kept.prefix, run=kept.run
    )


def _tells_family(name: str) -> bool:
    try:
        registry.family_of(name)
    except UsageError:
        return False
    return True


def _server_model(project: Project | None) -> str:
    """The name of the server's model in the project file, where a server is the engine."""
    return project.config.infer.server.model if project and asks_server(project.config.infer) else ""


def _base_warning(adapter: Path, model: Path, name: str) -> str:
    """A warning where an adapter that fits the model was trained on one of another name.

    Raises ``UsageError`` where it does not fit.
    """
    base = adapters.base_name(adapter)
    if sentences := adapters.misfits(adapter, model):
        raise UsageError(
            f"The adapter was trained on another model: {adapter}",
            why=[f"It is of {base or 'an unnamed model'}; the model is {name}.", *first_few(sentences)],
            hint="Name the model that it was trained on with --model.",
        )
    parts = [set(Path(value.replace("--", "/")).parts) for value in (base, name)]
    if not base or Path(name).name in parts[0] or Path(base).name in parts[1]:
        return ""
    return f"the adapter was trained on {base}, and it is put on {name}."


def _run_of(project: Project | None, checkpoint: Path) -> Run | None:
    """The run that a checkpoint lies in."""
    parents = set(checkpoint.resolve().parents)
    return next((run for run in runs(project.runs) if run.folder.resolve() in parents), None) if project else None


def _base_model(project: Project | None, adapter: Path) -> str:
    """The model that an adapter was trained on: as recorded, where that is here or of a hub, else the project's."""
    trained = trained_settings(adapter)
    if trained and trained.model and (Path(trained.model).is_dir() or hub.is_hub_name(trained.model)):
        return trained.model
    return project.model(project.config.train.model) if project else ""


def _model_folder(model: str, request: InferRequest, dialect: str) -> Path:
    """The folder of a model; a hub's model is downloaded where it is not cached. ``dialect``: see ``family_of``."""
    folder = Path(model).expanduser()
    if hub.is_hub_name(model) and not folder.is_dir():
        registry.family_of(model, dialect=dialect)  # an unknown one is refused before its weights are downloaded
        return hub.model_folder(model, show_progress=request.show_download)
    if not model or not (folder / "config.json").is_file():
        raise UsageError(
            f"No model folder: {model or 'none is named'}",
            hint="A model folder holds config.json and weights. A hub's name is ORGANISATION/NAME.",
        )
    return folder


def asked_as(project: Project | None, choice: ModelChoice, settings: Infer) -> AskedAs:
    """What is recorded of the model's training; where nothing is, what the project file says, else the family."""
    trained = trained_settings(choice.adapter or choice.model)
    format_ = project.config.format if project else Format()
    dialect = (trained.dialect if trained else "") or format_.dialect
    family = _family(choice, trained, settings, dialect)
    flags = project.config.train.swift if project else {}
    if trained is not None:
        max_pixels, system = trained.max_pixels, trained.system
    else:
        limit = flags.get("max_pixels")
        max_pixels = limit if isinstance(limit, int) else family.pixel_limit(choice.model)
        system = project.system if project else None
    return AskedAs(
        family=family,
        dialect=dialect or family.dialect,
        max_pixels=max_pixels,
        system=system,
        swift=_swift_model(project, family, trained),
        noise_label=trained.noise_label if trained else "",
    )


def _swift_model(project: Project | None, family: Family, trained: TrainedSettings | None) -> SwiftModel:
    """The flags by which swift was given the model in training, else those of the project file, else the family's."""
    written = project.config.train.swift if project else {}
    recorded = {"model_type": trained.model_type, "template": trained.template} if trained else {}
    of_family, flags = family.swift_flags(), dict[str, str]()
    for name in ("model_type", "template"):
        flags[name] = recorded.get(name) or str(written.get(name, of_family.get(name, "")))
    return SwiftModel(**flags, plugins=_plugins(project, trained))


def _plugins(project: Project | None, trained: TrainedSettings | None) -> tuple[Path, ...]:
    """The plug-ins that swift was given in training, where they are still there, else those of the project file."""
    recorded = tuple(Path(path) for path in trained.external_plugins) if trained else ()
    if project is None or (recorded and all(path.is_file() for path in recorded)):
        return recorded
    written = [project.config.train.swift.get(name, []) for name in ("external_plugins", "custom_register_path")]
    names = [name for value in written for name in (value if isinstance(value, list) else [value])]
    return tuple(project.path(str(name)).resolve() for name in names)


def _family(choice: ModelChoice, trained: TrainedSettings | None, settings: Infer, dialect: str) -> Family:
    """The family that the project file names, else the one of the model's folder, of its training, or of its name.

    ``dialect``: see ``family_of``.
    """
    if settings.family:
        return registry.get(settings.family)
    if trained and trained.family and not (choice.model / "config.json").is_file():
        return registry.get(trained.family)
    try:
        return registry.family_of(str(choice.model), dialect=dialect)
    except UsageError as error:
        raise UsageError(error.what, why=error.why, hint=f"{error.hint} Name it with infer.family.") from None
