"""``vlmdet infer`` against ``swift infer`` with the demo's model, on the CPU, greedily, at the same pixel limit.

- whole processes over the 575 rows of the demo's test split, in turns, each program in its fastest batches: ours in
  288, since rows that have ended leave; ``swift infer`` in 64 and in 128, of which the better median counts (192, 288
  and 575 take it longer);
- the steady rate: what 5,000 rows take beyond the 575;
- the memory of 1,000 and of ``VLMDET_BENCHMARK_ROWS`` rows (10,000) with answers of at most 8 tokens.

A pair's name has the ratio (swift's time to ours) of each turn, and how many of the texts are equal.
``VLMDET_BENCHMARK_MODEL`` names a trained model folder of the demo; without it the base model answers, which the
package holds.
"""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import Cost, Pair, median, process, vlmdet
from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import STREET, write_coco

BATCH, SWIFT_BATCHES, MAX_TOKENS, MAX_PIXELS = 288, (64, 128), 256, 168 * 168
TURNS = 3
ROWS_A_PICTURE = 5  # a detection row and four questions


def run(folder: Path) -> Iterator[Pair]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # spares swift the wait for its hub
    model = Path(os.environ.get("VLMDET_BENCHMARK_MODEL", HERE / "model")).absolute()
    small = Project(folder / "small", model, 0)
    yield whole(small)
    large = Project(folder / "large", model, 5000 // ROWS_A_PICTURE)
    yield steady(small, large)
    few = Project(folder / "few", model, 1000 // ROWS_A_PICTURE)
    many = Project(folder / "many", model, int(os.environ.get("VLMDET_BENCHMARK_ROWS", "10000")) // ROWS_A_PICTURE)
    yield memory(few, many)


class Turn(NamedTuple):
    ours: Cost
    peer: Cost

    @property
    def ratio(self) -> float:
        return self.peer.seconds / self.ours.seconds


class Project:
    """The demo's project with all that its own test split or one of ``pictures`` new pictures is asked."""

    def __init__(self, folder: Path, model: Path, pictures: int) -> None:
        self.folder, self.model = folder, model
        process(vlmdet("init", "--demo", str(folder)), folder.parent)
        if pictures:
            write_coco(folder, STREET, {"train": 10, "test": pictures})
        for step in ("prepare", "augment"):
            process(vlmdet(step, "-q"), folder)
        self.rows = write_rows(folder / "out", folder / "rows.jsonl")

    def ours(self, max_tokens: int = MAX_TOKENS) -> Cost:
        shutil.rmtree(self.folder / "out" / "answers", ignore_errors=True)
        settings = {"batch": BATCH, "max_tokens": max_tokens, "scores": "false", "engine": "transformers"}
        sets = [part for key, value in settings.items() for part in ("--set", f"infer.{key}={value}")]
        return process(vlmdet("infer", "--model", str(self.model), "--name", "ours", "-q", *sets), self.folder)

    def peer(self, batch: int = SWIFT_BATCHES[0]) -> Cost:
        (self.folder / "result.jsonl").unlink(missing_ok=True)
        return process(self._swift_command(batch), self.folder)

    def equal_texts(self) -> int:
        texts = [row["text"] for row in lines(self.folder / "out" / "answers" / "ours.jsonl")]
        responses = [row["response"] for row in lines(self.folder / "result.jsonl")]
        return sum(text == response for text, response in zip(texts, responses, strict=True))

    def _swift_command(self, batch: int) -> list[str]:
        program = Path(sys.executable).parent / "swift"
        return [
            str(program), "infer", "--model", str(self.model), "--model_type", "qwen2_vl", "--template", "vlmdet_demo",
            "--external_plugins", str(self.folder / "plugin.py"), "--val_dataset", str(self.folder / "rows.jsonl"),
            "--result_path", str(self.folder / "result.jsonl"), "--max_batch_size", str(batch), "--temperature", "0",
            "--max_new_tokens", str(MAX_TOKENS), "--max_pixels", str(MAX_PIXELS), "--torch_dtype", "float32",
        ]  # fmt: skip


def whole(project: Project) -> Pair:
    project.ours(), project.peer()  # once unmeasured
    turns = {batch: [Turn(project.ours(), project.peer(batch)) for _ in range(TURNS)] for batch in SWIFT_BATCHES}
    best = min(turns.values(), key=lambda turns: statistics.median(turn.peer.seconds for turn in turns))
    name = f"infer of {project.rows} rows, against swift infer; {ratios(best)}; {project.equal_texts()} texts equal"
    return Pair(name, median([turn.ours for turn in best]), median([turn.peer for turn in best]))


def steady(small: Project, large: Project) -> Pair:
    """The costs of the rows that the large project has more."""
    turns = []
    for _ in range(2):
        ours, peer = difference(large.ours(), small.ours()), difference(large.peer(), small.peer())
        turns.append(Turn(ours, peer))
    rows = large.rows - small.rows
    name = f"{rows} more rows; {ratios(turns)}; {large.equal_texts()} of {large.rows} texts equal; "
    name += f"{rows / turns[0].ours.seconds:.0f} rows/s against {rows / turns[0].peer.seconds:.0f}"
    return Pair(name, median([turn.ours for turn in turns]), median([turn.peer for turn in turns]))


def memory(few: Project, many: Project) -> Pair:
    """The larger number of rows as ours, the smaller as its peer: the memories are to be equal."""
    return Pair(f"infer of {many.rows} rows, against {few.rows}", many.ours(8), few.ours(8))


def difference(large: Cost, small: Cost) -> Cost:
    return Cost(large.seconds - small.seconds, large.cpu_seconds - small.cpu_seconds, large.megabytes)


def ratios(turns: list[Turn]) -> str:
    """``ratios 1.9 2.0 2.2``: the least, the median, the greatest."""
    values = sorted(turn.ratio for turn in turns)
    return f"ratios {values[0]:.2f} {values[len(values) // 2]:.2f} {values[-1]:.2f}"


def write_rows(output: Path, path: Path) -> int:
    """The rows that ``vlmdet infer`` asks, in its order, with absolute picture paths; their number."""
    rows = [*lines(output / "data" / "coco_final_test.jsonl"), *lines(output / "augment" / "questions_test.jsonl")]
    for row in rows:
        row["images"] = [str(output / image) for image in row["images"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
