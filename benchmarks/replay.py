"""Does replay keep what the base model knew? The demo learns the street, with and without rows of the world of shapes.

    python -m benchmarks.replay FOLDER --seeds 3 --epochs 2

The base model was pretrained on shapes. Each trained model answers new pictures of the street, which it was taught, and
of shapes, which it was not; the base model answers the shapes, too. Intervals are over seeds, by Student's t. What is
done in ``FOLDER`` is not done again.
"""

import argparse
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import study
from benchmarks.timing import process, vlmdet
from vlmdet_cli.demo import worlds
from vlmdet_cli.stages.init import init

SHAPES_SEED = 2029  # none of the pretraining's pictures
PICTURES = {"train": 600, "val": 1, "test": 300}
RATIOS = [0.3]  # replay rows for each row of the street
KINDS = ("count", "full", "partial", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    options = parser.parse_args()
    street, shapes = options.folder / "street", options.folder / "shapes"
    if not (street / "vlmdet.toml").is_file():
        rows = write_shapes(shapes).resolve()
        experiments = {
            "without": {"train": {"replay_ratio": RATIOS[0]}},
            "replay": {"train": {"replay": str(rows), "replay_ratio": RATIOS}},
        }
        settings = {"train": {"num_train_epochs": options.epochs}, "experiments": experiments}
        study.write(street, settings | study.WITHOUT_QUESTIONS, "val", 300)
    command = vlmdet("experiment", "--json", "--seeds", str(options.seeds))
    done = subprocess.run(command, cwd=street, check=True, stdout=subprocess.PIPE)
    print(f"| model | street: F1 | shapes: F1 | {' | '.join(KINDS)} |\n|{'---|' * (3 + len(KINDS))}")
    print(f"| base |  | {' | '.join(f'{value:.3f}' for value in shapes_measures(shapes, street / 'model', 'base'))} |")
    models = defaultdict[str, list[list[float]]](list)
    for row in json.loads(done.stdout)["rows"]:
        merged = street / "out" / "runs" / row["name"] / "merged"
        models[row["name"].partition("-seed")[0]].append([row["f1"], *shapes_measures(shapes, merged, row["name"])])
    for name, seeds in models.items():
        print(f"| {name} | {' | '.join(study.mean_and_interval(values) for values in zip(*seeds, strict=True))} |")


def write_shapes(folder: Path) -> Path:
    """A project of the world of shapes, with questions; its train rows, where their pictures' paths hold."""
    init(folder, demo=True)
    worlds.write_coco(folder, worlds.SHAPES, PICTURES, SHAPES_SEED)
    for step in ("prepare", "augment"):
        process(vlmdet(step, "-q"), folder)
    return shutil.copyfile(folder / "out" / "augment" / "train.jsonl", folder / "out" / "replay.jsonl")


def shapes_measures(folder: Path, model: Path, name: str) -> list[float]:
    """F1 and the accuracy of each kind of question of a model on the test pictures of shapes."""
    file = folder / f"{name}.json"
    if not file.is_file():
        process(vlmdet("infer", "-q", "--model", str(model.resolve()), "--name", name), folder)
        done = subprocess.run(vlmdet("eval", "--json", "--name", name), cwd=folder, check=True, stdout=subprocess.PIPE)
        file.write_bytes(done.stdout)
    report: dict[str, Any] = json.loads(file.read_text())
    return [report["overall"]["f1"], *(report["tasks"][kind]["accuracy"] for kind in KINDS)]


if __name__ == "__main__":
    main()
