"""The settings of the subset: which pictures and boxes a split keeps, and how train is cut into splits."""

from typing import Annotated, Literal

import msgspec

from vlmdet_cli.core.settings import Count, Share, Table

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class SplitShares(Table, frozen=True, kw_only=True):
    """The shares of train's pictures that become val and test where the project names no files for them."""

    val: Share = 0.1
    test: Share = 0.1


class Subset(Table, frozen=True, kw_only=True):
    """Which pictures and boxes are kept; 0 and an empty list mean no limit."""

    categories: tuple[str, ...] = ()
    pictures: Count = 0
    val_pictures: Count = 0
    test_pictures: Count = 0
    min_box_size: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    max_objects: Count = 0
    crowd: Literal["ignore", "drop", "keep"] = "ignore"
    empty: Share = 0.1
