"""Builders that the tests of all rooms share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vlmdet_cli.cli import app

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

Cli = Callable[..., Result]
# name, (left, top, width, height)
Boxes = Sequence[tuple[str, tuple[float, float, float, float]]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line in an empty folder, at 100 columns, without colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLMDET_PROJECT", raising=False)
    for name, value in {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run


@pytest.fixture
def tiny_coco() -> Path:
    """A folder of real COCO pictures; the test is skipped where there is none."""
    folder = SHARED / "tiny_coco"
    if not folder.is_dir():
        pytest.skip("no real COCO pictures on this machine")
    return folder


def picture(folder: Path, name: str, size: tuple[int, int] = (64, 48)) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(name) * 7 % 255, 90, 30)).save(path)
    return path


def coco_document(
    pictures: Mapping[str, Boxes], size: tuple[int, int] = (64, 48), categories: Sequence[str] = ("cat", "dog")
) -> dict[str, Any]:
    """A COCO document of file names and their boxes; a category after ``crowd:`` is a crowd's."""
    ids = {name: number for number, name in enumerate(categories, 1)}
    images = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        for number, name in enumerate(pictures, 1)
    ]
    annotations = [
        {
            "image_id": number,
            "category_id": ids[name.removeprefix("crowd:")],
            "bbox": list(bbox),
            "iscrowd": int(name.startswith("crowd:")),
        }
        for number, boxes in enumerate(pictures.values(), 1)
        for name, bbox in boxes
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    category_rows = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": category_rows}


def write_project(folder: Path, pictures: Mapping[str, Boxes], text: str = "", **document: Any) -> Path:
    """Write pictures, their annotations and a project file; ``text`` is more TOML. No part of train is split off."""
    coco = coco_document(pictures, **document)
    for image in coco["images"]:
        picture(folder / "images", image["file_name"], (image["width"], image["height"]))
    (folder / "annotations.json").write_text(json.dumps(coco))
    file = folder / "vlmdet.toml"
    file.write_text(
        '[project]\noutput = "out"\n[data.train]\nannotations = "annotations.json"\nimages = "images"\n'
        f"[data.split]\nval = 0.0\ntest = 0.0\n{text}"
    )
    return file


def vlmdet(folder: Path, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, offline, which must end with ``code`` and without a traceback."""
    command = [sys.executable, "-m", "vlmdet_cli", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, (arguments, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    return done
