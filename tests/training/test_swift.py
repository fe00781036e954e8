"""The argument lists for swift, and a process that fails, hangs or is interrupted."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli.errors import EngineError
from vlmdet_cli.training import arguments, swift

PICTURES = {f"{n}.jpg": [("cat", (4 + n, 6, 20, 20))] for n in range(4)}


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
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == 0
    monkeypatch.setattr(swift, "gpus", lambda: 1)
    return cli


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


def test_without_a_gpu_the_command_says_cpu_and_float32(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "gpus", lambda: 0)
    env, words = dry(prepared)
    assert "CUDA_VISIBLE_DEVICES" not in env
    assert (flags(words)["use_cpu"], flags(words)["torch_dtype"]) == ("true", "float32")


def test_the_models_own_pixel_limit_is_told_since_swift_does_not_heed_it(prepared: Cli) -> None:
    for name, config in (
        ("old", {"max_pixels": 12544}),
        ("new", {"image_processor": {"size": {"longest_edge": 12544}}}),
        ("large", {"max_pixels": 12845056}),
    ):
        Path(name).mkdir()
        file = "processor_config.json" if name == "new" else "preprocessor_config.json"
        (Path(name) / file).write_text(json.dumps(config))
        (Path(name) / "config.json").write_text('{"model_type": "qwen2_vl"}')
    assert flags(dry(prepared, "--set", "train.model=old")[1])["max_pixels"] == "12544"
    assert flags(dry(prepared, "--set", "train.model=new")[1])["max_pixels"] == "12544"
    assert "max_pixels" not in flags(dry(prepared, "--set", "train.model=large")[1])
    mine = dry(prepared, "--set", "train.model=old", "--set", "train.swift.max_pixels=50000")[1]
    assert flags(mine)["max_pixels"] == "50000"


def test_several_gpus_start_as_many_processes(prepared: Cli) -> None:
    env, _ = dry(prepared, "--set", "train.gpus='0,1'", "--set", "train.nproc_per_node=2")
    assert (env["CUDA_VISIBLE_DEVICES"], env["NPROC_PER_NODE"]) == ("0,1", "2")


@pytest.mark.parametrize(
    ("version", "flag"),
    [((3, 12, 4), "train_type"), ((4, 0, 1), "tuner_type"), ((4, 6, 0), "tuner_type"), ((), "tuner_type")],
)
def test_the_tuner_flag_follows_swifts_version(version: tuple[int, ...], flag: str) -> None:
    assert arguments.tuner_flag(version) == flag


def test_a_command_with_spaces_is_quoted_to_be_pasted() -> None:
    command = swift.Command(("swift", "sft", "--system", "be kind; rm -rf"), {"ROOT_IMAGE_DIR": "/a b"})
    assert command.quoted() == "ROOT_IMAGE_DIR='/a b' swift sft --system 'be kind; rm -rf'"


def python(code: str) -> swift.Command:
    return swift.Command((sys.executable, "-c", code), {})


def run(command: swift.Command, log: Path) -> None:
    swift.run(command, log, cwd=log.parent, watch=lambda: None, hint="Look.")


def test_a_failed_process_shows_the_logs_end_its_name_and_its_code(tmp_path: Path) -> None:
    code = "print('first');[print('line', n) for n in range(20)];import sys;sys.exit(7)"
    with pytest.raises(EngineError) as caught:
        run(python(code), tmp_path / "swift.log")
    assert caught.value.what.endswith("-c failed: exit code 7")
    assert caught.value.why == (*(f"line {n}" for n in range(8, 20)), f"The whole log: {tmp_path}/swift.log")
    assert (tmp_path / "swift.log").read_text().startswith("first\nline 0\n")


def test_a_killed_process_names_the_signal(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run(python("import os,signal;os.kill(os.getpid(),signal.SIGKILL)"), tmp_path / "swift.log")
    assert caught.value.what.endswith("failed: killed by signal 9 (SIGKILL)")


def test_an_interrupt_ends_the_process_and_its_children(tmp_path: Path) -> None:
    """A parent that ignores SIGINT, with a child in a session of its own, as torch's launcher starts workers."""
    code = (
        "import signal,subprocess,sys,time;signal.signal(signal.SIGINT,signal.SIG_IGN);"
        "child=subprocess.Popen([sys.executable,'-c','import time;time.sleep(600)'],start_new_session=True);"
        "open('pids','w').write(f'{child.pid}');time.sleep(600)"
    )

    def interrupt() -> None:
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swift.run(python(code), tmp_path / "swift.log", cwd=tmp_path, watch=interrupt, hint="")
    child = int((tmp_path / "pids").read_text())
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_without_swift_training_says_what_to_install(prepared: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "version", lambda: ())
    done = prepared("train")
    assert (done.exit_code, done.stdout, done.stderr) == (
        4,
        "",
        "error: swift is not installed beside vlmdet\n"
        f"  Looked for ms-swift in {Path(sys.executable).parent}.\n"
        "hint: Install the training stack: pip install 'vlmdet[train]' (pipx: pipx install 'vlmdet[train]').\n",
    )


def test_merge_without_a_run_says_what_to_do(prepared: Cli, tmp_path: Path) -> None:
    done = prepared("merge")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: No run: {tmp_path}/out/runs\nhint: Run `vlmdet train` first.\n",
    )


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
def test_rows_that_swift_would_drop_are_found_before_it_starts(
    prepared: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: "object", message: str
) -> None:
    monkeypatch.setattr(swift, "require", lambda: None)
    file = tmp_path / "out" / "data" / "coco_final_train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1] = spoil(lines[1])  # type: ignore[operator]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = prepared("train")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", message.format(f=file))
    assert not (tmp_path / "out" / "runs").exists()


def test_a_terminated_vlmdet_leaves_no_swift_behind(tmp_path: Path) -> None:
    """SIGTERM to the tool itself, as a scheduler sends it."""
    script = (
        "import sys;from pathlib import Path;from vlmdet_cli.training import swift;import signal;"
        "from vlmdet_cli.cli.command_line import _interrupt;signal.signal(signal.SIGTERM, _interrupt);"
        'child=\'import os,time;open("pid","w").write(str(os.getpid()));time.sleep(600)\';'
        "c=swift.Command((sys.executable,'-c',child),{});"
        "swift.run(c,Path('log'),cwd=Path('.'),watch=lambda:None,hint='')"
    )
    tool = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while time.monotonic() < end and not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.1)
    os.kill(tool.pid, signal.SIGTERM)
    tool.wait(timeout=30)
    assert not alive(int((tmp_path / "pid").read_text()))
