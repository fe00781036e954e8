"""Pictures that are alike, within a split and between splits: a picture that a model was trained on tests nothing.

Two measures. The *content* of a file, equal only for identical files; and the *look* of a picture, a difference hash:
64 bits that each say whether a spot is darker than its neighbour to the right, at a resolution of 9 × 8. The same
picture in another size, format or quality has nearly the same bits. A look is taken upright.

A flat picture has no differences, so all of them would look alike: its look is 0, and 0 is like nothing. (So is
a picture that grows nowhere brighter from left to right, which tells as little.)
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.data.image_checks import Progress, map_in_threads, no_progress
from vlmdet_cli.data.image_files import DEEP_MODES, Unreadable, open_image, reduce_depth, turn_upright

Where = tuple[str, str]  # split, file name
Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]  # (N, 2)

NO_HASH = 0
_BANDS = (0, 16, 32, 48)  # of 16 bits: where each begins
_CROWD = 32  # equal looks beyond this number are linked to the first of them only


class DuplicateGroup(msgspec.Struct, frozen=True):
    """Pictures that are alike, in the order of the splits; ``crosses``: they are of more than one split."""

    pictures: tuple[Where, ...]
    crosses: bool


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of identical files, pairs of pictures that look alike in files that differ, and counts.

    ``counts``: ``pictures``, ``unreadable`` (left out of all), ``flat`` (left out of ``near``); the groups ``same`` and
    the pairs ``near``, and how many of each are of more than one split: ``same across splits``, ``near across splits``.
    """

    same: tuple[DuplicateGroup, ...]
    near: tuple[DuplicateGroup, ...]
    counts: dict[str, int]


def content(path: Path) -> bytes:
    """A hash of the file's bytes (16 bytes, BLAKE2b). Raises ``OSError``."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.digest()


def dhash(path: Path) -> int:
    """The picture's difference hash, 64 bits; ``NO_HASH`` for a flat one. Raises ``Unreadable``."""
    from PIL import Image

    with open_image(path) as image:
        image.draft("L", (36, 32))  # JPEG decodes at an eighth of the size where that is enough
        image.load()
        turned = turn_upright(image)
        plain = reduce_depth(turned) if image.mode in DEEP_MODES else turned
        grey = plain.convert("L").resize((9, 8), Image.Resampling.BOX)
        values = np.asarray(grey, np.int16)  # (8, 9)
    bits = np.diff(values, axis=1) > 0  # (8, 8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Hashes, most: int = 3) -> list[tuple[int, int]]:
    """Pairs of indices, ascending, whose hashes differ in at most ``most`` bits (0…3: with more, some are not found).

    Of more than 32 equal hashes the first stands for all: the others are paired with it alone.
    """
    _, first, group, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    group = group.ravel()
    places = np.arange(len(hashes))
    spare = (sizes[group] > _CROWD) & (first[group] != places)
    kept = places[~spare]
    pairs = [np.stack([first[group][spare], places[spare]], axis=1)]
    pairs += [kept[found] for band in _BANDS for found in _near(hashes[kept], np.uint64(band), most)]
    both = np.sort(np.concatenate(pairs), axis=1)  # (P, 2)
    once = np.unique(both[:, 0] * len(hashes) + both[:, 1])  # a pair may share several bands
    return [divmod(one, len(hashes)) for one in once.tolist()]


def _near(hashes: Hashes, band: np.uint64, most: int) -> Iterator[Pairs]:
    """Index pairs that differ in at most ``most`` bits and are equal in the 16 bits from ``band`` on.

    If at most three bits differ, one of four bands is equal: all four together find every pair. Equal bands stand
    side by side after sorting; each turn compares with the neighbour one place further on, so memory stays at N.
    """
    bands = (hashes >> band) & np.uint64(0xFFFF)
    order = np.argsort(bands, kind="stable")
    codes, ends = hashes[order], np.searchsorted(bands[order], bands[order], side="right")
    left, step = np.arange(len(hashes)), 1
    while len(left := left[left + step < ends[left]]):
        apart = codes[left] ^ codes[left + step]
        for _ in range(most):
            apart &= apart - np.uint64(1)  # clears the lowest bit that is set; 0 stays 0
        if len(found := left[apart == 0]):
            yield np.stack([order[found], order[found + step]], axis=1)
        step += 1


def find_duplicates(pictures: Mapping[str, Sequence[tuple[str, Path]]], progress: Progress = no_progress) -> Duplicates:
    """What is alike among the pictures of all splits: split to file names with their paths."""
    where = [(split, name) for split, files in pictures.items() for name, _ in files]
    marks = list(map_in_threads(_mark, [path for files in pictures.values() for _, path in files], progress))
    contents, looks = [mark[0] for mark in marks], np.array([mark[1] for mark in marks], np.uint64)
    seen = np.flatnonzero(looks != NO_HASH)
    pairs = [(int(seen[a]), int(seen[b])) for a, b in near_duplicates(looks[seen])]
    same = [_alike(where, group) for group in _groups(contents)]
    near = [_alike(where, pair) for pair in pairs if contents[pair[0]] != contents[pair[1]]]
    unreadable = contents.count(b"")
    counts = {
        "pictures": len(where),
        "unreadable": unreadable,
        "flat": len(where) - len(seen) - unreadable,
        "same": len(same),
        "same across splits": sum(one.crosses for one in same),
        "near": len(near),
        "near across splits": sum(one.crosses for one in near),
    }
    return Duplicates(same=tuple(same), near=tuple(near), counts=counts)


def _mark(path: Path) -> tuple[bytes, int]:
    """Content and look; empty and none for a file that is no good."""
    try:
        seen = dhash(path)  # first: it opens nothing but regular files
        return content(path), seen
    except (OSError, Unreadable):
        return b"", NO_HASH


def _groups(contents: Sequence[bytes]) -> list[list[int]]:
    """The places of each content that occurs more than once."""
    places: dict[bytes, list[int]] = {}
    for place, one in enumerate(contents):
        if one:
            places.setdefault(one, []).append(place)
    return [group for group in places.values() if len(group) > 1]


def _alike(where: Sequence[Where], places: Sequence[int]) -> DuplicateGroup:
    pictures = tuple(where[place] for place in places)
    return DuplicateGroup(pictures, crosses=len({split for split, _ in pictures}) > 1)
