"""Whether an adapter fits a model, by the headers of files that hold no weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.models.adapters import base_name, misfits

BASE = {"model.layers.0.self_attn.q_proj.weight": (128, 64), "visual.blocks.0.attn.qkv.weight": (96, 32),
        "model.layers.0.input_layernorm.weight": (64,), "model.embed_tokens.weight": (500, 64)}  # fmt: skip
# as peft names them: on the module names in memory, which differ from those of the file
Q_PROJ, QKV = "model.language_model.layers.{n}.self_attn.q_proj", "model.visual.blocks.{n}.attn.qkv"


def weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of these tensors, without its numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def model_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]] = BASE, config: Mapping[str, Any] | None = None
) -> Path:
    """In two files, as large models are; with a ``config.json`` where it is given."""
    items = list(shapes.items())
    if config is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
    weights(folder / "model-00001-of-00002.safetensors", dict(items[:1]))
    weights(folder / "model-00002-of-00002.safetensors", dict(items[1:]))
    return folder


def adapter_weights(folder: Path, modules: Mapping[str, tuple[int, int]], base: str = "base", rank: int = 4) -> Path:
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (out, inside) in modules.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = (rank, inside)
        shapes[f"base_model.model.{module}.lora_B.weight"] = (out, rank)
    weights(folder / "adapter_model.safetensors", shapes)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_an_adapter_fits_the_model_it_was_trained_on(tmp_path: Path) -> None:
    adapter = adapter_weights(tmp_path / "a", {Q_PROJ.format(n=0): (128, 64), QKV.format(n=0): (96, 32)}, "org/model")
    assert misfits(adapter, model_weights(tmp_path / "m")) == []
    assert base_name(adapter) == "org/model"


@pytest.mark.parametrize(
    ("module", "shape", "sentence"),
    [
        (Q_PROJ.format(n=0), (128, 65), "layers.0.self_attn.q_proj is 128 x 65 in the adapter, 128 x 64 in the model."),
        (QKV.format(n=0), (32, 96), "blocks.0.attn.qkv is 32 x 96 in the adapter, 96 x 32 in the model."),
        (Q_PROJ.format(n=7), (128, 64), "The model has no layers.7.self_attn.q_proj."),
    ],
)
def test_another_width_and_a_layer_too_many_are_named(
    tmp_path: Path, module: str, shape: tuple[int, int], sentence: str
) -> None:
    assert misfits(adapter_weights(tmp_path / "a", {module: shape}), model_weights(tmp_path / "m")) == [sentence]


def test_what_cannot_be_compared_is_taken_to_fit(tmp_path: Path) -> None:
    wrong, model = adapter_weights(tmp_path / "a", {Q_PROJ.format(n=0): (9, 9)}), model_weights(tmp_path / "m")
    (model / "config.json").write_text('{"quantization_config": {"load_in_4bit": true}}')
    assert misfits(wrong, model) == []
    (tmp_path / "empty").mkdir()
    assert misfits(wrong, tmp_path / "empty") == []
    assert misfits(tmp_path / "empty", model) == []
    assert base_name(tmp_path / "empty") == ""
    for data in (b"", b"\xff" * 20, (9).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"}{"):
        (tmp_path / "empty" / "model.safetensors").write_bytes(data)
        assert misfits(wrong, tmp_path / "empty") == []
    unknown = adapter_weights(tmp_path / "u", {"model.connector.mlp.0": (9, 9), "model.layers.0.own_name": (9, 9)})
    assert misfits(unknown, model_weights(tmp_path / "n")) == []
