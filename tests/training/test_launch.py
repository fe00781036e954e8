"""Several processes: their environment, the rows of a step, and the script for Slurm."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from vlmdet_cli.errors import UsageError
from vlmdet_cli.training import launch, levers
from vlmdet_cli.training.settings import Train


def settings(**values: object) -> Train:
    return msgspec.convert(values, Train)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_RANK", "SLURM_NODEID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_needs_no_environment_and_one_machine_only_their_number() -> None:
    assert launch.environment(Train()) == {}
    assert launch.environment(settings(nproc_per_node=4)) == {"NPROC_PER_NODE": "4"}


def test_several_machines_meet_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    train = settings(nproc_per_node=8, nodes=2)
    with pytest.raises(UsageError, match=r"train\.nodes = 2 needs MASTER_ADDR"):
        launch.require_meeting_point(train)
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("SLURM_NODEID", "1")
    launch.require_meeting_point(train)
    assert launch.environment(train) == {
        "NPROC_PER_NODE": "8", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "29500",
    }  # fmt: skip
    monkeypatch.setenv("NODE_RANK", "0")  # before Slurm's
    monkeypatch.setenv("MASTER_PORT", "4711")
    assert launch.environment(train)["NODE_RANK"] == "0"
    assert launch.environment(train)["MASTER_PORT"] == "4711"


@pytest.mark.parametrize("rank", ["2", "-1", "x"])
def test_a_number_that_no_machine_has_is_refused(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", rank)
    with pytest.raises(UsageError, match=f"NODE_RANK is {rank}, and train.nodes is 2"):
        launch.node_rank(settings(nodes=2))
    assert launch.node_rank(Train()) == 0


def test_an_effective_batch_is_kept_by_fewer_steps_of_accumulation() -> None:
    train = settings(effective_batch=32, nproc_per_node=4, nodes=2, per_device_train_batch_size=2)
    assert levers.flags(train, Path())["gradient_accumulation_steps"] == 2
    with pytest.raises(UsageError, match=r"train\.effective_batch = 20 is no multiple of 16"):
        levers.flags(msgspec.structs.replace(train, effective_batch=20), Path())


def test_a_step_with_more_rows_than_one_process_would_take_is_told() -> None:
    flags = {"per_device_train_batch_size": "1", "gradient_accumulation_steps": "4"}
    assert launch.batch_remark(Train(), flags) == ""
    assert launch.batch_remark(settings(nproc_per_node=8), flags) == (
        "a step takes 32 rows: 8 processes with 4 each, as a single one would take. train.effective_batch = 4 would "
        "keep that number."
    )
    kept = settings(nproc_per_node=2, effective_batch=4)
    assert launch.batch_remark(kept, {**flags, "gradient_accumulation_steps": "2"}) == ""


def test_the_script_for_slurm_is_a_shell_script_with_quoted_words(tmp_path: Path) -> None:
    train = settings(nodes=2, nproc_per_node=8)
    script = launch.slurm_script(
        train, ["vlmdet", "--set", 'a="b c"'], name="run", folder=tmp_path / "a b", log=Path("x-%j.log")
    )
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = script.splitlines()
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=1"} <= set(lines)
    assert f"cd '{tmp_path}/a b'" in lines
    assert lines[-1] == "srun --kill-on-bad-exit=1 vlmdet --set 'a=\"b c\"'"
