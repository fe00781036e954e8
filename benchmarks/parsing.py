"""Parsing a million boxes of answers, against the mere regular expression that finds their numbers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.timing import Pair, paired, process
from vlmdet_cli.models import dialects

ANSWERS, BOXES = 100_000, 10
OURS = """
from vlmdet_cli.models import dialects
parse = dialects.get("qwen2_vl").parse
names = open("names.txt").read().splitlines()
assert sum(len(parse(line, (640, 480), names).detections) for line in open("answers.txt")) == %d
"""
PEER = r"""
import re
box = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
assert sum(len(box.findall(line)) for line in open("answers.txt")) == %d
"""


def run(folder: Path) -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    names = [f"class {n}" for n in range(80)]
    render = dialects.get("qwen2_vl").render
    lines = []
    for _ in range(ANSWERS // 20):
        corner, side = rng.uniform(0, 200, (BOXES, 2)), rng.uniform(20, 200, (BOXES, 2))
        boxes = np.hstack([corner, corner + side]).tolist()
        labels = [names[n] for n in rng.integers(0, 80, BOXES)]
        lines.append(render(list(zip(labels, boxes, strict=True)), (640, 480)))
    (folder / "names.txt").write_text("\n".join(names))
    (folder / "answers.txt").write_text("\n".join(lines * 20))
    total = ANSWERS * BOXES
    for name, script in (("ours.py", OURS), ("peer.py", PEER)):
        (folder / name).write_text(script % total)
    yield paired(
        f"parse {total:,} boxes, against the bare expression",
        lambda: process([sys.executable, "ours.py"], folder),
        lambda: process([sys.executable, "peer.py"], folder),
        3,
    )
