"""``vlmdet infer`` against ``swift infer``, whole processes, over the 575 rows of the demo's test split.

Both answer with the demo's model in batches of 64 on the CPU, greedily, pictures at the same pixel limit. The pair's
name tells how many of the texts are equal. ``VLMDET_BENCHMARK_MODEL`` names a trained model folder of the demo; without
it the base model answers, which the package holds.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Cost, Pair, paired, process, vlmdet

BATCH, MAX_TOKENS, MAX_PIXELS = 64, 256, 112 * 112
SETTINGS = (f"infer.batch={BATCH}", f"infer.max_tokens={MAX_TOKENS}", "infer.scores=false")


def run(folder: Path) -> Iterator[Pair]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # spares swift the wait for its hub
    process(vlmdet("init", "--demo", "demo"), folder)
    demo = folder / "demo"
    for step in ("prepare", "augment"):
        process(vlmdet(step, "-q"), demo)
    model = Path(os.environ.get("VLMDET_BENCHMARK_MODEL", demo / "model")).absolute()
    rows, answers, result = demo / "rows.jsonl", demo / "out" / "answers", demo / "result.jsonl"
    count = write_rows(demo / "out", rows)
    ours = vlmdet("infer", "--model", str(model), "--name", "ours", "-q", *sets())
    peer = swift_command(model, demo / "plugin.py", rows, result)

    def our_cost() -> Cost:
        shutil.rmtree(answers, ignore_errors=True)
        return process(ours, demo)

    def peer_cost() -> Cost:
        result.unlink(missing_ok=True)
        return process(peer, demo)

    pair = paired(f"infer of {count} rows, against swift infer", our_cost, peer_cost, 3)
    texts = [row["text"] for row in lines(answers / "ours.jsonl")]
    equal = sum(text == row["response"] for text, row in zip(texts, lines(result), strict=True))
    yield pair._replace(name=f"{pair.name}; {equal} texts equal")


def write_rows(output: Path, path: Path) -> int:
    """The rows that ``vlmdet infer`` asks, in its order, with absolute picture paths; their number."""
    rows = [*lines(output / "data" / "coco_final_test.jsonl"), *lines(output / "augment" / "questions_test.jsonl")]
    for row in rows:
        row["images"] = [str(output / image) for image in row["images"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def sets() -> list[str]:
    return [part for setting in SETTINGS for part in ("--set", setting)]


def swift_command(model: Path, plugin: Path, rows: Path, result: Path) -> list[str]:
    program = Path(sys.executable).parent / "swift"
    return [
        str(program), "infer", "--model", str(model), "--model_type", "qwen2_vl", "--template", "vlmdet_demo",
        "--external_plugins", str(plugin), "--val_dataset", str(rows), "--result_path", str(result),
        "--max_batch_size", str(BATCH), "--temperature", "0", "--max_new_tokens", str(MAX_TOKENS),
        "--max_pixels", str(MAX_PIXELS), "--torch_dtype", "float32",
    ]  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
