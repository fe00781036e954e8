"""What hotcoco measures: COCO's AP and AR (the numbers of pycocotools, many times faster), TIDE's kinds of error, the
class confusion, and how well scores are calibrated.

The twelve measures are COCO's own: AP over IoU 0.50:0.05:0.95, at 0.50 and 0.75, by object size, and AR with at
most 1, 10 and 100 detections a picture. COCO's -1 for "nothing to find" becomes None. TIDE: Bolya et al., "TIDE: A
General Toolbox for Identifying Object Detection Errors", 2020.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.metrics.matching import Flat, Floats

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = {
    "Cls": "wrong class", "Loc": "badly placed", "Both": "both", "Dupe": "duplicate", "Bkg": "background",
    "Miss": "missed",
}  # fmt: skip


class Coco(msgspec.Struct, frozen=True, kw_only=True):
    """``measures`` by name and AP by class; ``errors``: TIDE's counts and what mending each kind would add to AP50.

    ``confusion``: pairs matched at IoU 0.5 without regard to class, ``{true class: {said class: n}}``, with what was
    missed and what was false by class. ``calibration``: expected calibration error and bins of score.
    """

    measures: dict[str, float | None]
    per_class: dict[str, float | None]
    errors: dict[str, dict[str, float]] = {}
    confusion: dict[str, Any] = {}
    calibration: dict[str, Any] = {}


def coco_ap(
    predictions: Flat, scores: Floats, objects: Flat, areas: Floats | None, names: Sequence[str], pictures: int
) -> Coco:
    """``names``: all classes by index, those that only predictions have included: without objects they have no AP.

    ``areas``: annotated areas in square pixels; without them the boxes' own. ``pictures``: how many there are,
    those without objects included.
    """
    if not len(objects.picture) or not len(predictions.picture):
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
    columns = (predictions.picture + 1, xyxy_to_xywh(predictions.box), scores, predictions.label + 1)
    run = hotcoco.COCOeval(truth, truth.load_res(np.column_stack(columns)), "bbox")
    run.evaluate()
    run.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table, whoever calls
        run.summarize()
    results = run.get_results(per_class=True)
    return Coco(
        measures=dict(zip(NAMES, map(_defined, run.stats), strict=True)),
        per_class={name: _defined(results.get(f"AP/{number}")) for number, name in enumerate(names, 1)},
        errors=_errors(run.tide_errors()),
        confusion=_confusion(run.confusion_matrix(max_det=1_000_000)["matrix"], names),
        calibration=_calibration(run.calibration(n_bins=10, iou_threshold=0.5)),
    )


def _errors(tide: Any) -> dict[str, dict[str, float]]:
    return {
        name: {"count": tide["counts"].get(kind, 0), "delta_ap50": tide["delta_ap"].get(kind, 0.0)}
        for kind, name in KINDS.items()
    }


def _confusion(matrix: Any, names: Sequence[str]) -> dict[str, Any]:
    """Its cells that are not 0; the last row and column are the background."""
    pairs: dict[str, dict[str, int]] = {}
    for true, said in zip(*np.nonzero(matrix[:-1, :-1]), strict=True):
        pairs.setdefault(names[true], {})[names[said]] = int(matrix[true, said])
    return {
        "pairs": pairs,
        "missed": {name: int(count) for name, count in zip(names, matrix[:-1, -1], strict=True) if count},
        "false": {name: int(count) for name, count in zip(names, matrix[-1, :-1], strict=True) if count},
    }


def _calibration(found: Any) -> dict[str, Any]:
    bins = [
        {
            "from": round(one["bin_lower"], 3),
            "to": round(one["bin_upper"], 3),
            "count": one["count"],
            "mean_score": one["avg_confidence"],
            "share_right": one["avg_accuracy"],
        }
        for one in found["bins"]
        if one["count"]
    ]
    return {"expected_calibration_error": found["ece"], "bins": bins}


def _nothing_matched(objects: Flat, areas: Floats | None, names: Sequence[str]) -> Coco:
    """Without objects nothing is defined; without predictions all that could be found counts as missed."""
    targets = ~objects.crowd
    there = set(objects.label[targets].tolist())
    sizes = (_areas(objects) if areas is None else areas)[targets]
    small, large = bool((sizes <= 32**2).any()), bool((sizes >= 96**2).any())
    medium = bool(((sizes >= 32**2) & (sizes <= 96**2)).any())
    defined = dict.fromkeys(NAMES, bool(there)) | {"APs": small, "APm": medium, "APl": large}
    defined |= {"ARs": small, "ARm": medium, "ARl": large}
    measures: dict[str, float | None] = {name: 0.0 if defined[name] else None for name in NAMES}
    per_class = {name: 0.0 if number in there else None for number, name in enumerate(names)}
    return Coco(measures=measures, per_class=per_class)


def _areas(boxes: Flat) -> Floats:
    areas: Floats = (boxes.box[:, 2] - boxes.box[:, 0]) * (boxes.box[:, 3] - boxes.box[:, 1])
    return areas


def _defined(value: float | None) -> float | None:
    return None if value is None or value < 0 else float(value)
