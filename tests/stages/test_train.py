"""train: swift's command, the checks before it starts, what a continuation refuses, and the run's record."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli import project as projects
from vlmdet_cli.core import gpus
from vlmdet_cli.core.processes import this_process
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import write_record
from vlmdet_cli.stages.training import train, train_plan, train_rows
from vlmdet_cli.stages.training.train_plan import TrainOptions
from vlmdet_cli.training import swift

PICTURES = {f"{n}.jpg": [("cat", (4 + n, 6, 20, 20))] for n in range(4)}
CONFIG = {"model_type": "qwen2_vl"}


def dry(cli: Cli, *arguments: str) -> tuple[dict[str, str], list[str]]:
    """The environment and arguments that ``train --dry-run`` prints, and nothing else."""
    done = cli("train", "--dry-run", *arguments)
    assert (done.exit_code, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    words = shlex.split(done.stdout)
    env = [word for word in words if "=" in word and word.partition("=")[0].isupper()]
    return dict(word.split("=", 1) for word in env), words[len(env) :]


def flags(words: list[str]) -> dict[str, str]:
    return {name.removeprefix("--"): value for name, value in zip(words[2::2], words[3::2], strict=True)}


@pytest.fixture
def prepared(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A prepared project on a machine with a GPU, where no scheduler has set anything."""
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == 0
    monkeypatch.setattr(gpus, "gpus", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return cli


def write_model(folder: Path, **config: Any) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 4000)


def write_run(name: str = "run-001", state: Any = "interrupted", *arguments: str, sets: tuple[str, ...] = ()) -> Path:
    """A run as ``train`` records it, with a checkpoint at step 5; returns its folder."""
    project = projects.load(Path().absolute(), sets)
    planned = train_plan.plan(project, TrainOptions(arguments=arguments, run=name))
    checkpoint = planned.run.folder / "v0-1" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    record = train._record(project, planned, 4)
    write_record(planned.run.folder, msgspec.structs.replace(record, state=state, process=None, exit_code=-2))
    return planned.run.folder


# --- the command ---------------------------------------------------------------------------------------------


def test_the_documented_run_is_the_default(prepared: Cli, tmp_path: Path) -> None:
    env, words = dry(prepared)
    assert env == {"ROOT_IMAGE_DIR": f"{tmp_path}/out", "CUDA_VISIBLE_DEVICES": "0"}
    assert [Path(words[0]).name, words[1]] == ["swift", "sft"]
    assert flags(words) == {
        "tuner_type": "lora", "model": "Qwen/Qwen2-VL-2B-Instruct",
        "dataset": f"{tmp_path}/out/data/coco_final_train.jsonl", "lora_rank": "32", "lora_alpha": "64",
        "freeze_vit": "false", "freeze_aligner": "false", "freeze_llm": "false", "per_device_train_batch_size": "1",
        "gradient_accumulation_steps": "4", "num_train_epochs": "10", "learning_rate": "5e-05",
        "output_dir": f"{tmp_path}/out/runs/run-001", "torch_dtype": "bfloat16", "split_dataset_ratio": "0.0",
        "dataset_num_proc": "1", "lazy_tokenize": "true", "target_modules": "all-linear", "save_steps": "500",
        "logging_steps": "5", "max_length": "2048", "lr_scheduler_type": "cosine", "warmup_ratio": "0.05",
        "dataloader_num_workers": "0", "add_version": "true",
    }  # fmt: skip


def test_settings_tables_and_arguments_reach_swift_and_later_ones_win(prepared: Cli) -> None:
    sets = ("--set", "train.lora_rank=8", "--set", "train.swift.deepspeed=zero2", "--set", "train.swift.target=[1, 2]")
    words = dry(prepared, *sets, "--", "--learning_rate", "1e-4", "--packing")[1]
    assert words.count("--learning_rate") == 1
    assert words[-3:] == ["--learning_rate", "1e-4", "--packing"]
    assert words[words.index("--lora_rank") + 1] == "8"
    assert words[words.index("--deepspeed") + 1] == "zero2"
    assert words[words.index("--target") + 1 :][:2] == ["1", "2"]


def test_a_dry_run_is_one_json_document_where_that_is_asked_for(prepared: Cli, tmp_path: Path) -> None:
    done = prepared("train", "--dry-run", "--json", "--run", "first")
    document = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (document["run"], document["folder"]) == ("first", f"{tmp_path}/out/runs/first")
    assert document["argv"][1] == "sft"
    assert document["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert shlex.split(document["command"])[2:] == document["argv"]
    assert not (tmp_path / "out" / "runs").exists()


def test_without_a_gpu_the_command_says_cpu_and_float32(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "gpus", lambda: 0)
    env, words = dry(prepared)
    assert "CUDA_VISIBLE_DEVICES" not in env
    assert (flags(words)["use_cpu"], flags(words)["torch_dtype"]) == ("true", "float32")


def test_the_device_is_the_projects_where_it_is_written(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = dry(prepared)
    assert flags(dry(prepared, "--set", "train.device=cpu")[1])["use_cpu"] == "true"
    monkeypatch.setattr(gpus, "gpus", lambda: 0)  # a login node
    assert dry(prepared, "--set", "train.device=gpu") == documented


def test_gpus_are_those_of_the_project_else_those_of_the_scheduler(
    prepared: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert dry(prepared)[0]["CUDA_VISIBLE_DEVICES"] == "3,5"
    env, _ = dry(prepared, "--set", "train.gpus='0,1'", "--set", "train.nproc_per_node=2")
    assert (env["CUDA_VISIBLE_DEVICES"], env["NPROC_PER_NODE"]) == ("0,1", "2")


def test_swift_is_given_the_type_the_template_and_the_pixel_limit_of_a_model_folder(prepared: Cli) -> None:
    """It does not learn them from the folder: it stops without the first two, and takes larger pictures."""
    write_model(Path("small"), max_pixels=12544)
    write_model(Path("large"), max_pixels=12845056)
    given = flags(dry(prepared, "--set", "train.model=small")[1])
    assert (given["model_type"], given["template"], given["max_pixels"]) == ("qwen2_vl", "qwen2_vl", "12544")
    assert "max_pixels" not in flags(dry(prepared, "--set", "train.model=large")[1])
    sets = ("--set", "train.model=small", "--set", "train.swift.max_pixels=50000", "--set", "train.swift.template=own")
    given = flags(dry(prepared, *sets, "--", "--model_type", "qvq")[1])
    assert (given["model_type"], given["template"], given["max_pixels"]) == ("qvq", "own", "50000")
    given = flags(dry(prepared, "--", "--model", str(Path("small").absolute()))[1])
    assert given["max_pixels"] == "12544"


# --- rows ----------------------------------------------------------------------------------------------------


def test_without_swift_training_says_what_to_install(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "version", lambda: ())
    done = prepared("train")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.startswith("error: swift is not installed beside vlmdet\n")
    assert done.stderr.endswith("pip install 'vlmdet[train]' (pipx: pipx install 'vlmdet[train]').\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda row: {**row, "images": []}, "error: A row is malformed: {f}, line 2\n  A row has one user and one "
         "assistant message, one <image> and one path in `images`.\nhint: Run `vlmdet prepare` and `vlmdet augment` "
         "again.\n"),
        (lambda row: {**row, "images": ["data/no.jpg"]}, "error: Cannot read 1 picture of the train file: {f}\n"
         "  data/no.jpg\nhint: Run `vlmdet prepare` again.\n"),
        (lambda row: {**row, "images": ["../no.jpg"]}, "error: Cannot read 1 picture of the train file: {f}\n"
         "  ../no.jpg\nhint: Run `vlmdet prepare` again.\n"),
    ],
)  # fmt: skip
def test_rows_that_swift_would_drop_are_named_before_it_starts(
    prepared: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    monkeypatch.setattr(swift, "require", lambda: None)
    file = tmp_path / "out" / "data" / "coco_final_train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1] = spoil(lines[1])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = prepared("train")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", message.format(f=file))
    assert not (tmp_path / "out" / "runs").exists()


def test_lines_of_long_rows_are_counted_through_all_batches(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared("prepare").exit_code == 0
    project = projects.load(Path().absolute(), ["train.max_length=1"])
    dataset = train_rows.dataset_of(project)
    whole = train_rows.check_rows(project, dataset)
    monkeypatch.setattr(train_rows, "BATCH", 3)
    assert train_rows.check_rows(project, dataset) == whole
    assert (whole.rows, [line for line, _ in whole.too_long]) == (4, [1, 2, 3, 4])


# --- a continuation ------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_latest_checkpoint_in_its_own_folder(prepared: Cli, tmp_path: Path) -> None:
    write_run()
    given = flags(dry(prepared, "--resume")[1])
    assert given["output_dir"] == f"{tmp_path}/out/runs/run-001"
    assert given["resume_from_checkpoint"] == f"{tmp_path}/out/runs/run-001/v0-1/checkpoint-5"


def test_without_versions_a_continuation_stays_in_its_run(prepared: Cli, tmp_path: Path) -> None:
    sets = ("train.add_version=false",)
    run = write_run(sets=sets)
    (run / "v0-1" / "checkpoint-5").rename(run / "checkpoint-5")
    given = flags(dry(prepared, "--resume", "--set", *sets)[1])
    assert given["output_dir"] == f"{tmp_path}/out/runs/run-001"
    assert given["resume_from_checkpoint"] == f"{tmp_path}/out/runs/run-001/checkpoint-5"


def test_the_latest_run_that_is_not_done_is_taken_unless_another_is_named(prepared: Cli) -> None:
    for number, state in enumerate(("failed", "interrupted", "done", "failed"), 1):
        write_run(f"run-00{number}", state)
    (Path("out/runs/run-004/v0-1/checkpoint-5/trainer_state.json")).unlink()
    assert "/run-002/" in flags(dry(prepared, "--resume")[1])["resume_from_checkpoint"]
    assert "/run-001/" in flags(dry(prepared, "--resume", "--run", "run-001")[1])["resume_from_checkpoint"]
    assert prepared("train", "--dry-run", "--resume", "--run", "run-003").stderr == (
        "error: The run is done: run-003\nhint: Train it further with other settings and --force.\n"
    )
    assert prepared("train", "--dry-run", "--resume", "--run", "run-004").stderr.startswith(
        "error: The run has no checkpoint: "
    )


def test_where_no_run_can_go_on_their_states_are_named(prepared: Cli) -> None:
    write_run(state="done")
    done = prepared("train", "--resume", "--dry-run")
    assert done.exit_code == 2
    assert "run-001: done, 1 checkpoint" in done.stderr


def test_a_run_that_is_at_work_is_left_alone(prepared: Cli) -> None:
    run = runs.Run(write_run(state="running"))
    write_record(run.folder, msgspec.structs.replace(run.record, process=this_process()))
    done = prepared("train", "--resume", "--run", "run-001", "--dry-run", "--force")
    assert done.stderr.startswith("error: The run is at work: run-001\n")
    write_record(run.folder, msgspec.structs.replace(run.record, swift=this_process(), process=None))
    assert run.state == "running"  # swift goes on although its vlmdet was killed


def test_a_continuation_on_other_data_is_refused(prepared: Cli) -> None:
    write_run()
    file = Path("out/data/coco_final_train.jsonl")
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    done = prepared("train", "--resume", "--dry-run")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: run-001 was trained otherwise than this would go on\n  data (data/coco_final")


def test_a_continuation_names_every_setting_that_differs_and_goes_on_by_force(prepared: Cli) -> None:
    write_run(sets=("train.swift.weight_decay=0.1",))
    sets = ("--set", "train.lora_rank=8", "--set", "train.learning_rate=0.00005", "--set", "train.save_steps=7")
    done = prepared("train", "--resume", "--dry-run", *sets)
    assert (done.exit_code, done.stderr.splitlines()) == (
        2,
        [
            "error: run-001 was trained otherwise than this would go on",
            "  train.lora_rank: 32 → 8",
            "  train.swift.weight_decay: 0.1 → not set",
            "hint: Set them as they were, start a new run with `vlmdet train`, or go on all the same with --force.",
        ],
    )
    given = flags(dry(prepared, "--resume", "--force", *sets)[1])
    assert (given["lora_rank"], given["save_steps"]) == ("8", "7")


def test_flags_after_the_dashes_are_the_runs_own_and_another_value_is_refused(prepared: Cli) -> None:
    write_run("run-001", "failed", "--max_steps", "9", "--system", "be kind")
    given = flags(dry(prepared, "--resume")[1])
    assert (given["max_steps"], given["system"]) == ("9", "be kind")
    done = prepared("train", "--resume", "--dry-run", "--", "--max_steps", "12")
    assert "  train.swift.max_steps: 9 → 12\n" in done.stderr


def test_a_continuation_on_another_base_model_is_refused_by_its_weights(prepared: Cli) -> None:
    write_model(Path("model"))
    sets = ("train.model=model",)
    write_run(sets=sets)
    Path("model").rename("moved")
    assert dry(prepared, "--resume", "--set", "train.model=moved")
    with Path("moved/model.safetensors").open("r+b") as weights:
        weights.write(b"\1")
    done = prepared("train", "--resume", "--dry-run", "--set", "train.model=moved")
    assert done.exit_code == 2
    assert "  train.model: model (" in done.stderr


def test_a_project_that_was_moved_goes_on(prepared: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin.py").write_text("")
    sets = ("train.swift.external_plugins=plugin.py",)
    write_run(sets=sets)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("out", "plugin.py", "vlmdet.toml"):
        (tmp_path / name).rename(moved / name)
    monkeypatch.chdir(moved)
    given = flags(dry(prepared, "--resume", "--set", *sets)[1])
    assert given["external_plugins"] == str(moved / "plugin.py")


# --- the record ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prepared")
def test_a_run_records_what_it_is_of(tmp_path: Path) -> None:
    write_model(Path("model"), max_pixels=12544)
    run = runs.Run(
        write_run("first", "failed", "--max_length", "77", "--system", "be kind", sets=("train.model=model",))
    )
    record = run.record
    assert (record.name, record.arguments) == ("first", ("--max_length", "77", "--system", "be kind"))
    assert (record.dataset.file, record.dataset.rows) == ("data/coco_final_train.jsonl", 4)
    assert record.model.name == "model"
    assert record.model.hash
    assert record.settings["train"]["model"] == "model"
    trained = runs.trained_settings(run.latest_checkpoint())
    assert trained == record.trained
    assert (trained.family, trained.dialect, trained.max_pixels) == ("qwen2_vl", "qwen2_vl", 12544)
    assert (trained.max_length, trained.system, trained.template) == (77, "be kind", "qwen2_vl")
    assert trained.model == f"{tmp_path}/model"


@pytest.mark.usefixtures("prepared")
def test_the_history_of_a_run_is_kept() -> None:
    folder = write_run("run-001", "failed", "--max_steps", "9")
    first = msgspec.structs.replace(runs.Run(folder).record, seconds=5.0, started="2026-01-01T00:00:00+00:00")
    write_record(folder, first)
    project = projects.load(Path().absolute(), ["train.lora_rank=8"])
    planned = train_plan.plan(project, TrainOptions(resume=True, force=True))
    record = train._record(project, planned, 4)
    assert (record.started, record.seconds, record.state) == (first.started, 5.0, "running")
    (resume,) = record.resumes
    assert (resume.checkpoint, resume.state, resume.exit_code) == ("v0-1/checkpoint-5", "failed", -2)
    assert resume.changed == {"train.lora_rank": ("32", "8")}


def test_a_name_that_is_taken_is_refused(prepared: Cli) -> None:
    write_run("first")
    done = prepared("train", "--dry-run", "--run", "first")
    assert done.exit_code == 2
    assert done.stderr.endswith("or go on with it: vlmdet train --resume --run first\n")
    with pytest.raises(UsageError, match="Not a name of a run"):
        train_plan.plan(projects.load(Path().absolute()), TrainOptions(run="../x"))
