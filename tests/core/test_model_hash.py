"""The hash of a model folder: by content, of a copy the same, of another training another."""

import json
import shutil
from pathlib import Path

import pytest

from vlmdet_cli.core.model_hash import WINDOW, model_folder_hash, sampled_bytes

TENSOR = 64 * WINDOW


def write_model(folder: Path, tensors: dict[str, bytes], **config: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))
    return folder


def test_a_copy_has_the_same_hash_and_another_training_has_another(tmp_path: Path) -> None:
    first = write_model(tmp_path / "a", {"x": bytes(TENSOR), "y": bytes(TENSOR)})
    copy = Path(shutil.copytree(first, tmp_path / "b"))
    (copy / "vlmdet.json").write_text("{}")
    assert model_folder_hash(copy) == model_folder_hash(first)
    trained = write_model(tmp_path / "c", {"x": bytes(TENSOR), "y": b"\1" * TENSOR})
    assert model_folder_hash(trained) != model_folder_hash(first)


@pytest.mark.parametrize("position", [0, TENSOR // 2, TENSOR - 1])
def test_a_number_changed_at_either_end_or_in_the_middle_of_a_tensor_shows(tmp_path: Path, position: int) -> None:
    data = bytearray(TENSOR)
    data[position] = 1
    hashes = {
        model_folder_hash(write_model(tmp_path / name, {"x": bytes(TENSOR), "y": bytes(values)}))
        for name, values in (("a", bytes(TENSOR)), ("b", data))
    }
    assert len(hashes) == 2


def test_other_settings_are_another_model(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a", {}, act="silu"), write_model(tmp_path / "b", {}, act="gelu")
    assert model_folder_hash(first) != model_folder_hash(second)


def test_a_fraction_of_a_large_file_is_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a", {str(n): bytes(TENSOR) for n in range(20)})
    weights = folder / "model.safetensors"
    assert 0 < sum(map(len, sampled_bytes(weights))) < weights.stat().st_size / 10


@pytest.mark.parametrize("data", [b"", b"12345", b"\xff" * 100, (9).to_bytes(8, "little") + b"not JSON!" + b"x" * 999])
def test_a_broken_weights_file_has_a_hash_of_its_content(tmp_path: Path, data: bytes) -> None:
    folder = write_model(tmp_path / "a", {})
    hashes = []
    for tail in (b"1", b"2"):
        (folder / "model.safetensors").write_bytes(data + tail)
        hashes.append(model_folder_hash(folder))
    assert hashes[0] != hashes[1]
