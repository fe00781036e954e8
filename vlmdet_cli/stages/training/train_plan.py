"""What ``train`` will run: swift's command for a new run, or for the continuation of an earlier one. Writes nothing.

A continuation must be of the same training: data, base model and settings are compared with the run's record, and
every key that differs is named.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus, programs
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import TrainedSettings
from vlmdet_cli.prompts.noise import NOISE_LABEL
from vlmdet_cli.stages.training import plugins, train_file, train_reward
from vlmdet_cli.stages.training.train_changes import Changes, changes, in_words, model_record
from vlmdet_cli.stages.training.train_reward import Parent
from vlmdet_cli.stages.training.train_rows import dataset_of
from vlmdet_cli.training import arguments, launch, levers, swift
from vlmdet_cli.training.settings import Flag, Method, Train

CPU_FLAGS: dict[str, Flag] = {"torch_dtype": "float32", "use_cpu": True}
GLOO: dict[str, Flag] = {"ddp_backend": "gloo"}  # of several processes on CPUs


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
    effective_batch: int
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
                "folder": str(self.run.folder), "effective_batch": self.effective_batch}  # fmt: skip


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
        defaults={**(_cpu_flags(train) if cpu else {}), **_model_defaults(project, extra)},
        extra=(*again, *extra),
    )
    if parent:
        argv = arguments.grpo(argv)
    visible = arguments.visible_gpus(train.gpus)
    env = arguments.environment(root_images=project.data_folder, visible=visible, cpu=cpu) | launch.environment(train)
    env |= plugins.environment(project, run, parent)
    if project.config.format.rows == "objects":
        env |= project.family.objects_environment(project.dialect_name)
    flags = arguments.parse(argv[1:])
    planned = Plan(
        command=programs.Command((swift.program(), *argv), env),
        run=run,
        dataset=dataset,
        train_file=rows,
        flags=flags,
        effective_batch=launch.effective_batch(train, flags),
        arguments=tuple(extra),
        checkpoint=checkpoint,
        parent=parent,
    )
    if parent:
        train_reward.check_flags(planned.flags, train.processes, cpu=cpu)
        train_reward.check_parent(parent, model_record(project, planned).hash, trained_settings(project, planned))
    return planned


def _train_file(train: Train, run: runs.Run, dataset: Path, parent: Parent | None) -> Path:
    if parent:
        return run.folder / train_reward.ROWS
    return run.folder / train_file.NAME if train_file.is_own(train) else dataset


def _cpu_flags(train: Train) -> dict[str, Flag]:
    return CPU_FLAGS | (GLOO if train.processes > 1 else {})


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
        cpu=planned.cpu,
        gpus=len(visible.split(",")) if visible else 0,
        processes=train.nproc_per_node,
        nodes=train.nodes,
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
