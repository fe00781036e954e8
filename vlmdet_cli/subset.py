"""Which pictures and boxes of a COCO file a split keeps: pure choices, each with its reason in a ledger.

Every draw is by hash of seed and image id: the same seed gives the same choice, and a picture's place in the
order does not depend on what other pictures the file holds.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from vlmdet_cli.coco import Annotation, CocoFile, Image
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.project import SPLITS, Split, SplitShares, Subset
from vlmdet_cli.records import ImageId, Ledger

OTHER, CROWD, SMALL = "other category", "crowd", "too small"


def by_hash(images: Iterable[Image], seed: int, purpose: str) -> list[Image]:
    """Images in an order drawn by seed, each one's place given by its own id alone."""
    return sorted(images, key=lambda i: blake2b(f"{seed}:{purpose}:{i.id}".encode(), digest_size=8).digest())


def cut(images: Sequence[Image], shares: SplitShares, given: Iterable[Split], seed: int) -> dict[Split, list[Image]]:
    """Train's images cut into train and the splits that have no files of their own; file order is kept.

    A share gives one picture at least, where there are more than splits.
    """
    have = set(given)
    wanted = {name: getattr(shares, name) for name in SPLITS[1:] if name not in have}
    if sum(wanted.values()) >= 1:
        raise UsageError("data.split leaves no picture for train", hint="Lower data.split.val or data.split.test.")
    order, start, part = by_hash(images, seed, "split"), 0, dict[ImageId, Split]()
    for name, share in wanted.items():
        count = max(round(share * len(order)), int(share > 0 and len(order) > len(SPLITS)))
        part |= {image.id: name for image in order[start : start + count]}
        start += count
    return {
        name: [image for image in images if part.get(image.id, "train") == name]
        for name in SPLITS
        if name == "train" or wanted.get(name, 0) > 0
    }


def choose(
    file: CocoFile, images: Sequence[Image], rules: Subset, split: Split, seed: int, source: Path
) -> tuple[CocoFile, Ledger]:
    """The part of ``file`` that ``rules`` keep of ``images``, and the account of every picture and box."""
    wanted, ledger = _wanted(file, rules, source), Ledger()
    kept, ignored = _sort(file, images, wanted, rules)
    left = _choose_images(images, kept, ignored, rules, split, seed, ledger)
    if not left:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in ledger.as_dict()["pictures"]["dropped"].items())
        raise DataError(
            f"No picture of {split} is left: {source}",
            why=f"Of {len(images):,} pictures: {dropped}." if images else "The split has no pictures.",
            hint="Loosen [subset] in the project file.",
        )
    chosen = CocoFile(
        images=left,
        annotations=[one for image in left for one in kept[image.id]],
        category_list=[c for c in file.category_list if c.id in wanted],
        ignored=[one for image in left for one in ignored[image.id]],
    )
    _account(chosen, kept, ignored, ledger)
    return chosen, ledger


def _wanted(file: CocoFile, rules: Subset, source: Path) -> dict[int, str]:
    """Ids and names of the categories to keep; an unknown name is an error with the nearest known one."""
    unknown = [name for name in rules.categories if name not in file.categories]
    if unknown:
        near = {name: difflib.get_close_matches(name, file.categories, n=1) for name in unknown}
        raise UsageError(
            f"subset.categories names what the annotations do not have: {source}",
            why=[f"{name}" + (f": did you mean {near[name][0]}?" if near[name] else "") for name in unknown],
            hint=f"They have: {', '.join(file.categories)}.",
        )
    return {i: name for i, name in file.names.items() if not rules.categories or name in rules.categories}


Sorted = Mapping[ImageId, list[Annotation]]


def _sort(file: CocoFile, images: Sequence[Image], wanted: Mapping[int, str], rules: Subset) -> tuple[Sorted, Sorted]:
    """Annotations by image: those kept, and those ignored with their reason."""
    kept: dict[ImageId, list[Annotation]] = {image.id: [] for image in images}
    ignored: dict[ImageId, list[Annotation]] = {image.id: [] for image in images}
    by_id, names = {image.id: image for image in images}, file.names
    for one in file.annotations:
        image = by_id.get(one.image_id)
        if image is None:
            continue
        reason = _reason(one, image, wanted, rules)
        if reason:
            ignored[image.id].append(msgspec.structs.replace(one, reason=reason, category=names[one.category_id]))
        else:
            plain = one.iscrowd and rules.crowd == "keep"
            kept[image.id].append(msgspec.structs.replace(one, iscrowd=0) if plain else one)
    return kept, ignored


def _reason(one: Annotation, image: Image, wanted: Mapping[int, str], rules: Subset) -> str:
    """Why an annotation is no target; empty if it is kept. Sides are measured inside the picture."""
    if one.category_id not in wanted:
        return OTHER
    if one.iscrowd and rules.crowd == "drop":
        return CROWD
    x, y, width, height = one.bbox
    inside = min(x + width, image.width) - max(x, 0), min(y + height, image.height) - max(y, 0)
    return SMALL if min(inside) <= 0 or min(inside) < rules.min_box_size else ""


def _choose_images(
    images: Sequence[Image], kept: Sorted, ignored: Sorted, rules: Subset, split: Split, seed: int, ledger: Ledger
) -> list[Image]:
    """The images to keep, in the given order: no misleading or overfull ones, then the draw by seed."""
    full, empty = list[Image](), list[Image]()
    for image in images:
        targets = sum(not one.iscrowd for one in kept[image.id])
        hidden = len(kept[image.id]) > targets or any(one.reason != OTHER for one in ignored[image.id])
        if rules.max_objects and targets > rules.max_objects:
            ledger.drop("pictures", "more than max_objects")
        elif not targets and hidden and split == "train":
            # such a row would teach that there is nothing where there is a crowd or something small
            ledger.drop("pictures", "only crowds or small objects")
        else:
            (full if targets else empty).append(image)
    chosen = _draw(full, empty, _limit(rules, split), rules.empty, seed)
    ledger.keep("pictures", len(chosen))
    ledger.drop("pictures", "empty", len(empty) - sum(image.id in chosen for image in empty))
    ledger.drop("pictures", "over the limit", len(full) - sum(image.id in chosen for image in full))
    return [image for image in images if image.id in chosen]


def _limit(rules: Subset, split: Split) -> int:
    return {"train": rules.pictures, "val": rules.val_pictures, "test": rules.test_pictures}[split]


def _draw(full: Sequence[Image], empty: Sequence[Image], limit: int, share: float, seed: int) -> set[ImageId]:
    """At most ``limit`` pictures (0: all), of which at most ``share`` are empty ones."""
    most = math.inf if share >= 1 else len(full) * share / (1 - share)
    empties = int(min(len(empty), most, limit * share if limit else math.inf) + 1e-9)
    fulls = max(limit - empties, 0) if limit else len(full)
    drawn = by_hash(full, seed, "subset")[:fulls] + by_hash(empty, seed, "subset")[:empties]
    return {image.id for image in drawn}


def _account(chosen: CocoFile, kept: Sorted, ignored: Sorted, ledger: Ledger) -> None:
    """Every annotation of the split's pictures: kept, ignored with its reason, or gone with its picture."""
    ledger.keep("boxes", len(chosen.annotations))
    for one in chosen.ignored:
        ledger.drop("boxes", one.reason)
    total = sum(map(len, kept.values())) + sum(map(len, ignored.values()))
    ledger.drop("boxes", "picture dropped", total - len(chosen.annotations) - len(chosen.ignored))
