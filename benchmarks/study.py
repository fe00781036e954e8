"""What helps in training, on the demo: the experiments of ``sample_configs/levers.toml`` or ``study.toml``, with seeds.

    python -m benchmarks.study FOLDER [NAME ...] --seeds 3 --epochs 2
    python -m benchmarks.study FOLDER --study study --seeds 3    # rank, frozen parts, questions

A table in Markdown ends it: means over seeds and 95 % intervals of Student's t; changes are taken seed by seed.

The demo is written into ``FOLDER`` with ``--pictures`` new pictures as its split ``val``; ``vlmdet experiment``
measures on them. What is done there already is not run again, so experiments and seeds can be added one by one.
"""

import argparse
import json
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
import tomli_w

from benchmarks.timing import vlmdet
from vlmdet_cli.demo import worlds
from vlmdet_cli.stages.experiments.experiment_result import t_interval
from vlmdet_cli.stages.init import init

STUDIES = Path(__file__).parents[1] / "sample_configs"
WORLD_SEED = 2028  # the demo's own pictures are of seed 0
WITHOUT_QUESTIONS = {"augment": {"questions": []}}
ROWS = 2.15  # of the demo's train file, with questions, for a row of detection
# the demo's learning rate is forty times that of the documented run, and so are those of its parts
DEMO = {"whole_tower": {"train": {"vit_lr": 4e-4, "aligner_lr": 4e-4}}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--study", choices=("levers", "study"), default="levers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--pictures", type=int, default=300)
    options = parser.parse_args()
    if not (options.folder / "vlmdet.toml").is_file():
        settings = {
            "train": {"num_train_epochs": options.epochs},
            "experiments": experiments(options.study, options.epochs),
        }
        if options.study == "levers":  # none of them is about the questions
            settings |= WITHOUT_QUESTIONS
        write(options.folder, settings, "val", options.pictures)
    command = vlmdet("experiment", "--json", *options.names, "--seeds", str(options.seeds))
    done = subprocess.run(command, cwd=options.folder, check=False, stdout=subprocess.PIPE)
    if done.stdout:  # nothing where the settings were refused
        print_table(json.loads(done.stdout))
    raise SystemExit(done.returncode)


def print_table(result: Mapping[str, Any]) -> None:
    """A row a variant: F1, its change to the first variant, the accuracies of questions and minutes, over seeds."""
    runs = defaultdict[str, list[dict[str, Any]]](list)
    for row in result["rows"]:
        if row["f1"] is not None:
            runs[row["name"].removesuffix(f"-seed{row['seed']}")].append(row)
    kinds = sorted({kind for row in result["rows"] for kind in row["tasks"]})
    columns = ["variant", "F1", "change", *kinds, "steps", "min"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    changes = {mean["name"]: (mean["change"], mean["change_interval"]) for mean in result["means"]}
    for name, rows in runs.items():
        tasks = (mean_and_interval([row["tasks"][kind] for row in rows if kind in row["tasks"]]) for kind in kinds)
        minutes = statistics.fmean(row["seconds"] for row in rows) / 60
        cells = [name, mean_and_interval([row["f1"] for row in rows]), signed(*changes.get(name, (None, None)))]
        print(f"| {' | '.join([*cells, *tasks, str(rows[0]['steps']), f'{minutes:.1f}'])} |")


def mean_and_interval(values: Sequence[float]) -> str:
    """The mean over seeds, with its 95 % interval where there are two."""
    if not values:
        return ""
    interval = t_interval(values)
    return f"{statistics.fmean(values):.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def signed(change: float | None, interval: Sequence[float] | None) -> str:
    if change is None:
        return ""
    return f"{change:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def experiments(name: str, epochs: float) -> dict[str, Any]:
    """The experiments of a sample, with the demo's values."""
    tables: dict[str, Any] = tomli.loads((STUDIES / f"{name}.toml").read_text())["experiments"]
    demo = DEMO | {"detection_longer": {"train": {"num_train_epochs": round(epochs * ROWS, 2)}}}
    for experiment, values in demo.items():
        for table, keys in values.items() if experiment in tables else ():
            tables[experiment][table] |= keys
    return tables


def write(folder: Path, settings: Mapping[str, Mapping[str, Any]], split: str, pictures: int) -> None:
    """The demo with other settings, by table, and new pictures as a split."""
    init(folder, demo=True)
    shutil.rmtree(folder / "images" / split)
    worlds.write_coco(folder, worlds.STREET, {split: pictures}, WORLD_SEED)
    file = folder / "vlmdet.toml"
    project = tomli.loads(file.read_text())
    for table, values in settings.items():
        project[table] = project.get(table, {}) | values
    file.write_text(tomli_w.dumps(project))


if __name__ == "__main__":
    main()
