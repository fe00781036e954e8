"""The estimate of memory: parts, what changes them, and the sizes of published models."""

import math
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from tests.training.published_models import PUBLISHED, write_config
from vlmdet_cli.demo import HERE
from vlmdet_cli.models import registry
from vlmdet_cli.models.parameters import ModelSize, PartSize, Stack, model_size
from vlmdet_cli.training import presets
from vlmdet_cli.training.memory import Workload, estimate, trained_parameters
from vlmdet_cli.training.settings import Train

MODEL = ModelSize(
    parts={"vision": PartSize(400, 10), "aligner": PartSize(100, 5), "language": PartSize(2_000, 20)},
    language=Stack(layers=10, hidden=8, intermediate=16, heads=2),
    vision=Stack(layers=4, hidden=4, intermediate=8, heads=2),
    vocabulary=50,
    patches_per_token=4,
)
ONE = Workload(tokens=100, image_tokens=60, processes=1)


def settings(**values: object) -> Train:
    return msgspec.convert(values, Train)


@pytest.mark.parametrize(
    ("values", "trained"),
    [
        ({}, (32 * 35, 0)),
        ({"freeze_vit": True, "freeze_aligner": True, "lora_rank": 4}, (80, 0)),
        ({"tuner_type": "lora_llm", "lora_rank": 4}, (80, 500)),
        ({"tuner_type": "full"}, (0, 2_500)),
        ({"tuner_type": "full", "freeze_llm": True}, (0, 500)),
    ],
)
def test_what_is_trained(values: dict[str, object], trained: tuple[int, int]) -> None:
    assert trained_parameters(MODEL, settings(**values)) == trained


def test_the_parts_of_a_small_model_by_hand() -> None:
    result = estimate(MODEL, settings(lora_rank=1), ONE)
    assert result.weights * 1e9 == pytest.approx(2_500 * 2 + 35 * 4)
    assert result.optimizer * 1e9 == pytest.approx(35 * 12)
    text = 10 * 100 * 8 * 2 + 100 * (17 * 8 + 8 * 16)
    tower = 4 * 240 * 4 * 2 + 240 * (17 * 4 + 8 * 8)
    assert result.activations * 1e9 == pytest.approx(text + tower)
    assert result.logits * 1e9 == pytest.approx(100 * 50 * 12)
    assert result.other == pytest.approx(1.5 + 0.1 * (result.total - result.other))


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"liger": True}, "logits"), ({"freeze_vit": True}, "activations"), ({"lora_rank": 4}, "optimizer"),
        ({"torch_dtype": "bfloat16"}, "weights"),
    ],
)  # fmt: skip
def test_a_setting_that_saves_memory_saves_it_where_it_should(values: dict[str, object], part: str) -> None:
    before = estimate(MODEL, settings(torch_dtype="float32"), ONE)
    after = estimate(MODEL, settings(**{"torch_dtype": "float32", **values}), ONE)
    assert getattr(after, part) < getattr(before, part)
    assert after.total < before.total


@pytest.mark.parametrize(
    ("deepspeed", "optimizer", "weights"),
    [("", 2_500 * 6, 5_000), ("zero1", 2_500 * (12 / 4 + 2), 5_000), ("zero2", 2_500 * 14 / 4, 5_000),
     ("zero3", 2_500 * 14 / 4, 5_000 / 4), ("zero2_offload", 2_500 * 2 / 4, 5_000)],
)  # fmt: skip
def test_deepspeed_divides_by_the_processes(deepspeed: str, optimizer: float, weights: float) -> None:
    result = estimate(MODEL, settings(tuner_type="full", deepspeed=deepspeed), ONE._replace(processes=4))
    assert result.optimizer * 1e9 == pytest.approx(optimizer)
    assert result.weights * 1e9 == pytest.approx(weights)


def test_checkpointing_keeps_one_layer_and_eager_attention_all_pairs() -> None:
    whole = estimate(MODEL, settings(freeze_vit=True), ONE._replace(checkpointing=False))
    assert whole.activations * 1e9 == pytest.approx(10 * 100 * (17 * 8 + 8 * 16))
    eager = estimate(MODEL, settings(freeze_vit=True, attention="eager"), ONE._replace(checkpointing=False))
    assert (eager.activations - whole.activations) * 1e9 == pytest.approx(10 * 5 * 2 * 100**2)


def test_the_estimate_grows_with_the_demos_rows() -> None:
    size = model_size(HERE / "model")
    totals = [estimate(size, Train(), ONE._replace(tokens=tokens)).total for tokens in (100, 200, 400)]
    assert totals == sorted(set(totals))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`")
def test_the_sizes_of_published_models_are_the_published_ones_and_every_preset_is_estimated_to_fit(
    tmp_path: Path,
) -> None:
    for name, (*_, published) in PUBLISHED.items():
        size, family = model_size(write_config(name, tmp_path)), registry.family_of(name)
        assert size.parameters == pytest.approx(published, rel=0 if published % 10_000 else 1e-3), name
        assert presets.billions_of(name) == pytest.approx(size.parameters / 1e9, rel=0.3)
        limits = family.fitting_flags()
        pixels = limits.get("max_pixels")
        side = math.isqrt(pixels or 0)
        picture = int(family.image_tokens([(side, side)], pixels)[0]) if pixels else limits["max_length"]
        for preset, chosen in presets.PRESETS.items():
            train = settings(**presets.settings(preset, presets.billions_of(name)), max_length=limits["max_length"])
            work = Workload(limits["max_length"], picture, chosen.gpus)
            assert estimate(size, train, work).total < chosen.gigabytes, (name, preset)
