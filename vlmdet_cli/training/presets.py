"""Settings of training by GPU memory and model size: what ``vlmdet init --preset`` writes.

    24gb      one GPU of 24 GB     4 rows a step, as in the documented run
    80gb      one GPU of 80 GB     4 rows a step, all at once
    8x80gb    eight GPUs of 80 GB  32 rows a step: a process a GPU with 4 each

All keep gradient checkpointing, which is swift's default. That a preset fits is an estimate (``training.memory``).
"""

import re
from typing import NamedTuple

from vlmdet_cli.errors import UsageError, nearest

Value = bool | int | float | str
_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
LARGE = 6.0  # billions of parameters from which weights alone take more than half of 24 GB


class Preset(NamedTuple):
    """``gigabytes``: of each of the ``gpus``. ``settings``: of ``[train]``; ``large``: more, for large models."""

    gpus: int
    gigabytes: float
    settings: dict[str, Value]
    large: dict[str, Value]


PRESETS = {
    "24gb": Preset(
        gpus=1,
        gigabytes=24,
        settings={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        large={"lora_rank": 16, "lora_alpha": 32, "freeze_vit": True, "freeze_aligner": True, "liger": True},
    ),
    "80gb": Preset(
        gpus=1,
        gigabytes=80,
        settings={
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "dataloader_num_workers": 4,
        },
        large={},
    ),
    "8x80gb": Preset(
        gpus=8,
        gigabytes=80,
        settings={
            "gpus": "0,1,2,3,4,5,6,7",
            "nproc_per_node": 8,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "dataset_num_proc": 8,
            "dataloader_num_workers": 4,
        },
        large={},
    ),
}


def preset(name: str) -> Preset:
    """Raises ``UsageError`` where there is none of that name."""
    if name not in PRESETS:
        raise UsageError(f"No preset {nearest(name, PRESETS)}", hint=f"There are {', '.join(PRESETS)}.")
    return PRESETS[name]


def settings(name: str, billions: float) -> dict[str, Value]:
    """The settings of a preset for a model with so many billions of parameters."""
    chosen = preset(name)
    return chosen.settings | (chosen.large if billions >= LARGE else {})


def billions_of(model: str) -> float:
    """The billions of parameters that a model's name tells, such as 2 of ``Qwen/Qwen2-VL-2B-Instruct``; else 0."""
    numbers = _BILLIONS.findall(model.rpartition("/")[2])
    return float(numbers[-1]) if numbers else 0.0
