"""Duplicate pictures, within a split and between splits."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmdet_cli.data.duplicates import NO_HASH, DuplicateGroup, dhash, find_duplicates, near_duplicates


def scene(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth picture, another one for each seed."""
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def save(path: Path, picture: Image.Image, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=quality)
    return path


def differing_bits(first: int, second: int) -> int:
    return bin(first ^ second).count("1")


def brute_force_pairs(hashes: list[int], max_bits: int) -> list[tuple[int, int]]:
    numbered = itertools.combinations(enumerate(hashes), 2)
    return [(i, j) for (i, a), (j, b) in numbered if differing_bits(a, b) <= max_bits]


@st.composite
def related_hashes(draw: st.DrawFn) -> list[int]:
    """Hashes of which several are near each other: a few of any kind, and those with some bits flipped."""
    roots = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    hashes = list[int]()
    for _ in range(draw(st.integers(0, 30))):
        value = draw(st.sampled_from(roots))
        for bit in draw(st.sets(st.integers(0, 63), max_size=5)):
            value ^= 1 << bit
        hashes.append(value)
    return hashes


# --- hashes --------------------------------------------------------------------------------------------------


@given(related_hashes(), st.integers(0, 3))
def test_pairs_are_those_of_brute_force(hashes: list[int], max_bits: int) -> None:
    assert near_duplicates(np.array(hashes, np.uint64), max_bits) == brute_force_pairs(hashes, max_bits)


@pytest.mark.parametrize("max_bits", [0, 3])
def test_very_many_equal_hashes_are_each_paired_with_the_first(max_bits: int) -> None:
    hashes = np.full(20_000, 2**63 + 5, np.uint64)
    hashes[0] = 2**63 + 4
    pairs = near_duplicates(hashes, max_bits)
    assert pairs[max_bits > 0 :] == [(1, other) for other in range(2, 20_000)]
    assert pairs[: max_bits > 0] == [(0, 1)][: max_bits > 0]


def test_a_hash_survives_another_size_quality_and_format(tmp_path: Path) -> None:
    original = dhash(save(tmp_path / "a.jpg", scene(1, (960, 640))))
    for name, size in {"b.jpg": (480, 320), "c.png": (960, 640), "d.webp": (300, 200)}.items():
        assert differing_bits(original, dhash(save(tmp_path / name, scene(1, size), 70))) <= 3
    assert differing_bits(original, dhash(save(tmp_path / "other.jpg", scene(2, (960, 640))))) > 10


def test_a_picture_on_its_side_has_the_hash_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(1).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert dhash(tmp_path / "a.png") == dhash(save(tmp_path / "b.png", scene(1)))


def test_a_picture_of_16_bits_has_the_hash_of_its_8(tmp_path: Path) -> None:
    grey = np.asarray(scene(1).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert dhash(tmp_path / "a.png") == dhash(save(tmp_path / "b.png", Image.fromarray(grey)))


def test_each_bit_says_whether_the_picture_grows_brighter_to_the_right(tmp_path: Path) -> None:
    values = np.full((8, 9), 100, np.uint8)
    values[0, 1:] = 200
    values[7, 8] = 255
    assert dhash(save(tmp_path / "a.png", Image.fromarray(values))) == 2**63 + 1


# --- pictures ------------------------------------------------------------------------------------------------


def test_flat_pictures_have_no_hash_and_are_near_to_nothing(tmp_path: Path) -> None:
    grey, white = (save(tmp_path / f"{value}.png", Image.new("L", (20, 20), value)) for value in (90, 255))
    assert dhash(grey) == dhash(white) == NO_HASH
    duplicates = find_duplicates({"train": [("grey", grey)], "val": [("white", white)]})
    assert (duplicates.near, duplicates.flat) == ((), 2)


def test_duplicates_within_and_across_splits_are_told_apart(tmp_path: Path) -> None:
    paths = {name: save(tmp_path / name, scene(n)) for n, name in enumerate(["1.jpg", "2.jpg", "3.jpg", "4.jpg"])}
    copy, smaller, within = tmp_path / "copy.jpg", tmp_path / "smaller.jpg", tmp_path / "within.jpg"
    copy.write_bytes(paths["1.jpg"].read_bytes())
    save(smaller, scene(1, (72, 48)))
    save(within, scene(2, (72, 48)))
    duplicates = find_duplicates({
        "train": [*((name, paths[name]) for name in ("1.jpg", "2.jpg", "3.jpg")), ("within.jpg", within)],
        "test": [("4.jpg", paths["4.jpg"]), ("copy.jpg", copy), ("smaller.jpg", smaller)],
    })  # fmt: skip
    assert duplicates.identical == (DuplicateGroup((("train", "1.jpg"), ("test", "copy.jpg"))),)
    assert duplicates.near == (
        DuplicateGroup((("train", "2.jpg"), ("test", "smaller.jpg"))),
        DuplicateGroup((("train", "3.jpg"), ("train", "within.jpg"))),
    )
    assert [group.crosses_splits for group in (*duplicates.identical, *duplicates.near)] == [True, True, False]
    assert (duplicates.pictures, duplicates.unreadable, duplicates.flat) == (7, 0, 0)


def test_every_copy_of_a_picture_is_a_near_duplicate_of_its_smaller_version(tmp_path: Path) -> None:
    first, smaller = save(tmp_path / "a.jpg", scene(1)), save(tmp_path / "b.jpg", scene(1, (72, 48)))
    duplicates = find_duplicates({"train": [("a", first)], "val": [("a", first), ("b", smaller)]})
    assert [group.crosses_splits for group in duplicates.near] == [True, False]


def test_files_of_the_same_length_that_differ_in_a_byte_are_not_identical(tmp_path: Path) -> None:
    first, second = (save(tmp_path / name, scene(1)) for name in ("a.bmp", "b.bmp"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    duplicates = find_duplicates({"train": [("a.bmp", first), ("b.bmp", second)]})
    assert (len(duplicates.identical), len(duplicates.near)) == (0, 1)


def test_files_that_cannot_be_read_are_counted_and_compared_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "b.jpg").write_text("no picture")
    names = ["a.jpg", "b.jpg", "gone.jpg"]
    duplicates = find_duplicates({"train": [(name, tmp_path / name) for name in names]})
    assert (duplicates.identical, duplicates.near) == ((), ())
    assert (duplicates.pictures, duplicates.unreadable, duplicates.flat) == (3, 3, 0)


def test_no_pictures_have_no_duplicates() -> None:
    duplicates = find_duplicates({"train": [], "val": []})
    assert (duplicates.identical, duplicates.near, duplicates.pictures) == ((), (), 0)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    path, calls = save(tmp_path / "a.jpg", scene(1)), list[tuple[int, int]]()
    find_duplicates({"train": [("a", path)] * 3}, lambda done, total: calls.append((done, total)))
    assert calls == [(3, 3)]
