"""How well objects are counted: said minus true, over each picture and class that either side names."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vlmdet_cli.metrics.matching import Bools, Flat


def from_detections(predictions: Flat, counted: Bools, objects: Flat, names: Sequence[str]) -> dict[str, Any]:
    """Errors of counting the boxes; ``counted``: those that are not left out of account. Crowds are no number."""
    classes = len(names)
    keys = [
        predictions.picture[counted] * classes + predictions.label[counted],
        (objects.picture * classes + objects.label)[~objects.crowd],
    ]
    cells, place = np.unique(np.concatenate(keys), return_inverse=True)
    said, true = place[: len(keys[0])], place[len(keys[0]) :]
    error = np.bincount(said, minlength=len(cells)) - np.bincount(true, minlength=len(cells))
    label = cells % classes if classes else cells
    by_class = {names[number]: error[label == number].tolist() for number in np.unique(label).tolist()}
    return errors(by_class)


def errors(by_class: dict[str, list[int]]) -> dict[str, Any]:
    """Mean absolute error, bias and the share that is exact, over all and by class."""
    every = [error for values in by_class.values() for error in values]
    return {**_one(every), "per_class": {name: _one(values) for name, values in sorted(by_class.items())}}


def _one(values: Iterable[int]) -> dict[str, Any]:
    made = np.array(list(values), dtype=np.int64)
    if not len(made):
        return {"n": 0, "mean_absolute_error": None, "bias": None, "exact": None}
    return {
        "n": len(made),
        "mean_absolute_error": float(np.abs(made).mean()),
        "bias": float(made.mean()),
        "exact": float((made == 0).mean()),
    }
