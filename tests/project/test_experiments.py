"""The experiments of a project file: grids, names, seeds, and what is wrong with them."""

from typing import Any

import pytest

from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import convert
from vlmdet_cli.project.experiments import Variant, overridden, variants

TABLES: dict[str, dict[str, Any]] = {
    "rank": {"train": {"lora_rank": [8, 16], "freeze_vit": True}},
    "classes": {"subset": {"categories": [["cat"], ["cat", "dog"]]}},
    "rates": {"train": {"learning_rate": [1e-4, 5e-5], "lora_rank": [8, 16]}},
}


def document(experiments: dict[str, Any]) -> dict[str, Any]:
    return {"project": {"output": "out"}, "data": {"train": {"annotations": "a.json"}}, "experiments": experiments}


def test_a_list_is_a_grid_and_a_list_of_lists_is_a_grid_of_lists() -> None:
    assert variants(TABLES, ["rank"]) == [
        Variant(name="rank-8", experiment="rank", values={"train.lora_rank": 8, "train.freeze_vit": True}),
        Variant(name="rank-16", experiment="rank", values={"train.lora_rank": 16, "train.freeze_vit": True}),
    ]
    assert [variant.values for variant in variants(TABLES, ["classes"])] == [
        {"subset.categories": ["cat"]},
        {"subset.categories": ["cat", "dog"]},
    ]
    assert [variant.name for variant in variants(TABLES, ["classes"])] == ["classes-cat", "classes-cat_dog"]
    assert [variant.name for variant in variants(TABLES, ["rates"])] == [
        "rates-0.0001-8", "rates-0.0001-16", "rates-5e-05-8", "rates-5e-05-16",
    ]  # fmt: skip


def test_seeds_repeat_each_variant_with_a_seed_of_its_own() -> None:
    repeated = variants(TABLES, ["rank"], seeds=2)
    assert [variant.name for variant in repeated] == ["rank-8-seed1", "rank-8-seed2", "rank-16-seed1", "rank-16-seed2"]
    assert repeated[1].overrides["train.swift.seed"] == 2
    assert "train.swift.seed" not in variants(TABLES, ["rank"])[0].overrides


def test_without_names_all_experiments_run_in_the_order_of_the_file() -> None:
    assert [variant.experiment for variant in variants(TABLES, [])] == ["rank"] * 2 + ["classes"] * 2 + ["rates"] * 4


def test_overrides_go_into_a_copy_of_the_settings() -> None:
    tree = {"train": {"lora_rank": 32, "swift": {"seed": 1}}}
    assert overridden(tree, {"train.swift.seed": 2, "subset.pictures": 9}) == {
        "train": {"lora_rank": 32, "swift": {"seed": 2}},
        "subset": {"pictures": 9},
    }
    assert tree == {"train": {"lora_rank": 32, "swift": {"seed": 1}}}


@pytest.mark.parametrize(
    ("experiments", "names", "message"),
    [
        ({}, [], "The project file has no experiments"),
        (TABLES, ["rnak"], "No experiment rnak: did you mean rank?"),
        ({"a": {"train": {"lora_rank": [8, 8]}}}, [], "Two variants have the same name"),
    ],
)
def test_wrong_names_are_told(experiments: dict[str, Any], names: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        variants(experiments, names)
    assert caught.value.what == message


def test_every_wrong_key_and_value_of_an_experiment_is_told_when_the_file_is_read() -> None:
    wrong = {
        "my rank": {},
        "a": {
            "train": {"lora_rnk": 8, "lora_rank": [8, "x"], "swift": {"seed": []}},
            "subset": {"categories": ["cat"]},
        },
        "b": {"data": {"train": {"images": 3}}},
    }
    with pytest.raises(UsageError) as caught:
        convert(document(wrong))
    assert list(caught.value.why) == [
        "experiments.my rank: a name has letters, digits, `_`, `-` and `.`",
        "experiments.a.train.lora_rnk: unknown key; did you mean lora_rank?",
        'experiments.a.train.lora_rank: expected a whole number, got "x"',
        "experiments.a.train.swift.seed: an empty list has no value to try",
        'experiments.a.subset.categories: expected a list, got "cat"; a list as a value is written [[…]]',
        "experiments.b.data.train.images: expected text, got 3",
    ]
    assert convert(document(TABLES)).experiments == TABLES
