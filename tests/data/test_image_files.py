"""Picture files on disk: headers, reasons, what is mended, and how files get to the subset."""

import errno
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vlmdet_cli.data import image_files
from vlmdet_cli.data.image_checks import decode_errors, read_headers
from vlmdet_cli.data.image_files import (
    Header,
    Unreadable,
    looks_truncated,
    no_warnings,
    open_upright,
    read_header,
    upright_size,
)
from vlmdet_cli.data.image_import import Fix, Fixes, materialize, materialize_all, required_fixes
from vlmdet_cli.errors import DataError

ORIENTATION = 0x0112
TURNS = [2, 3, 4, 5, 6, 7, 8]


def pixels(size: tuple[int, int] = (6, 4), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def turned(path: Path, orientation: int, picture: Image.Image | None = None) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (picture or pixels()).save(path, exif=exif)
    return path


def exif_at_the_end(path: Path) -> Path:
    """The PNG file with its EXIF chunk behind the pixels, as exiftool writes it."""
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    return path


def noise(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    pixels(size).save(path)
    return path


def shortened(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def reason(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        read_header(path)
    return str(caught.value)


def array(picture: Image.Image) -> list[list[list[int]]]:
    values: list[list[list[int]]] = np.asarray(picture).tolist()
    return values


# --- headers


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_a_header_has_the_size_as_stored(tmp_path: Path, suffix: str) -> None:
    found = read_header(noise(tmp_path / f"a.{suffix}", (31, 17)))
    assert (found.width, found.height, found.orientation, found.frames) == (31, 17, 1, 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_has_the_orientation_and_swaps_the_sides_of_pictures_on_their_side(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    found = read_header(turned(tmp_path / f"a.{suffix}", orientation))
    assert (found.width, found.height, found.orientation) == (6, 4, orientation)
    assert found.upright_size == ((4, 6) if orientation >= 5 else (6, 4))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_file_is_upright_as_pillow_turns_it_itself(tmp_path: Path, orientation: int) -> None:
    path = turned(tmp_path / "a.tif", orientation)
    with Image.open(path) as image:
        image.load()
        assert (*image.size, 1) == read_header(path)[:3]


def test_exif_behind_the_pixels_of_a_png_is_found_without_decoding_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = turned(tmp_path / "a.png", 6)
    exif_at_the_end(path)
    monkeypatch.setattr("PIL.Image.core.zip_decoder", None)  # nothing can be decoded
    assert read_header(path).orientation == 6


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_makes_no_sense_is_none(tmp_path: Path, value: int) -> None:
    assert read_header(turned(tmp_path / "a.jpg", value)).orientation == 1


def test_broken_exif_neither_warns_nor_hides_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    pixels().save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(path).orientation == 1


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_the_frames_of_an_animation_are_counted_and_its_first_is_decoded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels().save(path, save_all=True, append_images=[pixels(seed=1), pixels(seed=2)])
    assert read_header(path).frames == 3
    assert decode_errors([path])[0] == ""


def test_the_mode_is_pillows(tmp_path: Path) -> None:
    Image.new("CMYK", (6, 4)).save(tmp_path / "a.jpg")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "b.png")
    assert read_header(tmp_path / "a.jpg").mode == "CMYK"
    assert read_header(tmp_path / "b.png").mode.startswith("I")


# --- reasons


def test_each_reason_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture at all, whatever its name says")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "gone.jpg") == "not on disk"
    assert reason(tmp_path / "nowhere.jpg") == "not on disk"
    assert reason(tmp_path / "text.jpg" / "inside.jpg") == "not on disk"
    assert reason(tmp_path / "empty.jpg") == "empty file"
    assert reason(tmp_path / "text.jpg") == "not a picture file"
    for name in ("loop.jpg", "folder.jpg", "pipe.jpg", "x" * 300 + ".jpg", "nul\0.jpg", "half\ud800.jpg"):
        assert reason(tmp_path / name) == "cannot be read", name


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_an_error_of_the_disk_or_its_rights_means_that_a_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(_path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", fails)
    assert reason(noise(tmp_path / "a.png")) == "cannot be read"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_cut_in_its_header_is_truncated(tmp_path: Path, suffix: str) -> None:
    path = noise(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:20])
    assert reason(path) == "truncated"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_cut_in_its_pixels_has_a_header_and_is_found_by_its_end(tmp_path: Path, suffix: str) -> None:
    path = noise(tmp_path / f"a.{suffix}")
    assert (looks_truncated(path), decode_errors([path])[0]) == (False, "")
    shortened(path, 0.6)
    assert read_header(path).width == 80
    assert (looks_truncated(path), decode_errors([path])[0]) == (True, "truncated")


def test_a_whole_file_with_wrong_bytes_is_damaged(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    content[60:70] = bytes(10)
    path.write_bytes(content)
    assert (looks_truncated(path), decode_errors([path])[0]) == (False, "damaged")


def test_bytes_behind_the_end_of_a_picture_do_no_harm(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert looks_truncated(path)  # doubtful, so it is decoded
    assert decode_errors([path])[0] == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"GIF89a"])
def test_the_look_at_a_files_end_takes_any_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert looks_truncated(tmp_path / "a") is (content == b"\xff\xd8\xff")
    assert looks_truncated(tmp_path / "none")


@pytest.mark.parametrize("limit", [4799, 100])
def test_too_many_pixels_are_refused_where_pillow_begins_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = noise(tmp_path / "a.jpg", (80, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4800)
    assert read_header(path).width == 80
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(path) == "too many pixels (a decompression bomb)"
        assert decode_errors([path])[0] == "too many pixels (a decompression bomb)"


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), EOFError(), KeyError("x")])
def test_nothing_but_unreadable_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(_path: Path) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fails)
    assert reason(noise(tmp_path / "a.png")) in ("damaged", "truncated", "cannot be read")


# --- many


def test_headers_keep_the_order_and_report_how_far_they_are(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.png", (number, 3)) for number in range(1, 151)]
    paths[70] = tmp_path / "gone.png"
    seen = list[tuple[int, int]]()
    found = read_headers(paths, lambda done, total: seen.append((done, total)))
    assert found[70] == "not on disk"
    assert [one.width for one in found if isinstance(one, Header)] == [n for n in range(1, 151) if n != 71]
    assert seen == [(100, 150), (150, 150)]


def test_no_files_have_no_headers() -> None:
    assert read_headers([]) == []


def test_headers_of_files_whose_warnings_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(40)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(read_headers(paths)) == {"too many pixels (a decompression bomb)"}


# --- mend


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


# --- bring


def mended(tmp_path: Path, source: Path, *fixes: Fix) -> Path:
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
    target = mended(tmp_path, source, "turned upright")
    with Image.open(source) as before, Image.open(target) as after:
        assert after.format == before.format
        assert array(after) == array(ImageOps.exif_transpose(before))
        assert ORIENTATION not in after.getexif()
    assert read_header(target).orientation == 1


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_jpeg_is_nearly_what_a_viewer_shows(tmp_path: Path, orientation: int) -> None:
    smooth = pixels((4, 3)).resize((96, 64), Image.Resampling.BICUBIC)
    source = turned(tmp_path / "a.jpg", orientation, smooth)
    target = mended(tmp_path, source, "turned upright")
    with Image.open(source) as before, Image.open(target) as after:
        apart = np.asarray(ImageOps.exif_transpose(before), int) - np.asarray(after, int)
        assert after.format == "JPEG"
    assert np.abs(apart).mean() < 2
    assert read_header(target)[:3] == (*read_header(source).upright_size, 1)


def test_a_cmyk_jpeg_stays_one(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.jpg", 6, Image.new("CMYK", (16, 8), (200, 30, 90, 10)))
    with Image.open(mended(tmp_path, source, "turned upright")) as after:
        assert (after.mode, after.size) == ("CMYK", (8, 16))
        assert np.abs(np.asarray(after, int) - (200, 30, 90, 10)).max() <= 3


def test_of_an_animation_the_first_frame_is_mended(tmp_path: Path) -> None:
    source = tmp_path / "a.webp"
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    pixels().save(source, save_all=True, append_images=[pixels(seed=1)], lossless=True, exif=exif)
    target = mended(tmp_path, source, "turned upright")
    assert read_header(target).frames == 1
    with Image.open(target) as after:
        assert array(after.convert("RGB")) == array(pixels().transpose(Image.Transpose.ROTATE_180))


def test_sixteen_bits_become_eight_by_their_full_range(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(source)
    with Image.open(mended(tmp_path, source, "reduced to 8 bits")) as after:
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
    with Image.open(mended(tmp_path, source, "reduced to 8 bits")) as after:
        assert (after.mode, after.format) == ("RGB", "TIFF")
        assert np.asarray(after)[0, :, 0].tolist() == expected


def test_both_mends_at_once(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.png", 6, Image.fromarray(np.array([[0, 65535]], np.uint16)))
    with Image.open(mended(tmp_path, source, "turned upright", "reduced to 8 bits")) as after:
        assert (after.size, after.mode, array(after)) == ((1, 2), "RGB", [[[0, 0, 0]], [[255, 255, 255]]])


def test_transparency_of_a_palette_and_the_colour_profile_stay(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels().quantize(4).save(source, exif=exif, transparency=2, icc_profile=b"profile")
    with Image.open(mended(tmp_path, source, "turned upright")) as after:
        assert (after.mode, after.info["transparency"], after.info["icc_profile"]) == ("P", 2, b"profile")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_mended_picture_has_the_same_bytes_each_time_and_is_not_written_again(tmp_path: Path, name: str) -> None:
    source = turned(tmp_path / name, 6)
    target = mended(tmp_path, source, "turned upright")
    content, entry = target.read_bytes(), target.stat().st_ino
    mended(tmp_path, source, "turned upright")
    assert (target.read_bytes(), target.stat().st_ino) == (content, entry)
    target.write_bytes(b"something else")
    mended(tmp_path, source, "turned upright")
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_mending_leaves_the_source_as_it_is_though_the_target_was_its_link(tmp_path: Path) -> None:
    source = turned(tmp_path / "a.jpg", 6)
    content, target = source.read_bytes(), tmp_path / "out" / "a.jpg"
    materialize(source, target, "link")
    materialize(source, target, "link", ("turned upright",))
    assert source.read_bytes() == content
    assert not target.samefile(source)


def test_a_link_is_the_same_file_and_stays_when_made_twice(tmp_path: Path) -> None:
    source, target = noise(tmp_path / "a.png"), tmp_path / "deep" / "er" / "a.png"
    for _ in range(2):
        assert materialize(source, target, "link") == "linked"
        assert target.samefile(source)
        assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("other", ["file", "symbolic link"])
def test_a_link_takes_the_place_of_what_was_there(tmp_path: Path, other: str) -> None:
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


def test_a_copy_is_no_link_stays_if_it_is_right_and_is_made_anew_if_not(tmp_path: Path) -> None:
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
def test_what_cannot_be_brought_is_an_error_that_names_it(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    source = noise(tmp_path / "a.png")
    spoil(source)
    with pytest.raises(DataError, match=r"Cannot put the picture into the subset: .*a\.png"):
        materialize(source, tmp_path / "out" / "a.png", "copy", ("turned upright",))
    assert list((tmp_path / "out").iterdir()) == []


def test_many_are_counted_by_what_was_done(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(120)]
    ill = [turned(tmp_path / f"{number}.jpg", 6) for number in range(5)]
    turn: Fixes = ("turned upright",)
    pairs = [(path, tmp_path / "out" / path.name, turn if path in ill else ()) for path in [*ill, *paths]]
    seen = list[tuple[int, int]]()
    done = materialize_all(pairs, "link", lambda number, total: seen.append((number, total)))
    assert done == {"linked": 120, "copied": 0, "mended": 5}
    assert seen == [(100, 125), (125, 125)]
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


def test_all_reasons_are_short_and_differ() -> None:
    names = ("MISSING", "EMPTY", "NO_PICTURE", "TRUNCATED", "DAMAGED", "BOMB", "FORBIDDEN", "OTHER_SIZE")
    reasons = [getattr(image_files, name) for name in names]
    assert len(set(reasons)) == len(reasons)
    assert max(map(len, reasons)) < 50


# --- pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_opened_picture_is_upright_and_its_size_is_known_beforehand(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = turned(tmp_path / f"a.{suffix}", orientation)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored)
    seen = open_upright(path)
    assert (seen.mode, seen.size, array(seen)) == ("RGB", upright_size(path), array(expected))


def test_a_picture_on_its_side_stays_as_stored_only_where_it_was_annotated_so(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.png", 6)  # stored 6 x 4, upright 4 x 6
    assert open_upright(path, (6, 4)).size == (6, 4)
    assert open_upright(path, (4, 6)).size == (4, 6)
    assert open_upright(path, (99, 99)).size == (4, 6)
    upside_down = turned(tmp_path / "b.png", 3)
    assert array(open_upright(upside_down, (6, 4))) == array(pixels().transpose(Image.Transpose.ROTATE_180))


@pytest.mark.parametrize(
    ("orientation", "annotated"), [*((n, (6, 4)) for n in range(1, 9)), *((n, (4, 6)) for n in range(5, 9))]
)
@pytest.mark.parametrize("deep", [False, True])
def test_prepared_pictures_and_those_opened_in_place_have_the_same_pixels(
    tmp_path: Path, orientation: int, annotated: tuple[int, int], deep: bool
) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (4, 6)).astype(np.uint16))
    source, target = turned(tmp_path / "a.png", orientation, grey if deep else None), tmp_path / "out" / "a.png"
    materialize(source, target, "link", required_fixes(read_header(source), annotated))
    prepared = open_upright(target, annotated)
    assert prepared.size == annotated
    assert array(prepared) == array(open_upright(source, annotated))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_a_picture_of_every_mode_is_opened_in_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 4)).save(tmp_path / "a.tif")
    seen = open_upright(tmp_path / "a.tif")
    assert (seen.mode, seen.size) == ("RGB", (5, 4))


def test_transparency_is_dropped_as_swift_does(tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (200, 10, 20, 0)).save(tmp_path / "a.png")
    assert open_upright(tmp_path / "a.png").getpixel((0, 0)) == (200, 10, 20)


def test_deep_grey_is_opened_as_prepare_writes_it(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_upright(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_file_that_is_no_picture_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(Unreadable, match="not a picture file"):
        open_upright(tmp_path / "a.jpg")
    with pytest.raises(Unreadable, match="not on disk"):
        upright_size(tmp_path / "gone.jpg")


def test_exif_behind_the_pixels_of_a_png_turns_it(tmp_path: Path) -> None:
    path = exif_at_the_end(turned(tmp_path / "a.png", 6))
    assert array(open_upright(path)) == array(pixels().transpose(Image.Transpose.ROTATE_270))


def test_warnings_are_silenced_until_the_last_thread_is_done_and_not_longer() -> None:
    entered, release = threading.Event(), threading.Event()

    def other() -> None:
        with no_warnings():
            entered.set()
            release.wait(10)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=other)
        with no_warnings():
            thread.start()
            entered.wait(10)
        warnings.warn("silenced by the other thread", stacklevel=1)
        release.set()
        thread.join()
        with pytest.raises(UserWarning, match="heard"):
            warnings.warn("heard", stacklevel=1)
