"""What each way of asking, of cutting and of reading is worth on the demo's models.

    python -m benchmarks.protocols --model demo/out/runs/run-001/merged [--class-model DIR] \\
        [--parts asking reading cutting]

New pictures of the demo's world are answered by ``--model``, whose rows ask for everything at once, and by
``--class-model``, one whose rows name classes (``format.ask = "some"``). Then ``--model`` answers pictures of 400 x 400
pixels with more objects, in one piece and in tiles of about the 224 pixels that it was trained on; their boxes are
merged by the rule of ``metrics.tile_merging`` and by three others.
"""

import argparse
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.timing import process, vlmdet
from vlmdet_cli.core.answers import Detection, ParsedDetections
from vlmdet_cli.core.boxes import area, pairwise_intersection, pairwise_iou
from vlmdet_cli.demo import worlds
from vlmdet_cli.engines import transformers
from vlmdet_cli.metrics.repeats import without_near_repeats
from vlmdet_cli.metrics.tile_merging import TileDetection, merged
from vlmdet_cli.project import load
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, evaluate
from vlmdet_cli.stages.inference import answer_reading
from vlmdet_cli.stages.inference.infer_inputs import infer_job
from vlmdet_cli.stages.inference.infer_model import InferRequest

WORLD_SEED = 2027  # the demo's own pictures are of seed 0
PROJECT = Path(__file__).parents[1] / "vlmdet_cli" / "demo" / "vlmdet.toml"
LARGE, LARGE_COUNTS = 400, (0.0,) * 5 + (1 / 8,) * 8  # a picture's side; six to thirteen objects
TILINGS = ("[2, 2, 0.0]", "[2, 2, 0.2]", "[2, 2, 0.4]", "[3, 3, 0.2]")
Merge = Callable[[Sequence[TileDetection]], dict[int, Detection]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--class-model", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--parts", nargs="+", default=["asking", "reading", "cutting"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder / "plain", options.pictures)
        if "asking" in options.parts:
            asking(folder / "plain", "all classes at once", options.model.absolute())
        if "asking" in options.parts and options.class_model:
            asking(folder / "plain", "classes by name", options.class_model.absolute())
        if "reading" in options.parts:
            reading(folder / "plain", options.model.absolute())
        if "cutting" not in options.parts:
            return
        with patch.multiple(worlds, SIZE=LARGE, COUNT_PROBABILITIES=LARGE_COUNTS):
            prepare(folder / "large", options.pictures)
        cutting(folder / "large", options.model.absolute())


def prepare(folder: Path, pictures: int) -> None:
    worlds.write_coco(folder, worlds.STREET, {"train": 9, "val": 1, "test": pictures}, WORLD_SEED)
    shutil.copyfile(PROJECT, folder / PROJECT.name)
    process(vlmdet("prepare", "-q"), folder)


loaded = functools.lru_cache(maxsize=1)(transformers.LoadedModel)


def answers(folder: Path, model: Path, name: str, *settings: str) -> tuple[Path, float]:
    """The answers file of that name, asked as the settings say, and the CPU seconds that it took; a model is loaded
    once for all.
    """
    project = load(folder, ["infer.questions=false", *settings])
    job = infer_job(lambda: project, InferRequest(model=str(model), name=name))
    started = time.process_time()
    with patch.object(transformers, "LoadedModel", loaded):
        job.run(lambda _progress: None)
    return job.file.path, time.process_time() - started


def measures(folder: Path, predictions: Path) -> dict[str, Any]:
    report = evaluate(folder / "out" / "data" / "subset" / "test.json", predictions, EvalProtocol())
    return report.overall | {"AP": report.coco["AP"], "answers": report.answers["n"]}


def row(name: str, result: dict[str, Any], *cells: str) -> None:
    numbers = [result[key] for key in ("precision", "recall", "f1", "AP")]
    values = ["–" if number is None else f"{number:.3f}" for number in numbers]
    print(f"| {name} | {' | '.join([*values, *cells])} |", flush=True)


def head(title: str, *columns: str) -> None:
    names = ["", "precision", "recall", "F1", "AP", *columns]
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def asking(folder: Path, title: str, model: Path) -> None:
    head(f"infer.ask, a model whose rows ask for {title}", "prompts", "CPU s")
    for ask in ("rows", "all", "each", "present"):
        settings = [f"infer.ask={ask}"]
        if title != "all classes at once":
            settings.append('format.ask="some"')  # `all` then names the classes
        if ask == "rows" and len(settings) > 1:
            continue  # the rows of these pictures ask for everything
        path, seconds = answers(folder, model, f"{title.replace(' ', '-')}-{ask}", *settings)
        result = measures(folder, path)
        row(f"`{ask}`", result, f"{result['answers']:,}", f"{seconds:.0f}")


def reading(folder: Path, model: Path) -> None:
    head("infer.dedupe, rows as prepared", "boxes taken out")
    for dedupe in (0.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5):
        path, _ = answers(folder, model, "reading", f"infer.dedupe={dedupe}")
        report = evaluate(folder / "out" / "data" / "subset" / "test.json", path, EvalProtocol())
        dropped = report.ledger["predicted boxes"]["dropped"].get(answer_reading.NEAR_REPEAT, 0)
        row(f"{dedupe:g}", measures(folder, path), str(dropped))


def cutting(folder: Path, model: Path) -> None:
    head(f"infer.tiles, pictures of {LARGE} x {LARGE}, by merging rule", "prompts", "CPU s")
    path, seconds = answers(folder, model, "uncut")
    result = measures(folder, path)
    row("not cut", result, f"{result['answers']:,}", f"{seconds:.0f}")
    for tiles in TILINGS:
        for whole in ("false", "true"):
            path, seconds = answers(folder, model, "cut", f"infer.tiles={tiles}", f"infer.whole={whole}")
            for name, merge in RULES.items():
                with patch.object(answer_reading, "merged", merge):
                    result = measures(folder, path)
                added = " and whole" if whole == "true" else ""
                row(f"{tiles}{added}: {name}", result, f"{result['answers']:,}", f"{seconds:.0f}")


# --- other rules of merging ----------------------------------------------------------------------------------


def and_deduped(detections: Sequence[TileDetection]) -> dict[int, Detection]:
    """The rule of ``merged``, then ``infer.dedupe = 0.5``."""
    objects = merged(detections)
    kept = without_near_repeats(ParsedDetections(tuple(objects.values()), (), "ok"), 0.5).detections
    return {index: detection for index, detection in objects.items() if any(detection is other for other in kept)}


def unmerged(detections: Sequence[TileDetection]) -> dict[int, Detection]:
    return {index: tile.detection for index, tile in enumerate(detections)}


def suppressed(detections: Sequence[TileDetection]) -> dict[int, Detection]:
    """Non-maximum suppression by class, IoU 0.5."""
    return {index: kept for index, kept, _ in _greedy([tile.detection for tile in detections], by_smaller=False)}


def sahi(detections: Sequence[TileDetection]) -> dict[int, Detection]:
    """Greedy merging by class as SAHI does by default: intersection over the smaller area 0.5, the box around all."""
    given = [tile.detection for tile in detections]
    return {
        index: Detection(kept.label, _around([given[number] for number in members]), kept.score)
        for index, kept, members in _greedy(given, by_smaller=True)
    }


def _greedy(detections: Sequence[Detection], *, by_smaller: bool) -> Iterator[tuple[int, Detection, list[int]]]:
    """The detections that stay, by descending score, each with itself and those that it takes away."""
    if not detections:
        return
    boxes = np.array([detection.box for detection in detections])
    overlap = pairwise_iou(boxes, boxes)
    if by_smaller:
        areas = area(boxes)
        overlap = pairwise_intersection(boxes, boxes) / np.maximum(np.minimum(areas[:, None], areas[None]), 1e-9)
    left = sorted(range(len(detections)), key=lambda number: -(detections[number].score or 0.0))
    while left:
        first = left[0]
        members = [n for n in left if n == first or (
            detections[n].label == detections[first].label and overlap[first, n] >= 0.5)]  # fmt: skip
        left = [number for number in left if number not in members]
        yield first, detections[first], members


def _around(detections: Sequence[Detection]) -> tuple[float, float, float, float]:
    boxes = np.array([detection.box for detection in detections])
    x1, y1, x2, y2 = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    return (x1, y1, x2, y2)


RULES: dict[str, Merge] = {
    "ours": merged,
    "ours, dedupe 0.5": and_deduped,
    "not merged": unmerged,
    "NMS, IoU 0.5": suppressed,
    "as SAHI, IoS 0.5": sahi,
}

if __name__ == "__main__":
    main()
