"""doctor --memory: an estimate of what a training takes on each GPU, whether that fits, and what to change.

The formulas are in ``training.memory``. The longest row is taken to have ``train.max_length`` tokens.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import parameters
from vlmdet_cli.models.family import Family
from vlmdet_cli.models.parameters import ModelSize
from vlmdet_cli.project import Project
from vlmdet_cli.training.hub import cached_folder
from vlmdet_cli.training.memory import Estimate, Workload, estimate
from vlmdet_cli.training.settings import Train


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that takes less memory. ``total``: gigabytes on each GPU with it alone changed."""

    setting: str
    total: float


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """``parts``: gigabytes on each GPU. ``gpu``: those of the GPU, 0 where none is known; ``fits`` is None then."""

    model: str
    parameters: int
    trained: int
    parts: dict[str, float]
    total: float
    gpu: float
    fits: bool | None
    changes: tuple[Change, ...]


def memory(project: Project, gpu: float = 0.0) -> MemoryReport:
    """The estimate for a project's training. ``gpu``: gigabytes of the GPU, 0 for the smallest that is visible.

    Raises ``UsageError`` where the model's folder is not on this machine.
    """
    folder, train = _folder(project), project.config.train
    size = parameters.model_size(folder)
    workload = _workload(project, folder)
    result = estimate(size, train, workload)
    available = gpu or min(gpus.gpu_memory(), default=0.0)
    return MemoryReport(
        model=str(folder),
        parameters=size.parameters,
        trained=result.trained,
        parts={name: round(getattr(result, name), 2) for name in Estimate.__struct_fields__ if name != "trained"},
        total=round(result.total, 1),
        gpu=round(available, 1),
        fits=result.total <= available if available else None,
        changes=_changes(size, train, workload, result.total),
    )


def _folder(project: Project) -> Path:
    name = project.model(project.config.train.model)
    folder = Path(name) if Path(name).is_dir() else cached_folder(name)
    if folder is None:
        raise UsageError(
            f"The model is not on this machine: {name}",
            hint="Name a folder that holds at least its config.json: --set train.model=DIR",
        )
    return folder


def _workload(project: Project, folder: Path) -> Workload:
    train = project.config.train
    checkpointing = train.swift.get("gradient_checkpointing", True) is not False
    return Workload(
        tokens=train.max_length,
        image_tokens=min(_image_tokens(project.family.configured(folder), project.max_pixels), train.max_length),
        processes=train.processes,
        checkpointing=checkpointing or bool(train.fsdp),
    )


def _image_tokens(family: Family, max_pixels: int | None) -> int:
    """The tokens of the largest picture; as many as there can be where nothing limits it."""
    if not family.is_known or max_pixels is None:
        return 1 << 30
    side = math.isqrt(max_pixels)
    return int(family.image_tokens([(side, side)], max_pixels)[0])


def _changes(size: ModelSize, train: Train, workload: Workload, total: float) -> tuple[Change, ...]:
    """The settings that take less, the one that saves most first."""
    changed = [
        Change(setting=setting, total=round(estimate(size, *settings).total, 1))
        for setting, settings in _alternatives(train, workload)
    ]
    return tuple(sorted((change for change in changed if change.total < round(total, 1)), key=lambda c: c.total))


def _alternatives(train: Train, workload: Workload) -> Iterator[tuple[str, tuple[Train, Workload]]]:
    """Each setting that can still be changed, by itself."""
    half, batch = workload.tokens // 2, train.per_device_train_batch_size
    shorter = workload._replace(tokens=half, image_tokens=min(workload.image_tokens, half))
    steps = train.gradient_accumulation_steps * batch
    alternatives: list[tuple[bool, str, dict[str, Any], Workload]] = [
        (not workload.checkpointing, "train.swift.gradient_checkpointing = true", {},
         workload._replace(checkpointing=True)),
        (train.tuner_type != "lora", 'train.tuner_type = "lora"', {"tuner_type": "lora"}, workload),
        (train.tuner_type == "lora" and train.lora_rank > 8, "train.lora_rank = 8", {"lora_rank": 8}, workload),
        (batch > 1, f"train.per_device_train_batch_size = 1, train.gradient_accumulation_steps = {steps}",
         {"per_device_train_batch_size": 1}, workload),
        (not train.liger, "train.liger = true", {"liger": True}, workload),
        (not train.freeze_vit, "train.freeze_vit = true", {"freeze_vit": True}, workload),
        (half >= 512, f"train.max_length = {half}", {}, shorter),
        (workload.processes > 1 and not train.fsdp, 'train.deepspeed = "zero3"', {"deepspeed": "zero3"}, workload),
        (train.torch_dtype == "float32", 'train.torch_dtype = "bfloat16"', {"torch_dtype": "bfloat16"}, workload),
    ]  # fmt: skip
    for applies, setting, values, changed in alternatives:
        if applies:
            yield setting, (msgspec.structs.replace(train, **values), changed)
