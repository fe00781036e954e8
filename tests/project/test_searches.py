"""Experiments whose values are searched: how they are read, and what is refused."""

from typing import Any

import pytest

from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import convert
from vlmdet_cli.project.searches import Range, read_search

SPACE = {"train": {"lora_rank": [8, 16], "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}}


def document(table: dict[str, Any]) -> dict[str, Any]:
    return {"project": {"output": "o"}, "data": {"train": {"annotations": "a.json"}}, "experiments": {"tune": table}}


def test_a_search_has_what_all_trials_have_and_what_each_chooses() -> None:
    search = read_search("tune", {"train": {"num_train_epochs": 3}, "search": {"trials": 7, "space": SPACE}})
    assert (search.trials, search.sampler, search.seed) == (7, "tpe", 0)
    assert search.values == {"train.num_train_epochs": 3}
    assert search.space == {
        "train.lora_rank": [8, 16],
        "train.learning_rate": Range(low=1e-5, high=1e-3, log=True),
    }
    variant = search.variant(4, {"train.lora_rank": 16})
    assert (variant.name, variant.values) == ("tune-trial4", {"train.num_train_epochs": 3, "train.lora_rank": 16})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"search": {}}, "tune.search.space: a table of keys, each with a list of values or a range, is missing"),
        ({"search": {"space": {}}}, "tune.search.space: is empty"),
        ({"search": {"space": SPACE, "trails": 3}},
         "tune.search.trails: unknown key; there are sampler, seed, space, trials"),
        ({"search": {"space": SPACE, "trials": 0}}, "tune.search: trials must be at least 1"),
        ({"search": {"space": SPACE, "sampler": "grid"}}, "tune.search.sampler: Invalid enum value 'grid'"),
        ({"search": {"space": SPACE}, "train": {"vit_lr": [0, 1e-5]}},
         "tune: a list of several values goes into search.space"),
        ({"search": {"space": SPACE}, "train": {"lora_rank": 4}},
         "tune.search.space.train.lora_rank: the experiment sets this key, too"),
        ({"search": {"space": {"train": {"lora_rank": 8}}}},
         "tune.search.space.train.lora_rank: expected a list of two values or more, or { low = …, high = … }"),
        ({"search": {"space": {"train": {"lora_rank": {"low": 8}}}}},
         "tune.search.space.train.lora_rank: Object missing required field `high`"),
        ({"search": {"space": {"train": {"lora_rank": {"low": 8, "high": 8}}}}},
         "tune.search.space.train.lora_rank: low must be less than high"),
        ({"search": {"space": {"train": {"lora_rank": {"low": 0, "high": 8, "log": True}}}}},
         "tune.search.space.train.lora_rank: log needs a low above 0"),
        ({"search": {"space": {"train": {"lora_rnk": [8, 9]}}}},
         "tune.train.lora_rnk: unknown key; did you mean lora_rank?"),
        ({"search": {"space": {"train": {"lora_rank": [8, "x"]}}}},
         'tune.train.lora_rank: expected a whole number, got "x"'),
        ({"search": {"space": SPACE}, "train": {"num_train_epochs": "x"}}, 'tune.train.num_train_epochs: expected '),
    ],
)  # fmt: skip
def test_what_is_no_search_is_told_by_its_key_when_the_file_is_read(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(document(table))
    assert any(line.startswith(f"experiments.{problem}") for line in caught.value.why), caught.value.why


def test_a_search_that_is_well_written_is_read() -> None:
    assert convert(document({"search": {"space": SPACE}})).experiments["tune"]["search"]["space"] == SPACE
