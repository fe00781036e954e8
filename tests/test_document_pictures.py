"""The pictures of the documents exist, and a script makes them from what commands really write."""

import io
import re
import runpy
import shutil
from pathlib import Path

import pytest
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]
from PIL import Image
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SCRIPT = runpy.run_path(str(DOCS / "pictures.py"))


def text_of(svg: str) -> str:
    """The words of an SVG."""
    return " ".join("".join(fromstring(svg).itertext()).split())


def test_the_documents_show_the_pictures_that_the_script_makes_and_no_other() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    shown = {page.parent / name for page in pages for name in re.findall(r"!\[[^\]]+\]\((.*?)\)", page.read_text())}
    files = {*SCRIPT["TERMINALS"], *SCRIPT["VIEWS"], "sheet.jpg"}
    assert shown == {DOCS / name for name in files}
    assert {path for path in DOCS.iterdir() if path.suffix in {".svg", ".jpg", ".png"}} == shown


@pytest.mark.parametrize("name", SCRIPT["TERMINALS"])
def test_a_picture_of_a_terminal_shows_its_command_and_asks_for_nothing_from_outside(name: str) -> None:
    svg = (DOCS / name).read_text()
    assert text_of(svg).partition("$ ")[2].startswith(f"vlmdet {SCRIPT['TERMINALS'][name]} Detection at IoU 0.50")
    assert "url(http" not in svg
    assert "@font-face" not in svg


def test_the_script_shows_what_a_command_writes_to_a_terminal(tmp_path: Path) -> None:
    svg = SCRIPT["terminal"](tmp_path, "init mine")
    assert (tmp_path / "mine" / "vlmdet.toml").is_file()
    assert "$ vlmdet init mine wrote mine/vlmdet.toml" in text_of(svg)


def test_the_script_takes_no_picture_of_a_command_that_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"vlmdet eval ends with exit code 2:\n.*No project file"):
        SCRIPT["terminal"](tmp_path, "eval")


def test_the_script_takes_a_picture_of_a_page(tmp_path: Path) -> None:
    if not any(map(shutil.which, SCRIPT["BROWSERS"])):
        pytest.skip("no Chromium on this machine")
    (tmp_path / "index.html").write_text('<style>:target { background: #f00; height: 900px }</style><p id="here">')
    SCRIPT["save"](SCRIPT["page"](tmp_path / "index.html", "#here"), tmp_path / "page.jpg")
    with Image.open(tmp_path / "page.jpg") as image:
        red, green, _ = image.convert("RGB").getpixel((640, 430))
        assert image.size == (1280, 860)
    assert red > green + 150


def test_of_moving_bars_nothing_stays_on_the_screen() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    console.print("before")
    with Progress(console=console, transient=True) as bars:
        for task in [bars.add_task("first", total=2), bars.add_task("second", total=2)]:
            bars.update(task, completed=2, refresh=True)
    console.print("behind")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "second" in written
    assert SCRIPT["screen"](written).split() == ["before", "behind"]
