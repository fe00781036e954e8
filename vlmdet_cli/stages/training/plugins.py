"""The plug-ins that keys of ``[train]`` need inside swift's process: their flags, beside the user's own, and their
environment.

    train.evaluate                ``swift_plugins/vlmdet_evaluation.py``, a callback
    train.coordinate_weight       ``swift_plugins/vlmdet_loss.py``, a ``loss_scale``
    train.noise_boxes             the same
    train --method grpo           ``swift_plugins/vlmdet_reward.py``, reward functions and a callback
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Project, runs
from vlmdet_cli.prompts.noise import NOISE_LABEL
from vlmdet_cli.stages.training import reward_functions, train_evaluation, train_reward
from vlmdet_cli.stages.training.train_reward import Parent
from vlmdet_cli.training import arguments, loss
from vlmdet_cli.training.settings import Flag, Train

LOSS_PLUGIN = train_evaluation.PLUGIN.with_name("vlmdet_loss.py")


def with_plugins(project: Project, extra: Sequence[str], parent: Parent | None = None) -> Train:
    """``[train]`` with the flags of the plug-ins; by reward where there is a parent.

    Raises ``UsageError`` for settings that do not go together.
    """
    train = project.config.train
    _check_evaluation(train)
    if train.evaluate != "none":
        ours = {"external_plugins": str(train_evaluation.PLUGIN), "callbacks": train_evaluation.CALLBACK}
        train = _added(train, "train.evaluate", ours, project.root, extra)
    if parent:
        train = train_reward.as_grpo(train, parent, project.config.infer.max_tokens)
        ours = {"external_plugins": str(train_reward.PLUGIN), "callbacks": reward_functions.CALLBACK}
        return _added(train, "--method grpo", ours, project.root, extra)
    if keys := _weighing(train):
        if project.config.format.rows == "objects":
            raise UsageError(
                f'{keys} needs format.rows = "text"',
                why="In rows with `objects`, swift writes the boxes after it has decided what each token counts.",
            )
        ours = {"external_plugins": str(LOSS_PLUGIN), "loss_scale": loss.NAME}
        train = _added(train, keys, ours, project.root, extra)
    return train


def _weighing(train: Train) -> str:
    """The keys by which tokens of a row count differently in the loss."""
    return " and ".join(
        f"train.{key}"
        for key, is_set in (("coordinate_weight", train.coordinate_weight != 1), ("noise_boxes", train.noise_boxes))
        if is_set
    )


def environment(project: Project, run: runs.Run, parent: Parent | None = None) -> dict[str, str]:
    """What the plug-ins read in swift's process."""
    train, env = project.config.train, dict[str, str]()
    if train.evaluate != "none":
        env[train_evaluation.ENVIRONMENT] = str(run.folder / train_evaluation.JOB)
    if parent:
        env[reward_functions.ENVIRONMENT] = str(run.folder / reward_functions.JOB)
    elif _weighing(train):
        settings = loss.LossSettings(
            dialect=project.dialect_name,
            coordinate_weight=train.coordinate_weight,
            noise_label=NOISE_LABEL if train.noise_boxes else "",
        )
        env[loss.ENVIRONMENT] = settings.text()
    return env


def _check_evaluation(train: Train) -> None:
    if train.evaluate == "none":
        if train.keep == "best" or train.patience:
            key = 'train.keep = "best"' if train.keep == "best" else "train.patience"
            raise UsageError(f"{key} needs measures of the checkpoints", hint='Set train.evaluate = "f1".')
        return
    deepspeed = str(train.swift.get("deepspeed", train.deepspeed))
    if deepspeed.startswith("zero3") or train.fsdp or "fsdp" in train.swift:
        raise UsageError(
            "train.evaluate does not work with parameters that are spread over the GPUs",
            hint="Use deepspeed zero2 or less, or evaluate the checkpoints after the training.",
        )


def _added(train: Train, key: str, ours: dict[str, str], root: Path, extra: Sequence[str]) -> Train:
    """``[train.swift]`` with our values beside the user's. The flags cannot be given after ``--`` as well."""
    if given := [f"--{name}" for name in ours if name in arguments.parse(extra)]:
        raise UsageError(f"{key} needs {' and '.join(given)} too", hint="Set them in [train.swift].")
    flags: dict[str, Flag] = {**train.swift}
    for name, value in ours.items():
        own = train.swift.get(name, [])
        values = [str(arguments.absolute(name, item, root)) for item in (own if isinstance(own, list) else [own])]
        # swift applies several loss scales one after the other, and multiplies their weights
        flags[name] = "+".join([*values, value]) if name == "loss_scale" else [*values, value]
    return msgspec.structs.replace(train, swift=flags)
