"""What ``train`` will run: swift's command for a new run, or for the continuation of an earlier one. Writes nothing.

A continuation must be of the same training: data, base model and settings are compared with the run's record, and
every key that differs is named.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus, programs
from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import DatasetRecord, ModelRecord, RunRecord, TrainedSettings
from vlmdet_cli.prompts.noise import NOISE_LABEL
from vlmdet_cli.stages.training import plugins, train_file, train_reward
from vlmdet_cli.stages.training.train_reward import Parent
from vlmdet_cli.stages.training.train_rows import dataset_of
from vlmdet_cli.training import arguments, levers, swift
from vlmdet_cli.training.hub import cached_folder
from vlmdet_cli.training.settings import LEVER_FLAGS, Flag, Method, Reward, Train

Changes = dict[str, tuple[Any, Any]]

# Flags that may differ between a run and its continuation. They decide what is kept and logged, the way in which the
# same batches are loaded, and where the computation runs; none changes the batches, the loss or the optimizer's steps.
MAY_DIFFER = frozenset(
    {
        "save_steps", "save_total_limit", "save_only_model", "logging_steps", "logging_first_step", "logging_dir",
        "report_to", "run_name", "eval_steps", "eval_strategy", "per_device_eval_batch_size", "add_version",
        "dataset_num_proc", "lazy_tokenize", "load_from_cache_file", "dataloader_num_workers",
        "dataloader_prefetch_factor", "dataloader_pin_memory", "dataloader_persistent_workers",
        "gradient_checkpointing", "vit_gradient_checkpointing", "check_model", "use_cpu", "device_map",
        "ddp_timeout", "ddp_backend",
    }
)  # fmt: skip
CPU_FLAGS: dict[str, Flag] = {"torch_dtype": "float32", "use_cpu": True}
_KEYS = {flag: key for key, flag in LEVER_FLAGS.items()}
# vlmdet's own keys that change what is trained
_OWN_LEVERS = ("coordinate_weight", "noise_boxes", "replay", "replay_ratio")
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Train)}
# flags that are compared otherwise, by content or through the run's folder
_BY_CONTENT = frozenset({"model", "dataset", "output_dir", "resume_from_checkpoint"})


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``train``. ``arguments``: flags for swift, as they are. ``run``: a name, or "".

    ``force``: resume although data, base model or settings differ, or although the run is done. ``parent``: the run
    from which a training by reward begins, "" for the latest done SFT run.
    """

    method: Method = "sft"
    parent: str = ""
    arguments: tuple[str, ...] = ()
    run: str = ""
    resume: bool = False
    force: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A training before it starts. ``flags``: swift's flags as text, those after ``--`` included.

    ``dataset``: the prepared rows. ``train_file``: what swift is given; not there yet where it is the run's own.
    ``checkpoint``: what a continuation goes on from. ``changes``: settings that differ from the run's record.
    ``parent``: of a training by reward.
    """

    command: programs.Command
    run: runs.Run
    dataset: Path
    train_file: Path
    flags: dict[str, str]
    arguments: tuple[str, ...]
    checkpoint: Path | None = None
    parent: Parent | None = None
    changes: Changes = {}

    @property
    def cpu(self) -> bool:
        return self.flags.get("use_cpu") == "true"

    def preview(self) -> dict[str, Any]:
        """What ``--dry-run --json`` prints."""
        command = self.command
        return {"argv": command.argv, "env": command.env, "command": command.quoted(), "run": self.run.name,
                "folder": str(self.run.folder)}  # fmt: skip


def plan(project: Project, options: TrainOptions) -> Plan:
    """The next run, or the continuation of an earlier one. Raises ``UsageError`` where that is not possible."""
    runs.refuse_old_layout(project.runs)
    project = with_data(project, options)
    if options.resume:
        return _plan_resume(project, options)
    if options.run:
        runs.check_name(project.runs, options.run)
    run = runs.Run(project.runs / (options.run or runs.next_name(project.runs)))
    return plan_for(project, run, options.arguments, parent=_parent(project, options))


def with_data(project: Project, options: TrainOptions) -> Project:
    """The project; a training by reward works on the prepared data of its parent."""
    parent = None if options.resume else _parent(project, options)
    return project.with_data_of(parent.run) if parent else project


def _parent(project: Project, options: TrainOptions) -> Parent | None:
    if options.method == "sft":
        if options.parent:
            raise UsageError(
                "--from is for a training by reward", hint=f"vlmdet train --method grpo --from {options.parent}"
            )
        return None
    return train_reward.find_parent(project, options.parent)


def _plan_resume(project: Project, options: TrainOptions) -> Plan:
    run = _resumable(project, options)
    record, checkpoint = run.record, run.latest_checkpoint()
    # the flags after `--` that the run began with, but for those that are given again
    given = arguments.parse(options.arguments)
    kept = [flag for flag in arguments.split(record.arguments) if flag[0].removeprefix("--") not in given]
    again = [part for name, values in kept for part in (name, *values)]
    parent = train_reward.recorded_parent(project, record.parent) if record.parent else None
    planned = plan_for(project, run, (*again, *options.arguments), checkpoint, parent)
    changed = changes(project, record, planned)
    if changed and not options.force:
        raise UsageError(
            f"{run.name} was trained otherwise than this would go on",
            why=in_words(changed),
            hint="Set them as they were, start a new run with `vlmdet train`, or go on all the same with --force.",
        )
    return msgspec.structs.replace(planned, changes=changed)


def in_words(changed: Changes) -> list[str]:
    """A line for each key that differs: ``train.lora_rank: 8 → 16``."""
    shown = {key: ["not set" if value is None else str(value) for value in values] for key, values in changed.items()}
    return [f"{key}: {old} → {new}" for key, (old, new) in shown.items()]


def _resumable(project: Project, options: TrainOptions) -> runs.Run:
    """The named run, or the latest that did not end well and has a checkpoint."""
    every = runs.runs(project.runs)
    if not options.run:
        for run in reversed(every):
            if run.state in {"interrupted", "failed"} and run.checkpoints():
                return run
        raise UsageError(
            f"No run to go on with: {project.runs}",
            why=[f"{run.name}: {run.state}, {len(run.checkpoints())} checkpoints" for run in every],
            hint="Start one with `vlmdet train`.",
        )
    run = project.run(options.run)
    state, at_work = run.state, run.record.at_work()
    if state == "running" and (at_work or not options.force):
        process = run.record.swift or run.record.process
        raise UsageError(
            f"The run is at work: {run.name}",
            why=f"Process {process.pid} on {process.host}." if process else (),
            hint="Wait for it, or stop it." if at_work else "If that machine is gone, go on with --force.",
        )
    if state == "done" and not options.force:
        raise UsageError(f"The run is done: {run.name}", hint="Train it further with other settings and --force.")
    return run


def plan_for(
    project: Project,
    run: runs.Run,
    extra: Sequence[str],
    checkpoint: Path | None = None,
    parent: Parent | None = None,
) -> Plan:
    """The plan of a given run with the flags ``extra`` after the project's own; by reward where there is a parent."""
    train = plugins.with_plugins(project, extra, parent)
    dataset = dataset_of(project)
    rows = _train_file(train, run, dataset, parent)
    cpu = train.device == "cpu" or (train.device == "auto" and gpus.gpus() == 0)
    again = ("--resume_from_checkpoint", str(checkpoint)) if checkpoint else ()
    argv = arguments.sft(
        train,
        model=project.model(train.model),
        dataset=rows,
        output=run.folder,
        root=project.root,
        defaults={**(CPU_FLAGS if cpu else {}), **_model_defaults(project, extra)},
        extra=(*again, *extra),
    )
    if parent:
        argv = arguments.grpo(argv)
    visible = arguments.visible_gpus(train.gpus)
    env = arguments.environment(
        root_images=project.data_folder, visible=visible, processes=train.nproc_per_node, cpu=cpu
    )
    env |= plugins.environment(project, run, parent)
    if project.config.format.rows == "objects":
        env |= project.family.objects_environment(project.dialect_name)
    planned = Plan(
        command=programs.Command((swift.program(), *argv), env),
        run=run,
        dataset=dataset,
        train_file=rows,
        flags=arguments.parse(argv[1:]),
        arguments=tuple(extra),
        checkpoint=checkpoint,
        parent=parent,
    )
    if parent:
        train_reward.check_flags(planned.flags, train.nproc_per_node, cpu=cpu)
        train_reward.check_parent(parent, model_record(project, planned).hash, trained_settings(project, planned))
    return planned


def _train_file(train: Train, run: runs.Run, dataset: Path, parent: Parent | None) -> Path:
    if parent:
        return run.folder / train_reward.ROWS
    return run.folder / train_file.NAME if train_file.is_own(train) else dataset


def _model_defaults(project: Project, extra: Sequence[str]) -> dict[str, Flag]:
    """What swift does not learn from a local model folder by itself: its type, its template, its pixel limit.

    A folder need not be compared with the hub's, either: without a network that takes seven seconds. Where tokens are
    not counted beforehand, swift is to stop at a row that is too long: it would leave it out silently.
    """
    train = project.config.train
    model = arguments.parse(extra).get("model") or project.model(train.model)
    family = _family(project, model, str(train.swift.get("model_type", "")))
    strict: dict[str, Flag] = {} if family.is_known else {"strict": True}
    if not Path(model).is_dir():
        return strict
    limit = family.pixel_limit(Path(model))
    return {**({"max_pixels": limit} if limit else {}), "check_model": False, **family.swift_flags(), **strict}


def _family(project: Project, model: str, model_type: str | None) -> Family:
    return registry.family_of(model, model_type, dialect=project.config.format.dialect)


def refuse_impossible(project: Project, planned: Plan) -> None:
    """Raise ``UsageError`` for what this machine, or swift with this model, cannot do."""
    train, visible = project.config.train, planned.command.env.get("CUDA_VISIBLE_DEVICES", "")
    machine = levers.Machine(
        cpu=planned.cpu, gpus=len(visible.split(",")) if visible else 0, processes=train.nproc_per_node
    )
    levers.refuse_impossible(planned.flags, machine, _family(project, planned.flags["model"], None).name)


def trained_settings(project: Project, planned: Plan) -> TrainedSettings:
    """The settings of the planned training, until swift's own ``args.json`` says what it was."""
    flags = planned.flags
    numbers = {name: int(flags[name]) for name in ("max_pixels", "max_length") if flags.get(name, "").isdecimal()}
    return TrainedSettings(
        family=_family(project, flags["model"], flags.get("model_type")).name,
        dialect=project.dialect_name,
        max_pixels=numbers.get("max_pixels"),
        max_length=numbers.get("max_length"),
        system=flags.get("system"),
        template=flags.get("template", ""),
        model_type=flags.get("model_type", ""),
        model=flags["model"],
        noise_label=NOISE_LABEL if project.config.train.noise_boxes else "",
    )


def dataset_record(project: Project, planned: Plan, rows: int) -> DatasetRecord:
    file = planned.dataset
    name = file.relative_to(project.output).as_posix() if file.is_relative_to(project.output) else str(file)
    replay = project.path(project.config.train.replay) if project.config.train.replay else None
    replay_hash = file_hash(replay) if replay and replay.is_file() else ""
    return DatasetRecord(file=name, rows=rows, hash=file_hash(file), replay_hash=replay_hash)


def model_record(project: Project, planned: Plan) -> ModelRecord:
    """The base model under the project file's name, or as a flag after ``--`` names it."""
    model, written = planned.flags["model"], project.config.train.model
    folder = Path(model) if Path(model).is_dir() else cached_folder(model)
    name = written if model == project.model(written) else model
    return ModelRecord(name=name, hash=model_folder_hash(folder) if folder else "")


def changes(project: Project, record: RunRecord, planned: Plan) -> Changes:
    """What differs between a run's record and what is planned for it now: key to old and new value."""
    return dict(_changes(project, record, planned))


def _changes(project: Project, record: RunRecord, planned: Plan) -> Iterator[tuple[str, tuple[Any, Any]]]:
    dataset = dataset_record(project, planned, record.dataset.rows)
    if dataset.hash != record.dataset.hash:
        yield f"data ({dataset.file})", (record.dataset.hash[:8], dataset.hash[:8])
    if dataset.replay_hash != record.dataset.replay_hash:
        yield "train.replay (its rows)", (record.dataset.replay_hash[:8] or None, dataset.replay_hash[:8] or None)
    model = model_record(project, planned)
    if model.hash and record.model.hash:
        if model.hash != record.model.hash:
            names = (f"{record.model.name} ({record.model.hash[:8]})", f"{model.name} ({model.hash[:8]})")
            yield "train.model", names
    elif model.name != record.model.name:
        yield "train.model", (record.model.name, model.name)
    datasets = tuple(arguments.parse(flags).get("dataset") for flags in (record.arguments, planned.arguments))
    if datasets[0] != datasets[1]:
        yield "--dataset", (datasets[0], datasets[1])
    processes = (record.env.get("NPROC_PER_NODE", "1"), planned.command.env.get("NPROC_PER_NODE", "1"))
    if processes[0] != processes[1]:
        yield "train.nproc_per_node", processes
    yield from _lever_changes(record.settings.get("train", {}), project.config.train)
    if planned.parent:
        yield from _reward_changes(record.settings["train"].get("reward", {}), project.config.train.reward)
    yield from _flag_changes(arguments.parse(record.argv[2:]), planned.flags, is_reward=planned.parent is not None)


def _lever_changes(old: Mapping[str, Any], train: Train) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """``old``: the recorded ``[train]``; one of an earlier version has fewer keys."""
    for key in _OWN_LEVERS:
        values = (old.get(key, _DEFAULTS[key]), getattr(train, key))
        if values[0] != values[1]:
            yield f"train.{key}", values


def _reward_changes(old: Mapping[str, Any], reward: Reward) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Those of ``[train.reward]`` that are no flags. ``old``: the recorded table."""
    thresholds = (tuple(old.get("thresholds", ())), reward.thresholds)
    if thresholds[0] != thresholds[1]:
        yield "train.reward.thresholds", thresholds


def _flag_changes(
    old: Mapping[str, str], new: Mapping[str, str], *, is_reward: bool
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in dict.fromkeys([*old, *new]):
        if name not in MAY_DIFFER | _BY_CONTENT and not _same(name, old.get(name), new.get(name)):
            yield _key(name, is_reward=is_reward), (old.get(name), new.get(name))


def _key(flag: str, *, is_reward: bool) -> str:
    """The key of the project file that gives the flag."""
    if is_reward and flag in Reward().flags:
        return f"train.reward.{flag}"
    key = _KEYS.get(flag, flag)
    return f"train.{key}" if key != flag or flag in {*_DEFAULTS, "train_type"} else f"train.swift.{flag}"


def _same(name: str, old: str | None, new: str | None) -> bool:
    """Whether two values of a flag mean the same: numbers by value, files by name, since a project may be moved."""
    if old is None or new is None:
        return old == new
    if name in arguments.PATHS:
        return Path(old).name == Path(new).name
    try:
        return float(old) == float(new)
    except ValueError:
        return old == new
