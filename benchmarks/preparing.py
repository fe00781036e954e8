"""``prepare`` and ``augment`` at the size of COCO 2017 train, against what reading the annotation file alone costs.

The bare decode is a single typed pass over the mapped file that keeps the fields a detector needs, and nothing else.
Pictures are hard links to a few files, and their folder is linked as a whole: the data are measured, not the copying of
images. Hard links for each picture, and reading each header, are measured on their own.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks import synthetic_coco
from benchmarks.timing import Cost, Pair, paired, process, vlmdet

PICTURES = 118_287  # of COCO 2017 train
MAX_LINKS = 50_000  # to the same file; file systems allow some 65,000
BARE = """
import mmap, sys, msgspec
class Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int
class Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
class Category(msgspec.Struct):
    id: int
    name: str
class File(msgspec.Struct):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
with open("annotations.json", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
    msgspec.json.decode(data, type=File)
"""
PEER = """
from pycocotools.coco import COCO
COCO("annotations.json")
"""
PROJECT = """
[project]
output = "out"
[data]
images = "folder"
check = "none"
[data.train]
annotations = "annotations.json"
images = "images"
[data.split]
val = 0.0
test = 0.0
[subset]
empty = 1.0
"""


def write(folder: Path, pictures: int, *, polygons: bool = True) -> None:
    """Write a COCO file, its pictures, the project, and the scripts of the peers."""
    folder.mkdir(exist_ok=True)
    synthetic_coco.write(folder / "annotations.json", pictures, polygons=polygons)
    (folder / "vlmdet.toml").write_text(PROJECT)
    for name, script in (("bare.py", BARE), ("peer.py", PEER)):
        (folder / name).write_text(script)
    (folder / "images").mkdir()
    link_counts: dict[tuple[int, int], int] = {}
    for number in range(pictures):
        size = synthetic_coco.size(number, 0)
        count = link_counts.get(size, 0)
        link_counts[size] = count + 1
        base = folder / f"base_{size[0]}_{size[1]}_{count // MAX_LINKS}.jpg"
        if count % MAX_LINKS == 0:
            Image.new("RGB", size, (90, 120, 30)).save(base)
        os.link(base, folder / "images" / f"{number:012d}.jpg")


def run(folder: Path) -> Iterator[Pair]:
    full = folder / "full"
    write(full, PICTURES)
    bare, peer = [sys.executable, "bare.py"], [sys.executable, "peer.py"]

    def prepare(*arguments: str) -> Cost:
        """Into an empty output folder, as the first time."""
        shutil.rmtree(full / "out", ignore_errors=True)
        return process(vlmdet("prepare", "-q", *arguments), full)

    yield paired("prepare, COCO train, against the bare decode", prepare, lambda: process(bare, full), 5)
    yield paired("prepare, against the load of pycocotools", prepare, lambda: process(peer, full), 1)
    yield paired(
        "augment, four kinds, all pictures, against prepare",
        lambda: process(vlmdet("augment", "-q"), full),
        lambda: process(vlmdet("prepare", "-q"), full),
        3,
    )
    for name, setting in (("hard links", "data.images=link"), ("each header read", "data.check=header")):
        yield Pair(f"prepare with {name}, against the bare decode", prepare("--set", setting), process(bare, full))
