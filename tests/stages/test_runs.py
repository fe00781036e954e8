"""runs: the list of a project's runs, what tells them apart, and the move of an old layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, write_project
from tests.project.test_run_folders import write_run
from vlmdet_cli.project.run_record import read_record
from vlmdet_cli.project.runs import trained_settings

RUNS = Path("out/runs")


@pytest.fixture
def written(cli: Cli) -> Cli:
    write_project(Path(), {})
    return cli


def listed(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli("runs", "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_runs_are_listed_with_their_state_their_f1_and_what_differs(written: Cli) -> None:
    for number, (rank, arguments) in enumerate(((32, ()), (8, ("--lora_rank", "16", "--max_steps", "9"))), 1):
        run = write_run(
            RUNS, f"run-00{number}", "done" if number == 1 else "failed", exit_code=number - 1,
            settings={"train": {"lora_rank": rank, "swift": {}}, "infer": {"batch": number}}, arguments=arguments,
        )  # fmt: skip
        run.report("test").parent.mkdir()
        run.report("test").write_text(json.dumps({"overall": {"f1": number / 4}}))
    first, second = listed(written)["runs"]
    assert (first["name"], first["state"], first["f1"], first["exit_code"]) == ("run-001", "done", 0.25, 0)
    assert (second["name"], second["state"], second["f1"], second["exit_code"]) == ("run-002", "failed", 0.5, 1)
    assert first["differs"] == {"train.lora_rank": 32}
    assert second["differs"] == {"train.lora_rank": "16", "train.swift.max_steps": "9"}
    table = written("runs").stdout
    assert "run-002   failed" in table
    assert "train.lora_rank=16, train.swift.max_steps=9" in table


def test_without_runs_the_list_says_what_starts_one(written: Cli) -> None:
    assert listed(written)["runs"] == []
    assert written("runs").stdout == "No runs yet: `vlmdet train` starts one.\n"


def write_old_run(name: str, **fields: Any) -> Path:
    """A run as version 0.1 left it."""
    folder = Path("out/train") / name
    (folder / "v0-1" / "checkpoint-5").mkdir(parents=True)
    (folder / "v0-1" / "checkpoint-5" / "trainer_state.json").write_text("{}")
    row = {"loss": 0.5, "global_step/max_steps": "5/5"}
    (folder / "v0-1" / "logging.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "v0-1" / "args.json").write_text(json.dumps({"max_pixels": 12544, "max_length": 99, "template": "t"}))
    (folder / "vlmdet.toml").write_text('[train]\nmodel = "model"\n[format]\ndialect = "qwen2_vl"\n')
    record = {
        "started": "2026-01-01T00:00:00+00:00", "command": "ROOT_IMAGE_DIR=/x swift sft --max_length 99",
        "resumed_from": None, "dataset": {"file": "/x/train.jsonl", "rows": 3, "blake2b": "abc"},
        "versions": {"vlmdet": "0.1.0"}, "state": "done", "seconds": 9.0, **fields,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_old_runs_and_their_merged_model_move_into_their_folders(written: Cli) -> None:
    write_old_run("run-001")
    write_old_run("run-002", state="running", seconds=None)
    merged = Path("out/merged")
    merged.mkdir()
    marker = {"max_pixels": None, "checkpoint": "train/run-001/v0-1/checkpoint-5", "adapter": "a"}
    (merged / "vlmdet.json").write_text(json.dumps(marker))
    Path("out/answers").mkdir()
    for command in (("runs",), ("merge",), ("train", "--dry-run"), ("train", "--resume", "--dry-run"), ("infer",)):
        done = written(*command)
        assert done.exit_code == 2
        assert done.stderr.endswith("\nhint: Move them with `vlmdet runs --migrate`.\n")
    result = listed(written, "--migrate")
    assert result["moved"] == [
        ["train/run-001", "runs/run-001"], ["train/run-002", "runs/run-002"], ["merged", "runs/run-001/merged"],
    ]  # fmt: skip
    assert [(run["name"], run["state"], run["steps"], run["loss"]) for run in result["runs"]] == [
        ("run-001", "done", 5, 0.5), ("run-002", "interrupted", 5, 0.5),
    ]  # fmt: skip
    record = read_record(RUNS / "run-001")
    assert (record.argv, record.env) == (("swift", "sft", "--max_length", "99"), {"ROOT_IMAGE_DIR": "/x"})
    assert (record.dataset.hash, record.model.name) == ("abc", "model")
    trained = trained_settings(RUNS / "run-001" / "merged")
    assert trained
    assert (trained.max_pixels, trained.max_length, trained.template, trained.dialect) == (12544, 99, "t", "qwen2_vl")
    assert sorted(path.name for path in Path("out").iterdir()) == ["answers", "runs"]
    assert listed(written, "--migrate")["moved"] == []


def test_an_old_run_whose_name_is_taken_is_not_moved(written: Cli) -> None:
    old = write_old_run("run-001")
    write_run(RUNS, "run-001")
    done = written("runs", "--migrate")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: There are runs of the same name already: run-001\n")
    assert old.is_dir()
