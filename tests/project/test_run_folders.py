"""A project's runs: their names, their order, the default, and what is read back."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vlmdet_cli.core.processes import Process, this_process
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import DatasetRecord, ModelRecord, RunRecord, TrainedSettings, write_record


def write_run(folder: Path, name: str, state: Any = "done", steps: tuple[int, ...] = (), **fields: Any) -> runs.Run:
    """A run's folder with its record, and whole checkpoints at ``steps``."""
    record = RunRecord(
        name=name,
        state=state,
        started=fields.pop("started", "2026-01-01T00:00:00+00:00"),
        command="swift sft",
        dataset=DatasetRecord(file="train.jsonl", rows=1, hash="d"),
        model=ModelRecord(name="model"),
        **fields,
    )
    write_record(folder / name, record)
    for step in steps:
        write_checkpoint(folder / name / "v0-1", step)
    return runs.Run(folder / name)


def write_checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "adapter_config.json").write_text("{}")
    return checkpoint


def test_runs_are_listed_in_the_order_of_their_start(tmp_path: Path) -> None:
    write_run(tmp_path, "run-010", started="2026-01-02T00:00:00+00:00")
    write_run(tmp_path, "zebra", started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path, "run-009", started="2026-01-02T00:00:00+00:00")
    (tmp_path / "no-run").mkdir()
    assert [run.name for run in runs.runs(tmp_path)] == ["zebra", "run-009", "run-010"]


def test_the_latest_done_run_is_the_default_and_others_are_named(tmp_path: Path) -> None:
    for number, state in enumerate(("done", "done", "failed"), 1):
        write_run(tmp_path, f"run-00{number}", state)
    assert runs.find_run(tmp_path).name == "run-002"
    assert runs.find_run(tmp_path, "run-003").name == "run-003"
    with pytest.raises(UsageError, match=r"^No run run-03: did you mean run-003\?") as caught:
        runs.find_run(tmp_path, "run-03")
    assert caught.value.hint == "There are: run-001, run-002, run-003."
    with pytest.raises(UsageError, match=r"^No run \.\./runs"):
        runs.find_run(tmp_path, "../runs/run-001")


def test_without_a_done_run_the_states_of_the_others_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "run-001", "failed")
    with pytest.raises(UsageError, match="No run is done") as caught:
        runs.find_run(tmp_path)
    assert caught.value.why == ("run-001: failed",)
    assert runs.latest_done(tmp_path) is None


def test_runs_that_start_at_once_get_different_numbers(tmp_path: Path) -> None:
    (tmp_path / "run-007").mkdir()
    with ThreadPoolExecutor(8) as pool:
        names = [run.name for run in pool.map(lambda _: runs.new_run(tmp_path), range(16))]
    assert sorted(names) == [f"run-{number:03d}" for number in range(8, 24)]


def test_a_name_is_taken_once_and_must_be_a_plain_one(tmp_path: Path) -> None:
    assert runs.new_run(tmp_path, "lr-1e-4").folder == tmp_path / "lr-1e-4"
    with pytest.raises(UsageError, match=r"There is a run lr-1e-4 already"):
        runs.new_run(tmp_path, "lr-1e-4")
    for name in ("../x", ".hidden", "a/b", "a b", "-x"):
        with pytest.raises(UsageError, match="Not a name of a run"):
            runs.new_run(tmp_path, name)


def test_whole_checkpoints_are_ordered_by_version_and_step(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run-001", steps=(100, 20))
    write_checkpoint(run.folder / "v1-2", 5)
    (run.folder / "v1-2" / "checkpoint-9").mkdir()
    assert [path.name for path in run.checkpoints()] == ["checkpoint-20", "checkpoint-100", "checkpoint-5"]


def test_checkpoints_beside_the_record_belong_to_the_run(tmp_path: Path) -> None:
    """Without ``add_version`` swift writes into the run's folder itself."""
    run = write_run(tmp_path, "run-001")
    checkpoint = write_checkpoint(run.folder, 7)
    assert run.latest_checkpoint() == checkpoint


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    own = this_process()
    assert own
    live = write_run(tmp_path, "live", "running", process=own)
    gone = write_run(tmp_path, "gone", "running", process=msgspec.structs.replace(own, started=own.started - 100))
    away = write_run(tmp_path, "away", "running", process=Process(host="elsewhere", pid=own.pid, started=0))
    assert [run.state for run in (live, gone, away)] == ["running", "interrupted", "running"]


def test_what_swift_wrote_of_its_arguments_is_what_a_checkpoint_was_trained_with(tmp_path: Path) -> None:
    recorded = TrainedSettings(family="qwen2_vl", dialect="qwen2_vl", max_pixels=1, max_length=2048, system="be kind")
    run = write_run(tmp_path, "run-001", steps=(3,), trained=recorded)
    checkpoint = run.latest_checkpoint()
    assert runs.trained_settings(checkpoint) == recorded
    arguments = {"max_pixels": 50000, "max_length": 77, "system": None, "template": "t", "model_type": None}
    (checkpoint.parent / "args.json").write_text(json.dumps(arguments))
    expected = msgspec.structs.replace(recorded, max_pixels=50000, max_length=77, system=None, template="t")
    assert runs.trained_settings(checkpoint) == expected
    (run.merged).mkdir()
    (run.merged / "vlmdet.json").write_text(json.dumps({"trained": {"max_pixels": 9}}))
    assert runs.trained_settings(run.merged) == TrainedSettings(max_pixels=9)
    assert runs.trained_settings(tmp_path / "model") is None


def test_the_old_layout_is_met_with_the_command_that_moves_it(tmp_path: Path) -> None:
    (tmp_path / "train" / "run-001").mkdir(parents=True)
    (tmp_path / "train" / "run-001" / "run.json").write_text("{}")
    for meet in (runs.find_run, runs.new_run):
        with pytest.raises(UsageError, match="layout of an earlier version") as caught:
            meet(tmp_path / "runs")
        assert caught.value.hint == "Move them with `vlmdet runs --migrate`."
