"""The demo's synthetic pictures and their annotations."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmdet_cli.demo import worlds
from vlmdet_cli.demo.worlds import SHAPES, SIZE, STREET, World, draw_scene, write_coco


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        write_coco(tmp_path / name, STREET, {"train": 3, "val": 2}, seed)
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")
    assert set(files(tmp_path / "a")) == {
        "annotations/instances_train.json", "annotations/instances_val.json",
        *(f"images/train/00000{n}.jpg" for n in (1, 2, 3)), *(f"images/val/00000{n}.jpg" for n in (1, 2)),
    }  # fmt: skip


def test_the_demos_annotations_are_the_ones_that_its_documented_numbers_were_measured_on(tmp_path: Path) -> None:
    write_coco(tmp_path, STREET, {"train": 12})
    document: dict[str, Any] = json.loads((tmp_path / "annotations/instances_train.json").read_bytes())
    boxes = [[a["image_id"], a["category_id"], *a["bbox"], a["iscrowd"]] for a in document["annotations"]]
    assert hashlib.sha256(json.dumps(boxes).encode()).hexdigest()[:16] == "60c2ac73ce4779c5"


@pytest.mark.parametrize("world", [SHAPES, STREET])
def test_objects_lie_in_the_picture_and_have_the_worlds_sizes_and_names(world: World) -> None:
    rng = np.random.default_rng(1)
    scenes = [draw_scene(world, rng) for _ in range(150)]
    names, objects = {category.name for category in world.categories}, [o for scene in scenes for o in scene.objects]
    assert {o.label for o in objects} == names
    for o in objects:
        x1, y1, x2, y2 = o.box
        assert 0 <= x1 < x2 <= SIZE
        assert 0 <= y1 < y2 <= SIZE
        assert o.crowd or max(x2 - x1, y2 - y1) <= world.sides[1]
    assert {len([o for o in scene.objects if not o.crowd]) for scene in scenes} == set(range(7))
    assert any(o.crowd for o in objects)


def test_the_box_of_an_object_bounds_the_pixels_that_differ_from_the_background() -> None:
    """The first object of a scene without crowds is drawn on the background, which the same seed draws again."""
    checked = 0
    for seed in range(40):
        scene = draw_scene(STREET, np.random.default_rng(seed))
        if len(scene.objects) != 1 or scene.objects[0].crowd:
            continue
        background = worlds._background(np.random.default_rng(seed))
        differs = np.any(np.asarray(scene.image) != np.asarray(background), axis=2)
        rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
        bounds = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.subtract(bounds, scene.objects[0].box)).max() <= 1  # transparent corners may hide a row
        checked += 1
    assert checked > 3
