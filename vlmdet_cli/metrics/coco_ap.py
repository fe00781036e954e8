"""COCO's AP and AR by hotcoco: the numbers of pycocotools, many times faster.

The twelve measures are COCO's own: AP over IoU 0.50:0.05:0.95, at 0.50 and 0.75, by object size, and AR with at
most 1, 10 and 100 detections a picture. COCO's -1 for "nothing to find" becomes None.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np

from vlmdet_cli.boxes import xyxy_to_xywh
from vlmdet_cli.metrics.matching import Flat, Floats

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_ap(
    predictions: Flat, scores: Floats, objects: Flat, areas: Floats | None, names: Sequence[str], pictures: int
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The twelve measures, and AP by class name. Predictions of classes beyond ``names`` are left out, as in COCO.

    ``areas``: annotated areas in square pixels; without them the boxes' own. ``pictures``: how many there are,
    those without objects included.
    """
    known = predictions.label < len(names)
    if not len(objects.picture) or not known.any():
        return _nothing_matched(objects, areas, names)
    import hotcoco

    truth = hotcoco.COCO.from_arrays(
        images=[{"id": number, "width": 0, "height": 0} for number in range(1, pictures + 1)],
        categories=[{"id": number, "name": str(number)} for number in range(1, len(names) + 1)],
        image_ids=objects.picture + 1,
        category_ids=objects.label + 1,
        boxes=xyxy_to_xywh(objects.box),
        area=_areas(objects) if areas is None else areas,
        iscrowd=objects.crowd,
    )
    columns = (predictions.picture[known] + 1, xyxy_to_xywh(predictions.box[known]), scores[known])
    found = truth.load_res(np.column_stack([*columns, predictions.label[known] + 1]))
    run = hotcoco.COCOeval(truth, found, "bbox")
    run.evaluate()
    run.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table, whoever calls
        run.summarize()
    results = run.get_results(per_class=True)
    per_class = {name: _defined(results.get(f"AP/{number}")) for number, name in enumerate(names, 1)}
    return dict(zip(NAMES, map(_defined, run.stats), strict=True)), per_class


def _nothing_matched(
    objects: Flat, areas: Floats | None, names: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Without objects nothing is defined; without predictions all that could be found counts as missed."""
    targets = ~objects.crowd
    there = set(objects.label[targets].tolist())
    sizes = (_areas(objects) if areas is None else areas)[targets]
    small, large = bool((sizes <= 32**2).any()), bool((sizes >= 96**2).any())
    medium = bool(((sizes >= 32**2) & (sizes <= 96**2)).any())
    defined = dict.fromkeys(NAMES, bool(there)) | {"APs": small, "APm": medium, "APl": large}
    defined |= {"ARs": small, "ARm": medium, "ARl": large}
    measures: dict[str, float | None] = {name: 0.0 if defined[name] else None for name in NAMES}
    return measures, {name: 0.0 if number in there else None for number, name in enumerate(names)}


def _areas(boxes: Flat) -> Floats:
    areas: Floats = (boxes.box[:, 2] - boxes.box[:, 0]) * (boxes.box[:, 3] - boxes.box[:, 1])
    return areas


def _defined(value: float | None) -> float | None:
    return None if value is None or value < 0 else float(value)
