"""The levers of ``[train]``: swift's flags for them, and what is refused with its reason."""

from pathlib import Path

import msgspec
import pytest

from vlmdet_cli.errors import UsageError
from vlmdet_cli.training import levers
from vlmdet_cli.training.levers import Machine
from vlmdet_cli.training.settings import Train


def settings(**values: object) -> Train:
    return msgspec.convert(values, Train)


def test_a_key_at_its_default_gives_no_flag() -> None:
    assert levers.flags(Train(), Path()) == {}


def test_each_key_has_its_flag_under_swifts_name(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    train = settings(vit_lr=1e-5, aligner_lr=2e-5, attention="sdpa", liger=True, deepspeed="own.json")
    assert levers.flags(train, tmp_path) == {
        "vit_lr": 1e-5, "aligner_lr": 2e-5, "attn_impl": "sdpa", "use_liger_kernel": True,
        "deepspeed": str(tmp_path / "own.json"),
    }  # fmt: skip


def test_packing_brings_the_flags_that_it_needs() -> None:
    packed = {"packing": True, "attn_impl": "flash_attention_2", "lazy_tokenize": False}
    assert levers.flags(settings(packing=True), Path()) == packed
    third = levers.flags(settings(packing=True, attention="flash_attention_3"), Path())
    assert third == {**packed, "attn_impl": "flash_attention_3"}


def test_fsdp_turns_off_the_other_checkpointing() -> None:
    assert levers.flags(settings(fsdp="fsdp2"), Path()) == {"fsdp": "fsdp2", "gradient_checkpointing": False}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"packing": True, "attention": "eager"}, "train.packing needs flash attention, and train.attention is"),
        ({"deepspeed": "zero2", "fsdp": "fsdp2"}, "train.deepspeed and train.fsdp: swift takes one of them"),
        ({"vit_lr": 1e-5, "freeze_vit": True}, "train.vit_lr has no effect while train.freeze_vit is true"),
        ({"aligner_lr": 1e-5, "swift": {"optimizer": "muon"}}, "train.aligner_lr has no effect with an optimizer"),
        ({"tuner_type": "lora_llm", "freeze_vit": True}, 'train.tuner_type "lora_llm" trains vision tower'),
    ],
)
def test_keys_that_exclude_each_other_are_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError) as error:
        levers.flags(settings(**values), Path())
    assert error.value.why[0].startswith(reason)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"train\.deepspeed: neither a preset .*: zero_2: did you mean zero2\?"):
        levers.flags(settings(deepspeed="zero_2"), Path())


GPU, CPU = Machine(cpu=False, gpus=2, processes=2), Machine(cpu=True, gpus=0, processes=1)


@pytest.mark.parametrize(
    ("given", "machine", "family", "reason"),
    [
        ({"packing": "true"}, CPU, "qwen2_vl", "packing needs a GPU"),
        ({"packing": "true"}, GPU, "paligemma", "packing: swift's template of PaliGemma does not support it"),
        ({"attn_impl": "flash_attention_2"}, CPU, "qwen2_vl", "flash attention needs a GPU"),
        ({"deepspeed": "zero2"}, CPU, "qwen2_vl", "deepspeed needs a GPU"),
        ({"use_liger_kernel": "true"}, CPU, "qwen2_vl", "liger needs a GPU"),
        ({"fsdp": "fsdp2"}, CPU, "qwen2_vl", "fsdp distributes a model over processes"),
        ({"deepspeed": "zero2"}, Machine(False, 4, 2), "qwen2_vl", "deepspeed needs a process a GPU: set train.npro"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    given: dict[str, str], machine: Machine, family: str, reason: str
) -> None:
    with pytest.raises(UsageError) as error:
        levers.refuse_impossible(given, machine, family)
    assert error.value.why[0].startswith(reason)


@pytest.mark.parametrize(
    ("given", "package"),
    [
        ({"deepspeed": "zero2"}, "deepspeed needs a package: pip install deepspeed"),
        ({"use_liger_kernel": "true"}, "liger needs a package: pip install liger-kernel"),
        ({"attn_impl": "flash_attention_2"}, "flash attention needs a package: pip install flash-attn"),
    ],
)
def test_a_missing_package_is_named(given: dict[str, str], package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levers, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as error:
        levers.refuse_impossible(given, GPU, "qwen2_vl")
    assert error.value.why[0].startswith(package)
    monkeypatch.setattr(levers, "find_spec", lambda name: name)
    levers.refuse_impossible(given, GPU, "qwen2_vl")


def test_flags_that_are_off_are_not_refused() -> None:
    levers.refuse_impossible({"packing": "false", "use_liger_kernel": "false"}, CPU, "paligemma")
