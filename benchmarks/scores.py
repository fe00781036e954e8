"""How well each rule of ``eval.score_rule`` ranks the boxes of the demo's models, and how far it is from a probability.

    python -m benchmarks.scores work --model tuned=demo/out/runs/run-001/merged --noise 0.1 --seeds 2

New pictures of the demo's world are answered by each model that is named and, with ``--noise``, by the first one with
Gaussian noise on its weights: each tensor's standard deviation times the number. Pictures and answers are kept in the
folder ``work``; a run that was stopped goes on.

The table has AP, and the expected calibration error as it is and after Platt's map, fitted on as many other pictures,
with 95 % bootstrap intervals over pictures. Of AP it also has the difference to ``label_times_mean``; the same pictures
are drawn for all rules.
"""

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from typer.testing import CliRunner

from vlmdet_cli.cli import app
from vlmdet_cli.core.settings import ScoreRule
from vlmdet_cli.data import ground_truth
from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.metrics import coco_ap
from vlmdet_cli.metrics.bootstrap import interval
from vlmdet_cli.metrics.calibration import fit_platt, reliability
from vlmdet_cli.metrics.matching import Floats, Ints
from vlmdet_cli.metrics.sweep import match_by_score
from vlmdet_cli.stages.evaluation import predictions
from vlmdet_cli.stages.evaluation.eval_boxes import EvalBoxes, eval_boxes

RULES: tuple[ScoreRule, ...] = get_args(ScoreRule)
BASELINE: ScoreRule = "label_times_mean"
WORLD_SEED = 2026  # the demo's own pictures are of seed 0
PROJECT = Path(__file__).parents[1] / "vlmdet_cli" / "demo" / "vlmdet.toml"
SETTINGS = [
    part
    for setting in ("questions=false", "scores=true", 'engine="transformers"')
    for part in ("--set", f"infer.{setting}")
]
MEASURES = ("AP", "AP50", "error", "calibrated")


class Answered(NamedTuple):
    """The boxes that a model predicts in the pictures of val and of test, with the scores of one rule; ``pictures`` is
    the number of those of test.
    """

    val: EvalBoxes
    test: EvalBoxes
    pictures: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--noise", action="append", type=float, default=[], metavar="NUMBER")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    models = {name: Path(folder).absolute() for name, _, folder in (text.partition("=") for text in options.model)}
    folder = options.folder.absolute()
    prepare(folder, options.pictures)
    for name, model in models.items():
        answer(folder, model, name)
        report(name, [answered(folder, name)], options.resamples)
    for deviation in options.noise:
        names = [f"noise-{deviation:g}-{seed}" for seed in range(options.seeds)]
        for seed, name in enumerate(names):
            answer(folder, noisy(next(iter(models.values())), folder / name, deviation, seed), name)
        report(f"noise of {deviation:g}, mean", [answered(folder, name) for name in names], options.resamples)


def prepare(folder: Path, pictures: int) -> None:
    if (folder / "out").is_dir():
        return
    write_coco(folder, STREET, {"train": 1, "val": pictures, "test": pictures}, WORLD_SEED)
    shutil.copyfile(PROJECT, folder / PROJECT.name)
    run_command(folder, "prepare", "-q")


def run_command(folder: Path, *arguments: str) -> None:
    """A command of vlmdet in this process, which imports torch once for all models."""
    os.chdir(folder)
    done = CliRunner().invoke(app, list(arguments))
    if done.exit_code:
        raise SystemExit(done.stderr)


def noisy(model: Path, folder: Path, deviation: float, seed: int) -> Path:
    """A copy of a model's folder whose weights have noise on them."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if tensor.ndim > 1:
            weights[name] = tensor + deviation * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def answer(folder: Path, model: Path, name: str) -> None:
    for split in ("val", "test"):
        run_command(
            folder, "infer", "-q", "--model", str(model), "--split", split, "--name", f"{name}-{split}", *SETTINGS
        )


def answered(folder: Path, name: str) -> dict[ScoreRule, Answered]:
    """A model's boxes in both splits by each rule."""
    boxes = dict[tuple[str, ScoreRule], EvalBoxes]()
    for split in ("val", "test"):
        truth = ground_truth.read(folder / "out" / "data" / "subset" / f"{split}.json")
        for rule in RULES:
            read = predictions.read(folder / "out" / "answers" / f"{name}-{split}.jsonl", truth, "logprob", rule=rule)
            boxes[split, rule] = eval_boxes(truth, read, "all", "count")
    pictures = len(truth.data.images)
    return {rule: Answered(boxes["val", rule], boxes["test", rule], pictures) for rule in RULES}


def report(name: str, runs: Sequence[dict[ScoreRule, Answered]], resamples: int) -> None:
    """Print the table of a model, or the means over several."""
    pictures = runs[0][BASELINE].pictures
    rng = np.random.default_rng(0)
    draws = [np.arange(pictures), *(rng.integers(0, pictures, pictures) for _ in range(resamples))]
    drawn = {rule: np.mean([list(measures(run[rule], draws)) for run in runs], axis=0) for rule in RULES}  # (D, 4)
    print(f"\n{name}: {pictures} pictures, {np.mean([len(run[BASELINE].test.scores) for run in runs]):.0f} boxes\n")
    print(f"| rule | {' | '.join(MEASURES)} | AP, difference |\n|---|---|---|---|---|---|")
    for rule, table in drawn.items():
        columns = [*table.T, table[:, 0] - drawn[BASELINE][:, 0]]
        print(f"| `{rule}` | {' | '.join(map(cell, columns))} |", flush=True)


def cell(values: Floats) -> str:
    """The value of all pictures, and the interval of the draws."""
    low, high = interval(values[1:]) or (np.nan, np.nan)
    return f"{values[0]:.3f} [{low:.3f}, {high:.3f}]"


def measures(boxes: Answered, draws: Sequence[Ints]) -> Iterator[tuple[float, float, float, float]]:
    """``MEASURES`` of the test pictures of each draw; what is right is matched once, on all."""
    val = match_by_score(boxes.val.predictions, boxes.val.scores, boxes.val.objects, 0.5)
    platt = fit_platt(boxes.val.scores[val.counted], val.right[val.counted])
    test = boxes.test
    matched = match_by_score(test.predictions, test.scores, test.objects, 0.5)
    calibrated = platt(test.scores)
    for draw in draws:
        box, box_picture = rows_of(test.predictions.picture, draw)
        target, target_picture = rows_of(test.objects.picture, draw)
        evaluator = coco_ap._evaluator(
            coco_ap.CocoInput(
                predictions=test.predictions.where(box)._replace(picture=box_picture),
                scores=test.scores[box],
                objects=test.objects.where(target)._replace(picture=target_picture),
                areas=test.areas[target],
                names=test.names,
                image_ids=range(len(draw)),
            )
        )
        counted = box[matched.counted[box]]
        errors = [
            reliability(scores[counted], matched.right[counted])["expected_calibration_error"]
            for scores in (test.scores, calibrated)
        ]
        yield (evaluator.stats[0], evaluator.stats[1], errors[0], errors[1])


def rows_of(picture: Ints, draw: Ints) -> tuple[Ints, Ints]:
    """The rows of each drawn picture, and the drawn picture's number: a picture drawn twice is two pictures."""
    order = np.argsort(picture, kind="stable")
    starts, ends = np.searchsorted(picture[order], draw), np.searchsorted(picture[order], draw, "right")
    rows = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return np.concatenate(rows), np.repeat(np.arange(len(draw)), ends - starts)


if __name__ == "__main__":
    main()
