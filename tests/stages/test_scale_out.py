"""Several processes: the command, what is refused, the estimate of memory, and real trainings of two processes."""

import json
import os
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import Cli, vlmdet
from tests.stages.test_train import dry, flags, write_model, write_run
from tests.stages.test_train import prepared as prepared  # noqa: PLC0414  (a fixture)
from tests.stages.test_train_evaluation import logged
from vlmdet_cli import project as projects
from vlmdet_cli.demo import HERE
from vlmdet_cli.errors import EngineError, UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.stages.training.join import join

TWO = ("--set", "train.nproc_per_node=2")


def test_processes_on_cpus_talk_by_gloo_and_an_effective_batch_is_kept(prepared: Cli) -> None:
    env, words = dry(prepared, *TWO, "--set", "train.device=cpu", "--set", "train.effective_batch=8")
    assert env["NPROC_PER_NODE"] == "2"
    assert flags(words)["ddp_backend"] == "gloo"
    assert flags(words)["gradient_accumulation_steps"] == "4"
    assert "ddp_backend" not in flags(dry(prepared, *TWO)[1])
    document = json.loads(prepared("train", "--dry-run", "--json", *TWO).stdout)
    assert document["effective_batch"] == 8


def test_a_continuation_with_other_processes_is_refused(prepared: Cli) -> None:
    write_run(sets=("train.nproc_per_node=2",))
    done = prepared("train", "--resume", "--dry-run", "--set", "train.nodes=2")
    assert done.exit_code == 2
    assert "  train.nproc_per_node: 2 → 1\n" in done.stderr
    assert "  train.nodes: 1 → 2\n" in done.stderr


def test_the_script_for_slurm_runs_the_planned_run_with_its_settings(prepared: Cli, tmp_path: Path) -> None:
    sets = ("--set", "train.nodes=2", *TWO, "--set", 'format.prompt=Find "all"')
    done = prepared("train", "--dry-run", "--slurm", *sets, "--", "--max_steps", "9")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "#SBATCH --job-name=vlmdet-run-001\n#SBATCH --nodes=2\n" in done.stdout
    assert f"#SBATCH --output={tmp_path}/out/slurm-%j.log\n" in done.stdout
    assert done.stdout.endswith(
        f"srun --kill-on-bad-exit=1 {sys.executable} -m vlmdet_cli train -p {tmp_path}/vlmdet.toml --set "
        "train.nodes=2 --set train.nproc_per_node=2 --set 'format.prompt=Find \"all\"' --run run-001 -- --max_steps "
        "9\n\n"
    )
    done = prepared("train", "--slurm")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, "error: --slurm prints a script and starts nothing")


@pytest.mark.usefixtures("prepared")
def test_a_machine_joins_no_run_that_is_not_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("MASTER_PORT", "4711")
    project = projects.load(tmp_path, ["train.nodes=2"])
    with pytest.raises(UsageError, match="Several machines need the run's name"):
        join(project, "", 1)
    monkeypatch.setenv("MASTER_PORT", "4712")
    write_run(state="running", sets=("train.nodes=2",))  # of an earlier job
    monkeypatch.setenv("MASTER_PORT", "4711")
    with pytest.raises(EngineError, match="The first machine has not started the run"):
        join(project, "run-001", 1, patience=0.1)


def test_the_memory_of_a_training_is_estimated_with_what_takes_less(prepared: Cli, tmp_path: Path) -> None:
    sets = ("--set", f"train.model={HERE / 'model'}", "--set", "train.per_device_train_batch_size=8")
    done = prepared("doctor", "--memory", "--gpu-memory", "1", "--json", *sets)
    report = json.loads(done.stdout)
    assert (done.exit_code, report["fits"], report["parameters"]) == (1, False, 2_511_104)
    assert report["total"] == pytest.approx(sum(report["parts"].values()), abs=0.06)
    totals = [change["total"] for change in report["changes"]]
    assert totals == sorted(totals)
    assert max(totals) < report["total"]
    done = prepared("doctor", "--memory", "--gpu-memory", "24", *sets)
    assert done.exit_code == 0
    assert "GPU         24 GB: enough" in done.stdout
    done = prepared("doctor", "--memory")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        2,
        "error: The model is not on this machine: Qwen/Qwen2-VL-2B-Instruct",
    )
    write_model(tmp_path / "broken")
    assert prepared("doctor", "--memory", "--set", "train.model=broken").exit_code == 3


SRUN = """#!/bin/sh
# two machines that are this one
shift
SLURM_NODEID=1 "$@" &
SLURM_NODEID=0 "$@"
code=$?
wait $! && exit $code
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_two_processes_and_two_machines_learn_as_one_process_with_the_same_effective_batch(tmp_path: Path) -> None:
    """On two machines by the script for Slurm, whose ``srun`` here starts both on this one."""
    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    settings = ("train.swift.max_steps=8", "train.logging_steps=1", "subset.pictures=64", "subset.val_pictures=2",
                "subset.test_pictures=2", "train.swift.lora_dropout=0", "train.effective_batch=8",
                "train.per_device_train_batch_size=4")  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    vlmdet(folder, "prepare", *sets)
    vlmdet(folder, "train", "--run", "single", *sets)
    vlmdet(folder, "train", "--run", "two", *sets, *TWO)
    options = (*sets, "--set", "train.nodes=2", "--run", "machines")
    script = vlmdet(folder, "train", "--dry-run", "--slurm", *options).stdout
    run_in_slurm(tmp_path, script)
    by_name = {name: runs.find_run(folder / "out" / "runs", name) for name in ("single", "two", "machines")}
    losses = {name: logged(run, "loss") for name, run in by_name.items()}
    assert len(losses["single"]) >= 8
    for name in ("two", "machines"):
        assert losses[name] == pytest.approx(losses["single"], rel=2e-3), name
        assert by_name[name].state == "done"
    assert losses["single"][0] > 1.1 * losses["single"][7]  # it does learn
    assert by_name["two"].record.env["NPROC_PER_NODE"] == "2"
    assert by_name["machines"].record.env["NNODES"] == "2"
    assert (by_name["machines"].folder / "swift.node1.log").is_file()
    assert len(list(by_name["machines"].folder.glob("v*-*"))) == 1  # both write into one folder


def run_in_slurm(folder: Path, script: str) -> None:
    programs = {"scontrol": "#!/bin/sh\necho 127.0.0.1\n", "srun": SRUN}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "x", "HF_HUB_OFFLINE": "1", "USE_HF": "1",
    }  # fmt: skip
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
