"""COCO AP and AR against pycocotools, to 1e-9."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vlmdet_cli.data.ground_truth import read
from vlmdet_cli.metrics.coco_ap import NAMES, coco_ap
from vlmdet_cli.metrics.matching import Flat, flat

Floats = npt.NDArray[np.float64]


def xywh(box: Any) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def peer(predictions: Flat, scores: Floats, objects: Flat, areas: Floats, classes: int, pictures: int) -> list[float]:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "width": 0, "height": 0} for n in range(1, pictures + 1)],
        "categories": [{"id": n, "name": str(n)} for n in range(1, classes + 1)],
        "annotations": [
            {"id": n + 1, "image_id": int(objects.picture[n]) + 1, "category_id": int(objects.label[n]) + 1,
             "bbox": xywh(objects.box[n]), "area": float(areas[n]), "iscrowd": int(objects.crowd[n])}
            for n in range(len(objects.picture))
        ],
    }  # fmt: skip
    rows = [
        {"image_id": int(predictions.picture[n]) + 1, "category_id": int(predictions.label[n]) + 1,
         "bbox": xywh(predictions.box[n]), "score": float(scores[n])}
        for n in range(len(predictions.picture)) if predictions.label[n] < classes
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(rows) if rows else COCO(), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def boxes(rng: np.random.Generator, count: int, pictures: int, classes: int, crowds: float) -> Flat:
    corner, sides = rng.uniform(0, 200, (count, 2)), rng.uniform(2, 150, (count, 2))
    return Flat(
        rng.integers(0, pictures, count),
        rng.integers(0, classes, count),
        np.hstack([corner, corner + sides]),
        rng.random(count) < crowds,
    )


def near(rng: np.random.Generator, objects: Flat, count: int) -> Flat:
    """Predictions beside true objects, so that there is something to find."""
    pick = rng.integers(0, len(objects.picture), count)
    moved = objects.box[pick] + rng.normal(0, 4, (count, 4)) * [0, 0, 1, 1]
    return Flat(objects.picture[pick], objects.label[pick], moved, np.zeros(count, dtype=bool))


def together(one: Flat, two: Flat) -> Flat:
    return Flat(*(np.concatenate(pair) for pair in zip(one, two, strict=True)))


@pytest.mark.parametrize("seed", range(40))
def test_all_twelve_measures_equal_pycocotools(seed: int) -> None:
    """Crowds, areas unlike the boxes', equal scores, empty pictures, one class, labels that are no category."""
    rng = np.random.default_rng(seed)
    pictures, classes = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    objects = boxes(rng, int(rng.integers(1, 40)), pictures, classes, 0.15)
    predictions = together(boxes(rng, int(rng.integers(1, 30)), pictures, classes + 1, 0), near(rng, objects, 20))
    count = len(predictions.picture)
    scores = np.ones(count) if seed % 2 else rng.integers(0, 4, count) / 4
    sides = objects.box[:, 2:] - objects.box[:, :2]
    areas = sides[:, 0] * sides[:, 1] * rng.uniform(0.4, 1, len(sides))
    mine = coco_ap(predictions, scores, objects, areas, [str(n) for n in range(classes)], pictures).measures
    theirs = peer(predictions, scores, objects, areas, classes, pictures)
    assert list(mine) == list(NAMES)
    for name, value, expected in zip(NAMES, mine.values(), theirs, strict=True):
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-9), name


def test_no_predictions_is_zero_and_no_truth_is_undefined() -> None:
    objects, nothing = flat([(0, 0, (0, 0, 10, 10), False)]), flat([])
    sides = np.array([100.0])
    made = coco_ap(nothing, np.zeros(0), objects, sides, ["a", "b"], 1)
    mine, per_class = made.measures, made.per_class
    assert (mine["AP"], mine["APs"], mine["APl"], per_class) == (0.0, 0.0, None, {"a": 0.0, "b": None})
    mine = coco_ap(objects, np.ones(1), nothing, np.zeros(0), ["a"], 1).measures
    assert set(mine.values()) == {None}


def test_real_pictures_equal_pycocotools(tiny_coco: Path) -> None:
    truth = read(tiny_coco / "annotations" / "instances_val2017.json")
    place = {name: number for number, name in enumerate(truth.categories)}
    rows = [(n, place[o.label], o.box, o.crowd) for n, p in enumerate(truth.pictures) for o in p.objects]
    objects, rng = flat(rows), np.random.default_rng(5)
    predictions = near(rng, objects, 60)
    scores, areas = rng.random(60), np.array(truth.areas)
    mine = coco_ap(predictions, scores, objects, areas, truth.categories, len(truth.pictures)).measures
    theirs = peer(predictions, scores, objects, areas, len(truth.categories), len(truth.pictures))
    for name, value, expected in zip(NAMES, mine.values(), theirs, strict=True):
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-9), name
    assert mine["AP"] is not None
    assert mine["AP"] > 0.1
