"""train.evaluate: swift's flags for it, what is refused, the best checkpoint, and the real thing on the demo."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, vlmdet
from tests.project.test_run_folders import write_run
from tests.stages.test_train import dry, flags
from tests.stages.test_train import prepared as prepared  # noqa: PLC0414  (a fixture)
from vlmdet_cli import project as projects
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import Evaluation
from vlmdet_cli.stages.merging.merge_sources import find_checkpoint
from vlmdet_cli.stages.training.train_evaluation import PLUGIN

EVALUATE = ("--set", 'train.evaluate="f1"')


def test_the_plug_in_and_its_callback_stand_beside_the_users_own(prepared: Cli, tmp_path: Path) -> None:
    env, words = dry(prepared)
    assert "VLMDET_EVALUATION" not in env
    assert "callbacks" not in flags(words)
    Path("mine.py").touch()
    own = ("--set", 'train.swift.external_plugins="mine.py"', "--set", 'train.swift.callbacks="lisa"')
    env, words = dry(prepared, *EVALUATE, *own)
    assert env["VLMDET_EVALUATION"] == f"{tmp_path}/out/runs/run-001/evaluation.json"
    at = words.index("--external_plugins")
    assert words[at + 1 : at + 3] == [str(tmp_path / "mine.py"), str(PLUGIN)]
    at = words.index("--callbacks")
    assert words[at + 1 : at + 3] == ["lisa", "vlmdet_evaluation"]
    assert PLUGIN.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", 'train.keep="best"'), 'train.keep = "best" needs measures of the checkpoints'),
        (("--set", "train.patience=2"), "train.patience needs measures of the checkpoints"),
        ((*EVALUATE, "--", "--external_plugins", "x.py"), "train.evaluate needs --external_plugins too"),
        (
            (*EVALUATE, "--set", 'train.swift.deepspeed="zero3"'),
            "train.evaluate does not work with parameters that are spread over the GPUs",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(prepared: Cli, arguments: tuple[str, ...], message: str) -> None:
    done = prepared("train", "--dry-run", *arguments)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: {message}")


def test_the_best_checkpoint_is_that_of_the_highest_f1_that_is_still_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run-001", steps=(10, 20, 30))
    with pytest.raises(UsageError, match="No checkpoint of the run was evaluated"):
        run.best_checkpoint()
    for step, f1 in ((5, 0.9), (10, 0.5), (20, 0.6), (30, 0.6), (10, 0.4)):
        run.add_evaluation(Evaluation(step=step, f1=f1))
    assert [(entry.step, entry.f1) for entry in run.evaluations()] == [(5, 0.9), (10, 0.4), (20, 0.6), (30, 0.6)]
    assert run.best_checkpoint().name == "checkpoint-20"


@pytest.mark.usefixtures("prepared")
def test_merge_takes_the_checkpoint_that_the_run_was_trained_to_keep(tmp_path: Path) -> None:
    for name, keep in (("last", "last"), ("best", "best")):
        settings = {"train": {"keep": keep}}
        run = write_run(tmp_path / "out" / "runs", name, steps=(10, 20), settings=settings)
        run.add_evaluation(Evaluation(step=10, f1=0.5))
        run.add_evaluation(Evaluation(step=20, f1=0.4))
    project = projects.load(tmp_path)
    assert find_checkpoint(project, "last", "").name == "checkpoint-20"
    assert find_checkpoint(project, "best", "").name == "checkpoint-10"
    assert find_checkpoint(project, "best", "20").name == "checkpoint-20"


def logged(run: runs.Run, key: str) -> list[Any]:
    log = run.training_log()
    assert log
    return [row[key] for row in map(json.loads, log.read_text().splitlines()) if key in row]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_evaluation_measures_each_checkpoint_stops_in_time_and_changes_no_loss(tmp_path: Path) -> None:
    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    settings = ("train.swift.max_steps=12", "train.save_steps=3", "train.logging_steps=1", "subset.pictures=60",
                "subset.val_pictures=12", "subset.test_pictures=2", "infer.max_tokens=96")  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    vlmdet(folder, "prepare", *sets)
    vlmdet(folder, "train", "--run", "plain", *sets)
    evaluating = (*EVALUATE, "--set", "train.evaluate_pictures=8", "--set", 'train.keep="best"')
    shown = vlmdet(folder, "train", "--run", "measured", *sets, *evaluating).stdout
    plain, measured = (runs.find_run(folder / "out" / "runs", name) for name in ("plain", "measured"))
    assert logged(measured, "loss") == logged(plain, "loss")
    evaluations = measured.evaluations()
    assert [entry.step for entry in evaluations] == [3, 6, 9, 12]
    assert logged(measured, "eval_f1") == pytest.approx([entry.f1 for entry in evaluations], abs=1e-6)
    best = max(evaluations, key=lambda entry: entry.f1)
    assert f"F1 {best.f1:.3f} on val at step {best.step}" in shown
    answers = (measured.folder / "evaluations" / "step-12.jsonl").read_text().splitlines()
    assert len(answers) == 8
    # the answers of the model in training are those of its checkpoint
    checkpoint = str(measured.checkpoints()[-1])
    vlmdet(folder, "infer", "--adapter", checkpoint, "--split", "val", "--name", "after", *sets)
    texts = {row["image"]: row["text"] for row in map(json.loads, measured.answers("after").read_text().splitlines())}
    assert {row["image"]: row["text"] for row in map(json.loads, answers)}.items() <= texts.items()
    # at this rate nothing is learnt: no checkpoint is better than the first
    slow = ("--set", "train.learning_rate=1e-9", "--set", "train.patience=1")
    result = json.loads(vlmdet(folder, "train", "--run", "patient", *sets, *evaluating, *slow, "--json").stdout)
    assert result["steps"] == 6
    assert result["best"]["step"] == 3
