"""The whole ``vlmdet eval`` process against pycocotools' load, evaluate, accumulate and summarize."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Pair, paired, process, vlmdet

PEER = """
import json
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO("truth.json")
run = COCOeval(truth, truth.loadRes("results.json"), "bbox")
run.evaluate(); run.accumulate(); run.summarize()
"""
CLASSES = 80


def write(folder: Path, pictures: int, boxes: int, seed: int = 0) -> None:
    """A truth of ``boxes`` in ``pictures``, and as many predictions: most near an object, some anywhere."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(1, pictures + 1, boxes))
    category = rng.integers(1, CLASSES + 1, boxes)
    corner, side = rng.uniform(0, 480, (boxes, 2)), rng.uniform(8, 160, (boxes, 2))
    shift = rng.normal(0, 0.08, (boxes, 4)) * np.hstack([side, side])
    predicted_box = np.hstack([corner, side]) + shift
    predicted_box[:, 2:] = np.maximum(predicted_box[:, 2:], 1)
    predicted_category = np.where(rng.random(boxes) < 0.9, category, rng.integers(1, CLASSES + 1, boxes))
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 640} for n in range(1, pictures + 1)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [round(v, 2) for v in (x, y, w, h)],
             "area": round(w * h, 2), "iscrowd": 0}
            for n, (i, c, (x, y), (w, h)) in enumerate(
                zip(image.tolist(), category.tolist(), corner.tolist(), side.tolist(), strict=True), 1)
        ],
    }  # fmt: skip
    results = [
        {"image_id": i, "category_id": c, "bbox": [round(v, 2) for v in box], "score": round(s, 4)}
        for i, c, box, s in zip(
            image.tolist(), predicted_category.tolist(), predicted_box.tolist(), rng.random(boxes).tolist(), strict=True
        )
    ]
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "results.json").write_text(json.dumps(results))


def run(folder: Path) -> Iterator[Pair]:
    (folder / "peer.py").write_text(PEER)
    ours = vlmdet("eval", "--truth", "truth.json", "--predictions", "results.json", "--json")
    for pictures, runs in ((10, 9), (5_000, 3), (40_000, 1)):
        write(folder, pictures, pictures * 10)
        yield paired(
            f"eval of {pictures:,} pictures, against pycocotools",
            lambda: process(ours, folder),
            lambda: process([sys.executable, "peer.py"], folder),
            runs,
        )
