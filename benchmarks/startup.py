"""``vlmdet --help`` against the help of a bare Typer app with two commands."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Pair, paired, process, vlmdet

BARE = """
import typer
app = typer.Typer(help="Two commands.")
@app.command()
def first(name: str = "x") -> None:
    "The first."
@app.command()
def second(name: str = "x") -> None:
    "The second."
app()
"""


def run(folder: Path) -> Iterator[Pair]:
    (folder / "bare.py").write_text(BARE)
    bare = [sys.executable, "bare.py", "--help"]
    yield paired(
        "--help, against a bare Typer app", lambda: process(vlmdet("--help"), folder), lambda: process(bare, folder), 15
    )
