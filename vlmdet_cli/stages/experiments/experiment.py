"""experiment: each variant of the project file's experiments through all steps, as a run of its own, and one table.

    out/datasets/3f2a…/    prepared data, shared by the variants whose settings of the data are the same;
                           dataset.json is written last
    out/runs/rank-8/       the run of a variant

What is done is not done again: a stopped experiment goes on where it was. A variant that fails is kept in the result
with its error, and the others go on.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

from vlmdet_cli.core.files import write_json
from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import UsageError, VlmdetError
from vlmdet_cli.project import SPLITS, Project, convert, runs
from vlmdet_cli.project.config import plain
from vlmdet_cli.project.experiments import Variant, select, variants
from vlmdet_cli.project.run_record import RECORD, RunState
from vlmdet_cli.project.searches import Search, is_search, read_search
from vlmdet_cli.stages.data import shards
from vlmdet_cli.stages.data.augment import augment
from vlmdet_cli.stages.data.prepare import prepare
from vlmdet_cli.stages.data.split_selection import Progress
from vlmdet_cli.stages.evaluation import eval_inputs
from vlmdet_cli.stages.evaluation.compare import read_report
from vlmdet_cli.stages.evaluation.eval_inputs import EvalRequest
from vlmdet_cli.stages.evaluation.evaluate import evaluate
from vlmdet_cli.stages.experiments.experiment_result import ExperimentResult, Outcome, summarize
from vlmdet_cli.stages.experiments.search import known_trials, run_search
from vlmdet_cli.stages.inference.infer_inputs import infer_job
from vlmdet_cli.stages.inference.infer_model import InferRequest
from vlmdet_cli.stages.inference.infer_progress import OnProgress
from vlmdet_cli.stages.merging import model_card
from vlmdet_cli.stages.merging.merge import MergeOptions, merge
from vlmdet_cli.stages.merging.merged_model import merged_model
from vlmdet_cli.stages.training import train_changes, train_plan
from vlmdet_cli.stages.training.train import Note, train
from vlmdet_cli.stages.training.train_plan import TrainOptions
from vlmdet_cli.training.log_reader import Report

MARK = "dataset.json"


class ExperimentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The command line. ``names``: of experiments, all where empty. ``seeds``: repeat with that many seeds of training.

    ``split``: the prepared split that is measured, ``val`` where it is empty and there is one.
    """

    names: Sequence[str] = ()
    seeds: int = 0
    split: str = ""


class Listeners(NamedTuple):
    """Who hears of the progress: of variants, of data, of training steps, of answers; warnings; details."""

    on_variant: Callable[[Variant, int, int], None]
    on_data: Progress
    on_step: Report
    on_answers: OnProgress
    warn: Note
    detail: Note


class PlannedVariant(msgspec.Struct, frozen=True, kw_only=True):
    """A variant before it runs. ``state``: of its run, "" where there is none."""

    name: str
    experiment: str
    settings: dict[str, object]
    state: RunState | str


def plan(project: Project, request: ExperimentRequest) -> list[PlannedVariant]:
    """What ``experiment`` would run, and how far that is; the trials of a search that are not chosen yet in one row."""
    planned = list[PlannedVariant]()
    for item in _planned(project, request):
        chosen = known_trials(item, project.output) if isinstance(item, Search) else [item]
        planned += [_planned_variant(project, variant) for variant in chosen]
        if isinstance(item, Search) and len(chosen) < item.trials:
            name = f"{item.name}-trial{len(chosen)} … {item.trials - 1}"
            planned.append(PlannedVariant(name=name, experiment=item.name, settings=item.in_words(), state=""))
    return planned


def _planned_variant(project: Project, variant: Variant) -> PlannedVariant:
    run = _run_of(project, variant)
    return PlannedVariant(
        name=variant.name,
        experiment=variant.experiment,
        settings=variant.overrides,
        state=run.state if run else "",
    )


def _planned(project: Project, request: ExperimentRequest) -> list[Variant | Search]:
    """The variants of the experiments that are grids, and the searches, in the order of the file.

    Raises ``UsageError`` for a name that no experiment has, and for a search that is to be repeated with seeds.
    """
    tables = select(project.config.experiments, request.names)
    searches = {name: read_search(name, table) for name, table in tables.items() if is_search(table)}
    if searches and request.seeds:
        raise UsageError(
            f"--seeds repeats no search: {', '.join(searches)}",
            hint="Repeat its best trial: write its values as an experiment.",
        )
    grids = {name: table for name, table in tables.items() if name not in searches}
    known = variants(grids, (), request.seeds) if grids else []
    planned = list[Variant | Search]()
    for name in tables:
        planned += [searches[name]] if name in searches else [v for v in known if v.experiment == name]
    return planned


def experiment(project: Project, request: ExperimentRequest, listeners: Listeners) -> ExperimentResult:
    """Run all variants that are not done yet. Raises ``UsageError`` for a name or a split that there is not."""
    planned = _planned(project, request)
    if request.split and request.split not in SPLITS:
        raise UsageError(f"No such split: {request.split}", hint=f"There are {', '.join(SPLITS)}.")
    total = sum(item.trials if isinstance(item, Search) else 1 for item in planned)
    outcomes = list[Outcome]()

    def f1(variant: Variant) -> float | None:
        listeners.on_variant(variant, len(outcomes) + 1, total)
        outcomes.append(_outcome(project_of(project, variant), variant, request.split, listeners))
        return read_report(Path(outcomes[-1].report)).overall["f1"] or 0.0 if outcomes[-1].report else None

    for item in planned:
        if isinstance(item, Search):
            run_search(item, project.output, f1)
        else:
            f1(item)
    return summarize(outcomes, [item.name for item in planned if isinstance(item, Search)])


def project_of(project: Project, variant: Variant) -> Project:
    """The project with the variant's settings, and the name of the prepared data that these need."""
    tree = plain(project.config)
    del tree["experiments"]
    changed = msgspec.structs.replace(project, config=convert(variant.settings(tree)))
    decisive = (shards.settings_hash(changed), changed.config.augment, changed.max_pixels, changed.system)
    return msgspec.structs.replace(changed, dataset=blake2b(msgspec.json.encode(decisive), digest_size=6).hexdigest())


def _run_of(project: Project, variant: Variant) -> runs.Run | None:
    run = runs.Run(project.runs / variant.name)
    return run if (run.folder / RECORD).is_file() else None


def _outcome(project: Project, variant: Variant, split: str, listeners: Listeners) -> Outcome:
    """All steps of a variant; an error ends the variant, not the experiment."""
    try:
        _prepare(project, listeners)
        _train(project, variant, listeners)
        _merge(project, variant.name, listeners)
        split = split or ("val" if project.subset("val").is_file() else project.config.infer.split)
        report = _measure(project, variant.name, split, listeners)
    except VlmdetError as error:
        listeners.warn(f"{variant.name}: {error.what}")
        return Outcome(variant, error=error)
    return Outcome(variant, report=report, record=project.run(variant.name).record, split=split)


def _prepare(project: Project, listeners: Listeners) -> None:
    """Make the variant's data where no variant has made them; not from source files that have changed since."""
    mark = project.data_folder / MARK
    with lock(project.data_folder, ".prepare.lock"):
        sources = _sources(project)
        if mark.is_file() and orjson.loads(mark.read_bytes())["sources"] == sources:
            return
        mark.unlink(missing_ok=True)
        prepare(project, listeners.on_data)
        if project.config.augment.questions:
            augment(project, listeners.on_data)
        write_json(mark, {"sources": sources})


def _sources(project: Project) -> dict[str, list[int]]:
    """Size and time of change of each annotation file, by path."""
    data = project.config.data
    paths = [project.path(source.annotations) for split in SPLITS for source in data.sources(split)]
    return {str(path): [(stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths if path.exists()}


def _train(project: Project, variant: Variant, listeners: Listeners) -> None:
    """Train the variant's run, go on with it, or leave it as it is: done."""
    run = _run_of(project, variant)
    resume = bool(run and run.checkpoints())
    if run and run.state == "done":
        _require_same_training(project, run)
        return
    if run and not resume and run.state != "running":
        _set_aside(run)
    train(
        project,
        TrainOptions(run=variant.name, resume=resume),
        listeners.on_step,
        warn=listeners.warn,
        detail=listeners.detail,
    )


def _require_same_training(project: Project, run: runs.Run) -> None:
    """Raise ``UsageError`` where the run was trained from other data, another model or with other settings."""
    changes = train_changes.changes(project, run.record, train_plan.plan_for(project, run, run.record.arguments))
    if changes:
        raise UsageError(
            f"{run.name} was trained otherwise than the experiment says",
            why=train_changes.in_words(changes),
            hint="Rename the experiment, or remove the folder of its run.",
        )


def _set_aside(run: runs.Run) -> None:
    """Keep the folder of a run that has no checkpoint under the next free number: its log says what went wrong."""
    number = next(n for n in range(1, 1_000_000) if not run.folder.with_name(f"{run.name}.{n}").exists())
    run.folder.rename(run.folder.with_name(f"{run.name}.{number}"))


def _merge(project: Project, name: str, listeners: Listeners) -> None:
    run = project.run(name)
    if not (run.merged / runs.MARKER).is_file() or merged_model(run)[1]:
        merge(project, MergeOptions(run=name), warn=listeners.warn)


def _measure(project: Project, name: str, split: str, listeners: Listeners) -> str:
    """Answer and evaluate a split; the path of the report."""
    job = infer_job(lambda: project, InferRequest(run=name, split=split))
    for warning in job.warnings:
        listeners.warn(f"{name}: {warning}")
    job.run(listeners.on_answers)
    request = EvalRequest(run=name, split=split, predictions=job.file.path)
    measured = eval_inputs.eval_job(lambda: project, request)
    path = project.run(name).report(job.file.path.stem)
    write_json(path, evaluate(measured.truth, measured.predictions, measured.protocol))
    model_card.refresh(path)
    return str(path)
