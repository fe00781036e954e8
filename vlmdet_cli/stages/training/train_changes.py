"""What differs between a run and what would be trained now: data, base model, settings, processes.

Settings are compared with the run's record, by the flags that swift was given; every key that differs is named.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.project import Project
from vlmdet_cli.project.run_record import DatasetRecord, ModelRecord, RunRecord
from vlmdet_cli.training import arguments
from vlmdet_cli.training.hub import cached_folder
from vlmdet_cli.training.settings import LEVER_FLAGS, Reward, Train

if TYPE_CHECKING:
    from vlmdet_cli.stages.training.train_plan import Plan

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
_KEYS = {flag: key for key, flag in LEVER_FLAGS.items()}
# vlmdet's own keys that change what is trained
_OWN_LEVERS = ("coordinate_weight", "noise_boxes", "replay", "replay_ratio")
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Train)}
# flags that are compared otherwise, by content or through the run's folder
_BY_CONTENT = frozenset({"model", "dataset", "output_dir", "resume_from_checkpoint"})


def changes(project: Project, record: RunRecord, planned: "Plan") -> Changes:
    """What differs between a run's record and what is planned for it now: key to old and new value."""
    return dict(_changes(project, record, planned))


def in_words(changed: Changes) -> list[str]:
    """A line for each key that differs: ``train.lora_rank: 8 → 16``."""
    shown = {key: ["not set" if value is None else str(value) for value in values] for key, values in changed.items()}
    return [f"{key}: {old} → {new}" for key, (old, new) in shown.items()]


def _changes(project: Project, record: RunRecord, planned: "Plan") -> Iterator[tuple[str, tuple[Any, Any]]]:
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
    yield from _launch_changes(record, planned)
    yield from _setting_changes(project, record, planned)


def _setting_changes(project: Project, record: RunRecord, planned: "Plan") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Those of ``[train]``, flags or not."""
    recorded: dict[str, Any] = record.settings.get("train", {})
    yield from _lever_changes(recorded, project.config.train)
    keys = dict[str, str]()
    if planned.parent:
        old, new = recorded.get("reward", {}), project.config.train.reward
        yield from _reward_changes(old, new)
        keys = {flag: f"train.reward.swift.{flag}" for flag in (*old.get("swift", {}), *new.swift)}
        keys |= {flag: f"train.reward.{flag}" for flag in Reward().flags}
    yield from _flag_changes(arguments.parse(record.argv[2:]), planned.flags, keys)


def _launch_changes(record: RunRecord, planned: "Plan") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """A data set named after ``--``, and the numbers of processes and machines."""
    datasets = tuple(arguments.parse(flags).get("dataset") for flags in (record.arguments, planned.arguments))
    if datasets[0] != datasets[1]:
        yield "--dataset", (datasets[0], datasets[1])
    for name, key in (("NPROC_PER_NODE", "train.nproc_per_node"), ("NNODES", "train.nodes")):
        numbers = (record.env.get(name, "1"), planned.command.env.get(name, "1"))
        if numbers[0] != numbers[1]:
            yield key, numbers


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
    old: Mapping[str, str], new: Mapping[str, str], keys: Mapping[str, str]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """``keys``: flags that have another key of the project file than those of ``swift sft``."""
    for name in dict.fromkeys([*old, *new]):
        if name not in MAY_DIFFER | _BY_CONTENT and not _same(name, old.get(name), new.get(name)):
            yield keys.get(name) or _key(name), (old.get(name), new.get(name))


def _key(flag: str) -> str:
    """The key of the project file that gives the flag."""
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


def dataset_record(project: Project, planned: "Plan", rows: int) -> DatasetRecord:
    file = planned.dataset
    name = file.relative_to(project.output).as_posix() if file.is_relative_to(project.output) else str(file)
    replay = project.path(project.config.train.replay) if project.config.train.replay else None
    replay_hash = file_hash(replay) if replay and replay.is_file() else ""
    return DatasetRecord(file=name, rows=rows, hash=file_hash(file), replay_hash=replay_hash)


def model_record(project: Project, planned: "Plan") -> ModelRecord:
    """The base model under the project file's name, or as a flag after ``--`` names it."""
    model, written = planned.flags["model"], project.config.train.model
    folder = Path(model) if Path(model).is_dir() else cached_folder(model)
    name = written if model == project.model(written) else model
    return ModelRecord(name=name, hash=model_folder_hash(folder) if folder else "")
