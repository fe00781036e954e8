"""Shell completion, as bash asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from tests.project.test_run_folders import write_run


def completed(*words: str) -> list[str]:
    """What completes the last word."""
    environment = {
        **os.environ,
        "_VLMDET_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['vlmdet']; from vlmdet_cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def folder(cli: Cli) -> Path:
    del cli  # it goes to the test's folder
    folder = Path("mine")
    folder.mkdir()
    write_project(
        folder, {"0.jpg": []}, "[experiments.rank]\ntrain.lora_rank = 8\n[experiments.rate]\ntrain.vit_lr = 1\n"
    )
    for name in ("small", "large"):
        write_run(folder / "out" / "runs", name)
    return folder


def test_keys_runs_experiments_and_splits_are_completed(folder: Path) -> None:
    assert completed("vlmdet", "train", "--set", "train.lora_r") == ["train.lora_rank="]
    assert completed("vlmdet", "--set", "infer.server.ur") == ["infer.server.urls="]
    assert completed("vlmdet", "infer", "--split", "t") == ["train", "test"]
    assert sorted(completed("vlmdet", "-p", str(folder), "merge", "--run", "")) == ["large", "small"]
    assert completed("vlmdet", "eval", "-p", str(folder), "--run", "s") == ["small"]
    assert completed("vlmdet", "experiment", "-p", str(folder), "rank", "ra") == ["rate"]


def test_where_nothing_can_be_read_nothing_is_completed(folder: Path) -> None:
    assert completed("vlmdet", "merge", "--run", "") == []  # no project here
    (folder / "vlmdet.toml").write_text("[[")
    assert completed("vlmdet", "-p", str(folder), "merge", "--run", "") == []
