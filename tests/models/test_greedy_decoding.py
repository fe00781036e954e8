"""Rows that leave a batch, pictures that are encoded once: on every family's architecture the tokens stay the same."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models import tiny_models
from vlmdet_cli.engines import EngineSettings, Request, greedy
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.models import registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`"),
]
SIZES = [(56, 56), (200, 90), (90, 200), (300, 300), (28, 400), (64, 64)]
TOKENS = 24


def loaded_model(folder: Path, name: str) -> Any:
    from vlmdet_cli.engines.transformers import LoadedModel

    family = registry.get(tiny_models.family_name(name)).configured(folder)
    return LoadedModel(
        EngineSettings(model=folder, family=family, options=TransformersOptions(), max_pixels=300 * 300, scores=True)
    )


def sized_pictures(model: Any) -> list[tuple[Request, Image.Image]]:
    prompts = ["<image>cat", "<image>Draw the bounding box of objects", "<image>x"]
    batch = []
    for number, (width, height) in enumerate(SIZES):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        picture = model._settings.family.resize(Image.fromarray(noise), 300 * 300)
        batch.append((Request(key=str(number), image=Path(), prompt=prompts[number % 3]), picture))
    return batch


@pytest.mark.parametrize("name", sorted(tiny_models.builders()))
def test_the_tokens_are_those_of_transformers_own_loop_and_the_probabilities_the_models_own(
    tiny_model_folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = loaded_model(tiny_model_folders[name], name)
    model.model.generation_config.repetition_penalty = 0.98  # it chooses, and leaves the probabilities
    inputs = model.inputs(sized_pictures(model))
    start = inputs["input_ids"].shape[1]
    arguments = {"max_new_tokens": TOKENS, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    endless = model.model.generate(**inputs, **arguments, eos_token_id=None)[:, start:].tolist()
    # random weights never end an answer: the token that stands at the most different places ends it
    tokens = {token for row in endless for token in row}
    model._ends = [max(sorted(tokens), key=lambda token: len({(*row, token).index(token) for row in endless}))]
    arguments |= {"eos_token_id": model._ends, "return_dict_in_generate": True, "output_logits": True}
    outputs = model.model.generate(**inputs, **arguments)
    chosen = outputs.sequences[:, start:]
    logprobs = torch.stack(outputs.logits, dim=1).float().log_softmax(dim=-1).gather(2, chosen[..., None])[..., 0]
    own = chosen.tolist()
    dropped: list[int] = []
    real = greedy._RunningBatch.drop_finished

    def drop_finished(batch: Any) -> None:
        real(batch)
        dropped.append(len(batch.ids))

    monkeypatch.setattr(greedy._RunningBatch, "drop_finished", drop_finished)
    monkeypatch.setattr(greedy, "KEPT_SHARE", 1.0)  # every row leaves as soon as it has ended
    rows = model.generate(inputs, TOKENS)
    assert [row.ids for row in rows] == [ids[: len(row.ids)] for row, ids in zip(rows, own, strict=True)]
    assert all(row.ids[-1] in model._ends or len(row.ids) == TOKENS for row in rows)
    for row, expected in zip(rows, logprobs.tolist(), strict=True):
        assert row.logprobs == pytest.approx(expected[: len(row.ids)], abs=1e-4)
    assert len({len(row.ids) for row in rows}) > 1
    assert min(dropped) < len(SIZES)


@pytest.mark.parametrize("name", sorted(tiny_models.builders()))
def test_a_picture_of_several_prompts_is_computed_once_and_the_tokens_are_the_same(
    tiny_model_folders: dict[str, Path], name: str
) -> None:
    model = loaded_model(tiny_model_folders[name], name)
    pictures = [picture for _, picture in sized_pictures(model)[:3]]
    shared = [pictures[number] for number in (0, 1, 0, 2, 1, 0)]
    answers, values, passes = [], [], list[list[int]]()
    model.model.register_forward_pre_hook(
        lambda _module, _arguments, named: passes[-1].append(len(named["input_ids"])), with_kwargs=True
    )
    for batch_pictures in (shared, [picture.copy() for picture in shared]):
        batch = [
            (Request(key=str(number), image=Path(), prompt=f"<image>{'x' * 3 * number}"), picture)
            for number, picture in enumerate(batch_pictures)
        ]
        inputs = model.inputs(batch)
        values.append(len(inputs["pixel_values"]))
        passes.append([])
        answers.append(model.complete(batch, inputs, 12))
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]
    logprobs = [[logprob for answer in row for _, logprob in answer.tokens] for row in answers]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)
    is_shared = name.startswith("qwen")
    assert (values[0] < values[1]) == is_shared
    assert [rows[0] for rows in passes] == [3 if is_shared else 6, 6]  # the first pass: a row a picture, a row a prompt


@pytest.mark.parametrize("system", ["as", "is as"])
def test_prompts_that_differ_before_the_picture_are_computed_each_by_itself(
    tiny_model_folders: dict[str, Path], system: str
) -> None:
    name = next(name for name in sorted(tiny_models.builders()) if name.startswith("qwen"))
    model = loaded_model(tiny_model_folders[name], name)
    picture = sized_pictures(model)[0][1]
    batch = [
        (Request(key=prompt, image=Path(), prompt=prompt), picture) for prompt in ("<image>x", f"{system}<image>x")
    ]
    together = model.complete(batch, model.inputs(batch), 12)
    alone = [model.complete([row], model.inputs([row]), 12)[0] for row in batch]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
