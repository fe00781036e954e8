"""Uncertainty by bootstrap over pictures: how far a measure would move with other pictures of the same kind.

Percentile intervals (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Pictures are
drawn with replacement, as many as there are; two reports over the same pictures are drawn alike, so that the
interval of their difference is a paired one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmdet_cli.metrics.matching import Floats

RESAMPLES, LEVEL = 1000, 0.95
COLUMNS = ("tp", "fp", "fn", "iou")  # of counts by picture, see ``detection.group_counts``


def resampled(counts: Sequence[Floats], seed: int, resamples: int = RESAMPLES) -> list[Floats]:
    """Sums of counts ``(P, C)`` over each draw of pictures, ``(resamples, C)``; the same draws for each of them."""
    pictures = len(counts[0])
    rng = np.random.default_rng(seed)
    sums = [np.empty((resamples, table.shape[1])) for table in counts]
    for number in range(resamples):
        drawn = np.bincount(rng.integers(0, pictures, pictures), minlength=pictures).astype(np.float64)
        for table, out in zip(counts, sums, strict=True):
            out[number] = drawn @ table
    return sums


def measures(sums: Floats) -> dict[str, Floats]:
    """Precision, recall, F1 and mean IoU of rows of ``COLUMNS``; NaN where undefined."""
    tp, fp, fn, iou = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mean_iou": iou / tp,
        }


def interval(values: Floats) -> list[float] | None:
    """The middle 95 % of values; None where most are undefined."""
    known = values[~np.isnan(values)]
    if len(known) * 2 < len(values):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def intervals(counts: Floats, seed: int) -> dict[str, Any]:
    """95 % intervals of the measures by name, with the level, the number of draws and their seed."""
    settings: dict[str, Any] = {"level": LEVEL, "resamples": RESAMPLES, "seed": seed}
    if not len(counts):
        return settings
    (sums,) = resampled([counts], seed)
    return settings | {name: interval(values) for name, values in measures(sums).items()}
