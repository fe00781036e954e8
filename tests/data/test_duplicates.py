"""Pictures that are alike, within a split and between splits."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmdet_cli.data.duplicates import NO_HASH, DuplicateGroup, content, dhash, find_duplicates, near_duplicates


def scene(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth picture of its own."""
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def saved(path: Path, picture: Image.Image, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=quality)
    return path


def bits_apart(a: int, b: int) -> int:
    return bin(a ^ b).count("1")


def by_brute_force(hashes: list[int], most: int) -> list[tuple[int, int]]:
    numbered = itertools.combinations(enumerate(hashes), 2)
    return [(i, j) for (i, a), (j, b) in numbered if bits_apart(a, b) <= most]


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    """Hashes of which many are near one another: a few of any kind, and those with some bits turned over."""
    roots = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    hashes = list[int]()
    for _ in range(draw(st.integers(0, 30))):
        one = draw(st.sampled_from(roots))
        for bit in draw(st.sets(st.integers(0, 63), max_size=5)):
            one ^= 1 << bit
        hashes.append(one)
    return hashes


@given(families(), st.integers(0, 3))
def test_pairs_are_those_of_brute_force(hashes: list[int], most: int) -> None:
    assert near_duplicates(np.array(hashes, np.uint64), most) == by_brute_force(hashes, most)


@pytest.mark.parametrize("most", [0, 3])
def test_of_very_many_equal_hashes_each_is_linked_to_the_first(most: int) -> None:
    hashes = np.full(20_000, 2**63 + 5, np.uint64)
    hashes[0] = 2**63 + 4
    pairs = near_duplicates(hashes, most)
    assert pairs[most > 0 :] == [(1, other) for other in range(2, 20_000)]
    assert pairs[: most > 0] == [(0, 1)][: most > 0]


def test_a_look_stands_other_size_quality_and_format(tmp_path: Path) -> None:
    one = dhash(saved(tmp_path / "a.jpg", scene(1, (960, 640))))
    for name, size in {"b.jpg": (480, 320), "c.png": (960, 640), "d.webp": (300, 200)}.items():
        assert bits_apart(one, dhash(saved(tmp_path / name, scene(1, size), 70))) <= 3
    assert bits_apart(one, dhash(saved(tmp_path / "other.jpg", scene(2, (960, 640))))) > 10


def test_a_picture_on_its_side_looks_like_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(1).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert dhash(tmp_path / "a.png") == dhash(saved(tmp_path / "b.png", scene(1)))


def test_a_picture_of_16_bits_has_the_look_of_its_8(tmp_path: Path) -> None:
    grey = np.asarray(scene(1).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert dhash(tmp_path / "a.png") == dhash(saved(tmp_path / "b.png", Image.fromarray(grey)))


def test_each_bit_says_whether_it_grows_brighter_to_the_right(tmp_path: Path) -> None:
    values = np.full((8, 9), 100, np.uint8)
    values[0, 1:] = 200
    values[7, 8] = 255
    assert dhash(saved(tmp_path / "a.png", Image.fromarray(values))) == 2**63 + 1


def test_flat_pictures_have_no_look_and_are_like_nothing(tmp_path: Path) -> None:
    grey, white = (saved(tmp_path / f"{value}.png", Image.new("L", (20, 20), value)) for value in (90, 255))
    assert dhash(grey) == dhash(white) == NO_HASH
    found = find_duplicates({"train": [("grey", grey)], "val": [("white", white)]})
    assert (found.near, found.counts["flat"]) == ((), 2)


def test_content_is_equal_for_equal_bytes_alone(tmp_path: Path) -> None:
    for name, value in {"a": b"x" * 3_000_000, "b": b"x" * 3_000_000, "c": b"x" * 2_999_999 + b"y"}.items():
        (tmp_path / name).write_bytes(value)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    assert len(content(tmp_path / "a")) == 16


def test_a_leak_between_splits_is_found(tmp_path: Path) -> None:
    made = {name: saved(tmp_path / name, scene(n)) for n, name in enumerate(["1.jpg", "2.jpg", "3.jpg", "4.jpg"])}
    twin, smaller, within = tmp_path / "twin.jpg", tmp_path / "smaller.jpg", tmp_path / "within.jpg"
    twin.write_bytes(made["1.jpg"].read_bytes())
    saved(smaller, scene(1, (72, 48)))
    saved(within, scene(2, (72, 48)))
    found = find_duplicates({
        "train": [*((name, made[name]) for name in ("1.jpg", "2.jpg", "3.jpg")), ("within.jpg", within)],
        "test": [("4.jpg", made["4.jpg"]), ("twin.jpg", twin), ("smaller.jpg", smaller)],
    })  # fmt: skip
    assert found.same == (DuplicateGroup((("train", "1.jpg"), ("test", "twin.jpg")), crosses=True),)
    assert found.near == (
        DuplicateGroup((("train", "2.jpg"), ("test", "smaller.jpg")), crosses=True),
        DuplicateGroup((("train", "3.jpg"), ("train", "within.jpg")), crosses=False),
    )
    assert found.counts == {
        "pictures": 7,
        "unreadable": 0,
        "flat": 0,
        "same": 1,
        "same across splits": 1,
        "near": 2,
        "near across splits": 1,
    }


def test_every_copy_of_a_picture_is_near_to_what_looks_like_it(tmp_path: Path) -> None:
    first, smaller = saved(tmp_path / "a.jpg", scene(1)), saved(tmp_path / "b.jpg", scene(1, (72, 48)))
    found = find_duplicates({"train": [("a", first)], "val": [("a", first), ("b", smaller)]})
    assert [one.crosses for one in found.near] == [True, False]


def test_files_that_are_no_good_are_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "b.jpg").write_text("no picture")
    names = ["a.jpg", "b.jpg", "gone.jpg"]
    found = find_duplicates({"train": [(name, tmp_path / name) for name in names]})
    assert (found.same, found.near) == ((), ())
    assert (found.counts["pictures"], found.counts["unreadable"], found.counts["flat"]) == (3, 3, 0)


def test_nothing_is_like_nothing() -> None:
    found = find_duplicates({"train": [], "val": []})
    assert (found.same, found.near, set(found.counts.values())) == ((), (), {0})


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    path, seen = saved(tmp_path / "a.jpg", scene(1)), list[tuple[int, int]]()
    find_duplicates({"train": [("a", path)] * 3}, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]
