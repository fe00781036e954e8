"""Which pictures and boxes of a data set a split keeps: pure choices, each with its reason in a ledger.

Every draw is by hash of seed and image id: the same seed gives the same choice, and a picture's rank does not depend on
what other pictures there are.
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
    """Train's pictures divided into train and the splits that have no files of their own; their order is kept.

    A share gives at least one picture, where there are more pictures than splits.
    """
    has_files = set(given)
    to_cut = {name: share for name in SPLITS[1:] if name not in has_files and (share := getattr(shares, name)) > 0}
    if sum(to_cut.values()) >= 1:
        raise UsageError("data.split leaves no picture for train", hint="Lower data.split.val or data.split.test.")
    if not to_cut:
        return {"train": data}
    count, start = len(data.images), 0
    order, parts = np.argsort(image_hashes(data.images, seed, "split"), kind="stable"), dict[Split, Dataset]()
    for name, share in to_cut.items():
        end = start + max(round(share * count), int(count > len(SPLITS)))
        parts[name] = data.select_images(np.sort(order[start:end]))
        start = end
    return {"train": data.select_images(np.sort(order[start:])), **parts}


def select(
    data: Dataset, rules: Subset, split: Split, seed: int, source: Path, ledger: Ledger | None = None
) -> tuple[Dataset, Ledger]:
    """The part of ``data`` that ``rules`` keep, and the account of every picture and box (added to ``ledger``)."""
    ledger = ledger or Ledger()
    data = _mark_dropped(_selected_categories_first(data, rules, source), rules)
    indices = _select_pictures(data, rules, split, seed, ledger)
    if not len(indices):
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in ledger.as_dict()["pictures"]["dropped"].items())
        raise DataError(
            f"No picture of {split} is left: {source}",
            why=f"Of {len(data.images):,} pictures: {dropped}." if len(data.images) else "The split has no pictures.",
            hint="Loosen [subset] in the project file.",
        )
    selected = data if len(indices) == len(data.images) else data.select_images(indices)
    ledger.keep("boxes", int(np.count_nonzero(selected.drop_reason == 0)))
    counts = np.bincount(selected.drop_reason, minlength=len(DROP_REASONS)).tolist()
    for reason, count in zip(DROP_REASONS[1:], counts[1:], strict=True):
        ledger.drop("boxes", reason, count)
    ledger.drop("boxes", "picture dropped", len(data.ids) - len(selected.ids))
    return selected, ledger


def _selected_categories_first(data: Dataset, rules: Subset, source: Path) -> Dataset:
    """The data set with the selected categories before all other labels. Raises ``UsageError`` for an unknown name."""
    unknown = [name for name in rules.categories if name not in data.categories]
    if unknown:
        raise UsageError(
            f"subset.categories names what the annotations do not have: {source}",
            why=[nearest(name, data.categories) for name in unknown],
            hint=f"They have: {', '.join(data.categories)}.",
        )
    if not rules.categories:
        return data
    selected = [index for index, name in enumerate(data.categories) if name in rules.categories]
    order = [*selected, *(index for index in range(len(data.labels)) if index not in set(selected))]
    return msgspec.structs.replace(
        data,
        labels=tuple(data.labels[index] for index in order),
        label_ids=tuple(data.label_ids[index] for index in order),
        num_categories=len(selected),
        label=np.argsort(order)[data.label],
    )


def _mark_dropped(data: Dataset, rules: Subset) -> Dataset:
    """The data set with each object's ``drop_reason``. Sides are measured inside the picture."""
    (x, y, w, h), (picture_width, picture_height) = data.xywh.T, data.sizes.T
    width = np.minimum(x + w, picture_width[data.image]) - np.maximum(x, 0)
    height = np.minimum(y + h, picture_height[data.image]) - np.maximum(y, 0)
    shorter_side = np.minimum(width, height)
    crowd = data.crowd if rules.crowd != "keep" else np.zeros_like(data.crowd)
    drop_reason = data.drop_reason.copy()
    drop_reason[(drop_reason == 0) & ((shorter_side <= 0) | (shorter_side < rules.min_box_size))] = SMALL
    if rules.crowd == "drop":
        drop_reason[crowd & np.isin(drop_reason, (0, SMALL))] = CROWD
    drop_reason[data.label >= data.num_categories] = OTHER
    return msgspec.structs.replace(data, drop_reason=drop_reason, crowd=crowd)


def _select_pictures(data: Dataset, rules: Subset, split: Split, seed: int, ledger: Ledger) -> Column:
    """Indices of the pictures to keep: none that misleads or has too many objects, then a draw by seed.

    Only train leaves out pictures for what they would teach. Val and test keep them: a model is measured on all kinds
    of pictures, those without objects among them.
    """
    count = len(data.images)
    is_train = split == "train"
    targets = np.bincount(data.image[data.is_target], minlength=count)
    is_empty = targets == 0
    crowded = (targets > rules.max_objects) if rules.max_objects else np.zeros(count, bool)
    # as empty pictures they would teach that there is nothing where there is a crowd or something small,
    # or where nobody searched
    is_hidden = ((data.drop_reason == 0) & data.crowd) | ((data.drop_reason != 0) & (data.drop_reason != OTHER))
    misleading = is_train & ~crowded & is_empty & (np.bincount(data.image[is_hidden], minlength=count) > 0)
    unsearched = is_train & ~crowded & ~misleading & is_empty & non_exhaustive_images(data)
    remaining = ~crowded & ~misleading & ~unsearched
    kept = _draw(data.images, remaining, is_empty, rules, split, seed)
    thinned = np.count_nonzero(remaining & is_empty) - np.count_nonzero(is_empty[kept]) if is_train else 0
    ledger.keep("pictures", len(kept))
    for reason, dropped in (
        ("more than max_objects", np.count_nonzero(crowded)),
        ("only crowds or small objects", np.count_nonzero(misleading)),
        ("no object, and not every category was searched for", np.count_nonzero(unsearched)),
        ("empty", thinned),
        ("over the limit", np.count_nonzero(remaining) - len(kept) - thinned),
    ):
        ledger.drop("pictures", reason, int(dropped))
    return kept


def _draw(
    images: Sequence[Image], remaining: Column, is_empty: Column, rules: Subset, split: Split, seed: int
) -> Column:
    """Indices of at most the split's number of pictures (0: all), of which train has at most a share of empty ones."""
    if split != "train":
        limit = rules.val_pictures if split == "val" else rules.test_pictures
        return _first(images, np.flatnonzero(remaining), limit or len(images), seed)
    full, empty = np.flatnonzero(remaining & ~is_empty), np.flatnonzero(remaining & is_empty)
    limit, share = rules.pictures, rules.empty
    most_empty = math.inf if share >= 1 else len(full) * share / (1 - share)
    num_empty = int(min(len(empty), most_empty, limit * share if limit else math.inf) + 1e-9)
    num_full = max(limit - num_empty, 0) if limit else len(full)
    kept = [_first(images, full, num_full, seed), _first(images, empty, num_empty, seed)]
    return np.sort(np.concatenate(kept))


def _first(images: Sequence[Image], indices: Column, count: int, seed: int) -> Column:
    """The first ``count`` of the pictures' indices in the order of the draw, ascending."""
    if count >= len(indices):
        return indices
    hashes = image_hashes([images[index] for index in indices.tolist()], seed, "subset")
    first: Column = np.sort(indices[np.argsort(hashes, kind="stable")[:count]])
    return first
