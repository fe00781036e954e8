"""Keys of ``[train]`` that are not part of the documented run: swift's flags for them, and what they exclude.

A key at its default gives no flag. What cannot work is refused before swift starts, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vlmdet_cli.errors import UsageError, nearest
from vlmdet_cli.training import launch
from vlmdet_cli.training.settings import LEVER_FLAGS, Flag, Train

DEEPSPEED = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
FSDP = ("fsdp2",)
_FLASH = "flash_attention_2"
_NO_PACKING = {"paligemma": "swift's template of PaliGemma does not support it"}
# keys and the packages that they need
_PACKAGES = {"deepspeed": "deepspeed", "liger": "liger_kernel"}
_FLASH_PACKAGES = ("flash_attn", "flash_attn_3", "kernels")  # transformers takes its kernels from any of them


def flags(train: Train, root: Path) -> dict[str, Flag]:
    """The flags of the keys that are set. Raises ``UsageError`` for keys that exclude each other."""
    if problems := list(_contradictions(train)):
        raise UsageError("Keys of [train] do not go together", why=problems)
    given: dict[str, Flag] = {
        flag: value for name, flag in LEVER_FLAGS.items() if (value := getattr(train, name)) and value != "auto"
    }
    for name, presets in (("deepspeed", DEEPSPEED), ("fsdp", FSDP)):
        if name in given:
            given[name] = _preset_or_file(name, str(given[name]), presets, root)
    if train.packing:
        given |= {"attn_impl": given.get("attn_impl", _FLASH), "lazy_tokenize": False}
    if train.effective_batch:
        given["gradient_accumulation_steps"] = launch.accumulation_steps(train)
    if train.fsdp:
        given["gradient_checkpointing"] = False  # FSDP has its own, in its configuration
    return given


def _preset_or_file(name: str, value: str, presets: tuple[str, ...], root: Path) -> str:
    if value in presets:
        return value
    if (root / value).is_file():
        return str((root / value).resolve())
    raise UsageError(
        f"train.{name}: neither a preset of swift's nor a file: {nearest(value, presets)}",
        hint=f"The presets are {', '.join(presets)}.",
    )


def _contradictions(train: Train) -> Iterator[str]:
    if train.packing and train.attention in {"eager", "sdpa"}:
        yield f'train.packing needs flash attention, and train.attention is "{train.attention}"'
    if train.deepspeed and train.fsdp:
        yield "train.deepspeed and train.fsdp: swift takes one of them"
    for rate, frozen in (("vit_lr", "freeze_vit"), ("aligner_lr", "freeze_aligner")):
        if getattr(train, rate) and getattr(train, frozen):
            yield f"train.{rate} has no effect while train.{frozen} is true"
        if getattr(train, rate) and "optimizer" in train.swift:
            yield f"train.{rate} has no effect with an optimizer of train.swift.optimizer"
    if train.tuner_type == "lora_llm" and (train.freeze_vit or train.freeze_aligner):
        yield 'train.tuner_type "lora_llm" trains vision tower and aligner whole: freeze_vit, freeze_aligner exclude it'


class Machine(NamedTuple):
    """Where a training runs. ``gpus``: the number that is visible to its ``processes`` here. ``nodes``: machines."""

    cpu: bool
    gpus: int
    processes: int
    nodes: int = 1


def refuse_impossible(given: Mapping[str, str], machine: Machine, family: str) -> None:
    """Raise ``UsageError`` for what cannot work on this machine or with this model. ``given``: swift's flags."""
    if problems := list(_impossible(given, machine, family)):
        raise UsageError("This training cannot work", why=problems)


def _impossible(given: Mapping[str, str], machine: Machine, family: str) -> Iterator[str]:
    active = [name for name, flag in LEVER_FLAGS.items() if given.get(flag, "false") not in {"false", "none", "[]"}]
    flash = given.get("attn_impl", "").startswith("flash")
    if "packing" in active and family in _NO_PACKING:
        yield f"packing: {_NO_PACKING[family]}"
    if "fsdp" in active and machine.processes * machine.nodes == 1:
        yield "fsdp distributes a model over processes, and train.nproc_per_node is 1"
    if machine.cpu:
        yield from (f"{name} needs a GPU" for name in active if name in {"packing", "liger", "deepspeed"})
        if flash and "packing" not in active:
            yield "flash attention needs a GPU"
        return
    if machine.gpus > machine.processes:
        yield from (
            f"{name} needs a process a GPU: set train.nproc_per_node = {machine.gpus}, or train.gpus to fewer; else "
            "swift spreads the layers over the GPUs, which excludes it"
            for name in active
            if name in {"liger", "deepspeed", "fsdp"}
        )
    yield from _missing_packages(active, flash=flash)


def _missing_packages(active: Sequence[str], *, flash: bool) -> Iterator[str]:
    for name, package in _PACKAGES.items():
        if name in active and find_spec(package) is None:
            yield f"{name} needs a package: pip install {package.replace('_', '-')}"
    if flash and not any(map(find_spec, _FLASH_PACKAGES)):
        yield "flash attention needs a package: pip install flash-attn --no-build-isolation"
