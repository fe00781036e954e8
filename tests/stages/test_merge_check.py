"""merge --verify: the verdict, what is asked, and the real thing on the demo."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Cli, vlmdet, write_project
from tests.project.test_run_folders import write_run
from vlmdet_cli import project as projects
from vlmdet_cli.project import runs
from vlmdet_cli.stages.merging import merge_check
from vlmdet_cli.stages.merging.merge_check import Questions
from vlmdet_cli.stages.merging.merge_sources import MergeSources
from vlmdet_cli.stages.merging.merge_worker import Asked, CheckJob, Compared


def job(dtype: str) -> CheckJob:
    return CheckJob(
        base=Path(), adapters=[], merged=Path(), requests=[], family="", dialect="", max_pixels=None, system=None,
        stop_loops=5, device="cpu", dtype=dtype, batch=8, max_tokens=8,
    )  # fmt: skip


def reason(dtype: str = "float32", **fields: Any) -> str:
    values = {"difference": 0.001, "effect": 9.0, "to_base": 9.0, "largest": 20.0, **fields}
    return merge_check.judged(Compared(**values), job(dtype), Questions(), 1.0).reason


def test_the_bound_is_what_rounding_in_the_dtype_explains() -> None:
    assert reason() == ""
    assert reason(difference=0.0021).startswith("The adapter is merged into other weights, or scaled otherwise, by ms-")
    assert reason("float16", difference=0.3) == reason("bfloat16", difference=2.4) == ""
    assert reason("float16", difference=0.32) != ""
    assert reason("bfloat16", difference=2.6) != ""


def test_the_reason_says_what_is_likely_wrong() -> None:
    assert reason(difference=9.0, to_base=0.0) == "It answers as the base model alone: the adapter is not in it."
    assert reason("float16", difference=None).startswith("Its logits are no finite numbers: weights or sums overflow")
    assert reason(other_files=["the chat template"]) == ("The merged folder's processor is another: the chat template.")


def test_pictures_that_cannot_be_used_are_not_counted() -> None:
    asked = [
        Asked(key="0", adapter="a", merged="a"),
        Asked(key="1", adapter="a", merged="b"),
        Asked(key="2", error="x"),
    ]
    check = merge_check.judged(Compared(asked=asked, difference=0.0), job("float32"), Questions(split="val"), 1.0)
    assert (check.answers, check.equal, check.share) == (2, 1, 0.5)


def test_the_pictures_are_drawn_by_the_projects_seed_from_the_first_split_that_is_prepared(
    cli: Cli, tmp_path: Path
) -> None:
    pictures = {f"{number}.jpg": [("cat", (1.0, 2.0, 20.0, 20.0))] for number in range(12)}
    write_project(tmp_path, pictures)
    assert cli("prepare").exit_code == 0
    run = write_run(tmp_path / "out" / "runs", "run-001", "done")

    def names(count: int, *sets: str) -> list[str]:
        sources = MergeSources(checkpoints=(), owner=run, base_name="", base=None)
        asked = merge_check.questions(projects.load(tmp_path, sets), sources, count)
        assert asked.split == ("train" if count else "")
        return [row.image for row in asked.rows]

    drawn = names(8)
    assert len(set(drawn)) == 8
    assert drawn == names(8)
    assert drawn != names(8, "project.seed=1")
    assert len(names(99)) == 12
    assert names(0) == []


SHARED = ("--set", "subset.pictures=30", "--set", "subset.val_pictures=8", "--set", "subset.test_pictures=2")
BROKEN = """
import peft
peft.PeftModel.merge_and_unload = lambda self, *_, **__: self.unload()  # as if a version of peft had a fault
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_merges_on_the_demo_are_verified_in_order_and_wrong_ones_refused(tmp_path: Path) -> None:
    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    vlmdet(folder, "prepare", *SHARED)
    first, second = (new_adapter(folder, name, seed) for seed, name in enumerate(("first", "second")))

    # one after another, as peft merges them one after another: to the last bit, which the order decides
    both = ("--checkpoint", str(first), "--checkpoint", str(second))
    result = json.loads(vlmdet(folder, "merge", "--json", *both).stdout)
    assert (result["run"], result["model"]) == ("", str(folder / "out" / "merged"))
    check = result["check"]
    assert (check["answers"], check["equal"], check["split"], check["reason"]) == (8, 8, "val", "")
    assert check["difference"] < check["bound"] < 0.1 < check["effect"]
    in_order, reversed_order = (merged_by_peft(folder, adapters) for adapters in ((first, second), (second, first)))
    weights = load(folder / "out" / "merged")
    assert equal(weights, in_order)
    assert not equal(weights, reversed_order)

    # a run that goes on with an adapter holds it, and is merged alone
    settings = ("--set", "train.learning_rate=1e-2", "--set", "train.num_train_epochs=1")
    vlmdet(folder, "train", *SHARED, *settings, "--", "--adapters", str(first), "--max_steps", "3")
    run = runs.find_run(folder / "out" / "runs")
    vlmdet(folder, "merge", "--checkpoint", str(first), "--checkpoint", str(run.latest_checkpoint()), code=2)
    shown = vlmdet(folder, "merge").stdout
    assert "8 of 8 answers equal" in shown
    assert equal(load(run.merged), merged_by_peft(folder, [run.latest_checkpoint()]))
    generation = json.loads((run.merged / "generation_config.json").read_text())
    assert (
        generation["suppress_tokens"]
        == json.loads((folder / "model" / "generation_config.json").read_text())["suppress_tokens"]
    )
    run_the_samples_of_the_card(run, sorted((folder / "images" / "val").glob("*.jpg"))[0])
    assert run.record.merge
    assert (run.record.merge.state, run.record.merge.check and run.record.merge.check.equal) == ("verified", 8)

    # a merge that is killed leaves the model before it
    log = run.folder / "merge.log"
    log.unlink()
    killed = subprocess.Popen([sys.executable, "-m", "vlmdet_cli", "merge"], cwd=folder, stderr=subprocess.DEVNULL)
    while not log.is_file() or b"Merge LoRA" not in log.read_bytes():
        assert killed.poll() is None
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert equal(load(run.merged), merged_by_peft(folder, [run.latest_checkpoint()]))

    # a merge that lost the adapter is refused, and the model before it stays
    before = load(run.merged)
    (folder / "broken.py").write_text(BROKEN)
    plugins = f"merge.swift.external_plugins={json.dumps([str(folder / 'plugin.py'), str(folder / 'broken.py')])}"
    done = vlmdet(folder, "merge", "--set", plugins, code=4)
    assert "error: The merged model is not the adapter on its base\n" in done.stderr
    assert "  It answers as the base model alone: the adapter is not in it.\n" in done.stderr
    assert equal(load(run.merged), before)
    assert (run.folder / "merged.differs" / "model.safetensors").is_file()
    assert not (run.folder / "merged.differs" / runs.MARKER).exists()
    assert not list(run.folder.glob("merging-*"))
    assert run.record.merge
    assert run.record.merge.state == "differs"


def run_the_samples_of_the_card(run: runs.Run, picture: Path) -> None:
    """In a fresh process, in a copy of the folder alone: both samples load the model and answer."""
    folder = run.folder / "copy"
    shutil.copytree(run.merged, folder)
    shutil.copy(picture, folder / "photo.jpg")
    samples = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert len(samples) == 2
    code = f"{samples[0]}\nprint(seen.text)\n{samples[1]}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].removesuffix("<|im_end|>").startswith(("<|object_ref_start|>", "No objects"))
    shutil.rmtree(folder)


def new_adapter(folder: Path, name: str, seed: int) -> Path:
    """A LoRA adapter of random numbers, as large as a training's, on the demo's model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "qkv"]))
    for weight_name, weight in adapted.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.05)
    target = folder / "adapters" / name
    adapted.save_pretrained(target)
    config = json.loads((target / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "model")
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def merged_by_peft(folder: Path, adapters: Any) -> dict[str, Any]:
    """The weights after peft's own merge of each adapter, one after another."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    target = folder / "by-peft"
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    return load(target)


def load(model: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(model / "model.safetensors")  # type: ignore[no-any-return]


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    assert first.keys() == second.keys()
    return all(bool((first[name] == second[name]).all()) for name in first)
