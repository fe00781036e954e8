"""What ``vlmdet infer`` itself costs from 1,000 rows to 50,000: an engine that answers at once takes the model's part.

The peer is the same command with 1,000 rows: the ratio of times shows that they grow no faster than the rows, the two
peak memories what a row costs. With scores each answer has some hundred tokens with their log-probabilities. Run as a
module, this file is ``vlmdet`` with that engine.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import preparing
from benchmarks.timing import Cost, Pair, process, vlmdet
from vlmdet_cli import engines
from vlmdet_cli.__main__ import main
from vlmdet_cli.engines import Completion, Engine, EngineSettings, Request

ROWS = (1_000, 10_000, 50_000)
COMMAND = [sys.executable, "-m", "benchmarks.answering", "infer", "-q", "--model", "../base", "--split", "train"]
BOXES = 7  # in an answer; COCO's mean


def run(folder: Path) -> Iterator[Pair]:
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    costs: dict[tuple[int, bool], Cost] = {}
    for rows in ROWS:
        project = folder / str(rows)
        preparing.write(project, rows, polygons=False)
        process(vlmdet("prepare", "-q"), project)
        for scores in (False, True):
            costs[rows, scores] = process([*COMMAND, "--set", f"infer.scores={str(scores).lower()}"], project)
            name = f"infer of {rows:,} rows{' with scores' * scores}, against {ROWS[0]:,}"
            yield Pair(name, costs[rows, scores], costs[ROWS[0], scores])


class InstantEngine:
    """Answers each request with the same boxes, without a look at its picture."""

    def __init__(self, settings: EngineSettings) -> None:
        box = "<|object_ref_start|>class 1<|object_ref_end|><|box_start|>({n},61),(771,896)<|box_end|>"
        self._text = "".join(box.replace("{n}", str(n)) for n in range(BOXES))
        pieces = [self._text[start : start + 4] for start in range(0, len(self._text), 4)]
        self._tokens = [(piece, -0.12345) for piece in pieces] if settings.scores else []

    def identity(self) -> dict[str, Any]:
        return {"name": "instant"}

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        for request in requests:
            yield Completion(key=request.key, text=self._text, tokens=self._tokens, num_tokens=max_tokens)


def create(name: str, settings: EngineSettings) -> Engine:
    del name
    return InstantEngine(settings)


if __name__ == "__main__":
    engines.create = create
    main()
