"""Searches by the real Optuna: measures decide the next trial, stops change nothing, other settings are refused."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project.experiments import Variant
from vlmdet_cli.project.searches import Range, Search
from vlmdet_cli.stages.experiments.search import known_trials, run_search

optuna = pytest.importorskip("optuna", reason="needs the extra `search`")
SEARCH = Search(
    name="tune",
    values={"train.num_train_epochs": 1},
    space={
        "train.lora_rank": [8, 16, 32],
        "train.learning_rate": Range(low=1e-5, high=1e-1, log=True),
        "train.warmup_steps": Range(low=0, high=9, step=3),
        "augment.questions": [[], ["count"]],
    },
    trials=60,
)


def f1(variant: Variant) -> float:
    """The best is a rate of 1e-3 with rank 16."""
    rate: float = variant.values["train.learning_rate"]
    rank: int = variant.values["train.lora_rank"]
    return 1 - abs(3 + math.log10(rate)) / 10 - 0.1 * (rank != 16)


def searched(search: Search, folder: Path) -> list[Variant]:
    trials = list[Variant]()

    def measure(variant: Variant) -> float:
        trials.append(variant)
        return f1(variant)

    run_search(search, folder, measure)
    return trials


def test_trials_come_nearer_to_the_best_and_have_values_of_the_space(tmp_path: Path) -> None:
    trials = searched(SEARCH, tmp_path)
    assert [trial.name for trial in trials] == [f"tune-trial{n}" for n in range(60)]
    for values in (trial.values for trial in trials):
        assert values["train.num_train_epochs"] == 1
        assert values["train.lora_rank"] in (8, 16, 32)
        assert 1e-5 <= values["train.learning_rate"] <= 1e-1
        assert values["train.warmup_steps"] in (0, 3, 6, 9)
        assert values["augment.questions"] in ([], ["count"])
    measures = [f1(trial) for trial in trials]
    assert statistics.fmean(measures[-20:]) > statistics.fmean(measures[:10]) + 0.03  # the first ten are random


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_stopped_goes_on_with_its_trial_and_ends_as_an_undisturbed_one(
    tmp_path: Path, sampler: Any
) -> None:
    search = msgspec.structs.replace(SEARCH, sampler=sampler, trials=14)
    whole = searched(search, tmp_path / "whole")

    def interrupted(variant: Variant) -> float:
        if variant.name == "tune-trial12":
            raise KeyboardInterrupt
        return f1(variant)

    with pytest.raises(KeyboardInterrupt):
        run_search(search, tmp_path / "stopped", interrupted)
    assert known_trials(search, tmp_path / "stopped") == whole[:13]
    assert searched(search, tmp_path / "stopped") == whole
    assert [f1(trial) for trial in whole] == [trial.value for trial in _study(tmp_path / "stopped").trials]


def _study(folder: Path) -> Any:
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "experiments" / "tune.log"))
    return optuna.load_study(study_name="tune", storage=optuna.storages.JournalStorage(journal))


def test_a_failed_trial_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    search = msgspec.structs.replace(SEARCH, trials=3)
    run_search(search, tmp_path, lambda variant: None if variant.name.endswith("1") else f1(variant))
    assert [trial.state.name for trial in _study(tmp_path).trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert len(searched(search, tmp_path)) == 3  # it is run again, and Optuna is told no second time


def test_more_trials_may_follow_and_another_space_is_refused(tmp_path: Path) -> None:
    first = searched(msgspec.structs.replace(SEARCH, trials=2), tmp_path)
    assert searched(msgspec.structs.replace(SEARCH, trials=3), tmp_path)[:2] == first
    other = msgspec.structs.replace(SEARCH, space={"train.lora_rank": [8, 16]})
    with pytest.raises(UsageError, match="was begun with other settings") as caught:
        searched(other, tmp_path)
    assert "train.lora_rank: [8, 16, 32] → [8, 16]" in caught.value.why
    assert "train.learning_rate: " in caught.value.why[1]
    assert caught.value.why[1].endswith("→ nothing")


def test_a_dry_run_shows_what_will_be_searched_and_seeds_are_refused(cli: Cli) -> None:
    write_project(
        Path(),
        {"0.jpg": [("cat", (0, 0, 9, 9))]},
        "[experiments.tune.search]\ntrials = 4\n[experiments.tune.search.space]\n"
        "train.learning_rate = { low = 1e-5, high = 1e-3, log = true }\n",
    )
    shown = cli("experiment", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"tune-trial0 … 3 +new +train.learning_rate=1e-05 … 0.001, log", shown.stdout), shown.stdout
    refused = cli("experiment", "--seeds", "2")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--seeds repeats no search: tune" in refused.stderr
    assert not Path("out/experiments").exists()
