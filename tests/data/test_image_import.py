"""Pictures put into the subset: which need fixing, and links, copies and fixed files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.image_builders import (
    ORIENTATION,
    TURNS,
    array,
    noise,
    pixels,
    shortened,
    turned,
)
from vlmdet_cli.data.image_checks import decode_errors
from vlmdet_cli.data.image_files import Header, Unreadable, looks_truncated, read_header
from vlmdet_cli.data.image_import import Fix, Fixes, materialize, materialize_all, required_fixes
from vlmdet_cli.errors import DataError

# --- what is needed ---


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_pictures_that_stand_are_turned_whenever_they_are_not_upright(orientation: int) -> None:
    needed = required_fixes(Header(6, 4, orientation, "RGB", 1), (6, 4))
    assert needed == (() if orientation == 1 else ("turned upright",))
    with pytest.raises(Unreadable, match="size differs from the annotations"):
        required_fixes(Header(6, 4, orientation, "RGB", 1), (4, 6))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_pictures_on_their_side_are_turned_if_annotated_upright(orientation: int) -> None:
    lying = Header(6, 4, orientation, "RGB", 1)
    assert required_fixes(lying, (4, 6)) == ("turned upright",)
    assert required_fixes(lying, (6, 4)) == ()
    assert required_fixes(lying._replace(width=4), (4, 4)) == ("turned upright",)
    with pytest.raises(Unreadable, match="size differs from the annotations"):
        required_fixes(lying, (6, 5))


def test_a_picture_may_need_both() -> None:
    deep = Header(6, 4, 6, "I;16", 1)
    assert required_fixes(deep, (6, 4)) == ("reduced to 8 bits",)
    assert required_fixes(deep, (4, 6)) == ("turned upright", "reduced to 8 bits")


# --- what is written ---


def fix(tmp_path: Path, source: Path, *fixes: Fix) -> Path:
    target = tmp_path / "out" / source.name
    assert materialize(source, target, "link", fixes) == "mended"
    return target


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_turned_pixels_are_those_that_a_viewer_shows(tmp_path: Path, orientation: int, suffix: str) -> None:
    source = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels().save(source, exif=exif, lossless=True)
    target = fix(tmp_path, source, "turned upright")
    with Image.open(source) as before, Image.open(target) as after:
        assert after.format == before.format
        assert array(after) == array(ImageOps.exif_transpose(before))
        assert ORIENTATION not in after.getexif()
    assert read_header(target).orientation == 1


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_jpeg_is_nearly_what_a_viewer_shows(tmp_path: Path, orientation: int) -> None:
    smooth = pixels((4, 3)).resize((96, 64), Image.Resampling.BICUBIC)
    source = turned(tmp_path / "a.jpg", orientation, smooth)
    target = fix(tmp_path, source, "turned upright")
    with Image.open(source) as before, Image.open(target) as after:
        apart = np.asarray(ImageOps.exif_transpose(before), int) - np.asarray(after, int)
        assert after.format == "JPEG"
    assert np.abs(apart).mean() < 2
    assert read_header(target)[:3] == (*read_header(source).upright_size, 1)


def test_a_cmyk_jpeg_stays_one(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.jpg", 6, Image.new("CMYK", (16, 8), (200, 30, 90, 10)))
    with Image.open(fix(tmp_path, source, "turned upright")) as after:
        assert (after.mode, after.size) == ("CMYK", (8, 16))
        assert np.abs(np.asarray(after, int) - (200, 30, 90, 10)).max() <= 3


def test_of_an_animation_the_first_frame_is_written(tmp_path: Path) -> None:
    source = tmp_path / "a.webp"
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    pixels().save(source, save_all=True, append_images=[pixels(seed=1)], lossless=True, exif=exif)
    target = fix(tmp_path, source, "turned upright")
    assert read_header(target).frames == 1
    with Image.open(target) as after:
        assert array(after.convert("RGB")) == array(pixels().transpose(Image.Transpose.ROTATE_180))


def test_sixteen_bits_become_eight_by_their_full_range(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(source)
    with Image.open(fix(tmp_path, source, "reduced to 8 bits")) as after:
        assert array(after) == [[[0, 0, 0], [1, 1, 1], [128, 128, 128], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 1_000_000]], np.int32), [0, 255]),
        (np.array([[0.0, 0.25, 1.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, 2.0, 4.0, np.inf]], np.float32), [0, 0, 255, 0]),
        (np.array([[7.0, 7.0]], np.float32), [0, 0]),
        (np.array([[np.nan]], np.float32), [0]),
    ],
)
def test_other_deep_grey_is_stretched_from_darkest_to_brightest(
    tmp_path: Path, values: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", expected: list[int]
) -> None:
    source = tmp_path / "a.tif"
    Image.fromarray(values).save(source)
    with Image.open(fix(tmp_path, source, "reduced to 8 bits")) as after:
        assert (after.mode, after.format) == ("RGB", "TIFF")
        assert np.asarray(after)[0, :, 0].tolist() == expected


def test_both_fixes_at_once(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.png", 6, Image.fromarray(np.array([[0, 65535]], np.uint16)))
    with Image.open(fix(tmp_path, source, "turned upright", "reduced to 8 bits")) as after:
        assert (after.size, after.mode, array(after)) == ((1, 2), "RGB", [[[0, 0, 0]], [[255, 255, 255]]])


def test_transparency_of_a_palette_and_the_colour_profile_stay(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels().quantize(4).save(source, exif=exif, transparency=2, icc_profile=b"profile")
    with Image.open(fix(tmp_path, source, "turned upright")) as after:
        assert (after.mode, after.info["transparency"], after.info["icc_profile"]) == ("P", 2, b"profile")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_fixed_picture_has_the_same_bytes_each_time_and_is_not_written_again(tmp_path: Path, name: str) -> None:
    source = turned(tmp_path / name, 6)
    target = fix(tmp_path, source, "turned upright")
    content, entry = target.read_bytes(), target.stat().st_ino
    fix(tmp_path, source, "turned upright")
    assert (target.read_bytes(), target.stat().st_ino) == (content, entry)
    target.write_bytes(b"something else")
    fix(tmp_path, source, "turned upright")
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_fixing_leaves_the_source_as_it_is_though_the_target_was_its_link(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.jpg", 6)
    content, target = source.read_bytes(), tmp_path / "out" / "a.jpg"
    materialize(source, target, "link")
    materialize(source, target, "link", ("turned upright",))
    assert source.read_bytes() == content
    assert not target.samefile(source)


def test_a_link_is_the_same_file_and_stays_when_repeated(tmp_path: Path) -> None:
    source, target = noise(tmp_path / "a.png"), tmp_path / "deep" / "er" / "a.png"
    for _ in range(2):
        assert materialize(source, target, "link") == "linked"
        assert target.samefile(source)
        assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("other", ["file", "symbolic link"])
def test_a_link_replaces_the_former_file(tmp_path: Path, other: str) -> None:
    source, target = noise(tmp_path / "a.png"), tmp_path / "b.png"
    if other == "file":
        target.write_bytes(b"older")
    else:
        target.symlink_to(source)
    assert materialize(source, target, "link") == "linked"
    assert os.path.samestat(target.lstat(), source.stat())


def test_a_link_of_a_symbolic_link_is_one_of_the_picture(tmp_path: Path) -> None:
    source, target = tmp_path / "b.png", tmp_path / "out" / "b.png"
    source.symlink_to(noise(tmp_path / "a.png").name)
    for _ in range(2):
        assert materialize(source, target, "link") == "linked"
        assert not target.is_symlink()
        assert target.samefile(source)


def test_a_copy_is_made_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_source: Path, _target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuses)
    source, target = noise(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    assert materialize(source, target, "link") == "copied"
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_is_no_link_and_is_written_anew_only_if_it_differs(tmp_path: Path) -> None:
    source, target = noise(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    materialize(source, target, "link")
    assert materialize(source, target, "copy") == "copied"
    assert not target.samefile(source)
    entry = target.stat().st_ino
    assert materialize(source, target, "copy") == "copied"
    assert target.stat().st_ino == entry
    target.write_bytes(bytes(source.stat().st_size))
    materialize(source, target, "copy")
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: shortened(path, 0.5)])
def test_a_picture_that_cannot_be_put_there_is_an_error_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    source = noise(tmp_path / "a.png")
    spoil(source)
    with pytest.raises(DataError, match=r"Cannot put the picture into the subset: .*a\.png"):
        materialize(source, tmp_path / "out" / "a.png", "copy", ("turned upright",))
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_are_counted_by_what_was_done(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(120)]
    on_their_side = [turned(tmp_path / f"{number}.jpg", 6) for number in range(5)]
    turn: Fixes = ("turned upright",)
    pairs = [
        (path, tmp_path / "out" / path.name, turn if path in on_their_side else ()) for path in [*on_their_side, *paths]
    ]
    calls = list[tuple[int, int]]()
    done = materialize_all(pairs, "link", lambda number, total: calls.append((number, total)))
    assert done == {"linked": 120, "copied": 0, "mended": 5}
    assert calls == [(100, 125), (125, 125)]
    assert all(read_header(target).orientation == 1 for _, target, _ in pairs)
    assert materialize_all(pairs, "copy") == {"linked": 0, "copied": 120, "mended": 5}
    assert materialize_all([], "copy") == {"linked": 0, "copied": 0, "mended": 0}


def test_names_in_any_bytes_and_of_any_length_work(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9 \xff.png"), "x" * 251 + ".png"):
        source = tmp_path / name
        with source.open("wb") as file:
            pixels().save(file, "PNG")
        assert read_header(source).width == 6
        assert (looks_truncated(source), decode_errors([source])[0]) == (False, "")
        assert materialize(source, tmp_path / "out" / name, "link") == "linked"
    name = os.fsdecode(b"caf\xe9 \xff.png")
    assert materialize(tmp_path / name, tmp_path / "out" / name, "copy") == "copied"
    assert materialize(tmp_path / name, tmp_path / "out" / name, "link", ("turned upright",)) == "mended"
