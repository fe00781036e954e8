"""``train --method grpo``: the adapter that a training by reward goes on from, swift's flags, and the run's own files.

The training is a run of its own. Its adapter begins as that of its parent, an SFT run, and swift goes on with it
(``--adapters``); the parent's adapter is also what the KL term holds it to (``--ref_adapters``): without that it would
be drawn to the untuned base. The run's folder gets

    reward_rows.jsonl    what swift reads (``reward_rows``)
    reward.json          what the reward functions read (``reward_functions.RewardJob``)
    rewards.jsonl        a row a generation, which they write
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.data import ground_truth
from vlmdet_cli.errors import UsageError, counted
from vlmdet_cli.metrics.rewards import REWARDS, RewardRules
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import ParentRecord, TrainedSettings
from vlmdet_cli.stages.training import reward_functions
from vlmdet_cli.stages.training.reward_functions import RewardJob, function_name
from vlmdet_cli.stages.training.reward_rows import SPLIT, write_rows
from vlmdet_cli.training.settings import Flag, Train

ROWS = "reward_rows.jsonl"
PLUGIN = Path(__file__).parent / "swift_plugins" / "vlmdet_reward.py"
ADAPTER = "adapter_model.safetensors"


class Parent(NamedTuple):
    """The run whose adapter a training goes on with, and the checkpoint of it."""

    run: runs.Run
    checkpoint: Path

    def record(self) -> ParentRecord:
        checkpoint = self.checkpoint.relative_to(self.run.folder).as_posix()
        return ParentRecord(run=self.run.name, checkpoint=checkpoint, adapter=file_hash(self.checkpoint / ADAPTER))


def find_parent(project: Project, name: str) -> Parent:
    """The run ``name``, else the latest done SFT run. Raises ``UsageError`` where it has no adapter."""
    run = project.run(name) if name else _latest_sft(project)
    return _with_adapter(Parent(run, run.kept_checkpoint()))


def recorded_parent(project: Project, record: ParentRecord) -> Parent:
    """The parent of a run that goes on. Raises ``UsageError`` where it is gone or its adapter is another one."""
    run = project.run(record.run)
    parent = _with_adapter(Parent(run, run.folder / record.checkpoint))
    if parent.record().adapter != record.adapter:
        raise UsageError(
            f"The adapter that the run began with has changed: {parent.checkpoint}", hint="Start a new run."
        )
    return parent


def _latest_sft(project: Project) -> runs.Run:
    runs.refuse_old_layout(project.runs)
    done = [run for run in runs.runs(project.runs) if run.state == "done" and run.record.method == "sft"]
    if not done:
        raise UsageError(
            f"No run to go on from: {project.runs}",
            why="A training by reward begins with the adapter of an SFT run that is done.",
            hint="Run `vlmdet train` first, or name a run with --from.",
        )
    return done[-1]


def _with_adapter(parent: Parent) -> Parent:
    whole_parts = [path.name for path in parent.checkpoint.glob("*.safetensors") if path.name != ADAPTER]
    if not (parent.checkpoint / ADAPTER).is_file() or whole_parts:
        raise UsageError(
            f"The checkpoint is not a LoRA adapter alone: {parent.checkpoint}",
            why=f"It also has {', '.join(whole_parts)}." if whole_parts else (),
            hint='A training by reward goes on with a LoRA adapter: train with tuner_type = "lora".',
        )
    return parent


def as_grpo(train: Train, parent: Parent, max_tokens: int) -> Train:
    """The settings with those of ``[train.reward]`` in place of the ones for SFT. ``max_tokens``: of an answer."""
    reward, adapter = train.reward, str(parent.checkpoint)
    if train.tuner_type != "lora":
        raise UsageError(
            f'train.tuner_type = "{train.tuner_type}" has no training by reward', hint='Train with tuner_type = "lora".'
        )
    if not set(reward.weights) - {"form"}:
        raise UsageError("Every weight in [train.reward] is 0", hint="Give one of detection, count or area a weight.")
    own = {name: value for name, value in reward.flags.items() if name in Train.__struct_fields__}
    flags: dict[str, Flag] = {
        "adapters": adapter,
        **({"ref_adapters": adapter} if reward.beta else {}),  # without a KL term no reference is loaded
        "truncation_strategy": "delete",  # `left` could cut off picture tokens
        "use_vllm": False,
        **{name: value for name, value in reward.flags.items() if name not in own},
        "max_completion_length": reward.max_completion_length or max_tokens,
        **reward.swift,
        "reward_funcs": [function_name(name) for name in reward.weights],
        "reward_weights": list(reward.weights.values()),
    }
    # effective_batch counts rows of SFT
    return msgspec.structs.replace(train, **own, effective_batch=0, swift={**train.swift, **flags})


def check_flags(flags: Mapping[str, str], processes: int, *, cpu: bool) -> None:
    """Raise ``UsageError`` for flags with which swift would fail after it has loaded the model."""
    if flags.get("use_vllm") == "true" and (cpu or find_spec("vllm") is None):
        raise UsageError(
            "vLLM cannot sample here",
            why="No GPU is visible." if cpu else "It is not installed beside vlmdet.",
            hint="Leave out use_vllm: the model in training then samples by itself.",
        )
    if {"generation_batch_size", "steps_per_generation"} & set(flags):
        return  # other rules, which swift checks at once
    size, accumulation, generations = (
        int(flags[name]) for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")
    )
    batch = size * accumulation * processes
    if batch % generations:
        raise UsageError(
            f"The answers of a step are not whole groups: {batch}, train.reward.num_generations = {generations}",
            why=f"per_device_train_batch_size {size} x gradient_accumulation_steps {accumulation} x "
            f"{counted(processes, 'process', 'processes')}.",
            hint="Set them in [train.reward] so that their product is a multiple of num_generations.",
        )


def check_parent(parent: Parent, model: str, trained: TrainedSettings) -> None:
    """Raise ``UsageError`` where the project has another base model than the parent, or asks it in another way.

    ``model``: the content hash of the base model, "" where it is not on this machine.
    """
    record = parent.run.record
    if model and record.model.hash and model != record.model.hash:
        raise UsageError(
            f"The adapter is of another base model: {parent.checkpoint}",
            why=f"It was trained on {record.model.name} ({record.model.hash[:8]}), and train.model is {model[:8]}.",
            hint="Set train.model as it was, or name another run with --from.",
        )
    before = runs.trained_settings(parent.checkpoint) or record.trained
    names = ("family", "dialect", "max_pixels", "system", "template", "noise_label")
    differing = [name for name in names if getattr(before, name) != getattr(trained, name)]
    if differing:
        raise UsageError(
            f"{record.name} was trained to be asked otherwise than the reward would",
            why=[f"{name}: {getattr(before, name)} → {getattr(trained, name)}" for name in differing],
            hint="Set them as they were, or name another run with --from.",
        )


def write_job(
    project: Project, run: runs.Run, dataset: Path, trained: TrainedSettings, warn: Callable[[str], None]
) -> int:
    """Write the rows and the job of a run; the number of rows. Rows that are left out are told."""
    reward = project.config.train.reward
    counts = write_rows(project, dataset, run.folder / ROWS, reward.weights)
    for reason, count in counts.items():
        if reason not in REWARDS:
            warn(f"{count:,} rows are left out: {reason}.")
    rules = RewardRules(
        dialect=trained.dialect,
        categories=ground_truth.read(project.subset(SPLIT)).categories,
        max_pixels=trained.max_pixels or 0,
        noise_label=trained.noise_label,
        thresholds=reward.thresholds,
    )
    reward_functions.write_job(run.folder, RewardJob(names=tuple(reward.weights), rules=rules))
    return sum(count for name, count in counts.items() if name in REWARDS)
