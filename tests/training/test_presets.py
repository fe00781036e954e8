"""Presets: what they set, and that swift's own parser takes the command of each with each published model."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.training.published_models import PUBLISHED
from vlmdet_cli import project as projects
from vlmdet_cli.training import presets

SCRIPT = Path(__file__).parent / "swift_arguments.py"


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", 2.0), ("Qwen/Qwen2.5-VL-7B-Instruct", 7.0), ("OpenGVLab/InternVL3_5-1B-HF", 1.0),
        ("/models/8B/mine", 0.0), ("google/paligemma2-3b-pt-224", 3.0), ("folder", 0.0),
    ],
)  # fmt: skip
def test_a_name_tells_the_billions(name: str, billions: float) -> None:
    assert presets.billions_of(name) == billions


def test_a_preset_is_written_into_the_new_file_for_the_models_size(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", "large", "--model", "Qwen/Qwen3-VL-8B-Instruct", "--preset", "24gb")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "For the model family qwen3_vl and the preset 24gb: train.model = " in done.stdout
    assert "The preset was not run on a GPU" in done.stdout
    train = projects.load(tmp_path / "large").config.train
    assert (train.liger, train.freeze_vit, train.lora_rank, train.max_length) == (True, True, 16, 2048)
    assert cli("init", "eight", "--preset", "8x80gb").exit_code == 0
    train = projects.load(tmp_path / "eight").config.train
    assert (train.nproc_per_node, train.gpus, train.liger) == (8, "0,1,2,3,4,5,6,7", False)
    done = cli("init", "none", "--preset", "24")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: No preset 24: did you mean 24gb?\nhint: There are 24gb, 80gb, 8x80gb.\n",
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_swifts_own_parser_takes_the_command_of_every_preset_with_every_model(cli: Cli, tmp_path: Path) -> None:
    commands, settings = list[list[str]](), list[dict[str, Any]]()
    for model in PUBLISHED:
        for preset in presets.PRESETS:
            folder = tmp_path / preset / model.rpartition("/")[2]
            assert cli("init", str(folder), "--model", model, "--preset", preset).exit_code == 0
            done = cli("-p", str(folder), "--set", "train.device=gpu", "train", "--dry-run", "--json")
            assert done.exit_code == 0, done.stderr
            document = json.loads(done.stdout)
            commands.append(document["argv"][2:])
            settings.append({"model": model, "effective_batch": document["effective_batch"], "env": document["env"]})
            assert document["effective_batch"] == (32 if preset == "8x80gb" else 4)
            assert document["env"].get("NPROC_PER_NODE") == ("8" if preset == "8x80gb" else None)
    output = tmp_path / "parsed.json"
    parsing = subprocess.run(
        [sys.executable, str(SCRIPT), str(output)],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert parsing.returncode == 0, parsing.stderr
    parsed = json.loads(output.read_text())
    assert len(parsed) == len(PUBLISHED) * len(presets.PRESETS) == 24
    for result, setting in zip(parsed, settings, strict=True):
        assert result["rest"] == []
        assert result["model"] == setting["model"]
        rows = result["per_device_train_batch_size"] * result["gradient_accumulation_steps"]
        assert rows * int(setting["env"].get("NPROC_PER_NODE", 1)) == setting["effective_batch"]
