"""Every family through the whole job on a tiny model of its own architecture: real training, merge and answers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.models import registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
PROJECT = """
[project]
output = "out"
[data.train]
annotations = "annotations/instances_train.json"
images = "images/train"
[data.test]
annotations = "annotations/instances_test.json"
images = "images/test"
[data.split]
val = 0.0
[train]
model = "{model}"
lora_rank = 4
lora_alpha = 8
num_train_epochs = 1
[train.swift]
max_steps = 2
max_pixels = 50176
[infer]
max_tokens = 24
"""


def vlmdet(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "vlmdet_cli", *arguments, "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return json.loads(done.stdout)


def swift_texts(project: Path, family: str) -> dict[tuple[str, str], str]:
    """The answers of ``swift infer`` to the test split's rows, by picture and prompt."""
    known, out = registry.get(family), project / "out"
    rows = [
        *(out / "data" / "coco_final_test.jsonl").read_text().splitlines(),
        *(out / "augment" / "questions_test.jsonl").read_text().splitlines(),
    ]
    (project / "rows.jsonl").write_text("\n".join(rows) + "\n")
    command = [
        str(Path(sys.executable).parent / "swift"), "infer", "--model", str(out / "runs" / "run-001" / "merged"),
        "--model_type", known.swift_model_type, "--template", known.swift_template, "--max_pixels", "50176",
        "--val_dataset", str(project / "rows.jsonl"), "--max_batch_size", "4", "--temperature", "0",
        "--max_new_tokens", "24", "--torch_dtype", "float32", "--use_hf", "true",
        "--result_path", str(project / "swift.jsonl"),
    ]  # fmt: skip
    environment = {**os.environ, "ROOT_IMAGE_DIR": str(out), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (project / "swift.jsonl").read_text().splitlines()]
    return {(Path(row["images"][0]["path"]).name, row["messages"][0]["content"]): row["response"] for row in results}


@pytest.mark.parametrize("family", registry.names())
def test_a_family_is_prepared_trained_merged_asked_and_measured(
    family: str, tmp_path: Path, tiny_model_folders: dict[str, Path]
) -> None:
    write_coco(tmp_path, STREET, {"train": 12, "test": 4})
    (tmp_path / "vlmdet.toml").write_text(PROJECT.format(model=tiny_model_folders[family]))
    vlmdet(tmp_path, "prepare")
    vlmdet(tmp_path, "augment")
    trained = vlmdet(tmp_path, "train")
    assert trained["steps"] == 2
    vlmdet(tmp_path, "merge")
    asked = vlmdet(tmp_path, "infer")
    assert asked["failed"] == 0
    assert asked["rows"] == asked["asked"] == sum(asked["finish"].values())
    report = vlmdet(tmp_path, "eval")
    assert report["answers"]["n"] == 4
    answers = [json.loads(line) for line in Path(asked["answers"]).read_text().splitlines()]
    texts = {(Path(row["image"]).name, row["prompt"]): row["text"] for row in answers}
    assert len(set(texts.values())) > 1  # answers depend on what is asked
    assert texts == swift_texts(tmp_path, family)
