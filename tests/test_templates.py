"""Every dialect against ms-swift's own template of that family, over random boxes and picture sizes."""

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli import dialects
from vlmdet_cli.records import Box

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
SCRIPT = Path(__file__).parent / "swift_boxes.py"
Scene = tuple[tuple[int, int], list[tuple[str, Box]]]


def scenes(count: int) -> list[Scene]:
    """Sizes from tiny to huge, of any shape; some boxes reach the far border.

    Boxes are larger than one unit: smaller ones keep one, by a rule of ours.
    """
    draw, made = random.Random(7), list[Scene]()  # noqa: S311
    for _ in range(count):
        width, height = (int(2 ** draw.uniform(6, 12)) for _ in range(2))
        if max(width, height) / min(width, height) > 100:
            continue
        objects: list[tuple[str, Box]] = []
        for label in draw.choices(["cat", "traffic light", 'the "big" one', "猫"], k=4):
            x1, x2 = sorted(draw.uniform(0, width) for _ in range(2))
            y1, y2 = sorted(draw.uniform(0, height) for _ in range(2))
            far = draw.random() < 0.1
            box = (x1, y1, float(width) if far else max(x2, x1 + 2 + width / 400), max(y2, y1 + 2 + height / 400))
            objects.append((label, box))
        made.append(((width, height), objects))
    return made


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Scene], list[dict[str, Any]]]:
    folder, made = tmp_path_factory.mktemp("templates"), scenes(150)
    command = [sys.executable, str(SCRIPT), "out.json"]
    done = subprocess.run(command, cwd=folder, input=json.dumps(made), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made, json.loads((folder / "out.json").read_text())


def form(name: str, label: str, pair: list[str]) -> str:
    """swift's reference and box in the family's answer; in JSON they are values behind keys."""
    ref, box = pair
    if name in {"qwen2_5_vl", "qwen3_vl"}:
        assert ref == label
        return f'[{{"bbox_2d": {box}, "label": {json.dumps(ref, ensure_ascii=False)}}}]'
    return ref + box


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "florence2"])
def test_a_box_is_written_as_swift_writes_it(theirs: tuple[list[Scene], list[dict[str, Any]]], name: str) -> None:
    dialect, compared = dialects.get(name), 0
    for (size, objects), texts in zip(*theirs, strict=True):
        for (label, box), pair in zip(objects, texts[name], strict=True):
            mine, expected = dialect.render([(label, box)], size), form(name, label, pair)
            if name == "florence2":  # the family has no token for 1000
                expected = expected.replace("<loc_1000>", "<loc_999>")
            assert mine == expected, (size, box)
            compared += 1
    assert compared > 500
