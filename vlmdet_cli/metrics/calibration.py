"""Calibration: whether of the boxes with a score of 0.8 four in five are right, and a map of scores that makes it so.

The map is Platt's: a logistic regression of right and false on the logit of the score (Platt, "Probabilistic outputs
for support vector machines", 1999, with his smoothed targets). It increases, so ranks, AP and the PR curve stay what
they are. Isotonic regression is not offered: it makes equal scores of unequal ones, which changes AP, and it overfits
below about 1,000 boxes (Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", 2005),
which the val split of a small data set does not have.
"""

from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.metrics.matching import Bools, Floats

BINS = 10
EDGE = 1e-6  # scores are taken as at least this far from 0 and 1, whose logits are infinite
ITERATIONS = 100


class PlattMap(msgspec.Struct, frozen=True, kw_only=True):
    """Score s to 1 / (1 + exp(-(slope * logit(s) + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, scores: Floats) -> Floats:
        """Calibrated scores of ``(N,)`` scores in [0, 1]."""
        return _logistic(self.slope * _logits(scores) + self.intercept)


def fit_platt(scores: Floats, right: Bools) -> PlattMap:
    """The map of most likelihood for ``(N,)`` scores in [0, 1] and whether each box is right, some of either kind.

    Newton's method with halved steps; the likelihood is concave, so that its maximum is the only one.
    """
    inputs = np.column_stack([_logits(scores), np.ones(len(scores))])  # (N, 2)
    positives = int(np.count_nonzero(right))
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (len(right) - positives + 2))
    weights = np.zeros(2)
    for _ in range(ITERATIONS):
        chances = _logistic(inputs @ weights)
        gradient = inputs.T @ (chances - targets)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (
            _loss(inputs @ (weights - step), targets) > _loss(inputs @ weights, targets) and np.abs(step).max() > 1e-12
        ):
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-10:
            break
    return PlattMap(slope=float(weights[0]), intercept=float(weights[1]))


def _loss(logits: Floats, targets: Floats) -> float:
    """The negative logarithm of the likelihood."""
    return float(np.sum(np.logaddexp(0, logits) - targets * logits))


def _logits(scores: Floats) -> Floats:
    inside = np.clip(scores, EDGE, 1 - EDGE)
    logits: Floats = np.log(inside) - np.log1p(-inside)
    return logits


def _logistic(logits: Floats) -> Floats:
    chances: Floats = np.exp(-np.logaddexp(0, -logits))
    return chances


def reliability(scores: Floats, right: Bools) -> dict[str, Any]:
    """Mean score against the share that is right, in tenths of the scores, and the expected calibration error.

    The error is the mean over the boxes of the distance between the two in a box's tenth (Naeini et al., "Obtaining
    well calibrated probabilities using Bayesian binning", 2015). Empty tenths are left out.
    """
    tenth = np.minimum((scores * BINS).astype(int), BINS - 1)
    counts = np.bincount(tenth, minlength=BINS)
    sums, hits = np.bincount(tenth, scores, BINS), np.bincount(tenth, right, BINS)
    bins = [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "count": int(counts[number]),
            "mean_score": float(sums[number] / counts[number]),
            "share_right": float(hits[number] / counts[number]),
        }
        for number in np.flatnonzero(counts).tolist()
    ]
    error = float(np.abs(sums - hits).sum() / len(scores)) if len(scores) else None
    return {"expected_calibration_error": error, "bins": bins}
