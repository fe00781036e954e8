"""Which pictures and boxes each split keeps."""

from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.data import subset
from vlmdet_cli.data.dataset import Dataset, from_pictures
from vlmdet_cli.data.settings import Split, SplitShares, Subset
from vlmdet_cli.errors import DataError, UsageError

TARGET, SMALL = Object("cat", (0.0, 0.0, 9.0, 9.0)), Object("cat", (0.0, 0.0, 0.5, 0.5))
CROWD = Object("cat", (0.0, 0.0, 9.0, 9.0), crowd=True)


def dataset(*pictures: tuple[Object, ...], exhaustive: tuple[str, ...] | None = None) -> Dataset:
    records = [
        Picture(
            image_id=n, image=f"{n}.jpg", width=64, height=48, objects=objects, exhaustive_categories=exhaustive
        )
        for n, objects in enumerate(pictures)
    ]  # fmt: skip
    return from_pictures(records, ("cat", "dog"))


def select(data: Dataset, split: Split, seed: int = 0, **rules: Any) -> tuple[list[int], dict[str, Any]]:
    """Indices of the pictures that are kept, and the pictures' line of the ledger."""
    selected, ledger = subset.select(data, Subset(**rules), split, seed, Path("a.json"))
    line = ledger.as_dict()["pictures"]
    assert line["in"] == len(data.images) == line["kept"] + sum(line["dropped"].values())
    assert line["kept"] == len(selected.images)
    return [int(str(image.id)) for image in selected.images], line["dropped"]


HALF_EMPTY = [(TARGET,), ()] * 20


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("empty", [0.0, 0.1, 1.0])
def test_the_share_of_empty_pictures_thins_only_train(split: Split, empty: float) -> None:
    assert select(dataset(*HALF_EMPTY), split, empty=empty) == (list(range(40)), {})
    kept, dropped = select(dataset(*HALF_EMPTY), "train", empty=empty)
    assert len(kept) == {0.0: 20, 0.1: 22, 1.0: 40}[empty]
    assert dropped == ({"empty": 40 - len(kept)} if empty < 1 else {})


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_limit_on_val_and_test_draws_from_all_pictures(split: Split) -> None:
    kept, dropped = select(dataset(*HALF_EMPTY), split, **{f"{split}_pictures": 10}, empty=0.0)
    assert (len(kept), dropped) == (10, {"over the limit": 30})
    assert 0 < sum(index % 2 for index in kept) < 10
    assert kept == sorted(kept)


def test_a_limit_is_reached_by_the_same_pictures_whatever_others_there_are() -> None:
    more = [(TARGET,)] * 30
    kept, _ = select(dataset(*more), "train", pictures=10)
    again, _ = select(dataset(*more[:20]), "train", pictures=10)
    assert {index for index in kept if index < 20} <= set(again)
    assert kept != select(dataset(*more), "train", seed=1, pictures=10)[0]


def test_train_reaches_its_limit_with_at_most_the_share_of_empty_pictures() -> None:
    kept, dropped = select(dataset(*HALF_EMPTY), "train", pictures=10, empty=0.2)
    assert (len(kept), sum(index % 2 for index in kept)) == (10, 2)
    assert dropped == {"empty": 18, "over the limit": 12}


@pytest.mark.parametrize("objects", [(CROWD,), (SMALL,), (CROWD, SMALL)])
def test_a_picture_with_only_crowds_or_small_objects_is_left_out_of_train_alone(objects: tuple[Object, ...]) -> None:
    data = dataset((TARGET,), objects)
    assert select(data, "train", empty=1) == ([0], {"only crowds or small objects": 1})
    assert select(data, "val", empty=1) == select(data, "test", empty=1) == ([0, 1], {})


def test_an_empty_picture_that_was_not_searched_for_every_category_is_left_out_of_train_alone() -> None:
    data = dataset((TARGET,), (), exhaustive=("cat",))
    reason = "no object, and not every category was searched for"
    assert select(data, "train", empty=1) == ([0], {reason: 1})
    assert select(data, "test", empty=1) == ([0, 1], {})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_limit_on_objects_holds_for_every_split(split: Split) -> None:
    assert select(dataset((TARGET,), (TARGET,) * 3), split, max_objects=2) == ([0], {"more than max_objects": 1})


def test_a_split_of_which_nothing_is_left_is_an_error() -> None:
    with pytest.raises(DataError, match="No picture of train is left"):
        select(dataset((CROWD,)), "train")


def test_shares_cut_train_and_leave_it_a_picture() -> None:
    data = dataset(*[(TARGET,)] * 10)
    parts = subset.split_train(data, SplitShares(val=0.2, test=0.3), ["train"], 0)
    assert {name: len(part.images) for name, part in parts.items()} == {"train": 5, "val": 2, "test": 3}
    assert subset.split_train(data, SplitShares(val=0.2, test=0.3), ["train", "val", "test"], 0) == {"train": data}
    with pytest.raises(UsageError, match="leaves no picture for train"):
        subset.split_train(data, SplitShares(val=0.5, test=0.5), ["train"], 0)
