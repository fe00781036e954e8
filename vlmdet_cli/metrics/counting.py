"""How well objects are counted: predicted minus true number, over each picture and class that either side names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmdet_cli.metrics.matching import ObjectBoxes, PredictedBoxes


def from_detections(predictions: PredictedBoxes, objects: ObjectBoxes, names: Sequence[str]) -> dict[str, Any]:
    """Errors of counting the boxes; ``names`` are the classes by index."""
    classes = max(len(names), 1)
    keys = [predictions.picture * classes + predictions.label, objects.picture * classes + objects.label]
    cells, index = np.unique(np.concatenate(keys), return_inverse=True)
    predicted, true = index[: len(keys[0])], index[len(keys[0]) :]
    error = np.bincount(predicted, minlength=len(cells)) - np.bincount(true, minlength=len(cells))
    label = cells % classes
    return errors({names[number]: error[label == number].tolist() for number in np.unique(label).tolist()})


def errors(by_class: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Mean absolute error, bias and the share that is exact, over all and by class."""
    pooled = [error for values in by_class.values() for error in values]
    return {**_summary(pooled), "per_class": {name: _summary(values) for name, values in sorted(by_class.items())}}


def _summary(values: Sequence[int]) -> dict[str, Any]:
    if not values:
        return {"n": 0, "mean_absolute_error": None, "bias": None, "exact": None}
    column = np.array(values, dtype=np.int64)
    return {
        "n": len(column),
        "mean_absolute_error": float(np.abs(column).mean()),
        "bias": float(column.mean()),
        "exact": float((column == 0).mean()),
    }
