"""A model that ms-swift knows and vlmdet has no module for: prepared, trained, merged, asked and measured."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from tests.models import tiny_models
from tests.models.test_family_chain import vlmdet
from vlmdet_cli.demo.worlds import STREET, write_coco

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
[format]
dialect = "swift"
rows = "objects"
[train]
model = "{model}"
lora_rank = 4
lora_alpha = 8
num_train_epochs = 1
[train.swift]
max_steps = 2
model_type = "llava1_5_hf"
[infer]
max_tokens = 24
scores = true
"""
OTHER = 'model = "llava"\n'


def llava_folder() -> None:
    Path("llava").mkdir()
    Path("llava/config.json").write_text('{"model_type": "llava"}')


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_a_model_without_a_module_goes_through_the_whole_job(tmp_path: Path) -> None:
    model = tiny_models.write(["llava"], tmp_path / "models")["llava"]
    write_coco(tmp_path, STREET, {"train": 12, "test": 4})
    (tmp_path / "vlmdet.toml").write_text(PROJECT.format(model=model))
    prepared = vlmdet(tmp_path, "prepare")
    assert {split["tokens"] for split in prepared["splits"].values()} == {0}
    trained = vlmdet(tmp_path, "train")
    assert trained["steps"] == 2
    assert "--strict true" in trained["command"]
    vlmdet(tmp_path, "merge")
    cut = tmp_path / "out" / "data" / "subset" / "images" / "test" / "000003.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    asked = vlmdet(tmp_path, "infer")
    assert (asked["rows"], asked["failed"], asked["engine"]) == (4, 1, "swift")
    answers = [json.loads(line) for line in Path(asked["answers"]).read_text().splitlines()]
    answered = [answer for answer in answers if answer.get("finish") != "error"]
    assert len({answer["text"] for answer in answered}) == 3  # the pictures reach the model
    assert all("".join(token for token, _ in answer["tokens"]) == answer["text"] for answer in answered)
    report = vlmdet(tmp_path, "eval")
    assert report["answers"]["n"] == 4
    assert (report["protocol"]["dialect"], report["protocol"]["engine"]) == ("swift", "swift")


def test_its_rows_are_prepared_and_a_warning_says_that_tokens_are_not_counted(cli: Cli) -> None:
    llava_folder()
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 32, 24))]}, f'[format]\ndialect = "swift"\n[train]\n{OTHER}')
    result = cli("prepare", "--json")
    assert result.exit_code == 0, result.stderr
    assert "warning: vlmdet has no module for this model's family: the tokens of rows are not counted" in result.stderr
    assert json.loads(result.stdout)["splits"]["train"]["exact"] is False
    (row,) = map(json.loads, Path("out/data/coco_final_train.jsonl").read_text().splitlines())
    assert row["messages"][1]["content"] == "cat[(0,0),(500,500)]"
    shown = cli("show", "out/data/coco_final_train.jsonl", "1")
    assert shown.exit_code == 0, shown.stderr
    assert "cat" in shown.stdout
    assert "token" not in shown.stdout


def test_without_a_dialect_it_is_refused_with_the_list(cli: Cli) -> None:
    llava_folder()
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 32, 24))]}, f"[train]\n{OTHER}")
    result = cli("prepare")
    assert result.exit_code == 2
    assert "format.dialect: qwen2_vl, " in result.stderr
