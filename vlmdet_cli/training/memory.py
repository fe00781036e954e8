"""An estimate of a GPU's memory in training, from a model's sizes and the settings; and what to change.

    weights      parameters x bytes of the type
    optimizer    gradients and AdamW's two moments, of what is trained. LoRA's matrices are float32: 12 bytes for
                 each parameter, and 4 for itself. Of parameters trained whole: 3 x bytes of the type; with
                 DeepSpeed, which keeps a float32 copy, 12 bytes and the gradient
    activations  of a layer: (17 hidden + 8 intermediate) x tokens of the batch x bytes; with eager attention
                 5 x heads x tokens squared more. Without gradient checkpointing every layer keeps them; with it, every
                 layer keeps its input alone, and one layer at a time all (Korthikanti et al., 2022, Reducing Activation
                 Recomputation in Large Transformer Models, section 4, with SwiGLU's three products). The vision tower
                 keeps them too, unless it is frozen
    logits       vocabulary x tokens of the batch x (2 x bytes + 8): the logits, and in float32 with their gradient
    other        1.5 GB for CUDA and its libraries, and a tenth of the rest, for memory lies in pieces

DeepSpeed divides by the number of processes: zero1 the optimizer's state, zero2 the gradients too, zero3 and FSDP the
weights too; ``_offload`` moves the optimizer's state into main memory. Gigabytes are 10^9 bytes.
"""

from typing import NamedTuple

import msgspec

from vlmdet_cli.models.parameters import ModelSize, Part, Stack
from vlmdet_cli.training.settings import Train

GB = 1e9
FIXED_GB, SHARE_IN_PIECES = 1.5, 0.1
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_FROZEN: dict[Part, str] = {"vision": "freeze_vit", "aligner": "freeze_aligner", "language": "freeze_llm"}


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Gigabytes on each GPU. ``trained``: the number of parameters that are trained."""

    trained: int
    weights: float
    optimizer: float
    activations: float
    logits: float
    other: float

    @property
    def total(self) -> float:
        return self.weights + self.optimizer + self.activations + self.logits + self.other


class Workload(NamedTuple):
    """What a training asks of a GPU beside ``[train]``. ``tokens``: of the longest row, ``image_tokens``: of its
    picture. ``processes``: of all machines.
    """

    tokens: int
    image_tokens: int
    processes: int
    checkpointing: bool = True


def estimate(model: ModelSize, train: Train, workload: Workload) -> Estimate:
    """The memory of one GPU of a training."""
    size, batch = _BYTES[train.torch_dtype], train.per_device_train_batch_size
    shared = _shared_by(train, workload.processes)
    lora, whole = trained_parameters(model, train)
    moments = 0.0 if train.deepspeed.endswith("_offload") else (8 * lora + _whole_state(train, size) * whole)
    gradients = 4 * lora + size * whole
    weights = (model.parameters * size + 4 * lora) / shared.weights / GB
    optimizer = (moments / shared.state + gradients / shared.gradients) / GB
    text = _activations(model.language, batch, workload.tokens, size, train, checkpointing=workload.checkpointing)
    tower = 0.0
    if not train.freeze_vit:
        patches = workload.image_tokens * model.patches_per_token
        tower = _activations(model.vision, batch, patches, size, train, checkpointing=workload.checkpointing)
    logits = 0.0 if train.liger else batch * workload.tokens * model.vocabulary * (2 * size + 8) / GB
    known = weights + optimizer + (text + tower) / GB + logits
    return Estimate(
        trained=lora + whole,
        weights=weights,
        optimizer=optimizer,
        activations=(text + tower) / GB,
        logits=logits,
        other=FIXED_GB + SHARE_IN_PIECES * known,
    )


def trained_parameters(model: ModelSize, train: Train) -> tuple[int, int]:
    """How many parameters of LoRA are trained, and how many of the model's own."""
    free = [part for part, key in _FROZEN.items() if not getattr(train, key)]
    if train.tuner_type == "full":
        return 0, sum(model.parts[part].parameters for part in free)
    if train.tuner_type == "lora_llm":
        own = model.parts["vision"].parameters + model.parts["aligner"].parameters
        return train.lora_rank * model.parts["language"].linear_sides, own
    return train.lora_rank * sum(model.parts[part].linear_sides for part in free), 0


class _Shared(NamedTuple):
    """By how many processes each is divided."""

    state: int
    gradients: int
    weights: int


def _shared_by(train: Train, processes: int) -> _Shared:
    stage = 3 if train.fsdp else int(train.deepspeed[4]) if train.deepspeed.startswith("zero") else 0
    return _Shared(*(processes if stage >= level else 1 for level in (1, 2, 3)))


def _whole_state(train: Train, size: int) -> int:
    """Bytes of AdamW's state for a parameter that is trained whole."""
    return 12 if train.deepspeed else 2 * size


def _activations(stack: Stack, batch: int, tokens: int, size: int, train: Train, *, checkpointing: bool) -> float:
    """Bytes of the activations of a transformer's layers."""
    positions = batch * tokens
    layer = size / 2 * positions * (17 * stack.hidden + 8 * stack.intermediate)
    if train.attention == "eager":
        layer += 5 * stack.heads * batch * tokens**2
    if not checkpointing:
        return stack.layers * layer
    return stack.layers * positions * stack.hidden * size + layer
