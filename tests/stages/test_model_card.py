"""The model card: what it says of licence, data and measures, and what it leaves out."""

import json
from pathlib import Path

import msgspec
import orjson
import pytest

from tests.conftest import Cli, write_project
from tests.models.test_adapters import model_weights
from tests.project.test_run_folders import write_run
from vlmdet_cli import project as projects
from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines.answers import AnswersMeta
from vlmdet_cli.project.run_record import DatasetRecord, MergeRecord, TrainedSettings, write_record
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.merging import model_card
from vlmdet_cli.stages.merging.merge_sources import MergeSources
from vlmdet_cli.stages.merging.merged_model import complete


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("README.md", "---\nlicense: apache-2.0\n---\n# Model\n", "apache-2.0"),
        ("README.md", "---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("README.md", "---\nlicense: [\n---\n", "unknown"),
        ("README.md", "# Model\n", "unknown"),
        ("LICENSE", "\n  MIT License\n\nCopyright", "MIT License"),
        ("config.json", "{}", "unknown"),
    ],
)
def test_the_licence_is_what_the_base_models_folder_says(tmp_path: Path, file: str, text: str, licence: str) -> None:
    (tmp_path / file).write_text(text)
    assert model_card.licence_of(tmp_path) == licence
    assert model_card.licence_of(None) == "unknown"


@pytest.fixture
def carded(cli: Cli, tmp_path: Path) -> Run:
    """A run with a merged model and its card."""
    boxes = [("cat", (1.0, 2.0, 20.0, 20.0)), ("a|b", (5.0, 2.0, 20.0, 20.0))]
    write_project(tmp_path, {"1.jpg": boxes, "2.jpg": boxes[:1]}, categories=("cat", "a|b"))
    assert cli("prepare").exit_code == 0
    rows = tmp_path / "out" / "data" / "coco_final_train.jsonl"
    settings = {"train": {"lora_rank": 8, "gpus": "3", "swift": {"deepspeed": "/home/x/zero.json"}}}
    trained = TrainedSettings(family="qwen2_vl", dialect="qwen2_vl", max_pixels=12544)
    run = write_run(tmp_path / "out" / "runs", "run-001", steps=(5,), settings=settings, trained=trained)
    record = run.record
    dataset = DatasetRecord(file="data/coco_final_train.jsonl", rows=2, hash=file_hash(rows))
    write_record(
        run.folder, msgspec.structs.replace(record, dataset=dataset, arguments=("--adapters", "/home/x/checkpoint-9"))
    )
    model_weights(run.merged, config={"model_type": "qwen2_vl"})
    write_card(tmp_path, run)
    return run


def write_card(folder: Path, run: Run) -> None:
    sources = MergeSources(checkpoints=(run.latest_checkpoint(),), owner=run, base_name="Org/Model-2B", base=None)
    merge = MergeRecord(checkpoints=("checkpoint-5",), merged="2026-01-01", state="unverified", reason="--verify 0")
    model_card.write_card(run.merged, projects.load(folder), sources, merge)


def card(run: Run) -> str:
    return (run.merged / "README.md").read_text()


def test_the_card_counts_the_data_of_the_training_and_names_no_machine(carded: Run, tmp_path: Path) -> None:
    text = card(carded)
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "base_model: Org/Model-2B\n" in text
    assert "license:" not in text
    assert "2 pictures with 3 boxes of 2 categories." in text
    assert "| cat | 2 |\n| a\\|b | 1 |" in text
    assert "| train.lora\\_rank | 8 |" in text
    assert "| train.swift.deepspeed | zero.json |" in text
    assert "| --adapters checkpoint-9 |" in text
    assert "Not verified (--verify 0)." in text
    assert "gpus" not in text
    assert "/home" not in text
    assert str(tmp_path) not in text
    (tmp_path / "out" / "data" / "coco_final_train.jsonl").write_text("")
    write_card(tmp_path, carded)
    assert "The data are not here as they were in training: nothing is counted." in card(carded)


def test_the_measures_are_those_of_this_very_model(carded: Run) -> None:
    assert "Not measured yet" in card(carded)
    report = {
        "protocol": {"pictures": 7, "iou": 0.5}, "overall": {"f1": 0.5, "precision": 0.25, "recall": None},
        "coco": {"AP": 0.125}, "intervals": {"f1": [0.4, 0.6]},
    }  # fmt: skip
    for name, model in (("test", model_folder_hash(carded.merged)), ("earlier", "of-an-earlier-merge")):
        meta = AnswersMeta(
            engine={}, model={"name": "m", "hash": model}, family="qwen2_vl", dialect="qwen2_vl", max_tokens=9
        )
        carded.answers(name).parent.mkdir(exist_ok=True)
        carded.answers(name).with_suffix(".meta.json").write_bytes(orjson.dumps(msgspec.to_builtins(meta)))
        carded.report(name).parent.mkdir(exist_ok=True)
        carded.report(name).write_text(json.dumps(report))
    (carded.folder / "reports" / "broken.json").write_text("{")
    model_card.refresh(carded.report("test"))
    model_card.refresh(carded.report("test"))
    text = card(carded)
    assert text.count("| test | 7 | 0.500 \\[0.400, 0.600\\] | 0.250 | – | 0.125 | 0.5 |") == 1
    assert "| earlier |" not in text
    assert "Not measured yet" not in text
    assert text.index("## Measures") < text.index("| test |") < text.index("## Merge")


def test_a_folder_without_a_card_is_left_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run-001")
    model_card.refresh(run.report("test"))
    run.merged.mkdir()
    (run.merged / "README.md").write_text("mine")
    model_card.refresh(run.report("test"))
    assert card(run) == "mine"


def test_what_swift_left_out_of_the_bases_folder_is_put_back(tmp_path: Path) -> None:
    base, merged = tmp_path / "base", tmp_path / "merged"
    for folder, settings in ((base, {"suppress_tokens": [5], "do_sample": True}), (merged, {"do_sample": False})):
        folder.mkdir()
        (folder / "generation_config.json").write_text(json.dumps(settings))
    (base / "chat_template.jinja").write_text("template")
    complete(merged, base)
    settings = json.loads((merged / "generation_config.json").read_text())
    assert settings == {"suppress_tokens": [5], "do_sample": False}
    assert (merged / "chat_template.jinja").read_text() == "template"
    (merged / "chat_template.jinja").write_text("own")
    complete(merged, base)
    assert (merged / "chat_template.jinja").read_text() == "own"
