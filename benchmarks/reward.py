"""What a training by reward is worth on the demo: SFT stopped early and then the reward, against SFT for the same time.

    python -m benchmarks.reward --folder /tmp/reward --seeds 3
    python -m benchmarks.reward --folder /tmp/reward-2 --steps 60 --set train.reward.learning_rate=2e-4

For each seed four trainings: SFT of few epochs; the reward, from that; SFT with as many epochs as take the processor
time of the first two together, its learning rate falling over all of them; and SFT of ``--more-epochs``, since few
pictures are soon learnt by heart. No rows are questions. Each answers the same new pictures of the demo's world. The
differences have a 95 % interval of a paired bootstrap over pictures; for all seeds together the counts of a picture are
added up. What is done in ``--folder`` is not done again.

Time is processor time of the whole process tree: on a machine that others use, too, it is steadier than the clock.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import study
from benchmarks.timing import process, vlmdet
from vlmdet_cli.metrics import bootstrap
from vlmdet_cli.metrics.matching import Floats

MEASURES = ("precision", "recall", "f1", "f1_50_95")
REWARD = {  # 64 answers a step, to 8 prompts
    "learning_rate": 1e-4,
    "beta": 0.0,
    "thresholds": [0.5, 0.6, 0.7],
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sft-epochs", type=float, default=3)
    parser.add_argument("--more-epochs", type=float, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--train-pictures", type=int, default=600, help="pictures of the demo's to train on, 0 for all")
    parser.add_argument("--pictures", type=int, default=1200, help="new pictures that are answered")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    options = parser.parse_args()
    prepare(options.folder, options.pictures, options.train_pictures)
    print(f"| seed | training | CPU s | {' | '.join(MEASURES)} |\n|{'---|' * (3 + len(MEASURES))}", flush=True)
    seeds = [
        Seed(options.folder, seed, options.sets).measure(options.sft_epochs, options.steps, options.more_epochs)
        for seed in range(1, options.seeds + 1)
    ]
    for name in ("short", "more", "longer"):
        print(f"\nF1 of the reward minus that of SFT, {name}:")
        for seed, counts in enumerate(seeds, 1):
            print(f"seed {seed}: {difference(counts['reward'], counts[name])}")
        print(f"all: {difference(*(np.sum([counts[side] for counts in seeds], axis=0) for side in ('reward', name)))}")


def prepare(folder: Path, pictures: int, train_pictures: int) -> None:
    """The demo's project with more pictures to answer."""
    if (folder / "out" / "augment" / "train.jsonl").is_file():
        return
    if not (folder / "vlmdet.toml").is_file():
        settings = study.WITHOUT_QUESTIONS | {"subset": {"pictures": train_pictures}, "train": {"reward": REWARD}}
        study.write(folder, settings, "test", pictures)
    for step in ("prepare", "augment"):
        process(vlmdet(step, "-q"), folder)


class Seed:
    """The trainings of one seed."""

    def __init__(self, folder: Path, seed: int, sets: Sequence[str]) -> None:
        self._folder, self._seed = folder, seed
        self._sets = [part for text in (f"train.swift.seed={seed}", *sets) for part in ("--set", text)]

    def measure(self, epochs: float, steps: int, more: float) -> dict[str, Floats]:
        """Train and measure all four; the counts by picture of each."""
        short = self._train(f"sft-{self._seed}", "--set", f"train.num_train_epochs={epochs}")
        paid = self._train(
            f"reward-{self._seed}", "--method", "grpo", "--from", f"sft-{self._seed}",
            "--set", f"train.reward.swift.max_steps={steps}",
        )  # fmt: skip
        longer = round(epochs * (short + paid) / short, 2)
        self._train(f"longer-{self._seed}", "--set", f"train.num_train_epochs={longer}")
        middle = self._train(f"more-{self._seed}", "--set", f"train.num_train_epochs={more}")
        return {
            "short": self._report(f"sft-{self._seed}", f"SFT, {epochs:g} epochs", short),
            "reward": self._report(f"reward-{self._seed}", f"and {steps} steps of reward", short + paid),
            "more": self._report(f"more-{self._seed}", f"SFT, {more:g} epochs", middle),
            "longer": self._report(f"longer-{self._seed}", f"SFT, {longer:g} epochs", short + paid),
        }

    def _train(self, run: str, *arguments: str) -> float:
        """The seconds of processor time of a run, which is trained and measured unless it is."""
        note = self._folder / f"{run}.json"
        if not note.is_file():
            shutil.rmtree(self._folder / "out" / "runs" / run, ignore_errors=True)
            cost = process(vlmdet("train", "-q", "--run", run, *self._sets, *arguments), self._folder)
            for command in (("merge",), ("infer", "--set", "infer.questions=false"), ("eval",)):
                process(vlmdet(command[0], "-q", "--run", run, *command[1:]), self._folder)
            note.write_text(json.dumps({"cpu_seconds": cost.cpu_seconds, "seconds": cost.seconds}))
        return float(json.loads(note.read_text())["cpu_seconds"])

    def _report(self, run: str, name: str, seconds: float) -> Floats:
        """Print a row; the counts by picture."""
        file = self._folder / "out" / "runs" / run / "reports" / "test.json"
        report: dict[str, Any] = json.loads(file.read_text())
        cells = " | ".join(f"{report['overall'][measure]:.3f}" for measure in MEASURES)
        print(f"| {self._seed} | {name} | {seconds:.0f} | {cells} |", flush=True)
        return np.array([report["pictures"][column] for column in bootstrap.COLUMNS]).T


def difference(reward: Floats, sft: Floats) -> str:
    """F1 of reward minus that of SFT, with its interval. Rows are pictures."""
    own = [bootstrap.measures(table.sum(axis=0, keepdims=True))["f1"][0] for table in (reward, sft)]
    drawn = [bootstrap.measures(sums)["f1"] for sums in bootstrap.resampled([reward, sft], 0)]
    low, high = bootstrap.interval(drawn[0] - drawn[1]) or [float("nan")] * 2
    return f"{own[0] - own[1]:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    sys.exit(main())
