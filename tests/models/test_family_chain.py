"""Every family through the whole job on a tiny model of its own architecture: real training, merge and answers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.models import registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
SCRIPT = Path(__file__).parent / "swift_answers.py"
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
Chain = Callable[[str], Path]


def vlmdet(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "vlmdet_cli", *arguments, "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return json.loads(done.stdout)


def stretch(folder: Path, split: str, image_id: int, size: tuple[int, int]) -> None:
    """Give a picture of a COCO data set, with its boxes, another size."""
    file = folder / "annotations" / f"instances_{split}.json"
    document = json.loads(file.read_text())
    (entry,) = [image for image in document["images"] if image["id"] == image_id]
    path = folder / "images" / split / entry["file_name"]
    Image.open(path).resize(size).save(path)
    scales = [size[0] / entry["width"], size[1] / entry["height"]] * 2
    entry.update(width=size[0], height=size[1])
    for annotation in document["annotations"]:
        if annotation["image_id"] == image_id:
            annotation["bbox"] = [value * scale for value, scale in zip(annotation["bbox"], scales, strict=True)]
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            annotation.pop("segmentation", None)
    file.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def chain(tiny_model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A family's project, prepared, trained and merged, its test split asked and measured; made when first named."""
    root = tmp_path_factory.mktemp("chain")

    def project(family: str) -> Path:
        folder = root / family
        if not (folder / "report.json").exists():
            write_coco(folder, STREET, {"train": 8, "test": 4})
            stretch(folder, "test", 1, (448, 160))
            (folder / "vlmdet.toml").write_text(PROJECT.format(model=tiny_model_folders[family]))
            for command in ("prepare", "augment", "train", "merge", "infer"):
                (folder / f"{command}.json").write_text(json.dumps(vlmdet(folder, command)))
            (folder / "report.json").write_text(json.dumps(vlmdet(folder, "eval")))
        return folder

    return project


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def texts(folder: Path) -> dict[tuple[str, str], str]:
    """The answers of a project to its test split's rows, by picture and prompt."""
    answers = [json.loads(line) for line in Path(read(folder / "infer.json")["answers"]).read_text().splitlines()]
    return {(Path(row["image"]).name, row["prompt"]): row.get("text", "") for row in answers}


@pytest.mark.parametrize("family", registry.names())
def test_a_family_is_prepared_trained_merged_asked_and_measured(family: str, chain: Chain) -> None:
    folder = chain(family)
    assert read(folder / "train.json")["steps"] == 2
    check = read(folder / "merge.json")["check"]
    assert (check["reason"], check["answers"], check["split"]) == ("", 4, "test")
    asked = read(folder / "infer.json")
    assert asked["failed"] == 0
    assert asked["rows"] == asked["asked"] == sum(asked["finish"].values())
    assert read(folder / "report.json")["answers"]["n"] == 4
    assert len(set(texts(folder).values())) > 1  # answers depend on what is asked


def swift_arguments(family: str, folder: Path) -> list[str]:
    """The arguments of ``swift infer`` that ask the merged model the test split's rows."""
    known, out = registry.get(family), folder / "out"
    rows = [
        *(out / "data" / "coco_final_test.jsonl").read_text().splitlines(),
        *(out / "augment" / "questions_test.jsonl").read_text().splitlines(),
    ]
    for number, row in enumerate(rows):
        rows[number] = json.dumps({**json.loads(row), "images": [str(out / json.loads(row)["images"][0])]})
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return [
        "--model", str(out / "runs" / "run-001" / "merged"), "--model_type", known.swift_model_type,
        "--template", known.swift_template, "--max_pixels", "50176", "--val_dataset", str(folder / "rows.jsonl"),
        "--max_batch_size", "4", "--temperature", "0", "--max_new_tokens", "24", "--torch_dtype", "float32",
        "--use_hf", "true", "--result_path", str(folder / "swift.jsonl"),
    ]  # fmt: skip


def test_the_texts_of_every_family_are_those_of_swift_infer(chain: Chain) -> None:
    folders = {family: chain(family) for family in registry.names()}
    commands = [swift_arguments(family, folder) for family, folder in folders.items()]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(commands),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "USE_HF": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for family, folder in folders.items():
        results = [json.loads(line) for line in (folder / "swift.jsonl").read_text().splitlines()]
        swift = {
            (Path(row["images"][0]["path"]).name, row["messages"][0]["content"]): row["response"] for row in results
        }
        assert texts(folder) == swift, family
