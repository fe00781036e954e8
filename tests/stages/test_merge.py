"""merge: which checkpoint is taken, what swift is given of it, and where there is none."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, write_project
from tests.models.test_adapters import Q_PROJ, adapter_weights, model_weights
from tests.project.test_run_folders import write_checkpoint, write_run
from vlmdet_cli import project as projects
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.project.run_record import Evaluation, ModelRecord, TrainedSettings, write_record
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.merging import merge_sources
from vlmdet_cli.stages.merging.merged_model import adapter_hash, merged_model
from vlmdet_cli.stages.training import reward_functions, train_evaluation

RUNS = Path("out/runs")


@pytest.fixture
def written(cli: Cli) -> Cli:
    write_project(Path(), {})
    return cli


def chosen(run: str = "", checkpoint: str = "") -> str:
    path = merge_sources.find_checkpoint(projects.load(Path().absolute()), run, checkpoint)
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
    return merge_sources.model_flags(projects.load(Path().absolute()), run.latest_checkpoint())


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


def base_of(run: Run) -> tuple[str, Path | None]:
    return merge_sources.base_model(projects.load(Path().absolute()), run.latest_checkpoint())


@pytest.mark.usefixtures("written")
def test_the_base_is_where_it_was_in_training_or_where_the_project_has_it_now(tmp_path: Path) -> None:
    settings = {"train": {"model": "model"}}
    run = write_run(RUNS, "run-001", "done", (5,), settings=settings, trained=TrainedSettings(model="/gone/model"))
    with pytest.raises(DataError, match="The adapter's base model is not here: /gone/model"):
        base_of(run)
    model_weights(tmp_path / "model", config={})
    assert base_of(run) == ("model", tmp_path / "model")  # the project was moved
    model_weights(tmp_path / "old", config={})
    (run.latest_checkpoint() / "args.json").write_text(json.dumps({"model": str(tmp_path / "old")}))
    assert base_of(run) == (str(tmp_path / "old"), tmp_path / "old")
    (run.latest_checkpoint() / "args.json").write_text(json.dumps({"model": "Qwen/No-Such-Model"}))
    shutil.rmtree(tmp_path / "model")
    assert base_of(run) == ("Qwen/No-Such-Model", None)


@pytest.mark.usefixtures("written")
def test_an_adapter_of_another_base_is_not_merged(written: Cli, tmp_path: Path) -> None:
    base = model_weights(tmp_path / "model", config={})
    fields = {"settings": {"train": {"model": "model"}}, "trained": TrainedSettings(model=str(base))}
    run = write_run(RUNS, "run-001", "done", (5,), **fields)
    adapter_weights(run.latest_checkpoint(), {Q_PROJ.format(n=0): (128, 65)})
    done = written("merge")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "layers.0.self_attn.q_proj is 128 x 65 in the adapter, 128 x 64 in the model." in done.stderr
    adapter_weights(run.latest_checkpoint(), {Q_PROJ.format(n=0): (128, 64)})
    record = msgspec.structs.replace(run.record, model=ModelRecord(name="model", hash="0123456789"))
    write_record(run.folder, record)
    done = written("merge")
    assert done.exit_code == 3
    assert "The base model is not as it was when the adapter was trained: " in done.stderr
    sources = merge_sources.merge_sources(projects.load(Path().absolute()), "", (), force=True)
    assert (sources.base, sources.owner.folder.name) == (base, run.name)


@pytest.mark.usefixtures("written")
def test_an_adapter_that_went_on_with_another_is_not_merged_after_it(written: Cli, tmp_path: Path) -> None:
    model_weights(tmp_path / "model", config={})
    fields = {"settings": {"train": {"model": "model"}}, "trained": TrainedSettings(model=str(tmp_path / "model"))}
    first, second = (write_run(RUNS, name, "done", (step,), **fields) for name, step in (("sft", 5), ("grpo", 9)))
    arguments = {"adapters": [str(first.latest_checkpoint().absolute())]}
    (second.latest_checkpoint() / "args.json").write_text(json.dumps(arguments))
    done = written("merge", "--checkpoint", "5", "--checkpoint", "9")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: The adapter holds the one before it already: ")
    project = projects.load(Path().absolute(), ["merge.checkpoint=['9', '5']"])
    sources = merge_sources.merge_sources(project, "", project.config.merge.checkpoints, force=False)
    assert [path.name for path in sources.checkpoints] == ["checkpoint-9", "checkpoint-5"]
    assert sources.owner.folder.name == first.name


@pytest.mark.usefixtures("written")
def test_a_full_disk_is_told_before_swift_starts(written: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_weights(tmp_path / "model", config={"dtype": "bfloat16"})
    fields = {"settings": {"train": {"model": "model"}}, "trained": TrainedSettings(model=str(base))}
    write_run(RUNS, "run-001", "done", (5,), **fields)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr("vlmdet_cli.core.gpus.gpus", lambda: 0)
    monkeypatch.setattr("vlmdet_cli.training.swift.require", lambda: None)
    done = written("merge")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: Not enough space for the merged model: {tmp_path}/out/runs/run-001\n")


@pytest.mark.parametrize("plugin", [train_evaluation, reward_functions])
def test_the_plug_ins_of_training_do_nothing_in_an_export_that_loads_them(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(plugin.ENVIRONMENT, raising=False)
    monkeypatch.setitem(sys.modules, "swift.callbacks", None)  # an import of it fails
    plugin.register()


@pytest.mark.usefixtures("written")
def test_a_checkpoint_of_no_run_goes_beside_the_runs(tmp_path: Path) -> None:
    project = projects.load(Path().absolute(), ["train.swift.template=own"])
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 3)
    owner = merge_sources.owner_of(project, elsewhere)
    assert owner == project.results
    assert merge_sources.model_flags(project, elsewhere) == {"template": "own"}


@pytest.mark.usefixtures("written")
def test_a_run_without_a_merged_model_names_the_command() -> None:
    run = write_run(RUNS, "run-001", "done", (5,))
    with pytest.raises(UsageError, match=r"No merged model of run-001: out/runs/run-001/merged") as caught:
        merged_model(run)
    assert caught.value.hint == "Run `vlmdet merge --run run-001`, or name a model with --model."


@pytest.mark.usefixtures("written")
def test_a_newer_checkpoint_than_the_merged_one_is_a_warning() -> None:
    run = write_run(RUNS, "run-001", "done", (5, 9))
    (run.latest_checkpoint() / "adapter_model.safetensors").write_bytes(b"new")
    run.merged.mkdir()
    marker = {"checkpoint": "runs/run-001/v0-1/checkpoint-5", "adapter": "another"}
    (run.merged / "vlmdet.json").write_text(json.dumps(marker))
    assert merged_model(run) == (
        run.merged,
        "the merged model is of runs/run-001/v0-1/checkpoint-5, and checkpoint-9 is newer.",
    )


@pytest.mark.usefixtures("written")
def test_a_merged_best_checkpoint_is_not_stale_because_of_later_ones() -> None:
    run = write_run(RUNS, "run-001", "done", (5, 9), settings={"train": {"keep": "best"}})
    for checkpoint in run.checkpoints():
        (checkpoint / "adapter_model.safetensors").write_text(checkpoint.name)
    for step, f1 in ((5, 0.6), (9, 0.5)):
        run.add_evaluation(Evaluation(step=step, f1=f1))
    run.merged.mkdir()
    marker = {"checkpoint": "checkpoint-5", "adapter": adapter_hash(run.checkpoints()[0])}
    (run.merged / "vlmdet.json").write_text(json.dumps(marker))
    assert merged_model(run) == (run.merged, "")
    run.add_evaluation(Evaluation(step=9, f1=0.7))
    assert merged_model(run)[1] == "the merged model is of checkpoint-5, and checkpoint-9 is newer."
