"""AP and AR against pycocotools, and for federated truth against lvis-api, to 1e-9."""

import contextlib
import copy
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vlmdet_cli.core.boxes import area
from vlmdet_cli.data.ground_truth import read
from vlmdet_cli.metrics.coco_ap import IGNORED_AREA, LVIS_NAMES, NAMES, CocoInput, CocoResult, coco_ap
from vlmdet_cli.metrics.matching import Floats, ObjectBoxes, PredictedBoxes

logging.getLogger("lvis").setLevel(logging.CRITICAL)
SEEDS = st.integers(0, 1_000_000)


class Case:
    """A random truth and predictions; ``ids``: the pictures' ids in the order of the file."""

    def __init__(self, seed: int, *, crowds: float = 0.15, ignored: float = 0.0, classes: int = 3) -> None:
        rng = self.rng = np.random.default_rng(seed)
        pictures, self.classes = int(rng.integers(1, 12)), int(rng.integers(1, classes + 1))
        self.ids: list[Any] = (rng.permutation(pictures) * 7 + 3).tolist()
        count = int(rng.integers(1, 40))
        self.objects = ObjectBoxes(
            rng.integers(0, pictures, count),
            rng.integers(0, self.classes, count),
            self._boxes(count),
            rng.random(count) < crowds,
            rng.random(count) < ignored,
        )
        self.areas = area(self.objects.box) * rng.uniform(0.4, 1, count)
        self.predictions = self._predictions(pictures, int(rng.integers(1, 30)), int(rng.integers(1, 20)))
        number = len(self.predictions.label)
        self.scores = np.ones(number) if rng.random() < 0.5 else rng.integers(0, 4, number) / 4

    def _boxes(self, count: int) -> Floats:
        corner = self.rng.uniform(0, 200, (count, 2))
        return np.hstack([corner, corner + self.rng.uniform(2, 150, (count, 2))])

    def _predictions(self, pictures: int, anywhere: int, near: int) -> PredictedBoxes:
        """Some boxes anywhere, of a label that is no category too, and some beside true objects."""
        pick = self.rng.integers(0, len(self.objects.label), near)
        moved = self.objects.box[pick] + self.rng.normal(0, 4, (near, 4)) * [0, 0, 1, 1]
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        return PredictedBoxes(
            np.concatenate([self.rng.integers(0, pictures, anywhere), self.objects.picture[pick]]),
            np.concatenate([self.rng.integers(0, self.classes + 1, anywhere), self.objects.label[pick]]),
            np.vstack([self._boxes(anywhere), moved]),
            np.ones(anywhere + near, bool),
        )

    def measured(self, *, federated: bool = False) -> CocoResult:
        given = CocoInput(
            predictions=self.predictions,
            scores=self.scores,
            objects=self.objects,
            areas=self.areas,
            names=[f"class {n}" for n in range(self.classes + 1)],
            image_ids=self.ids,
            federated=federated,
        )
        return coco_ap(given, np.ones(len(self.scores), bool))

    def document(self) -> dict[str, Any]:
        """The truth as COCO has it. An ignored object is beyond all size ranges: COCO then ignores it."""
        objects = self.objects
        areas = np.where(objects.ignored & ~objects.crowd, IGNORED_AREA, self.areas)
        return {
            "images": [{"id": key, "width": 0, "height": 0} for key in self.ids],
            "categories": [{"id": n, "name": f"class {n}", "frequency": "f"} for n in range(self.classes)],
            "annotations": [
                {"id": n + 1, "image_id": self.ids[objects.picture[n]], "category_id": int(objects.label[n]),
                 "bbox": xywh(objects.box[n]), "area": float(areas[n]), "iscrowd": int(objects.crowd[n])}
                for n in range(len(objects.label))
            ],
        }  # fmt: skip

    def results(self) -> list[dict[str, Any]]:
        predictions = self.predictions
        return [
            {"image_id": self.ids[predictions.picture[n]], "category_id": int(predictions.label[n]),
             "bbox": xywh(predictions.box[n]), "score": float(self.scores[n])}
            for n in range(len(predictions.label)) if predictions.label[n] < self.classes
        ]  # fmt: skip


def xywh(box: Any) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def pycocotools(case: Case, category: int | None = None) -> list[float]:
    """The twelve measures, of one category alone where it is given."""
    truth = COCO()
    truth.dataset = case.document()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = case.results()
        run = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        if category is not None:
            run.params.catIds = [category]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def same(ours: Sequence[float | None], expected: Sequence[float]) -> bool:
    """Equal to 1e-9; -1 is undefined."""
    pairs = zip(ours, expected, strict=True)
    return all(abs((-1 if value is None else value) - other) <= 1e-9 for value, other in pairs)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_all_twelve_measures_equal_pycocotools(seed: int) -> None:
    """Crowds, areas unlike the boxes', equal scores, empty pictures, ids out of order, labels that are no category."""
    case = Case(seed)
    measures = case.measured().measures
    assert list(measures) == list(NAMES)
    assert same(list(measures.values()), pycocotools(case))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_the_ap_of_each_class_equals_pycocotools(seed: int) -> None:
    case = Case(seed)
    per_class = list(case.measured().per_class.values())
    assert per_class[-1] is None  # the label that is no category
    assert same(per_class[:-1], [pycocotools(case, category)[0] for category in range(case.classes)])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_ignored_objects_are_ignored_as_pycocotools_ignores_objects(seed: int) -> None:
    case = Case(seed, ignored=0.3)
    assert same(list(case.measured().measures.values()), pycocotools(case))


def test_an_ignored_object_changes_ap() -> None:
    case = Case(4)
    before = case.measured().measures["AP"]
    case.objects = case.objects._replace(ignored=np.arange(len(case.objects.label)) % 2 == 0)
    assert case.measured().measures["AP"] != before


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_equal_scores_are_ranked_by_ascending_ids_and_text_ids_in_the_order_of_text(seed: int) -> None:
    """pycocotools visits pictures in the order of sorted ids, whatever their order in the file."""
    case = Case(seed)
    case.scores = np.ones(len(case.scores))
    case.ids = [f"picture-{key}" for key in case.ids]
    assert same(list(case.measured().measures.values()), pycocotools(case))


def test_the_order_of_ids_matters_where_scores_tie() -> None:
    """One picture with its object found, one with a false box: who comes first decides AP."""
    values = []
    for ids in ([1, 2], [2, 1], ["a", "b"], ["b", "a"]):
        case = Case(0)
        case.classes, case.ids, case.areas, case.scores = 1, ids, np.array([100.0]), np.ones(2)
        case.objects = ObjectBoxes.from_rows([(0, 0, (0, 0, 10, 10), False)])
        case.predictions = PredictedBoxes.from_rows([(0, 0, (0, 0, 10, 10)), (1, 0, (0, 0, 10, 10))])
        values.append(case.measured().measures["AP"])
    assert values == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_more_than_a_hundred_boxes_of_a_class_are_cut_as_pycocotools_cuts_them() -> None:
    case = Case(7, classes=1)
    case.predictions = case._predictions(len(case.ids), 900, 400)
    case.scores = case.rng.integers(0, 50, 1300) / 50
    assert np.bincount(case.predictions.picture).max() > 100
    assert same(list(case.measured().measures.values()), pycocotools(case))


# --- federated truth -----------------------------------------------------------------------------------------


def federate(case: Case) -> dict[str, Any]:
    """Draw what was searched for in each picture; the truth as LVIS has it."""
    document, rng = case.document(), case.rng
    searched = set[tuple[int, int]]()
    for index, image in enumerate(document["images"]):
        there = set(case.objects.label[case.objects.picture == index].tolist())
        image["neg_category_ids"] = [n for n in range(case.classes) if n not in there and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [n for n in range(case.classes) if rng.random() < 0.3]
        exhaustive = (there | set(image["neg_category_ids"])) - set(image["not_exhaustive_category_ids"])
        searched |= {(index, label) for label in exhaustive}
    pairs = zip(case.predictions.picture.tolist(), case.predictions.label.tolist(), strict=True)
    known = [(pair in searched) or pair[1] == case.classes for pair in pairs]
    case.predictions = case.predictions._replace(searched=np.array(known, bool))
    return document


def lvis_api(document: dict[str, Any], results: list[dict[str, Any]], patch: pytest.MonkeyPatch) -> Any:
    """lvis-api's measures. It was written for a numpy that had ``np.float``."""
    patch.setattr(np, "float", float, raising=False)
    patch.setattr(logging.Logger, "warn", logging.Logger.warning)
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS.__new__(LVIS)
    truth.logger, truth.dataset = logging.getLogger("lvis"), copy.deepcopy(document)
    truth._create_index()
    run = LVISEval(truth, LVISResults(truth, copy.deepcopy(results)), "bbox")
    run.run()
    return run.get_results()


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.3]))
def test_federated_truth_equals_lvis_api(seed: int, ignored: float) -> None:
    case = Case(seed, crowds=0, ignored=ignored, classes=5)
    document, results = federate(case), case.results()
    measures = case.measured(federated=True).measures
    if not results:
        return
    with pytest.MonkeyPatch.context() as patch:
        expected = lvis_api(document, results, patch)
    assert same([measures[name] for name in LVIS_NAMES], [expected[key] for key in LVIS_NAMES.values()])
    assert [measures[name] for name in ("AR1", "AR10", "AR100")] == [None] * 3


def test_federated_truth_takes_the_best_300_boxes_of_a_picture_as_lvis_api_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(3, crowds=0, classes=5)
    case.predictions = case._predictions(len(case.ids), 3000, 2000)
    case.scores = case.rng.integers(0, 100, 5000) / 100
    known = case.predictions.label < case.classes
    case.predictions, case.scores = case.predictions.where(known), case.scores[known]
    document = federate(case)
    assert np.bincount(case.predictions.picture).max() > 300
    measures = case.measured(federated=True).measures
    expected = lvis_api(document, case.results(), monkeypatch)
    assert same([measures[name] for name in LVIS_NAMES], [expected[key] for key in LVIS_NAMES.values()])


def test_no_predictions_is_zero_and_no_truth_is_undefined() -> None:
    case = Case(0)
    case.classes, case.ids, case.areas = 1, [1], np.array([100.0])
    case.objects = ObjectBoxes.from_rows([(0, 0, (0, 0, 10, 10), False)])
    case.predictions, case.scores = PredictedBoxes.from_rows([]), np.zeros(0)
    for federated in (False, True):
        result = case.measured(federated=federated)
        measures = result.measures
        assert (measures["AP"], measures["APs"], measures["APl"]) == (0.0, 0.0, None)
        assert result.per_class == {"class 0": 0.0, "class 1": None}
        assert (measures["AR100"], measures.get("AR300")) == ((None, 0.0) if federated else (0.0, None))
    case.predictions, case.scores = PredictedBoxes.from_rows([(0, 0, (0, 0, 10, 10))]), np.ones(1)
    case.objects, case.areas = ObjectBoxes.from_rows([]), np.zeros(0)
    assert set(case.measured().measures.values()) == {None}


def test_real_pictures_equal_pycocotools(tiny_coco: Path) -> None:
    truth = read(tiny_coco / "annotations" / "instances_val2017.json")
    case = Case(5)
    case.classes, case.ids = len(truth.categories), [image.id for image in truth.data.images]
    data = truth.data
    case.objects = ObjectBoxes(data.image, data.label, data.xyxy, data.crowd, np.zeros(len(data.label), bool))
    case.areas = data.area
    case.predictions = case._predictions(len(case.ids), 10, 60)
    case.scores = case.rng.random(70)
    measures = case.measured().measures
    assert same(list(measures.values()), pycocotools(case))
    assert measures["AP"] is not None
    assert measures["AP"] > 0.1
