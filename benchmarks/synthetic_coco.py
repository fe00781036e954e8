"""A synthetic COCO file of any size with the statistics of COCO 2017 train.

Class frequencies fall as those of the 80 classes do (person is 30 %), the number of objects in a picture follows the
real quantiles (a tenth of the pictures has one, the median five, a tenth over 21), sides follow a log-normal law, and
polygons have as many corners as those of COCO.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 80
SIZES = ((640, 480), (640, 427), (480, 640), (427, 640), (500, 375), (640, 640))
SHARES = (0.36, 0.27, 0.16, 0.11, 0.06, 0.04)
# objects in a picture at the 0th, 10th, …, 100th percentile; their mean is 9.4
QUANTILES = (0, 1, 2, 3, 4, 6, 8, 11, 15, 23, 40)
CHUNK = 2000


def write(path: Path, pictures: int, *, polygons: bool = True, seed: int = 0) -> int:
    """Write so many pictures and their annotations, and return the number of annotations."""
    boxes = 0
    with path.open("w") as file:
        file.write('{"info":{"description":"synthetic"},"images":[')
        for start in range(0, pictures, CHUNK):
            images = [_image(n, seed) for n in range(start, min(start + CHUNK, pictures))]
            file.write("," * (start > 0) + json.dumps(images)[1:-1])
        file.write('],"annotations":[')
        for start in range(0, pictures, CHUNK):
            annotations = list(_annotations(start, min(start + CHUNK, pictures), boxes, polygons, seed))
            boxes += len(annotations)
            file.write("," * (start > 0) + ",".join(annotations))
        categories = [{"id": n, "name": f"class {n}", "supercategory": "thing"} for n in range(1, CLASSES + 1)]
        file.write(f'],"categories":{json.dumps(categories)}}}')
    return boxes


def size(number: int, seed: int) -> tuple[int, int]:
    return SIZES[int(np.searchsorted(np.cumsum(SHARES), ((number * 0.6180339887 + seed * 0.37) % 1.0)))]


def _image(number: int, seed: int) -> dict[str, Any]:
    width, height = size(number, seed)
    return {
        "license": 1 + number % 8,
        "file_name": f"{number:012d}.jpg",
        "coco_url": f"http://images.example.org/train/{number:012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm.example.org/{number}/{number * 7919}_z.jpg",
        "id": number,
    }


def _annotations(first: int, last: int, before: int, polygons: bool, seed: int) -> Iterator[str]:
    rng = np.random.default_rng((seed, first))
    counts = np.interp(rng.random(last - first), np.linspace(0, 1, len(QUANTILES)), QUANTILES).round().astype(int)
    weights = 1 / np.arange(1, CLASSES + 1) ** 0.9
    total = int(counts.sum())
    category = rng.choice(CLASSES, total, p=weights / weights.sum()) + 1
    sizes = np.repeat(np.array([size(n, seed) for n in range(first, last)]), counts, axis=0)
    sides = np.minimum(np.exp(rng.normal(-2.1, 0.95, (total, 2))) * sizes, sizes * 0.98).round(2)
    corner = (rng.random((total, 2)) * (sizes - sides)).round(2)
    points = (np.exp(rng.normal(3.05, 0.6, total)).astype(int)).clip(4, 200)
    crowd = rng.random(total) < 0.008
    image = np.repeat(np.arange(first, last), counts)
    dots = rng.random(4096).round(4)
    for n, (x, y), (w, h), c, i, k, is_crowd in zip(
        range(total), corner.tolist(), sides.tolist(), category.tolist(), image.tolist(), points.tolist(),
        crowd.tolist(), strict=True,
    ):  # fmt: skip
        polygon: Any = []
        if polygons and is_crowd:
            polygon = {"counts": [int(v * 900) for v in dots[:k]], "size": [480, 640]}
        elif polygons:
            start = n % (4096 - 2 * k)
            ring = np.empty(2 * k)
            ring[0::2] = x + w * dots[start : start + k]
            ring[1::2] = y + h * dots[start + k : start + 2 * k]
            polygon = [ring.round(2).tolist()]
        yield json.dumps({
            "segmentation": polygon, "area": round(w * h * 0.6, 4), "iscrowd": int(is_crowd), "image_id": i,
            "bbox": [x, y, w, h], "category_id": c, "id": before + n + 1,
        })  # fmt: skip
