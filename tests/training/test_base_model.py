"""The hash of a base model: another for other weights, the same for a copy, without reading gigabytes."""

import json
import shutil
from pathlib import Path

import pytest

from vlmdet_cli.core.model_hash import WINDOW
from vlmdet_cli.training.base_model import model_hash

TENSOR = 10 * WINDOW


def write_model(folder: Path) -> Path:
    """A model of two tensors, in one safetensors file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    offsets = {"a": [0, TENSOR], "b": [TENSOR, 2 * TENSOR]}
    tensors = {name: {"dtype": "U8", "shape": [TENSOR], "data_offsets": span} for name, span in offsets.items()}
    header = json.dumps({"__metadata__": {}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * TENSOR))
    return folder


@pytest.mark.parametrize("offset", [-1, -TENSOR, -TENSOR - 1, -2 * TENSOR])
def test_a_change_in_any_tensor_is_another_model(tmp_path: Path, offset: int) -> None:
    model = write_model(tmp_path / "model")
    before = model_hash(str(model))
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(offset, 2)
        file.write(b"\1")
    assert model_hash(str(model)) != before


def test_a_copy_is_the_same_model_and_other_settings_make_another(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    assert model_hash(str(copy)) == model_hash(str(model))
    (copy / "config.json").write_text('{"a": 1}')
    assert model_hash(str(copy)) != model_hash(str(model))


def test_a_file_that_is_no_safetensors_is_hashed_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"abc")
    before = model_hash(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"abd")
    assert model_hash(str(folder)) != before != ""


def test_a_hubs_model_is_hashed_where_it_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_hash("Qwen/Qwen2.5") == ""
    cached = write_model(tmp_path / "modelscope" / "models" / "Qwen" / "Qwen2___5")
    assert model_hash("Qwen/Qwen2.5") == model_hash(str(cached))
    repository = tmp_path / "hub" / "models--Qwen--Other"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    assert model_hash("Qwen/Other") == ""
    assert model_hash(str(write_model(repository / "snapshots" / "abc123"))) == model_hash("Qwen/Other")
