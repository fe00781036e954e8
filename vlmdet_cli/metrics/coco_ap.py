"""Average precision and recall, the kinds of error and the class confusion, measured by hotcoco.

The twelve measures are COCO's own, equal to those of pycocotools: AP over IoU 0.50:0.05:0.95, at 0.50 and 0.75, by
object size, and AR with at most 1, 10 and 100 detections a picture and class. Federated truth (pictures in which only
some categories were searched for) is measured by LVIS's rule, equal to lvis-api: at most 300 detections a picture,
which gives AR300 in place of AR1, AR10 and AR100. COCO's -1 for "nothing to find" becomes None.

The kinds of error are TIDE's: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.metrics.matching import Bools, Floats, Ints, ObjectBoxes, PredictedBoxes

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
LVIS_NAMES = {name: name for name in NAMES[:6]} | {
    "AR300": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300",
}  # fmt: skip
ERROR_KINDS = {
    "Cls": "wrong class", "Loc": "badly placed", "Both": "both", "Dupe": "duplicate", "Bkg": "background",
    "Miss": "missed",
}  # fmt: skip
# beyond all of COCO's size ranges (up to 1e10): such an object is ignored, and matched by IoU, not as a crowd
IGNORED_AREA = 1e11


class CocoResult(msgspec.Struct, frozen=True, kw_only=True):
    """``measures`` by name and AP by class; ``errors``: TIDE's counts and what mending each kind would add to AP50.

    ``confusion``: pairs matched at IoU 0.5 without regard to class, ``{true class: {predicted class: n}}``, with what
    was missed and what was false by class.
    """

    measures: dict[str, float | None]
    per_class: dict[str, float | None]
    errors: dict[str, dict[str, float]] = {}
    confusion: dict[str, Any] = {}


class CocoInput(msgspec.Struct, frozen=True, kw_only=True):
    """``scores`` (N,) of the predictions; ``areas`` (M,) of the objects in square pixels as annotated.

    ``names``: all classes by index, those that only predictions have included: without objects they have no AP.
    ``image_ids``: of all pictures by index, those without objects included; equal scores are ranked by them.
    ``federated``: whether there are pictures in which not every category was searched for.
    """

    predictions: PredictedBoxes
    scores: Floats
    objects: ObjectBoxes
    areas: Floats
    names: Sequence[str]
    image_ids: Sequence[ImageId]
    federated: bool = False

    def where(self, counted: Bools) -> "CocoInput":
        """Without the predictions that do not count, without ignored objects, and as if all was searched for."""
        targets = ~self.objects.ignored
        return msgspec.structs.replace(
            self,
            predictions=self.predictions.where(counted),
            scores=self.scores[counted],
            objects=self.objects.where(targets),
            areas=self.areas[targets],
            federated=False,
        )


def coco_ap(given: CocoInput, counted: Bools) -> CocoResult:
    """All measures. ``counted`` (N,): the predictions whose errors are analysed; AP has its own rule for the rest."""
    if not len(given.objects.picture) or not len(given.predictions.picture):
        return _nothing_matched(given)
    evaluator = _evaluator(given)
    results = evaluator.get_results(per_class=True)
    if given.federated:
        measures = dict.fromkeys(NAMES) | {name: _defined(results[key]) for name, key in LVIS_NAMES.items()}
    else:
        measures = dict(zip(NAMES, map(_defined, evaluator.stats), strict=True))
    per_class = {name: _defined(results.get(f"AP/{number}")) for number, name in enumerate(given.names, 1)}
    return CocoResult(measures=measures, per_class=per_class, **_analysis(given, evaluator, counted))


def _evaluator(given: CocoInput) -> Any:
    """Hotcoco's evaluator after its whole run. Pictures are numbered by rank of their ids: COCO visits them so."""
    import hotcoco

    objects, predictions = given.objects, given.predictions
    rank = _ranks(given.image_ids)
    truth = hotcoco.COCO.from_arrays(
        images=_images(given, rank),
        categories=[{"id": number, "name": str(number)} for number in range(1, len(given.names) + 1)],
        image_ids=rank[objects.picture],
        category_ids=objects.label + 1,
        boxes=xyxy_to_xywh(objects.box),
        area=np.where(objects.ignored & ~objects.crowd, IGNORED_AREA, given.areas),
        iscrowd=objects.crowd,
    )
    columns = (rank[predictions.picture], xyxy_to_xywh(predictions.box), given.scores, predictions.label + 1)
    results = truth.load_res(np.column_stack(columns))
    evaluator = hotcoco.COCOeval(truth, results, "bbox", lvis_style=given.federated)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
        evaluator.run()
    return evaluator


def _ranks(image_ids: Sequence[ImageId]) -> Ints:
    """``(P,)``: from 1, the rank of each picture by ascending id; whole numbers come before text."""
    order = sorted(range(len(image_ids)), key=lambda index: (isinstance(image_ids[index], str), image_ids[index]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def _images(given: CocoInput, rank: Ints) -> list[dict[str, Any]]:
    """Image records; of federated truth with the classes that LVIS's rule asks for, so far as any is predicted."""
    images: list[dict[str, Any]] = [{"id": number, "width": 0, "height": 0} for number in sorted(rank.tolist())]
    if given.federated:
        searched = given.predictions.searched
        for key, mask in (("neg_category_ids", searched), ("not_exhaustive_category_ids", ~searched)):
            part = given.predictions.where(mask)
            for image in images:
                image[key] = []
            pairs = np.unique(np.column_stack([rank[part.picture], part.label + 1]), axis=0)
            for number, label in pairs.tolist():
                images[number - 1][key].append(label)
    return images


def _analysis(given: CocoInput, evaluator: Any, counted: Bools) -> dict[str, Any]:
    """Errors and confusion of the predictions that count."""
    if given.federated or given.objects.ignored.any():
        given = given.where(counted)
        if not len(given.objects.picture) or not len(given.predictions.picture):
            return {}
        evaluator = _evaluator(given)
    return {
        "errors": _errors(evaluator.tide_errors()),
        "confusion": _confusion(evaluator.confusion_matrix(max_det=1_000_000)["matrix"], given.names),
    }


def _errors(tide: Any) -> dict[str, dict[str, float]]:
    return {
        name: {"count": tide["counts"].get(kind, 0), "delta_ap50": tide["delta_ap"].get(kind, 0.0)}
        for kind, name in ERROR_KINDS.items()
    }


def _confusion(matrix: Any, names: Sequence[str]) -> dict[str, Any]:
    """Its cells that are not 0; the last row and column are the background."""
    pairs: dict[str, dict[str, int]] = {}
    for true, predicted in zip(*np.nonzero(matrix[:-1, :-1]), strict=True):
        pairs.setdefault(names[true], {})[names[predicted]] = int(matrix[true, predicted])
    return {
        "pairs": pairs,
        "missed": {name: int(count) for name, count in zip(names, matrix[:-1, -1], strict=True) if count},
        "false": {name: int(count) for name, count in zip(names, matrix[-1, :-1], strict=True) if count},
    }


def _nothing_matched(given: CocoInput) -> CocoResult:
    """Without objects nothing is defined; without predictions every measure of what could be found is 0."""
    targets = given.objects.targets
    present = set(given.objects.label[targets].tolist())
    sizes = given.areas[targets]
    ranges = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, np.inf)}
    sized = {name: bool(((sizes >= low) & (sizes <= high)).any()) for name, (low, high) in ranges.items()}
    by_size = {f"{kind}{size}": there for kind in ("AP", "AR") for size, there in sized.items()}
    names = (*NAMES[:6], *NAMES[9:], "AR300") if given.federated else NAMES
    zero = {name: 0.0 if by_size.get(name, bool(present)) else None for name in names}
    measures: dict[str, float | None] = dict.fromkeys(NAMES) | zero
    per_class = {name: 0.0 if number in present else None for number, name in enumerate(given.names)}
    return CocoResult(measures=measures, per_class=per_class)


def _defined(value: float | None) -> float | None:
    return None if value is None or value < 0 else float(value)
