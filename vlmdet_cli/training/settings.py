"""The settings of training: the documented run of ``swift sft``, and those of the reward that may follow it."""

from typing import Annotated, Literal, get_args

import msgspec

from vlmdet_cli.core.settings import AboveZero, Amount, Count, Positive, RewardName, Share, Table, Text

Flag = bool | int | float | str | list[str | int | float]
# what is vlmdet's own; every other key of [train] is a flag of swift's
OWN_KEYS = (
    "gpus", "device", "nproc_per_node", "nodes", "effective_batch", "rows_must_match", "stop_silent", "evaluate",
    "evaluate_pictures", "patience", "keep", "swift", "coordinate_weight", "noise_boxes", "replay", "replay_ratio",
    "reward",
)  # fmt: skip
# keys and swift's flags for them; a key at its default gives no flag
LEVER_FLAGS = {
    "vit_lr": "vit_lr",
    "aligner_lr": "aligner_lr",
    "attention": "attn_impl",
    "packing": "packing",
    "liger": "use_liger_kernel",
    "deepspeed": "deepspeed",
    "fsdp": "fsdp",
}


Method = Literal["sft", "grpo"]
Threshold = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Reward(Table, frozen=True, kw_only=True):
    """``train --method grpo``. The fields named in ``RewardName`` are weights; a task of weight 0 is not trained.

    ``thresholds``: the IoU thresholds over which ``detection`` is a mean. ``max_completion_length``: tokens of an
    answer, 0 for ``infer.max_tokens``. The other fields are swift's flags under swift's names, in place of those of
    ``[train]``, and ``swift`` holds any further ones.
    """

    detection: Amount = 1.0
    silence: Amount = 1.0
    form: Amount = 0.2
    count: Amount = 1.0
    area: Amount = 1.0
    thresholds: Annotated[tuple[Threshold, ...], msgspec.Meta(min_length=1)] = (
        0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
    )  # fmt: skip
    learning_rate: AboveZero = 1e-5
    num_train_epochs: AboveZero = 1
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 4
    num_generations: Annotated[int, msgspec.Meta(ge=2)] = 8
    max_completion_length: Count = 0
    temperature: AboveZero = 1.0
    beta: Amount = 0.04
    swift: dict[str, Flag] = msgspec.field(default_factory=dict)

    @property
    def weights(self) -> dict[RewardName, float]:
        """The weights above 0."""
        weights: dict[RewardName, float] = {name: getattr(self, name) for name in get_args(RewardName)}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def flags(self) -> dict[str, Flag]:
        """The fields that are swift's flags."""
        own = {*get_args(RewardName), "thresholds", "swift"}
        return {name: getattr(self, name) for name in self.__struct_fields__ if name not in own}


class Train(Table, frozen=True, kw_only=True):
    """The documented run. All keys but ``OWN_KEYS`` are swift's flags, under swift's names.

    ``gpus``: CUDA_VISIBLE_DEVICES; empty keeps what a scheduler has set, and is 0 where nothing is set. ``device``:
    ``auto`` trains on the CPU where no GPU is visible. ``nodes``: machines with ``nproc_per_node`` processes each.
    ``effective_batch``: rows a step of the optimizer over all processes; ``gradient_accumulation_steps`` then follows.
    ``stop_silent``: minutes without a word of swift's after which it is stopped, 0 for never.
    ``evaluate``: what is measured on the split val at each save, on
    ``evaluate_pictures`` of its pictures, 0 for all. ``patience``: evaluations without a better value after which
    training ends, 0 for never. ``keep``: the checkpoint that ``merge`` takes.

    Levers: see ``training.levers`` and ``training.loss``. ``vit_lr``, ``aligner_lr``: 0 for ``learning_rate``.
    ``noise_boxes``: invented boxes in each detection row, a number or a share of its true ones. ``replay``: a file of
    general rows, at most ``replay_ratio`` of them for each row of the project's own.
    """

    model: Text = "Qwen/Qwen2-VL-2B-Instruct"
    gpus: str = ""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    nproc_per_node: Positive = 1
    nodes: Positive = 1
    effective_batch: Count = 0
    tuner_type: Literal["lora", "lora_llm", "full", "longlora", "adalora", "vera", "boft", "fourierft", "bone"] = "lora"
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    target_modules: Text = "all-linear"
    freeze_vit: bool = False
    freeze_aligner: bool = False
    freeze_llm: bool = False
    per_device_train_batch_size: Positive = 1
    gradient_accumulation_steps: Positive = 4
    num_train_epochs: AboveZero = 10
    learning_rate: AboveZero = 5e-5
    lr_scheduler_type: Text = "cosine"
    warmup_ratio: Share = 0.05
    max_length: Positive = 2048
    torch_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    split_dataset_ratio: Share = 0.0
    dataset_num_proc: Positive = 1
    lazy_tokenize: bool = True
    dataloader_num_workers: Count = 0
    save_steps: Positive = 500
    logging_steps: Positive = 5
    add_version: bool = True
    rows_must_match: bool = True
    stop_silent: Amount = 0.0
    evaluate: Literal["none", "f1"] = "none"
    evaluate_pictures: Count = 0
    patience: Count = 0
    keep: Literal["last", "best"] = "last"
    vit_lr: Amount = 0.0
    aligner_lr: Amount = 0.0
    coordinate_weight: AboveZero = 1.0
    noise_boxes: Count | Amount = 0
    replay: str = ""
    replay_ratio: Amount = 0.1
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    packing: bool = False
    liger: bool = False
    deepspeed: str = ""
    fsdp: str = ""
    reward: Reward = Reward()
    swift: dict[str, Flag] = msgspec.field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Those of all machines."""
        return self.nproc_per_node * self.nodes
