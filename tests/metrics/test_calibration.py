"""Platt's map is the most likely one and keeps the ranks; reliability is hotcoco's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.test_coco_ap import Case
from vlmdet_cli.metrics import coco_ap
from vlmdet_cli.metrics.calibration import PlattMap, fit_platt, reliability
from vlmdet_cli.metrics.matching import Bools, Floats
from vlmdet_cli.metrics.sweep import match_by_score


def loss(platt: PlattMap, scores: Floats, right: Bools) -> float:
    """Minus the log-likelihood of Platt's targets."""
    hits, misses = right.sum(), (~right).sum()
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    chances = platt(scores)
    return float(-np.sum(targets * np.log(chances) + (1 - targets) * np.log(1 - chances)))


def world(seed: int, count: int, slope: float = 0.5, intercept: float = 2.0) -> tuple[Floats, Bools]:
    """Scores that are too low, and boxes that are right as often as a known map says."""
    rng = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-rng.normal(-3, 2, count)))
    return scores, rng.random(count) < PlattMap(slope=slope, intercept=intercept)(scores)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 300), st.floats(-3, 3), st.floats(-4, 4))
def test_no_other_map_is_more_likely(seed: int, count: int, slope: float, intercept: float) -> None:
    scores, right = world(seed, count, slope, intercept)
    best = fit_platt(scores, right)
    for turn in np.linspace(0, 2 * np.pi, 12):
        for size in (1e-2, 1.0):
            other = PlattMap(
                slope=best.slope + size * float(np.cos(turn)), intercept=best.intercept + size * float(np.sin(turn))
            )
            assert loss(best, scores, right) <= loss(other, scores, right) + 1e-9


def test_a_known_map_is_found_and_mends_scores_that_it_was_not_fitted_on() -> None:
    platt = fit_platt(*world(1, 20_000))
    assert platt.slope == pytest.approx(0.5, abs=0.03)
    assert platt.intercept == pytest.approx(2.0, abs=0.1)
    scores, right = world(2, 20_000)
    before = reliability(scores, right)["expected_calibration_error"]
    after = reliability(platt(scores), right)["expected_calibration_error"]
    assert before > 0.4
    assert after < 0.02


@given(st.lists(st.floats(1e-5, 1 - 1e-5), min_size=2, max_size=30), st.floats(0.05, 3), st.floats(-5, 5))
def test_ranks_stay(scores: list[float], slope: float, intercept: float) -> None:
    ordered = np.sort(np.round(scores, 5))
    mapped = PlattMap(slope=slope, intercept=intercept)(ordered)
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert (np.diff(mapped) >= 0).all()
    assert PlattMap(slope=1, intercept=0)(ordered) == pytest.approx(ordered)


def test_certain_scores_and_separated_ones_have_a_finite_map() -> None:
    scores = np.repeat([0.0, 1.0], 50)
    platt = fit_platt(scores, scores > 0.5)
    assert platt(np.array([0.0, 1.0])) == pytest.approx([1 / 52, 51 / 52])
    assert fit_platt(scores, scores < 0.5).slope < 0


def test_reliability_by_hand() -> None:
    scores, right = np.array([0.0, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    assert reliability(scores, right) == {
        "expected_calibration_error": pytest.approx((0.95 + 0.05) / 4),
        "bins": [
            {"from": 0.0, "to": 0.1, "count": 2, "mean_score": 0.025, "share_right": 0.5},
            {"from": 0.9, "to": 1.0, "count": 2, "mean_score": pytest.approx(0.975), "share_right": 1.0},
        ],
    }
    assert reliability(scores[:0], right[:0]) == {"expected_calibration_error": None, "bins": []}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.75]))
def test_reliability_equals_hotcocos(seed: int, iou: float) -> None:
    case = Case(seed, crowds=0.0)
    scores = case.rng.random(len(case.scores))
    evaluator = coco_ap._evaluator(
        coco_ap.CocoInput(
            predictions=case.predictions,
            scores=scores,
            objects=case.objects,
            areas=case.areas,
            names=[f"class {n}" for n in range(case.classes + 1)],
            image_ids=case.ids,
        )
    )
    theirs = evaluator.calibration(n_bins=10, iou_threshold=iou)
    matched = match_by_score(case.predictions, scores, case.objects, iou)
    ours = reliability(scores[matched.counted], matched.right[matched.counted])
    assert ours["expected_calibration_error"] == pytest.approx(theirs["ece"])
    assert [part["count"] for part in ours["bins"]] == [part["count"] for part in theirs["bins"] if part["count"]]
