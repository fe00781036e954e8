"""Several picture files at once: which are missing, and their headers."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from tests.data.image_builders import noise
from vlmdet_cli.data.image_checks import missing_files, read_headers
from vlmdet_cli.data.image_files import Header


def test_headers_keep_the_order_and_report_progress(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.png", (number, 3)) for number in range(1, 151)]
    paths[70] = tmp_path / "gone.png"
    calls = list[tuple[int, int]]()
    results = read_headers(paths, lambda done, total: calls.append((done, total)))
    assert results[70] == "not on disk"
    assert [result.width for result in results if isinstance(result, Header)] == [n for n in range(1, 151) if n != 71]
    assert calls == [(100, 150), (150, 150)]


def test_no_files_have_no_headers() -> None:
    assert read_headers([]) == []


def test_headers_of_files_whose_warnings_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [noise(tmp_path / f"{number}.png") for number in range(40)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(read_headers(paths)) == {"too many pixels (a decompression bomb)"}


@pytest.mark.parametrize("count", [3, 1200])
def test_missing_files_are_named_by_their_index(tmp_path: Path, count: int) -> None:
    paths = [str(tmp_path / f"{n}.jpg") for n in range(count)]
    for path in paths[1:]:
        Path(path).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "1.jpg")
    others = [str(tmp_path / name) for name in ("folder.jpg", "link.jpg")] + ["/nowhere/a.jpg"]
    assert missing_files([*paths, *others]) == [0, count, count + 2]
