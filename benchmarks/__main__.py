"""Run all benchmarks, or those that are named, and print a table."""

import compileall
import importlib
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vlmdet_cli

NAMES = ("startup", "parsing", "evaluation", "preparing", "growing", "inferring", "answering", "serving")


def main() -> None:
    compileall.compile_dir(str(Path(vlmdet_cli.__file__).parent), quiet=1)  # as in an installed package
    table = Table("what", "vlmdet s", "peer s", "ratio", "CPU ratio", "vlmdet MB", "peer MB")
    for name in sys.argv[1:] or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        with tempfile.TemporaryDirectory() as folder:
            for pair in module.run(Path(folder)):
                seconds = (pair.ours.seconds, pair.peer.seconds, pair.ratio, pair.cpu_ratio)
                megabytes = (pair.ours.megabytes, pair.peer.megabytes)
                table.add_row(
                    pair.name, *(f"{value:.3f}" for value in seconds), *(f"{value:.0f}" for value in megabytes)
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
