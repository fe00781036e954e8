"""``prepare`` and ``augment`` from 1,000 pictures to a million, without polygons; the peer is the bare decode."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import preparing
from benchmarks.timing import Pair, process, vlmdet


def run(folder: Path) -> Iterator[Pair]:
    for pictures in (1_000, 10_000, 100_000, 1_000_000):
        project = folder / str(pictures)
        preparing.write(project, pictures, polygons=False)
        for command in ("prepare", "augment"):
            cost = process(vlmdet(command, "-q"), project)
            yield Pair(f"{command} of {pictures:,} pictures", cost, process([sys.executable, "bare.py"], project))
        shutil.rmtree(project)
