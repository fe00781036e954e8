"""Every dialect against ms-swift's own template of that family, over random boxes, picture sizes and pixel limits."""

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts import object_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
SCRIPT = Path(__file__).parent / "swift_boxes.py"
ABLE = [name for name in dialects.names() if dialects.get(name).objects_form]
Row = dict[str, Any]


class Scene(msgspec.Struct):
    """A picture's size, the training's pixel limit, and boxes of any kind."""

    size: tuple[int, int]
    max_pixels: int | None
    objects: list[tuple[str, Box]]

    def dialect(self, name: str) -> Dialect:
        return dialects.get(name, self.max_pixels)

    def rows(self, name: str) -> list[Row]:
        """Two detection rows, a row with placeholders in both turns, and a row of boxes as drawn."""
        dialect = self.dialect(name)
        exact = object_rows.pixels([box for _, box in self.objects], [self.size] * len(self.objects), dialect).tolist()
        pairs = [(label, tuple(box)) for (label, _), box in zip(self.objects, exact, strict=True)]
        rows = [
            object_rows.placed("a.jpg", "Boxes?", *object_rows.detection(pairs, dialect, group=group), dialect)
            for group in (False, True)
        ]
        ask, answer = "<bbox>, is <ref-object> there?", "No: <bbox> has <ref-object>, <bbox> nothing."
        rows.append(object_rows.placed("a.jpg", ask, answer, [("", pairs[0][1]), pairs[1], pairs[2]], dialect))
        wild: list[tuple[str, Box]] = [(label, (box[2] * 1.3, *box[1:])) for label, box in self.objects]
        return [*rows, object_rows.placed("a.jpg", "?", *object_rows.detection(wild, dialect), dialect)]


def scenes(count: int) -> list[Scene]:
    """Sizes from tiny to huge, of any shape; some boxes reach the far border, some are thinner than a unit."""
    draw, drawn = random.Random(7), list[Scene]()  # noqa: S311
    while len(drawn) < count:
        width, height = (int(2 ** draw.uniform(6, 12)) for _ in range(2))
        if max(width, height) / min(width, height) > 100:
            continue
        objects = [
            (label, _box(draw, width, height))
            for label in draw.choices(["cat", "stop sign", 'the "big" one', "猫"], k=4)
        ]
        limit = draw.choice([None, 200 * 200, 602_112, 2000 * 1000])
        drawn.append(Scene((width, height), limit, objects))
    return drawn


def _box(draw: random.Random, width: int, height: int) -> Box:
    x1, x2 = sorted(draw.uniform(0, width) for _ in range(2))
    y1, y2 = sorted(draw.uniform(0, height) for _ in range(2))
    far, thin = draw.random() < 0.1, draw.random() < 0.2
    return (x1, y1, float(width) if far else x1 + width / 1e5 if thin else x2, y2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, dict[str, list[list[str]]]]]:
    """Scenes, each with swift's texts of its rows."""
    folder, drawn = tmp_path_factory.mktemp("templates"), scenes(150)
    given = [{**msgspec.to_builtins(scene), "rows": {name: scene.rows(name) for name in ABLE}} for scene in drawn]
    command = [sys.executable, str(SCRIPT), "out.json"]
    done = subprocess.run(command, cwd=folder, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(zip(drawn, json.loads((folder / "out.json").read_text()), strict=True))


@pytest.mark.parametrize("name", ABLE)
def test_rows_with_objects_read_as_swift_reads_them(
    compared: list[tuple[Scene, dict[str, list[list[str]]]]], name: str
) -> None:
    for scene, swift_texts in compared:
        for row, expected in zip(scene.rows(name), swift_texts[name], strict=True):
            filled = object_rows.filled(row, scene.dialect(name), scene.size)
            assert [message["content"] for message in filled["messages"]] == expected, (scene, row)


@pytest.mark.parametrize("name", ABLE)
def test_boxes_are_written_as_swift_writes_them(
    compared: list[tuple[Scene, dict[str, list[list[str]]]]], name: str
) -> None:
    for scene, swift_texts in compared:
        dialect = scene.dialect(name)
        for group, (_, answer) in zip((False, dialect.objects_group), swift_texts[name][:2], strict=True):
            assert dialect.render(scene.objects, scene.size, group=group) == answer, scene
