"""status: what is done, stale or missing, told from the files alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, write_project
from tests.stages.test_train import write_run
from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.model_hash import model_folder_hash

BOX = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(300,400)<|box_end|>"


@pytest.fixture
def project(cli: Cli) -> Path:  # `cli` goes to the test's folder
    del cli
    pictures = {f"{number}.jpg": [("cat", (0, 0, 20, 20))] for number in range(4)}
    write_project(Path(), pictures, '[infer]\nsplit = "train"\nquestions = false\n')
    return Path("out/runs/run-001")


def states(cli: Cli) -> dict[str, str]:
    done = cli("status", "--json")
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    steps = [*document["data"], *(step for run in document["runs"] for step in run["steps"])]
    return {step["name"]: step["state"] for step in steps} | {"next": document["next"]}


def later(path: Path) -> None:
    """As if the file were written an hour from now."""
    time = path.stat().st_mtime + 3600
    os.utime(path, (time, time))


@pytest.mark.usefixtures("project")
def test_data_are_missing_done_and_stale(cli: Cli) -> None:
    assert states(cli) == {"prepare": "missing", "augment": "missing", "next": "prepare"}
    assert cli("prepare", "-q").exit_code == 0
    assert states(cli) == {"prepare": "done", "augment": "missing", "next": "augment"}
    assert cli("augment", "-q").exit_code == 0
    assert states(cli) == {"prepare": "done", "augment": "done", "next": "train"}
    later(Path("annotations.json"))
    assert states(cli) == {"prepare": "stale", "augment": "done", "next": "prepare"}
    assert "stale       prepare: annotations.json has changed since" in cli("status").stdout
    rows = Path("out/data/coco_final_train.jsonl")
    later(rows)
    assert states(cli)["augment"] == "done"  # the same rows, written again
    rows.write_text(rows.read_text() + "\n")
    assert states(cli)["augment"] == "stale"


def test_the_steps_of_a_run(cli: Cli, project: Path) -> None:
    assert cli("prepare", "-q").exit_code == 0
    assert cli("augment", "-q").exit_code == 0
    train = Path("out/augment/train.jsonl")
    write_run(state="done")
    expected = {"prepare": "done", "augment": "done", "train": "done"}
    assert states(cli) == {
        **expected, "merge": "missing", "infer": "missing", "eval": "missing", "viz": "missing", "next": "merge"
    }  # fmt: skip
    merged = project / "merged"
    merged.mkdir()
    (merged / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (merged / "vlmdet.json").write_text("{}")
    answers = _answers(project, model_folder_hash(merged), 3)
    assert states(cli) == {
        **expected, "merge": "done", "infer": "partial", "eval": "missing", "viz": "missing", "next": "infer"
    }  # fmt: skip
    assert "run-001 infer: 1 rows have no answer" in cli("status").stdout
    _answers(project, model_folder_hash(merged), 4)
    assert cli("eval", "-q").exit_code == 0
    assert {name: states(cli)[name] for name in ("infer", "eval", "next")} == {
        "infer": "done", "eval": "done", "next": "viz"
    }  # fmt: skip
    assert "F1 1.000" in cli("status").stdout
    later(answers)
    assert states(cli)["eval"] == "stale"
    _answers(project, "0" * 32, 4)
    assert states(cli)["infer"] == "stale"
    train.write_text(train.read_text() + "\n")
    assert states(cli)["train"] == "stale"


def _answers(run: Path, model: str, count: int) -> Path:
    """Answers to the first rows of train by a model of that hash."""
    rows = [json.loads(line) for line in Path("out/data/coco_final_train.jsonl").read_text().splitlines()]
    folder = run / "answers"
    folder.mkdir(exist_ok=True)
    account = {
        "engine": {"name": "fake", "model": model}, "model": {"name": "m", "hash": model}, "family": "qwen2_vl",
        "dialect": "qwen2_vl", "max_tokens": 9, "split": "train", "data": file_hash(Path("out/data/subset/train.json")),
    }  # fmt: skip
    (folder / "train.meta.json").write_text(json.dumps(account))
    lines = [
        {"image": row["images"][0], "prompt": row["messages"][0]["content"], "text": BOX, "dialect": "qwen2_vl"}
        for row in rows[:count]
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "train.jsonl"


def test_without_a_project_it_says_so(cli: Cli) -> None:
    done = cli("status")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No project file: vlmdet.toml" in done.stderr
