"""The transformers engine on the demo's tiny model, which ships in the package: real generation, no mock."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from tests.conftest import Cli
from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.engines import Completion, EngineSettings, Request, greedy
from vlmdet_cli.engines.batches import Sized
from vlmdet_cli.engines.greedy import GeneratedRow
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.engines.transformers import LoadedModel, TransformersEngine
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models import dialects
from vlmdet_cli.models.qwen2_vl import QWEN2_VL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`"),
]
MODEL = HERE / "model"
PROMPT = "<image>Draw the bounding box of objects"
ORIENTATION = 0x0112  # EXIF's tag


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("street")
    write_coco(folder, STREET, {"test": 10})
    return sorted((folder / "images" / "test").glob("*.jpg"))


def settings(**values: Any) -> EngineSettings:
    plain = {"model": MODEL, "family": QWEN2_VL, "options": TransformersOptions(), "batch": 4, "device": "cpu",
             "max_pixels": 168 * 168}  # fmt: skip
    return EngineSettings(**{**plain, **values})


def requests(pictures: Sequence[Path]) -> list[Request]:
    return [Request(key=path.name, image=path, prompt=PROMPT) for path in pictures]


def test_an_adapter_beside_a_tower_that_was_trained_whole_answers_with_that_tower(
    tmp_path: Path, pictures: list[Path]
) -> None:
    """As ``tuner_type = "lora_llm"`` leaves them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    tower = {name: 1.5 * weight for name, weight in adapted.named_parameters() if ".visual.merger." in name}
    save_file(tower, tmp_path / "adapter" / "vit.safetensors")
    shutil.copytree(MODEL, tmp_path / "whole")
    settings_file = (MODEL / "generation_config.json").read_bytes()
    adapted.load_state_dict(tower, strict=False)
    adapted.unload().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "generation_config.json").write_bytes(settings_file)
    answers = texts(TransformersEngine(settings(adapter=tmp_path / "adapter")), pictures)
    assert answers == texts(TransformersEngine(settings(model=tmp_path / "whole")), pictures)
    assert answers != texts(TransformersEngine(settings()), pictures)


def texts(engine: TransformersEngine, pictures: Sequence[Path]) -> dict[str, str]:
    completions = list(engine.answer(requests(pictures), 64))
    assert len(completions) == len(pictures)
    return {completion.key: completion.text for completion in completions}


def test_a_batch_that_does_not_fit_is_halved_and_the_texts_stay(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    expected = texts(TransformersEngine(settings(batch=10)), pictures)
    assert any("box_start" in text for text in expected.values())
    real, sizes = LoadedModel.complete, list[int]()

    def complete(model: LoadedModel, batch: Sequence[Sized], inputs: Any, max_tokens: int) -> list[Completion]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, batch, inputs, max_tokens)

    monkeypatch.setattr(LoadedModel, "complete", complete)
    assert texts(TransformersEngine(settings(batch=10)), pictures) == expected
    assert sizes == [10, 5, 3, 3, 3, 1]


def test_out_of_memory_with_a_single_picture_ends_with_advice(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(_model: LoadedModel, _batch: Sequence[Sized], _inputs: Any, _max_tokens: int) -> list[Completion]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.")

    monkeypatch.setattr(LoadedModel, "complete", complete)
    with pytest.raises(EngineError, match="Out of memory with a single picture"):
        texts(TransformersEngine(settings()), pictures)


def test_log_probabilities_come_with_the_text_they_are_of(pictures: list[Path]) -> None:
    for completion in TransformersEngine(settings(scores=True)).answer(requests(pictures[:3]), 64):
        assert "".join(text for text, _ in completion.tokens) == completion.text
        assert all(logprob <= 0 for _, logprob in completion.tokens)


class Dictation:
    """Makes the first row of a batch say the ids, one after the other."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)[::-1]

    def __call__(self, _input_ids: Any, scores: Any) -> Any:
        scores[0] = -1e9
        scores[0, self._ids.pop()] = 0.0
        return scores


def test_a_row_that_repeats_a_box_ends_early_with_its_cut_text_and_the_others_keep_theirs(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = dialects.get("qwen2_vl")
    cat = ("plain disk", (100, 200, 300, 400))
    steps: list[int] = []
    real = LoadedModel.generate

    def generate(model: LoadedModel, inputs: Any, max_tokens: int) -> list[GeneratedRow]:
        ids = model._processor.tokenizer(dialect.write([cat] * 99))["input_ids"]
        rows = real(model, inputs, max_tokens, [Dictation(ids)])
        steps.extend(len(row.ids) for row in rows)
        return rows

    plain = list(TransformersEngine(settings(scores=True)).answer(requests(pictures[:3]), 512))
    monkeypatch.setattr(LoadedModel, "generate", generate)
    engine = TransformersEngine(settings(scores=True, stop_loops=5))
    first, *others = list(engine.answer(requests(pictures[:3]), 512))
    assert (first.finish, first.text) == ("loop", dialect.write([cat] * 5))
    assert "".join(text for text, _ in first.tokens) == first.text
    assert [completion.text for completion in others] == [completion.text for completion in plain[1:]]
    assert all(completion.finish == "stop" for completion in others)
    assert max(steps) < 200
    assert first.num_tokens < 200


def test_rows_that_have_ended_leave_the_batch_and_the_answers_are_those_of_transformers_own_loop(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = greedy._RunningBatch.next_outputs

    def next_outputs(batch: Any) -> Any:
        sizes.append(len(batch.ids))
        return real(batch)

    monkeypatch.setattr(greedy._RunningBatch, "next_outputs", next_outputs)
    model = LoadedModel(settings(scores=True))
    batch = [(request, model.read(request)) for request in requests(pictures)]
    inputs = model.inputs(batch)
    rows = model.generate(inputs, 96)
    assert sizes[0] == 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 5
    own = model.model.generate(
        **inputs, max_new_tokens=96, do_sample=False, eos_token_id=model._ends, output_logits=True,
        return_dict_in_generate=True, temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    for row, ids in zip(rows, own.sequences[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        assert row.ids == ids[: len(row.ids)]
        assert len(row.ids) == 96 or row.ids[-1] in model._ends
        assert len(row.logprobs) == len(row.ids)
    steps = [step.float().log_softmax(dim=-1).amax(dim=-1).tolist() for step in own.logits]
    for number, row in enumerate(rows):
        assert row.logprobs == pytest.approx([step[number] for step in steps[: len(row.ids)]], abs=1e-4)


def test_generated_tokens_are_counted(pictures: list[Path]) -> None:
    for completion in TransformersEngine(settings(scores=True)).answer(requests(pictures[:2]), 64):
        assert completion.num_tokens == len(completion.tokens) > 0


def test_the_token_limit_shows_in_the_finish(pictures: list[Path]) -> None:
    (completion,) = TransformersEngine(settings()).answer(requests(pictures[:1]), 1)
    assert completion.finish == "length"


def test_bad_pictures_are_recorded_and_the_others_answered(pictures: list[Path], tmp_path: Path) -> None:
    data = pictures[0].read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 3])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (900, 2)).save(tmp_path / "strip.png")
    asked = [tmp_path / name for name in ("cut.jpg", "empty.jpg", "gone.jpg", "strip.png")]
    completions = TransformersEngine(settings()).answer(requests([*asked, pictures[1]]), 64)
    errors = {completion.key: completion.error for completion in completions}
    assert errors["strip.png"].startswith("one side is more than 200 times the other")
    del errors["strip.png"]
    assert errors == {
        "cut.jpg": "truncated", "empty.jpg": "empty file", "gone.jpg": "not on disk", pictures[1].name: ""
    }  # fmt: skip


def test_a_picture_turned_by_exif_gets_the_answer_and_the_boxes_of_its_upright_copy(
    pictures: list[Path], tmp_path: Path, cli: Cli
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored a quarter turn to the left
    for path in pictures[:4]:
        with Image.open(path) as image:
            upright = image.convert("RGB").resize((240, 216))
        upright.save(tmp_path / f"upright-{path.stem}.png")
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / f"turned-{path.stem}.png", exif=exif)
    documents = []
    for name in ("upright", "turned"):
        result = cli("infer", "--model", str(MODEL), *sorted(map(str, tmp_path.glob(f"{name}-*.png"))), "--json")
        assert result.exit_code == 0, result.stderr
        documents.append([{**document, "image": ""} for document in json.loads(result.stdout)])
    upright_documents, turned_documents = documents
    assert any(document["object"] for document in upright_documents)
    assert turned_documents == upright_documents
    assert all(document["size"] == [240, 216] for document in turned_documents)


def test_the_system_prompt_reaches_the_model(pictures: list[Path]) -> None:
    model = LoadedModel(settings(system="Be brief."))
    request = requests(pictures[:1])[0]
    ids = model.inputs([(request, model.read(request))])["input_ids"][0]
    plain = LoadedModel(settings())
    assert len(ids) != len(plain.inputs([(request, plain.read(request))])["input_ids"][0])


def test_options_reach_the_model() -> None:
    options = TransformersOptions(dtype="bfloat16", attention="eager")
    model = LoadedModel(settings(options=options)).model
    assert (str(model.dtype), model.config._attn_implementation) == ("torch.bfloat16", "eager")


def test_the_identity_of_a_copy_is_the_same_and_of_other_weights_another(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(MODEL, tmp_path / "copy"))
    identity = TransformersEngine(settings()).identity()
    assert TransformersEngine(settings(model=copy)).identity() == identity
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert TransformersEngine(settings(model=copy)).identity() != identity
    assert msgspec.json.decode(msgspec.json.encode(identity)) == identity


def test_a_folder_that_is_no_model_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(EngineError) as caught:
        texts(TransformersEngine(settings(model=tmp_path)), [])
    assert caught.value.what == f"Cannot load the model: {tmp_path}"
    assert caught.value.why


@pytest.mark.parametrize(
    "module", ["PIL.JpegImagePlugin", "torchvision", "transformers.models.qwen2_vl.modeling_qwen2_vl"]
)
def test_a_broken_import_ends_with_exit_code_4_and_records_no_bad_picture(
    pictures: list[Path], tmp_path: Path, module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            raise ImportError('a library of it is missing')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    command = [sys.executable, "-m", "vlmdet_cli", "infer", "--model", str(MODEL), "--output", "a.jsonl"]
    done = subprocess.run([*command, *map(str, pictures)], cwd=tmp_path, env=env, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert f"error: Cannot load the model: {MODEL}\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == b""
