"""merge: which checkpoint is taken, what swift is given of it, and where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, write_project
from tests.project.test_run_folders import write_checkpoint, write_run
from vlmdet_cli import project as projects
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project.run_record import TrainedSettings
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.training import merge

RUNS = Path("out/runs")


@pytest.fixture
def written(cli: Cli) -> Cli:
    write_project(Path(), {})
    return cli


def chosen(run: str = "", checkpoint: str = "") -> str:
    path = merge._find_checkpoint(projects.load(Path().absolute()), run, checkpoint)
    return path.relative_to(RUNS.absolute()).as_posix()


def test_without_a_run_there_is_nothing_to_merge(written: Cli, tmp_path: Path) -> None:
    done = written("merge")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: No run: {tmp_path}/out/runs\nhint: Run `vlmdet train` first.\n",
    )


@pytest.mark.usefixtures("written")
def test_a_run_that_is_not_done_is_merged_only_by_name() -> None:
    write_run(RUNS, "run-001", "failed", (5, 20))
    with pytest.raises(UsageError, match="No run is done") as caught:
        chosen()
    assert caught.value.why == ("run-001: failed",)
    assert caught.value.hint == "Go on with `vlmdet train --resume`, or name a run with --run."
    assert chosen("run-001") == "run-001/v0-1/checkpoint-20"
    assert chosen("run-001", "5") == chosen("", "checkpoint-5") == "run-001/v0-1/checkpoint-5"
    write_run(RUNS, "run-002", "done", (7,))
    write_run(RUNS, "run-003", "interrupted", (9,))
    assert chosen() == "run-002/v0-1/checkpoint-7"


@pytest.mark.usefixtures("written")
def test_a_step_is_of_the_newest_run_that_has_it(tmp_path: Path) -> None:
    write_run(RUNS, "run-001", "done", (5, 20))
    write_run(RUNS, "run-002", "done", (20,))
    assert chosen("", "20") == "run-002/v0-1/checkpoint-20"
    assert chosen("", "5") == "run-001/v0-1/checkpoint-5"
    assert chosen("run-001", "20") == "run-001/v0-1/checkpoint-20"
    assert chosen("", str(tmp_path / RUNS / "run-001/v0-1/checkpoint-5")) == "run-001/v0-1/checkpoint-5"
    with pytest.raises(UsageError, match="No checkpoint 77") as caught:
        chosen("", "77")
    assert caught.value.hint == "There are: run-001/checkpoint-5, run-001/checkpoint-20, run-002/checkpoint-20."


def flags_of(run: Run) -> dict[str, Any]:
    return merge.model_flags(projects.load(Path().absolute()), run.latest_checkpoint(), run)


@pytest.mark.usefixtures("written")
def test_swift_is_given_what_the_run_was_trained_with_not_todays_file(tmp_path: Path) -> None:
    """Today's file names no template and no plug-in."""
    (tmp_path / "plugin.py").write_text("")
    (tmp_path / "model").mkdir()
    settings = {"train": {"model": "model", "swift": {"template": "old", "external_plugins": "plugin.py"}}}
    trained = TrainedSettings(template="old", model_type="qwen2_vl", model=str(tmp_path / "model"))
    run = write_run(RUNS, "run-001", "done", (5,), settings=settings, trained=trained)
    assert flags_of(run) == {
        "template": "old", "model_type": "qwen2_vl", "external_plugins": str(tmp_path / "plugin.py"),
    }  # fmt: skip
    (run.latest_checkpoint() / "args.json").write_text(json.dumps({"template": "t", "model": "/gone/model"}))
    assert flags_of(run)["template"] == "t"
    assert flags_of(run)["model"] == str(tmp_path / "model")  # the project was moved


@pytest.mark.usefixtures("written")
def test_a_checkpoint_of_no_run_goes_beside_the_runs(tmp_path: Path) -> None:
    project = projects.load(Path().absolute(), ["train.swift.template=own"])
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 3)
    owner = merge._owner(project, elsewhere)
    assert owner == project.results
    assert merge.model_flags(project, elsewhere, owner) == {"template": "own"}


@pytest.mark.usefixtures("written")
def test_a_run_without_a_merged_model_names_the_command() -> None:
    run = write_run(RUNS, "run-001", "done", (5,))
    with pytest.raises(UsageError, match=r"No merged model of run-001: out/runs/run-001/merged") as caught:
        merge.merged_model(run)
    assert caught.value.hint == "Run `vlmdet merge --run run-001`, or name a model with --model."


@pytest.mark.usefixtures("written")
def test_a_newer_checkpoint_than_the_merged_one_is_a_warning() -> None:
    run = write_run(RUNS, "run-001", "done", (5, 9))
    (run.latest_checkpoint() / "adapter_model.safetensors").write_bytes(b"new")
    run.merged.mkdir()
    marker = {"checkpoint": "runs/run-001/v0-1/checkpoint-5", "adapter": "another"}
    (run.merged / "vlmdet.json").write_text(json.dumps(marker))
    assert merge.merged_model(run) == (
        run.merged,
        "the merged model is of runs/run-001/v0-1/checkpoint-5, and checkpoint-9 is newer.",
    )
