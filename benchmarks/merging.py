"""What rounding makes of a merge, by dtype and depth: ``python -m benchmarks.merging [LAYERS …]``.

A Qwen2-VL of random weights with LoRA of random numbers on all its linear layers, merged by peft itself, is compared
with adapter and base as ``merge --verify`` does. Random weights amplify rounding more than trained ones do: these are
figures to choose a bound by.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vlmdet_cli.demo import HERE
from vlmdet_cli.engines import Request
from vlmdet_cli.stages.merging.merge_check import TOLERANCE
from vlmdet_cli.stages.merging.merge_worker import CheckJob, compare

PICTURES, TOKENS = 4, 48


def main() -> None:
    print("layers  dtype     largest logit  difference  share   bound   equal")
    for layers in map(int, sys.argv[1:] or ("3", "28")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            subprocess.run([sys.executable, "-m", "vlmdet_cli", "init", "--demo", "demo", "-q"], cwd=folder, check=True)
            write_base(folder / "base", layers)
            write_adapter(folder)
            for dtype in TOLERANCE:
                print(f"{layers:6}  {measure(folder, dtype)}", flush=True)


def write_base(folder: Path, layers: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    shutil.copytree(HERE / "model", folder)
    config = AutoConfig.from_pretrained(folder)
    text = config.text_config
    text.num_hidden_layers, text.layer_types = layers, ["full_attention"] * layers
    text.hidden_size = config.vision_config.hidden_size = 256
    text.intermediate_size, text.initializer_range = 1024, 0.05
    text.num_attention_heads, text.num_key_value_heads = 8, 2
    text.rope_parameters["mrope_section"] = [4, 6, 6]
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)  # logits as large as those of trained models
    settings = (folder / "generation_config.json").read_bytes()
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(settings)


def load(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype))


def write_adapter(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", exclude_modules=["lm_head"])
    model = get_peft_model(load(folder / "base", "float32"), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.004)
    model.save_pretrained(folder / "adapter")


def measure(folder: Path, dtype: str) -> str:
    from peft import PeftModel

    merged = folder / f"merged-{dtype}"
    shutil.copytree(HERE / "model", merged)
    (merged / "model.safetensors").unlink()
    settings = (merged / "generation_config.json").read_bytes()
    model = PeftModel.from_pretrained(load(folder / "base", dtype), str(folder / "adapter")).merge_and_unload()
    model.save_pretrained(merged)
    (merged / "generation_config.json").write_bytes(settings)
    pictures = sorted((folder / "demo" / "images" / "val").glob("*.jpg"))[:PICTURES]
    prompt = "<image>Draw the bounding box of objects"
    job = CheckJob(
        base=folder / "base", adapters=[folder / "adapter"], merged=merged,
        requests=[Request(key=str(n), image=picture, prompt=prompt) for n, picture in enumerate(pictures)],
        family="qwen2_vl", dialect="qwen2_vl", max_pixels=12544, system=None, stop_loops=0, device="cpu", dtype=dtype,
        batch=PICTURES, max_tokens=TOKENS,
    )  # fmt: skip
    result = compare(job)
    equal = sum(asked.adapter == asked.merged for asked in result.asked)
    difference = result.difference if result.difference is not None else float("nan")
    share = difference / result.largest
    return (
        f"{dtype:8}  {result.largest:13.2f}  {difference:10.2g}  {share:6.1g}  {TOLERANCE[dtype]:6.2g}  "
        f"{equal} of {PICTURES}"
    )


if __name__ == "__main__":
    main()
