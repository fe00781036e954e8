"""Which pictures and boxes of a data set a split keeps: pure choices, each with its reason in a ledger.

Every draw is by hash of seed and image id: the same seed gives the same choice, and a picture's place in the
order does not depend on what other pictures there are.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.data.dataset import (
    CROWD,
    DROP_REASONS,
    OTHER,
    SMALL,
    Column,
    Dataset,
    Image,
    image_hashes,
    non_exhaustive_images,
)
from vlmdet_cli.data.settings import SPLITS, Split, SplitShares, Subset
from vlmdet_cli.errors import DataError, UsageError, nearest


def split_train(data: Dataset, shares: SplitShares, given: Iterable[Split], seed: int) -> dict[Split, Dataset]:
    """Train's pictures cut into train and the splits that have no files of their own; their order is kept.

    A share gives one picture at least, where there are more than splits.
    """
    have = set(given)
    wanted = {name: share for name in SPLITS[1:] if name not in have and (share := getattr(shares, name)) > 0}
    if sum(wanted.values()) >= 1:
        raise UsageError("data.split leaves no picture for train", hint="Lower data.split.val or data.split.test.")
    if not wanted:
        return {"train": data}
    many, start = len(data.images), 0
    order, parts = np.argsort(image_hashes(data.images, seed, "split"), kind="stable"), dict[Split, Dataset]()
    for name, share in wanted.items():
        count = max(round(share * many), int(many > len(SPLITS)))
        parts[name] = data.select_images(np.sort(order[start : start + count]))
        start += count
    return {"train": data.select_images(np.sort(order[start:])), **parts}


def select(
    data: Dataset, rules: Subset, split: Split, seed: int, source: Path, ledger: Ledger | None = None
) -> tuple[Dataset, Ledger]:
    """The part of ``data`` that ``rules`` keep, and the account of every picture and box (added to ``ledger``)."""
    ledger = ledger or Ledger()
    judged = _judged(_wanted_first(data, rules, source), rules)
    places = _choose_pictures(judged, rules, split, seed, ledger)
    if not len(places):
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in ledger.as_dict()["pictures"]["dropped"].items())
        raise DataError(
            f"No picture of {split} is left: {source}",
            why=f"Of {len(data.images):,} pictures: {dropped}." if len(data.images) else "The split has no pictures.",
            hint="Loosen [subset] in the project file.",
        )
    chosen = judged if len(places) == len(judged.images) else judged.select_images(places)
    kept = int(np.count_nonzero(chosen.drop_reason == 0))
    ledger.keep("boxes", kept)
    for number, count in enumerate(np.bincount(chosen.drop_reason, minlength=len(DROP_REASONS)).tolist()[1:], 1):
        ledger.drop("boxes", DROP_REASONS[number], count)
    ledger.drop("boxes", "picture dropped", len(judged.ids) - len(chosen.ids))
    return chosen, ledger


def _wanted_first(data: Dataset, rules: Subset, source: Path) -> Dataset:
    """With the categories to keep before all other labels; an unknown name is an error with the nearest known one."""
    unknown = [name for name in rules.categories if name not in data.categories]
    if unknown:
        raise UsageError(
            f"subset.categories names what the annotations do not have: {source}",
            why=[nearest(name, data.categories) for name in unknown],
            hint=f"They have: {', '.join(data.categories)}.",
        )
    if not rules.categories:
        return data
    first = [place for place, name in enumerate(data.categories) if name in rules.categories]
    order = [*first, *(place for place in range(len(data.labels)) if place not in set(first))]
    return msgspec.structs.replace(
        data,
        labels=tuple(data.labels[place] for place in order),
        label_ids=tuple(data.label_ids[place] for place in order),
        num_categories=len(first),
        label=np.argsort(order)[data.label],
    )


def _judged(data: Dataset, rules: Subset) -> Dataset:
    """With each object's drop_reason: why it is no target, if it is none. Sides are measured inside the picture."""
    (x, y, w, h), (wide, high) = data.xywh.T, data.sizes.T
    across = np.minimum(x + w, wide[data.image]) - np.maximum(x, 0)
    down = np.minimum(y + h, high[data.image]) - np.maximum(y, 0)
    shortest = np.minimum(across, down)
    crowd = data.crowd if rules.crowd != "keep" else np.zeros_like(data.crowd)
    drop_reason = data.drop_reason.copy()
    drop_reason[(drop_reason == 0) & ((shortest <= 0) | (shortest < rules.min_box_size))] = SMALL
    if rules.crowd == "drop":
        drop_reason[crowd & np.isin(drop_reason, (0, SMALL))] = CROWD
    drop_reason[data.label >= data.num_categories] = OTHER
    return msgspec.structs.replace(data, drop_reason=drop_reason, crowd=crowd)


def _choose_pictures(data: Dataset, rules: Subset, split: Split, seed: int, ledger: Ledger) -> Column:
    """Places of the pictures to keep: no misleading or overfull ones, then the draw by seed."""
    many = len(data.images)
    targets = np.bincount(data.image[data.is_target], minlength=many)
    doubtful = ((data.drop_reason == 0) & data.crowd) | ((data.drop_reason != 0) & (data.drop_reason != OTHER))
    hidden = np.bincount(data.image[doubtful], minlength=many) > 0
    over = (targets > rules.max_objects) if rules.max_objects else np.zeros(many, bool)
    # such rows would teach that there is nothing where there is a crowd, something small, or nobody looked
    misleading = ~over & (targets == 0) & hidden if split == "train" else np.zeros(many, bool)
    unknown = (
        ~over & ~misleading & (targets == 0) & non_exhaustive_images(data) if split == "train" else np.zeros(many, bool)
    )
    left = ~over & ~misleading & ~unknown
    full, empty = np.flatnonzero(left & (targets > 0)), np.flatnonzero(left & (targets == 0))
    drawn_full, drawn_empty = _draw(data.images, full, empty, _limit(rules, split), rules.empty, seed)
    ledger.keep("pictures", len(drawn_full) + len(drawn_empty))
    for reason, count in (
        ("more than max_objects", np.count_nonzero(over)),
        ("only crowds or small objects", np.count_nonzero(misleading)),
        ("no object, and not every category was looked for", np.count_nonzero(unknown)),
        ("empty", len(empty) - len(drawn_empty)),
        ("over the limit", len(full) - len(drawn_full)),
    ):
        ledger.drop("pictures", reason, int(count))
    return np.sort(np.concatenate([drawn_full, drawn_empty]))


def _limit(rules: Subset, split: Split) -> int:
    return {"train": rules.pictures, "val": rules.val_pictures, "test": rules.test_pictures}[split]


def _draw(
    images: Sequence[Image], full: Column, empty: Column, limit: int, share: float, seed: int
) -> tuple[Column, Column]:
    """At most ``limit`` pictures (0: all), of which at most ``share`` are empty ones."""
    most = math.inf if share >= 1 else len(full) * share / (1 - share)
    empties = int(min(len(empty), most, limit * share if limit else math.inf) + 1e-9)
    fulls = max(limit - empties, 0) if limit else len(full)
    return _first(images, full, fulls, seed), _first(images, empty, empties, seed)


def _first(images: Sequence[Image], places: Column, count: int, seed: int) -> Column:
    """The first ``count`` places in the order of the draw."""
    if count >= len(places):
        return places
    order = np.argsort(image_hashes([images[place] for place in places.tolist()], seed, "subset"), kind="stable")
    first: Column = places[order[:count]]
    return first
