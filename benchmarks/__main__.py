"""Run all benchmarks, or those named, and print a table."""

import compileall
import importlib
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vlmdet_cli

NAMES = ("startup", "parsing", "evaluation", "preparing", "inferring")


def main() -> None:
    compileall.compile_dir(str(Path(vlmdet_cli.__file__).parent), quiet=1)  # as an installed package is
    wanted = sys.argv[1:] or NAMES
    shown = Table("what", "vlmdet s", "peer s", "ratio", "vlmdet MB", "peer MB")
    for name in wanted:
        module = importlib.import_module(f"benchmarks.{name}")
        with tempfile.TemporaryDirectory() as folder:
            for pair in module.run(Path(folder)):
                seconds = (f"{pair.ours.seconds:.3f}", f"{pair.peer.seconds:.3f}", f"{pair.ratio:.3f}")
                shown.add_row(pair.name, *seconds, f"{pair.ours.megabytes:.0f}", f"{pair.peer.megabytes:.0f}")
    Console(width=110).print(shown)


if __name__ == "__main__":
    main()
