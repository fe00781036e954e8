"""Make the pictures of the documents from a finished demo: ``python docs/pictures.py demo``, or ``make pictures``.

Those of a terminal show what the commands of ``TERMINALS`` write to a pseudo terminal. The sheet is the one that
``vlmdet viz`` draws; the pictures of the report page are taken by Chromium.
"""

import contextlib
import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
TERMINALS = {"eval.svg": "eval", "compare.svg": "compare base run-001"}
VIEWS = {"page-summary.jpg": "#view=summary", "page-pictures.jpg": "#view=pictures&kind=false"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLUMNS, ROWS = 80, 50
# line ends, and the moves and erasures that Rich's bars write; colours are left to Rich
CONTROL = re.compile(r"(\r|\n|\x1b\[\d*[AK]|\x1b\[\?\d+[hl])")


def main(folder: Path, target: Path = DOCS) -> None:
    """Write all pictures into the folder ``target``."""
    for name, command in TERMINALS.items():
        (target / name).write_text(terminal(folder, command))
    with tempfile.TemporaryDirectory() as scratch:
        written(folder, f"viz --limit 6 --output {scratch}")
        save(Path(scratch, "sheet.jpg"), target / "sheet.jpg")
        for name, view in VIEWS.items():
            save(page(Path(scratch, "index.html"), view), target / name)


def terminal(folder: Path, command: str) -> str:
    """An SVG of a terminal in which a command of vlmdet's ran in the folder. It loads no font."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO())
    console.print(Text(f"$ vlmdet {command}", style="bold"))
    console.print(Text.from_ansi(screen(written(folder, command)).rstrip()))
    console.print()  # the SVG cuts off the descenders of its last line
    svg = console.export_svg(title="vlmdet", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")


def written(folder: Path, command: str) -> str:
    """All that a command writes to its terminal. Raises ``SystemExit`` with it where the command fails."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
    environment["TERM"] = "xterm-256color"
    argv = [sys.executable, "-m", "vlmdet_cli", *shlex.split(command)]
    process = subprocess.Popen(argv, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = list[bytes]()
    with os.fdopen(ours, "rb", 0) as stream, contextlib.suppress(OSError):  # EIO: its last writer has closed it
        while part := stream.read(65536):
            parts.append(part)
    text = b"".join(parts).decode()
    if process.wait():
        raise SystemExit(f"vlmdet {command} ends with exit code {process.returncode}:\n{text}")
    return text


def screen(text: str) -> str:
    """The lines that stay on a terminal: what was erased, as moving bars are, is not among them."""
    lines, row = [""], 0
    for part in CONTROL.split(text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.startswith("\x1b[") and part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif part.startswith("\x1b[") and part.endswith("K"):
            lines[row] = ""
        elif not CONTROL.fullmatch(part):
            lines[row] += part
    return "\n".join(lines)


def page(index: Path, view: str) -> Path:
    """A picture of a report page at the address ``view``, beside it. Raises ``SystemExit`` without Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("The pictures of the report page need Chromium; those of the terminal are written")
    picture, profile = index.with_name("page.png"), index.with_name("profile")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,860"]
    flags += [f"--user-data-dir={profile}", f"--screenshot={picture}", "--virtual-time-budget=10000"]
    subprocess.run([browser, *flags, index.absolute().as_uri() + view], check=True, capture_output=True)
    return picture


def save(picture: Path, target: Path) -> None:
    """Save a picture as a JPEG, at most 1280 pixels wide."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((1280, 1280))
    image.save(target, quality=85)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
