"""Duplicate pictures within a split and between splits: a picture that a model was trained on tests nothing.

Two pictures are *identical* if their files have the same bytes, by hash. They are *near-duplicates* if their difference
hashes (dHash) differ in at most three of 64 bits: each bit says whether a spot is darker than its neighbour to the
right, at a resolution of 9 x 8 pixels. The same picture in another size, format or quality has nearly the same bits.
The hash is taken of the upright picture.

A flat picture has no differences, so that all flat pictures would be near-duplicates: its hash is ``NO_HASH``, which is
near to nothing. So is the hash of a picture that grows nowhere brighter from left to right, which tells as little.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.data.image_checks import Progress, map_in_threads, no_progress
from vlmdet_cli.data.image_files import DEEP_MODES, Unreadable, open_image, reduce_depth, turn_upright

PictureName = tuple[str, str]  # split, file name
Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]  # (N, 2)

NO_HASH = 0
MAX_BITS = 3
_BANDS = (0, 16, 32, 48)  # where each of the four bands of 16 bits begins
_MAX_EQUAL = 32  # equal hashes beyond this number are paired with the first of them only


class DuplicateGroup(msgspec.Struct, frozen=True):
    """Pictures that are duplicates of each other, in the order of the splits."""

    pictures: tuple[PictureName, ...]

    @property
    def crosses_splits(self) -> bool:
        """Whether the pictures are of more than one split."""
        return len({split for split, _ in self.pictures}) > 1


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of identical files, and pairs of near-duplicates among files that differ.

    ``pictures`` counts all pictures; ``unreadable`` those that are in no comparison; ``flat`` those without a hash.
    """

    identical: tuple[DuplicateGroup, ...]
    near: tuple[DuplicateGroup, ...]
    pictures: int
    unreadable: int
    flat: int


def find_duplicates(pictures: Mapping[str, Sequence[tuple[str, Path]]], progress: Progress = no_progress) -> Duplicates:
    """The duplicates among the pictures of all splits; ``pictures`` maps a split to file names with their paths."""
    names = [(split, name) for split, files in pictures.items() for name, _ in files]
    paths = [path for files in pictures.values() for _, path in files]
    hashes = list(map_in_threads(_hashes, paths, progress))
    contents, dhashes = [content for content, _ in hashes], np.array([bits for _, bits in hashes], np.uint64)
    hashed = np.flatnonzero(dhashes != NO_HASH)
    pairs = [(int(hashed[a]), int(hashed[b])) for a, b in near_duplicates(dhashes[hashed])]
    unreadable = contents.count("")
    return Duplicates(
        identical=tuple(_group(names, indices) for indices in _equal(contents)),
        near=tuple(_group(names, pair) for pair in pairs if contents[pair[0]] != contents[pair[1]]),
        pictures=len(names),
        unreadable=unreadable,
        flat=len(names) - len(hashed) - unreadable,
    )


def _hashes(path: Path) -> tuple[str, int]:
    """The hashes of file and picture; empty and ``NO_HASH`` for a file that cannot be read."""
    try:
        bits = dhash(path)  # first: it opens nothing but regular files
        return file_hash(path), bits
    except (OSError, Unreadable):
        return "", NO_HASH


def _equal(contents: Sequence[str]) -> list[list[int]]:
    """The indices of each hash that occurs more than once."""
    indices: dict[str, list[int]] = {}
    for index, content in enumerate(contents):
        if content:
            indices.setdefault(content, []).append(index)
    return [group for group in indices.values() if len(group) > 1]


def _group(names: Sequence[PictureName], indices: Sequence[int]) -> DuplicateGroup:
    return DuplicateGroup(tuple(names[index] for index in indices))


def dhash(path: Path) -> int:
    """The picture's difference hash, 64 bits; ``NO_HASH`` for a flat one. Raises ``Unreadable``."""
    from PIL import Image

    with open_image(path) as image:
        image.draft("L", (36, 32))  # JPEG decodes at an eighth of the size where that is enough
        image.load()
        upright = turn_upright(image)
        grey = (reduce_depth(upright) if image.mode in DEEP_MODES else upright).convert("L")
        values = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)  # (8, 9)
    bits = np.diff(values, axis=1) > 0  # (8, 8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Hashes, max_bits: int = MAX_BITS) -> list[tuple[int, int]]:
    """Pairs of indices, ascending, whose hashes differ in at most ``max_bits`` bits (0…3: with more, some are missed).

    Of more than 32 equal hashes the first stands for all: the others are paired with it alone.
    """
    _, first, group, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    first_equal, indices = first[group.ravel()], np.arange(len(hashes))
    is_spare = (sizes[group.ravel()] > _MAX_EQUAL) & (first_equal != indices)
    kept = indices[~is_spare]
    pairs = [np.stack([first_equal[is_spare], indices[is_spare]], axis=1)]
    pairs += [kept[near] for band in _BANDS for near in _near_pairs(hashes[kept], np.uint64(band), max_bits)]
    ascending = np.sort(np.concatenate(pairs), axis=1)  # (P, 2)
    codes = np.unique(ascending[:, 0] * len(hashes) + ascending[:, 1])  # a pair may share several bands
    return [divmod(code, len(hashes)) for code in codes.tolist()]


def _near_pairs(hashes: Hashes, band: np.uint64, max_bits: int) -> Iterator[Pairs]:
    """Index pairs that differ in at most ``max_bits`` bits and are equal in the 16 bits from ``band`` on.

    If at most three bits differ, one of four bands is equal: all four together yield every pair. After sorting, equal
    bands are neighbours; each turn compares with the neighbour one step further on, so memory stays at N.
    """
    bands = (hashes >> band) & np.uint64(0xFFFF)
    order = np.argsort(bands, kind="stable")
    ordered, ends = hashes[order], np.searchsorted(bands[order], bands[order], side="right")
    left, step = np.arange(len(hashes)), 1
    while len(left := left[left + step < ends[left]]):
        differing = ordered[left] ^ ordered[left + step]
        for _ in range(max_bits):
            differing &= differing - np.uint64(1)  # clears the lowest bit that is set; 0 stays 0
        if len(near := left[differing == 0]):
            yield np.stack([order[near], order[near + step]], axis=1)
        step += 1
