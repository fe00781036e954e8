"""The boxes of a truth and of predictions as columns, as ``eval`` counts them and ``viz`` draws them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.settings import Classes, Duplicates
from vlmdet_cli.data.dataset import CROWD, SMALL
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.metrics.matching import Bools, Floats, ObjectBoxes, PredictedBoxes
from vlmdet_cli.metrics.repeats import repeated
from vlmdet_cli.stages.evaluation.prediction_files import Predictions

ABSENT, REPEATED = "class absent from the picture", "exact repeat"


class EvalBoxes(msgspec.Struct, frozen=True, kw_only=True):
    """``names`` are the classes by index: the truth's categories, then labels that only predictions have.

    ``areas`` (M,) are the objects' annotated areas in square pixels, ``scores`` (N,) the predictions' scores. ``given``
    counts the predictions of the file; ``removed`` those taken out before matching, by reason; ``repeats`` the exact
    repeats, taken out or not; ``not_asked`` the objects of classes that no prompt named.
    """

    names: list[str]
    objects: ObjectBoxes
    areas: Floats
    predictions: PredictedBoxes
    scores: Floats
    given: int
    removed: dict[str, int]
    repeats: int
    not_asked: int

    def where(self, mask: Bools, reason: str) -> "EvalBoxes":
        """With the predictions of ``mask`` alone; the others are removed for a reason."""
        return msgspec.structs.replace(
            self,
            predictions=self.predictions.where(mask),
            scores=self.scores[mask],
            removed=self.removed | {reason: int(np.count_nonzero(~mask))},
        )


def eval_boxes(truth: Truth, predictions: Predictions, classes: Classes, duplicates: Duplicates) -> EvalBoxes:
    """``classes``: with ``present``, predictions of classes that the picture does not have are removed."""
    names = list(dict.fromkeys([*truth.categories, *sorted({box.label for box in predictions.boxes})]))
    objects, areas = object_columns(truth)
    asked = _asked(objects, predictions, names)
    predicted, scores = _predictions(truth, predictions, names)
    repeats = repeated(predicted, scores)
    boxes = EvalBoxes(
        names=names,
        objects=objects.where(asked),
        areas=areas[asked],
        predictions=predicted,
        scores=scores,
        given=len(scores),
        removed={},
        repeats=int(np.count_nonzero(repeats)),
        not_asked=int(np.count_nonzero(~asked & objects.targets)),
    )
    if duplicates == "remove":
        boxes = boxes.where(~repeats, REPEATED)
    return boxes.where(_present(boxes), ABSENT) if classes == "present" else boxes


def object_columns(truth: Truth) -> tuple[ObjectBoxes, Floats]:
    """The truth's objects and their areas. Those left out of training are there too: the small ones as ignored."""
    data = truth.data
    crowd = data.crowd | (data.drop_reason == CROWD)
    return ObjectBoxes(data.image, data.label, data.xyxy, crowd, (data.drop_reason == SMALL) & ~crowd), data.area


def _asked(objects: ObjectBoxes, predictions: Predictions, names: Sequence[str]) -> Bools:
    """``(M,)``: the objects that count. Where prompts named classes, those of others could not be found."""
    if predictions.asked is None:
        return np.ones(len(objects.label), bool)
    pairs = zip(objects.picture.tolist(), objects.label.tolist(), strict=True)
    all_names = set(names)  # for a picture without an answer: all of its objects are missed
    return np.array([names[label] in predictions.asked.get(picture, all_names) for picture, label in pairs], bool)


def _predictions(truth: Truth, predictions: Predictions, names: Sequence[str]) -> tuple[PredictedBoxes, Floats]:
    index = {name: number for number, name in enumerate(names)}
    boxes = PredictedBoxes.from_rows([(row.picture, index[row.label], row.box) for row in predictions.boxes])
    scores = np.array([row.score for row in predictions.boxes], dtype=np.float64)
    return boxes._replace(searched=truth.searched(boxes.picture, boxes.label, names)), scores


def _present(boxes: EvalBoxes) -> Any:
    """``(N,)``: whether the picture has an object of the prediction's class."""
    classes = len(boxes.names)
    keys = boxes.objects.picture * classes + boxes.objects.label
    return np.isin(boxes.predictions.picture * classes + boxes.predictions.label, keys)
