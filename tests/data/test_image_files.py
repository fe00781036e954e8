"""One picture file: its header, the reasons why it cannot be used, and its pixels."""

import errno
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.image_builders import (
    array,
    exif_at_the_end,
    noise,
    pixels,
    reason,
    shortened,
    turned,
)
from vlmdet_cli.data import image_files
from vlmdet_cli.data.image_checks import decode_errors
from vlmdet_cli.data.image_files import (
    Unreadable,
    looks_truncated,
    no_warnings,
    open_upright,
    read_header,
    upright_size,
)
from vlmdet_cli.data.image_import import materialize, required_fixes

# --- headers ---


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_a_header_has_the_size_as_stored(tmp_path: Path, suffix: str) -> None:
    stored = read_header(noise(tmp_path / f"a.{suffix}", (31, 17)))
    assert (stored.width, stored.height, stored.orientation, stored.frames) == (31, 17, 1, 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_has_the_orientation_and_swaps_the_sides_of_pictures_on_their_side(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    stored = read_header(turned(tmp_path / f"a.{suffix}", orientation))
    assert (stored.width, stored.height, stored.orientation) == (6, 4, orientation)
    assert stored.upright_size == ((4, 6) if orientation >= 5 else (6, 4))


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
def test_an_orientation_out_of_range_counts_as_none(tmp_path: Path, value: int) -> None:
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


# --- reasons ---


def test_each_reason_has_its_own_text(tmp_path: Path) -> None:
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
def test_a_file_cut_in_its_pixels_has_a_header_and_is_detected_by_its_end(tmp_path: Path, suffix: str) -> None:
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


def test_bytes_behind_the_end_of_a_picture_are_ignored(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert looks_truncated(path)  # so it is decoded to be sure
    assert decode_errors([path])[0] == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"GIF89a"])
def test_any_file_can_be_checked_for_its_end(tmp_path: Path, content: bytes) -> None:
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
def test_every_error_of_pillow_becomes_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_path: Path) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fails)
    assert reason(noise(tmp_path / "a.png")) in ("damaged", "truncated", "cannot be read")


def test_all_reasons_are_short_and_differ() -> None:
    names = ("MISSING", "EMPTY", "NO_PICTURE", "TRUNCATED", "DAMAGED", "BOMB", "FORBIDDEN", "OTHER_SIZE")
    reasons = [getattr(image_files, name) for name in names]
    assert len(set(reasons)) == len(reasons)
    assert max(map(len, reasons)) < 50


# --- pixels ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_opened_picture_is_upright_and_its_size_is_known_beforehand(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = turned(tmp_path / f"a.{suffix}", orientation)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored)
    opened = open_upright(path)
    assert (opened.mode, opened.size, array(opened)) == ("RGB", upright_size(path), array(expected))


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
    opened = open_upright(tmp_path / "a.tif")
    assert (opened.mode, opened.size) == ("RGB", (5, 4))


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
